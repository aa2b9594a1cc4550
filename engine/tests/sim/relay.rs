//! Stage 4: bytes both ways, whoever is first, whoever carries the records.

use offramp_core::conn::fault::Fault;
use offramp_core::conn::record_path::Offer;
use offramp_sim::{Backend, Generation, InjectedFault, KernelProfile, Plan};

use crate::lab::{BOTH, NOTHING, SUITES, bytes, client, peers, run};

const OFFERS: [Offer; 2] = [BOTH, NOTHING];

#[test]
fn any_cut_arrives_once_in_order_unchanged() {
    for seed in 0..3000_u64 {
        let suite = SUITES[seed as usize % SUITES.len()];
        let offer = OFFERS[(seed / 6) as usize % 2];
        let length = [0, 1, 2, 1000, 16_384, 16_385, 70_000, 200_000][(seed / 12) as usize % 8];
        let sends = bytes(length, seed);
        for peer in peers(suite) {
            let mut plan = Plan::new(seed, sends.clone());
            plan.script.sends_at_once = seed % 5 == 0;
            let outcome = run(plan, offer, peer);
            assert_eq!(outcome.report.fault, None, "seed {seed}");
            assert_eq!(outcome.to_backend, sends, "seed {seed}");
            assert_eq!(outcome.peer.received, sends, "seed {seed}");
            assert!(outcome.peer.saw_close && outcome.peer.error.is_none(), "seed {seed}");
            assert!(outcome.backend_saw_end && !outcome.backend_was_reset, "seed {seed}");
        }
    }
}

#[test]
fn a_backend_that_speaks_first_is_heard_first() {
    for seed in 0..200 {
        for offer in OFFERS {
            let (greeting, sends) = (bytes(500, seed), bytes(20_000, seed + 1));
            let mut plan = Plan::new(seed, sends.clone());
            plan.backend = Backend::Greets(greeting.clone());
            let outcome = run(plan, offer, client(SUITES[seed as usize % 6]));
            assert_eq!(outcome.report.fault, None, "seed {seed}");
            assert!(outcome.peer.received.starts_with(&greeting), "seed {seed}");
            assert_eq!(outcome.peer.received[500..], sends, "seed {seed}");
        }
    }
}

#[test]
fn answer_of_a_closing_backend_arrives_whole() {
    for seed in 0..400 {
        for offer in OFFERS {
            let answer = bytes(90_000, seed);
            let mut plan = Plan::new(seed, bytes(10, seed));
            plan.backend = Backend::AnswersAndCloses(answer.clone());
            plan.script.closes_first = false;
            let outcome = run(plan, offer, peers(SUITES[seed as usize % 6])[seed as usize / 6 % 2].clone());
            assert_eq!(outcome.report.fault, None, "seed {seed}");
            assert_eq!(outcome.peer.received, answer, "seed {seed}");
            assert!(outcome.peer.saw_close, "seed {seed}");
        }
    }
}

#[test]
fn a_refused_backend_is_named_and_the_client_told() {
    for (errno, fault) in [
        (libc::ECONNREFUSED, Fault::BackendRefused),
        (libc::EHOSTUNREACH, Fault::BackendUnreachable),
        (libc::ENOENT, Fault::BackendUnreachable),
    ] {
        for offer in OFFERS {
            for suite in SUITES {
                let mut plan = Plan::new(9, bytes(100, 9));
                plan.refuses = Some(errno);
                let outcome = run(plan, offer, client(suite));
                assert_eq!(outcome.report.fault, Some(fault));
                let alert = rustls::AlertDescription::InternalError;
                assert_eq!(outcome.peer.error, Some(rustls::Error::AlertReceived(alert)), "{suite:?}");
            }
        }
    }
}

#[test]
fn backend_reset_sends_an_alert_and_no_close_notify() {
    for seed in 0..600 {
        let offer = OFFERS[seed as usize % 2];
        let mut plan = Plan::new(seed, bytes(50_000, seed));
        plan.backend = Backend::ResetsAfter(1 + seed as usize * 50);
        let outcome = run(plan, offer, peers(SUITES[seed as usize % 6])[seed as usize / 6 % 2].clone());
        assert_eq!(outcome.report.fault, Some(Fault::PlainPeerReset), "seed {seed}");
        assert!(!outcome.peer.saw_close, "seed {seed}");
        let (received, sent) = (outcome.peer.received.len(), outcome.from_backend);
        assert_eq!(received, sent, "seed {seed}: what came before the reset is delivered");
    }
}

#[test]
fn a_reset_at_any_step_leaves_nothing_behind() {
    for at in 1..400 {
        for (mishap, expected) in [
            (
                InjectedFault::PeerReset,
                &["tls_peer_reset", "closed_in_handshake", "closed_before_hello", "none"][..],
            ),
            (InjectedFault::PlainPeerReset, &["plain_peer_reset", "none"]),
            (InjectedFault::PeerFin, &["truncated", "closed_in_handshake", "closed_before_hello", "none"]),
        ] {
            for offer in OFFERS {
                let mut plan = Plan::new(at as u64, bytes(30_000, 3));
                plan.mishap = Some((at, mishap));
                let outcome = run(plan, offer, client(SUITES[at % 6]));
                let fault = outcome.report.fault.map_or("none", Fault::label);
                assert!(expected.contains(&fault), "{mishap:?} at {at}: {fault}");
            }
        }
    }
}

#[test]
fn key_updates_of_the_client_are_followed() {
    for seed in 0..300 {
        let rekeying = Offer { rekeys: true, ..BOTH };
        for (offer, generation) in
            [(NOTHING, Generation::SingleKey), (rekeying, Generation::Rekeying), (BOTH, Generation::None)]
        {
            let sends = bytes(100_000, seed);
            let mut plan = Plan::new(seed, sends.clone());
            plan.script.key_updates = 5;
            plan.habits = KernelProfile::of(generation);
            let outcome = run(plan, offer, client(SUITES[3 + seed as usize % 3]));
            assert_eq!(outcome.report.fault, None, "seed {seed} {generation:?}");
            assert_eq!(outcome.peer.error, None, "seed {seed} {generation:?}");
            assert_eq!(outcome.peer.received, sends, "seed {seed} {generation:?}");
        }
    }
}

#[test]
fn kernel_without_rekey_ends_with_its_own_fault() {
    let mut seen = 0;
    for seed in 0..50 {
        let mut plan = Plan::new(seed, bytes(100_000, seed));
        plan.script.key_updates = 1;
        let outcome = run(plan, BOTH, client(SUITES[3]));
        seen += u32::from(outcome.report.fault == Some(Fault::RekeyRefused));
        assert!(matches!(outcome.report.fault, None | Some(Fault::RekeyRefused)), "seed {seed}");
    }
    assert!(seen > 25, "{seen} of 50");
}
