//! Keys that may protect no more records.

use offramp_core::conn::action::Milestone;
use offramp_core::conn::fault::{Fault, alert};
use offramp_core::conn::policy::Policy;
use offramp_core::conn::record_path::Offer;
use offramp_sim::{Backend, Generation, KernelProfile, Outcome, Plan, Role};

use crate::lab::{BOTH, NOTHING, SUITES, bytes, originating, peers, rules, run_under};

const LIMIT: u64 = 1024;

/// In the role that the peer leaves.
fn run_limited(plan: Plan, offer: Offer, peer: &Role) -> Outcome {
    let rules = match peer {
        Role::Client(_) => rules(offer),
        Role::Server(_) => originating(offer),
    };
    run_under(plan, Policy { record_limit: LIMIT, ..rules }, peer.clone())
}

/// A client whose every write is a record or more, and more records than a key may protect.
fn chatty(seed: u64) -> Plan {
    let mut plan = Plan::new(seed, Vec::new());
    plan.script.says = (0..3000).map(|nth: u32| offramp_sim::PeerAction::data(&nth.to_be_bytes())).collect();
    plan.script.says.push(offramp_sim::PeerAction::close_notify());
    plan
}

#[test]
fn spent_key_is_replaced_where_key_updates_work() {
    let rekeying = Offer { rekeys: true, ..BOTH };
    for suite in &SUITES[3..] {
        for (offer, generation) in [(NOTHING, Generation::None), (rekeying, Generation::Rekeying)] {
            for (hides_sequence, role) in [(false, 0), (true, 0), (false, 1)] {
                let mut plan = Plan::new(4, Vec::new());
                plan.backend = Backend::AnswersAndCloses(bytes(30_000_000, 4));
                plan.script.closes_first = false;
                plan.habits = KernelProfile { hides_sequence, ..KernelProfile::of(generation) };
                let outcome = run_limited(plan, offer, &peers(*suite)[role]);
                let updates = outcome.notes.iter().filter(|note| **note == Milestone::KeyUpdateSent).count();
                assert_eq!(outcome.report.fault, None, "{suite:?} {generation:?}");
                assert_eq!(outcome.peer.received, bytes(30_000_000, 4), "{suite:?} {generation:?}");
                assert!(updates >= 1, "{suite:?} {generation:?}: {updates} updates");
            }
        }
    }
}

#[test]
fn peer_is_asked_to_update_its_key_before_the_limit() {
    for (offer, generation) in
        [(NOTHING, Generation::None), (Offer { rekeys: true, ..BOTH }, Generation::Rekeying)]
    {
        let mut plan = chatty(2);
        plan.habits = KernelProfile::of(generation);
        for peer in peers(SUITES[3]) {
            let outcome = run_limited(plan.clone(), offer, &peer);
            let request = (22, vec![24, 0, 0, 1, 1]);
            assert!(outcome.peer.heard.contains(&request), "{generation:?}");
            // This peer does not do what it was asked.
            assert_eq!(outcome.report.fault, Some(Fault::RecordLimit), "{generation:?}");
            assert_eq!(outcome.peer.alert(), Some(alert::INTERNAL_ERROR), "{generation:?}");
            assert!(outcome.to_backend.len() as u64 <= 4 * LIMIT, "{generation:?}");
        }
    }
}

#[test]
fn connection_without_rekey_ends_before_the_limit() {
    for suite in SUITES {
        for (offer, generation) in [(NOTHING, Generation::None), (BOTH, Generation::SingleKey)] {
            if matches!(suite, rustls::SupportedCipherSuite::Tls13(_)) && generation == Generation::None {
                continue;
            }
            for seed in 0..4 {
                let mut plan = chatty(seed);
                plan.habits = KernelProfile::of(generation);
                let outcome = run_limited(plan, offer, &peers(suite)[seed as usize % 2]);
                let world = format!("{:?} {generation:?} seed {seed}", suite.suite());
                assert_eq!(outcome.report.fault, Some(Fault::RecordLimit), "{world}");
                let sent: Vec<u8> = (0..3000_u32).flat_map(u32::to_be_bytes).collect();
                assert!(sent.starts_with(&outcome.to_backend), "{world}");
                assert!(outcome.to_backend.len() as u64 <= 4 * LIMIT, "{world}");
                assert_eq!(outcome.peer.alert(), Some(alert::INTERNAL_ERROR), "{world}");
                assert!(outcome.to_backend.starts_with(&outcome.peer.received), "{world}");
                assert!(outcome.backend_was_reset && !outcome.backend_saw_end, "{world}");
            }
        }
    }
}
