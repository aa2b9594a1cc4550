//! Stage 5: ends, orderly and not.

use offramp::conn::fault::Fault;
use offramp::sim::{Backend, Mishap, Plan};

use crate::lab::{BOTH, SUITES, bytes, client, run};

#[test]
fn fin_without_close_notify_is_truncation_and_resets_the_plain_leg() {
    let mut seen = 0;
    for at in 8..120 {
        let mut plan = Plan::new(at as u64, bytes(200_000, 5));
        plan.backend = Backend::Silent;
        plan.mishap = Some((at, Mishap::ClientFin));
        let outcome = run(plan, BOTH, client(SUITES[at % 6]));
        if outcome.report.fault == Some(Fault::Truncated) {
            seen += 1;
            assert!(outcome.backend_was_reset && !outcome.backend_saw_end, "at {at}");
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn an_idle_connection_is_closed_in_order() {
    for suite in SUITES {
        let mut plan = Plan::new(2, bytes(10, 2));
        plan.backend = Backend::Silent;
        plan.script.closes_first = false;
        let outcome = run(plan, BOTH, client(suite));
        assert_eq!(outcome.report.fault, Some(Fault::IdleTimeout));
        assert!(outcome.client.saw_close && !outcome.backend_was_reset);
    }
}

#[test]
fn a_drain_ends_what_is_still_open_at_its_end() {
    for suite in SUITES {
        for at in [1, 3, 5, 10, 20] {
            let mut plan = Plan::new(2, bytes(10, 2));
            plan.backend = Backend::Silent;
            plan.script.closes_first = false;
            plan.mishap = Some((at, Mishap::Drain));
            let fault = run(plan, BOTH, client(suite)).report.fault;
            let drained = [Fault::DrainTimeout, Fault::ClosedBeforeHello, Fault::HandshakeTimeout];
            assert!(fault.is_some_and(|fault| drained.contains(&fault)), "{fault:?} at {at}");
        }
    }
}
