//! Stage 1 and 2: ends before there is a session, and in the middle of a handshake.

use offramp_core::conn::fault::Fault;
use offramp_sim::{InjectedFault, Plan};

use crate::lab::{BOTH, SUITES, bytes, client, run};

#[test]
fn a_client_that_never_speaks_times_out() {
    let mut plan = Plan::new(1, Vec::new());
    plan.mishap = Some((1, InjectedFault::PeerFin));
    let outcome = run(plan, BOTH, client(SUITES[0]));
    assert_eq!(outcome.report.fault, Some(Fault::ClosedBeforeHello));
}

#[test]
fn reset_at_any_handshake_step_ends_one_connection() {
    for suite in SUITES {
        let mut faults = std::collections::BTreeSet::new();
        for at in 1..60 {
            let mut plan = Plan::new(at as u64, bytes(100, 7));
            plan.mishap = Some((at, InjectedFault::PeerReset));
            faults.extend(run(plan, BOTH, client(suite)).report.fault.map(Fault::label));
        }
        assert!(faults.contains("closed_in_handshake") && faults.contains("tls_peer_reset"), "{faults:?}");
        assert!(!faults.contains("internal"), "{faults:?}");
    }
}

#[test]
fn a_flipped_bit_is_never_passed_on() {
    for seed in 0..600 {
        let suite = SUITES[seed as usize % SUITES.len()];
        let sends = bytes(3000, seed);
        let mut plan = Plan::new(seed, sends.clone());
        plan.mishap = Some((1 + seed as usize % 40, InjectedFault::FlippedBit));
        let outcome = run(plan, BOTH, client(suite));
        assert!(sends.starts_with(&outcome.to_backend), "seed {seed}");
        assert_ne!(outcome.report.fault, Some(Fault::Internal), "seed {seed}");
        if outcome.report.fault.is_none() {
            assert_eq!(outcome.to_backend, sends, "seed {seed}");
        }
    }
}
