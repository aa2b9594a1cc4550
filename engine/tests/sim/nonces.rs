//! Every stage: no key protects two records with one nonce, whoever seals. Each world holds its wire against
//! that; here is that it sees all of it, and that it would not let a repetition pass.

use offramp_proto::record::HEADER_BYTES;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use offramp_core::conn::record_path::Offer;
use offramp_sim::{Generation, KernelBug, KernelProfile, Misuse, Outcome, Plan, Role, Wire};

use crate::lab::{BOTH, NOTHING, SUITES, bytes, peers, run};

const REKEYING: Offer = Offer { rekeys: true, ..BOTH };
const MIDWAY: Offer = Offer { after_bytes: 20_000, ..BOTH };

fn world(seed: u64, peer: Role, offer: Offer, habits: KernelProfile) -> Outcome {
    let mut plan = Plan::new(seed, bytes(100_000, seed));
    plan.habits = habits;
    // A rustls that has said close_notify does not expect to have to send an alert.
    plan.script.closes_first = habits.slip.is_none();
    plan.script.key_updates = if habits.generation == Generation::Rekeying { 3 } else { 0 };
    run(plan, offer, peer)
}

#[test]
fn nonces_are_distinct_across_the_hand_over() {
    let refusing = KernelProfile { refuse_tx: Some(libc::ENOENT), ..KernelProfile::default() };
    let worlds = [
        (NOTHING, KernelProfile::default()),
        (BOTH, KernelProfile::default()),
        (BOTH, refusing),
        (MIDWAY, KernelProfile::default()),
        (REKEYING, KernelProfile::of(Generation::Rekeying)),
    ];
    for suite in SUITES {
        for (nth, peer) in peers(suite).into_iter().enumerate() {
            for (offer, habits) in worlds {
                for seed in 0..10 {
                    let outcome = world(seed, peer.clone(), offer, habits);
                    let world = format!("{suite:?} role {nth} {offer:?} {habits:?} seed {seed}");
                    assert_eq!(outcome.report.fault, None, "{world}");
                    assert_eq!(outcome.watched.unknown, 0, "{world}");
                    // Finished, the data, close_notify.
                    assert!(outcome.watched.opened > 8, "{world}: {:?}", outcome.watched);
                }
            }
        }
    }
}

/// A kernel that is given the iv as it is, without the nonce rule: the peer notices nothing.
#[test]
fn kernel_reuse_of_the_finished_nonce_is_detected() {
    for suite in [SUITES[0], SUITES[1]] {
        for peer in peers(suite) {
            let habits = KernelProfile { slip: Some(KernelBug::SameIv), ..KernelProfile::default() };
            assert_eq!(panic_of(|| world(1, peer, BOTH, habits)), "seed 1: NonceTwice { record: 1 }");
        }
    }
}

#[test]
fn kernel_start_at_a_used_sequence_is_detected() {
    for suite in &SUITES[2..] {
        for peer in peers(*suite) {
            let habits = KernelProfile { slip: Some(KernelBug::LastSequence), ..KernelProfile::default() };
            let told = panic_of(|| world(1, peer, MIDWAY, habits));
            assert!(told.starts_with("seed 1: NonceTwice"), "{told}");
        }
    }
}

/// Userspace: what it would put on the wire if it sealed twice under one number, or left one out.
#[test]
fn repeated_or_missing_record_is_detected_anywhere() {
    for suite in SUITES {
        for peer in peers(suite) {
            let wire = world(1, peer, NOTHING, KernelProfile::default()).wire;
            let records = records(&wire.sent);
            let first = records.len() - wire.watch().expect("nothing is wrong with it").opened;
            for nth in first..records.len() {
                let repeated = [&records[..=nth], &records[nth..]].concat();
                let found = with(&wire, &repeated).watch();
                assert_eq!(found, Err(Misuse::NonceTwice { record: nth + 1 - first }), "{suite:?}");
                if nth + 1 < records.len() {
                    let short = [&records[..nth], &records[nth + 1..]].concat();
                    let found = with(&wire, &short).watch();
                    assert_eq!(found, Err(Misuse::OutOfPlace { record: nth - first }), "{suite:?}");
                }
            }
        }
    }
}

fn records(wire: &[u8]) -> Vec<&[u8]> {
    let (mut records, mut rest) = (Vec::new(), wire);
    while let [_, _, _, high, low, ..] = *rest {
        let (record, next) = rest.split_at(HEADER_BYTES + usize::from(u16::from_be_bytes([high, low])));
        records.push(record);
        rest = next;
    }
    records
}

/// The same wire, but that other records were sent.
fn with(wire: &Wire, records: &[&[u8]]) -> Wire {
    let (received, secrets) = (wire.received.clone(), Arc::clone(&wire.secrets));
    Wire { originates: wire.originates, sent: records.concat(), received, secrets }
}

/// What a world that panics says.
fn panic_of(world: impl FnOnce() -> Outcome) -> String {
    match catch_unwind(AssertUnwindSafe(world)) {
        Ok(outcome) => format!("nothing was found: {:?}", outcome.watched),
        Err(told) => told.downcast_ref::<String>().cloned().unwrap_or_default(),
    }
}
