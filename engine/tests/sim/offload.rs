//! Stage 3: the hand-over at a record boundary, whatever the network did to it.

use offramp_core::conn::action::{Milestone, RecordPath};
use offramp_core::tls::secrets::Direction;
use offramp_sim::{KernelProfile, Plan};

use crate::lab::{BOTH, SUITES, bytes, client, peers, run};

/// The client's Finished, its first data and its close_notify are at most this long together.
const LAST_FLIGHT_BYTES: usize = 700;
/// And at least this long; in TLS 1.2 data waits for the server's Finished.
const SHORTEST_12: usize = 85;
const SHORTEST_13: usize = 500;

#[test]
fn finished_and_data_arrive_in_order_at_every_cut() {
    for suite in SUITES {
        let is_13 = matches!(suite, rustls::SupportedCipherSuite::Tls13(_));
        let shortest = if is_13 { SHORTEST_13 } else { SHORTEST_12 };
        for cut in 1..LAST_FLIGHT_BYTES {
            let sends = bytes(400, cut as u64);
            let mut plan = Plan::new(cut as u64, sends.clone());
            plan.script.sends_at_once = true;
            plan.cut = cut;
            let outcome = run(plan, BOTH, client(suite));
            assert!(outcome.was_cut || cut >= shortest, "{suite:?}: no cut at {cut}");
            assert_eq!(outcome.report.fault, None, "{suite:?} cut {cut}");
            assert_eq!(outcome.to_backend, sends, "{suite:?} cut {cut}");
            assert_eq!(outcome.peer.received, sends, "{suite:?} cut {cut}");
        }
    }
}

#[test]
fn refused_direction_stays_in_userspace_without_loss() {
    let refusals = [None, Some(libc::ENOENT), Some(libc::ENOTCONN), Some(libc::ENOMEM)];
    for suite in SUITES {
        for refuse_tx in refusals {
            for refuse_rx in refusals {
                for (seed, peer) in (0..8).flat_map(|seed| peers(suite).map(|peer| (seed, peer))) {
                    let sends = bytes(60_000, seed);
                    let mut plan = Plan::new(seed, sends.clone());
                    plan.script.sends_at_once = seed % 2 == 0;
                    plan.habits = KernelProfile { refuse_tx, refuse_rx, ..KernelProfile::default() };
                    let outcome = run(plan, BOTH, peer);
                    assert_eq!(outcome.report.fault, None, "{suite:?} {refuse_tx:?} {refuse_rx:?}");
                    assert_eq!(outcome.peer.received, sends);
                    for (direction, refused) in [(Direction::Tx, refuse_tx), (Direction::Rx, refuse_rx)] {
                        let by = refused.map_or(RecordPath::Kernel, |errno| RecordPath::Fallback { errno });
                        let is_of = |by, note: &Milestone| {
                            matches!(note, Milestone::RecordPath { direction: of, path, .. }
                                if (*of, *path) == (direction, by))
                        };
                        let note = |by| outcome.notes.iter().any(|note| is_of(by, note));
                        // A peer that closed with its last flight leaves nothing to hand over.
                        assert!(note(by) || refused.is_none() && note(RecordPath::Userspace));
                    }
                }
            }
        }
    }
}
