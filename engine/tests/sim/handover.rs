//! Stage 4, in the middle: a direction goes to the kernel when it has carried enough.

use offramp_core::conn::action::{Milestone, RecordPath};
use offramp_core::conn::record_path::Offer;
use offramp_core::tls::secrets::Direction;
use offramp_sim::{Backend, Generation, InjectedFault, KernelProfile, Plan};

use crate::lab::{BOTH, SUITES, bytes, client, run};

fn carried(notes: &[Milestone], direction: Direction) -> Vec<RecordPath> {
    let by = notes.iter().filter_map(|note| match note {
        Milestone::RecordPath { direction: of, path: by, .. } if *of == direction => Some(*by),
        _ => None,
    });
    by.collect()
}

#[test]
fn each_direction_hands_over_after_its_bytes() {
    for suite in SUITES {
        for after_bytes in [1, 5000, 40_000] {
            for seed in 0..40 {
                let sends = bytes(120_000, seed);
                let offer = Offer { after_bytes, ..BOTH };
                let outcome = run(Plan::new(seed, sends.clone()), offer, client(suite));
                let world = format!("{:?} after {after_bytes} seed {seed}", suite.suite());
                assert_eq!(outcome.report.fault, None, "{world}");
                assert_eq!(outcome.to_backend, sends, "{world}");
                assert_eq!(outcome.peer.received, sends, "{world}");
                for direction in [Direction::Tx, Direction::Rx] {
                    assert_eq!(carried(&outcome.notes, direction).len(), 1, "{world} {direction:?}");
                }
            }
        }
    }
}

#[test]
fn most_of_what_comes_late_enough_is_the_kernels() {
    let mut kernel = [0; 2];
    for seed in 0..100 {
        let offer = Offer { after_bytes: 10_000, ..BOTH };
        let outcome = run(Plan::new(seed, bytes(200_000, seed)), offer, client(SUITES[seed as usize % 6]));
        for (count, direction) in kernel.iter_mut().zip([Direction::Tx, Direction::Rx]) {
            *count += u32::from(carried(&outcome.notes, direction) == [RecordPath::Kernel]);
        }
    }
    assert!(kernel.iter().all(|count| *count > 80), "{kernel:?} of 100");
}

#[test]
fn a_connection_that_ends_sooner_stays_in_userspace() {
    for suite in SUITES {
        let offer = Offer { after_bytes: 1_000_000, ..BOTH };
        let outcome = run(Plan::new(1, bytes(1000, 1)), offer, client(suite));
        for direction in [Direction::Tx, Direction::Rx] {
            assert_eq!(carried(&outcome.notes, direction), [RecordPath::Userspace]);
        }
    }
}

#[test]
fn a_late_refusal_keeps_the_connection_in_userspace() {
    for errno in [libc::ENOMEM, libc::EBUSY, libc::ENOTCONN] {
        for seed in 0..60 {
            let sends = bytes(100_000, seed);
            let mut plan = Plan::new(seed, sends.clone());
            let habits = KernelProfile::of(Generation::SingleKey);
            plan.habits = match seed % 3 {
                0 => KernelProfile { refuse_tx: Some(errno), ..habits },
                1 => KernelProfile { refuse_rx: Some(errno), ..habits },
                _ => KernelProfile { refuse_tx: Some(errno), refuse_rx: Some(errno), ..habits },
            };
            let offer = Offer { after_bytes: 20_000, ..BOTH };
            let outcome = run(plan, offer, client(SUITES[seed as usize % 6]));
            assert_eq!(outcome.report.fault, None, "{errno} seed {seed}");
            assert_eq!(outcome.peer.received, sends, "{errno} seed {seed}");
            let by = [Direction::Tx, Direction::Rx].map(|direction| carried(&outcome.notes, direction));
            let fell_back = by.concat().contains(&RecordPath::Fallback { errno });
            let ended_before = by.concat().contains(&RecordPath::Userspace);
            assert!(fell_back || ended_before, "{errno} seed {seed}: {by:?}");
        }
    }
}

#[test]
fn kernel_that_starts_to_refuse_keys_loses_nothing() {
    let mut refused = 0;
    for errno in [libc::ENOMEM, libc::EBUSY] {
        for seed in 0..100_u64 {
            let sends = bytes(150_000, seed);
            let mut plan = Plan::new(seed, sends.clone());
            plan.mishap = Some((8 + seed as usize, InjectedFault::NoMoreKeys(errno)));
            let offer = Offer { after_bytes: 40_000, ..BOTH };
            let outcome = run(plan, offer, client(SUITES[seed as usize % 6]));
            assert_eq!(outcome.report.fault, None, "{errno} seed {seed}");
            assert_eq!(outcome.peer.received, sends, "{errno} seed {seed}");
            let by = [Direction::Tx, Direction::Rx].map(|direction| carried(&outcome.notes, direction));
            refused += usize::from(by.concat().contains(&RecordPath::Fallback { errno }));
        }
    }
    assert!(refused > 20, "{refused} of 200");
}

/// All that the client has to say, and its FIN, are there before the keys are offered: the protocol cannot be
/// attached to a connection that is no longer ESTABLISHED.
#[test]
fn fin_before_the_handover_keeps_records_in_userspace() {
    let mut late = 0;
    for suite in SUITES {
        for at in 4..60 {
            let sends = bytes(3000, at);
            let mut plan = Plan::new(at, sends.clone());
            plan.script.sends_at_once = true;
            plan.backend = Backend::AnswersAndCloses(b"the answer".to_vec());
            plan.mishap = Some((at as usize, InjectedFault::PeerFin));
            let outcome = run(plan, BOTH, client(suite));
            let by = [Direction::Tx, Direction::Rx].map(|direction| carried(&outcome.notes, direction));
            let is_late = by.concat().contains(&RecordPath::Fallback { errno: libc::ENOTCONN });
            if is_late && outcome.report.fault.is_none() {
                assert_eq!(outcome.to_backend, sends, "{suite:?} at {at}");
                assert_eq!(outcome.peer.received, b"the answer", "{suite:?} at {at}");
                late += 1;
            }
        }
    }
    assert!(late > 5, "{late}");
}

#[test]
fn kill_switch_stops_a_pending_handover() {
    let mut held = 0;
    for seed in 0..100 {
        let sends = bytes(150_000, seed);
        let mut plan = Plan::new(seed, sends.clone());
        plan.mishap = Some((12, InjectedFault::NoMoreOffload));
        let outcome = run(plan, Offer { after_bytes: 60_000, ..BOTH }, client(SUITES[seed as usize % 6]));
        assert_eq!(outcome.report.fault, None, "seed {seed}");
        assert_eq!(outcome.peer.received, sends, "seed {seed}");
        let by = [Direction::Tx, Direction::Rx].map(|direction| carried(&outcome.notes, direction)).concat();
        held += usize::from(by == [RecordPath::Userspace; 2]);
    }
    assert!(held > 90, "{held} of 100");
}

#[test]
fn each_generation_of_kernels_carries_what_it_can() {
    use RecordPath::{Fallback, Kernel};
    let none = Fallback { errno: libc::ENOENT };
    for (generation, tx, rx) in [
        (Generation::None, none, none),
        (Generation::TxOnly, Kernel, Fallback { errno: libc::ENOPROTOOPT }),
        (Generation::SingleKey, Kernel, Kernel),
        (Generation::Rekeying, Kernel, Kernel),
    ] {
        for suite in SUITES {
            let sends = bytes(50_000, 1);
            let mut plan = Plan::new(11, sends.clone());
            plan.habits = KernelProfile::of(generation);
            let outcome = run(plan, BOTH, client(suite));
            assert_eq!(outcome.peer.received, sends, "{generation:?}");
            assert_eq!(carried(&outcome.notes, Direction::Tx), [tx], "{generation:?}");
            assert_eq!(carried(&outcome.notes, Direction::Rx), [rx], "{generation:?}");
        }
    }
}
