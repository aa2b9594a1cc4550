//! Stage 5: ends, orderly and not.

use offramp_core::conn::fault::Fault;
use offramp_sim::{Backend, InjectedFault, Outcome, PeerAction, Plan};

use crate::lab::{BOTH, NOTHING, SUITES, bytes, client, peers, rules, run, run_under};

#[test]
fn fin_without_close_notify_resets_the_plain_leg() {
    let mut seen = 0;
    for at in 8..120 {
        let mut plan = Plan::new(at as u64, bytes(200_000, 5));
        plan.backend = Backend::Silent;
        plan.mishap = Some((at, InjectedFault::PeerFin));
        let outcome = run(plan, BOTH, client(SUITES[at % 6]));
        if outcome.report.fault == Some(Fault::Truncated) {
            seen += 1;
            assert!(outcome.backend_was_reset && !outcome.backend_saw_end, "at {at}");
        }
    }
    assert!(seen > 20, "{seen}");
}

/// The backend has answered and ended before; that the client does not listen any more makes what it sent no
/// whole stream.
#[test]
fn a_reset_behind_our_close_notify_is_no_orderly_end() {
    let mut seen = [0; 2];
    for at in 10..300 {
        for (offer, role) in [(NOTHING, 0), (BOTH, 0), (NOTHING, 1), (BOTH, 1)] {
            let mut plan = Plan::new(at as u64, bytes(100_000, 6));
            plan.backend = Backend::AnswersAndCloses(b"an early answer".to_vec());
            plan.script.closes_first = false;
            plan.mishap = Some((at, InjectedFault::PeerReset));
            let outcome = run(plan.clone(), offer, peers(SUITES[at % 6])[role].clone());
            if outcome.backend_saw_end && !outcome.backend_was_reset {
                assert_eq!(outcome.to_backend, plan.script.sends, "at {at}: told a clean end");
            }
            seen[role] +=
                usize::from(outcome.report.fault == Some(Fault::TlsPeerReset) && outcome.peer.saw_close);
        }
    }
    assert!(seen.iter().all(|seen| *seen > 20), "{seen:?}");
}

#[test]
fn fin_within_a_record_is_always_truncation() {
    for suite in SUITES {
        for front in [&[23][..], &[23, 3, 3, 0, 90], &[23, 3, 3, 0, 90, 1, 2, 3]] {
            let mut plan = Plan::new(3, Vec::new());
            plan.backend = Backend::AnswersAndCloses(b"an early answer".to_vec());
            plan.script.says = vec![PeerAction::data(b"half a mess"), PeerAction::Raw(front.to_vec())];
            // The kernel does not tell the front of a record from none.
            for peer in peers(suite) {
                let outcome = run(plan.clone(), NOTHING, peer);
                assert_eq!(outcome.report.fault, Some(Fault::Truncated), "{suite:?} {front:?}");
                assert!(outcome.backend_was_reset && !outcome.backend_saw_end, "{suite:?} {front:?}");
            }
        }
    }
}

#[test]
fn an_idle_connection_is_closed_in_order() {
    for suite in SUITES {
        let mut plan = Plan::new(2, bytes(10, 2));
        plan.backend = Backend::Silent;
        plan.script.closes_first = false;
        for peer in peers(suite) {
            let outcome = run(plan.clone(), BOTH, peer);
            assert_eq!(outcome.report.fault, Some(Fault::IdleTimeout));
            assert!(outcome.peer.saw_close && !outcome.backend_was_reset);
        }
    }
}

/// A client that reads no more, a backend that takes no more: when time is up, neither may take what it got
/// for the whole.
#[test]
fn timeout_with_undelivered_bytes_aborts_both_legs() {
    let told = |outcome: &Outcome, world: &str| {
        assert!(outcome.backend_was_reset && !outcome.peer.saw_close, "{world}");
    };
    for (seed, suite) in SUITES.into_iter().cycle().take(48).enumerate() {
        for offer in [NOTHING, BOTH] {
            for mishap in [None, Some((30, InjectedFault::Drain))] {
                let late = if mishap.is_some() { Fault::DrainTimeout } else { Fault::IdleTimeout };
                let mut deaf = Plan::new(seed as u64, Vec::new());
                deaf.mishap = mishap;
                deaf.script.closes_first = false;
                deaf.backend = Backend::AnswersAndCloses(bytes(1_000_000, 2));
                deaf.script.deaf_after = Some(1000);
                let world = format!("{:?} seed {seed} {late:?}", suite.suite());
                let peer = peers(suite)[seed / 6 % 2].clone();
                let outcome = run(deaf, offer, peer.clone());
                assert_eq!(outcome.report.fault, Some(late), "{world}");
                told(&outcome, &world);
                let mut stalled = Plan::new(seed as u64, bytes(300_000, 2));
                stalled.mishap = mishap;
                stalled.backend = Backend::Stalls(5000);
                let outcome = run(stalled, offer, peer);
                assert_eq!(outcome.report.fault, Some(late), "{world}");
                told(&outcome, &world);
                let alert = rustls::AlertDescription::InternalError;
                assert_eq!(outcome.peer.error, Some(rustls::Error::AlertReceived(alert)), "{world}");
            }
        }
    }
}

#[test]
fn a_drain_ends_what_is_still_open_at_its_end() {
    for suite in SUITES {
        for at in [1, 3, 5, 10, 20] {
            let mut plan = Plan::new(2, bytes(10, 2));
            plan.backend = Backend::Silent;
            plan.script.closes_first = false;
            plan.mishap = Some((at, InjectedFault::Drain));
            let fault = run(plan, BOTH, client(suite)).report.fault;
            let drained = [Fault::DrainTimeout, Fault::ClosedBeforeHello, Fault::HandshakeTimeout];
            assert!(fault.is_some_and(|fault| drained.contains(&fault)), "{fault:?} at {at}");
        }
    }
}

/// The socket of a slow backend holds most of it when the fault comes, and a reset throws away what it holds.
#[test]
fn what_came_whole_before_a_fault_is_delivered() {
    let faults = [
        (PeerAction::Raw(vec![23, 3, 3, 0, 64].into_iter().chain([9; 64]).collect()), Fault::BadRecord),
        (PeerAction::Raw(vec![23, 3, 3, 0x41, 0x01, 9, 9, 9, 9, 9, 9, 9, 9]), Fault::RecordTooLong),
        (PeerAction::Raw(vec![23, 2, 0, 0, 64, 9, 9, 9, 9, 9, 9, 9, 9]), Fault::Malformed),
        (PeerAction::record(21, &[2, 20]), Fault::AlertReceived),
        (PeerAction::record(20, &[1]), Fault::UnexpectedRecord),
    ];
    for (seed, (last, fault)) in (0..).zip(faults.into_iter().cycle().take(120)) {
        let data = bytes(90_000, seed);
        let mut plan = Plan::new(seed, Vec::new());
        plan.backend = Backend::Silent;
        plan.script.says = data.chunks(9000).map(PeerAction::data).collect();
        plan.script.says.push(last);
        plan.script.sends_at_once = seed % 3 > 0;
        for (offer, role) in [(NOTHING, 0), (BOTH, 0), (NOTHING, 1), (BOTH, 1)] {
            let outcome = run(plan.clone(), offer, peers(SUITES[seed as usize % 6])[role].clone());
            assert_eq!(outcome.report.fault, Some(fault), "seed {seed} role {role}");
            assert!(outcome.to_backend == data, "seed {seed}: {} bytes, {fault:?}", outcome.to_backend.len());
            assert!(outcome.backend_was_reset && !outcome.backend_saw_end, "seed {seed}");
        }
    }
}

#[test]
fn what_came_whole_before_fin_or_a_reset_is_delivered() {
    let mut seen = [0; 2];
    for at in 8..160 {
        for (nth, mishap) in [InjectedFault::PeerFin, InjectedFault::PeerReset].into_iter().enumerate() {
            for (offer, role) in [(NOTHING, 0), (BOTH, 0), (NOTHING, 1), (BOTH, 1)] {
                let mut plan = Plan::new(at as u64, bytes(200_000, 5));
                plan.backend = if at % 2 > 0 { Backend::Silent } else { Backend::Echo };
                plan.mishap = Some((at, mishap));
                let outcome = run(plan, offer, peers(SUITES[at % 6])[role].clone());
                if matches!(outcome.report.fault, Some(Fault::Truncated | Fault::TlsPeerReset)) {
                    let delivered = outcome.to_backend.len();
                    assert_eq!(delivered, outcome.authentic, "{mishap:?} at {at} role {role}");
                    assert!(outcome.backend_was_reset, "{mishap:?} at {at}");
                    seen[nth] += usize::from(delivered > 0);
                }
            }
        }
    }
    assert!(seen.iter().all(|seen| *seen > 100), "{seen:?}");
}

#[test]
fn stalled_backend_is_reset_at_the_timeout() {
    for (seed, suite) in SUITES.into_iter().enumerate() {
        for offer in [NOTHING, BOTH] {
            let mut plan = Plan::new(seed as u64, Vec::new());
            plan.backend = Backend::Stalls(5000);
            plan.script.says = vec![PeerAction::data(&[7; 16_000]), PeerAction::record(21, &[2, 20])];
            let outcome = run(plan, offer, client(suite));
            assert_eq!(outcome.report.fault, Some(Fault::AlertReceived), "{suite:?}");
            assert_eq!(outcome.to_backend.len(), 5000, "{suite:?}");
            assert!(outcome.backend_was_reset && !outcome.backend_saw_end, "{suite:?}");
        }
    }
}

/// `truncation = "fin"`: the other direction goes on to its end, and the fault is counted.
#[test]
fn truncation_fin_relays_a_fin_without_close_notify() {
    let mut seen = 0;
    for at in 8..200 {
        for offer in [NOTHING, BOTH] {
            let mut plan = Plan::new(at as u64, bytes(300_000, 5));
            plan.mishap = Some((at, InjectedFault::PeerFin));
            let mut rules = rules(offer);
            rules.takes_fin_for_the_end = true;
            let outcome = run_under(plan, rules, client(SUITES[at % 6]));
            if outcome.report.fault == Some(Fault::Truncated) {
                assert_eq!(outcome.to_backend.len(), outcome.authentic, "at {at}");
                assert!(outcome.backend_saw_end && !outcome.backend_was_reset, "at {at}");
                assert!(outcome.peer.saw_close, "at {at}");
                assert_eq!(outcome.peer.received, outcome.to_backend, "at {at}: the echo to its end");
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

/// RFC 8446 §6.1: whatever follows a close_notify is ignored, whoever carries the records.
#[test]
fn data_after_close_notify_is_ignored() {
    let rubbish: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n", &[21, 3, 3, 0, 2, 2, 40], &[0; 40], &[23, 3, 3]];
    for (seed, behind) in (0..).zip(rubbish.into_iter().cycle().take(96)) {
        let mut plan = Plan::new(seed, Vec::new());
        plan.backend = Backend::AnswersAndCloses(bytes(300_000, 6));
        plan.script.says =
            vec![PeerAction::data(b"ask"), PeerAction::close_notify(), PeerAction::Raw(behind.to_vec())];
        plan.script.sends_at_once = seed % 2 > 0;
        for (offer, role) in [(NOTHING, 0), (BOTH, 0), (NOTHING, 1), (BOTH, 1)] {
            let outcome = run(plan.clone(), offer, peers(SUITES[seed as usize / 4 % 6])[role].clone());
            assert_eq!(outcome.report.fault, None, "seed {seed} role {role}");
            assert_eq!(outcome.to_backend, b"ask", "seed {seed} role {role}");
            assert!(outcome.peer.received == bytes(300_000, 6), "seed {seed} role {role}");
            assert!(outcome.peer.saw_close && !outcome.backend_was_reset, "seed {seed} role {role}");
        }
    }
}
