//! The client's role: plain bytes in, TLS out. What holds for a connection that was accepted with TLS holds
//! for one that is connected with it, towards a server of either version, whoever carries the records.

use offramp_proto::record::HANDSHAKE;
use std::collections::BTreeSet;

use offramp_core::conn::action::{ControlKind, Milestone};
use offramp_core::conn::fault::{Fault, alert};
use offramp_core::conn::record_path::Offer;
use offramp_sim::{Backend, Generation, InjectedFault, KernelProfile, Outcome, PeerAction, Plan};
use rustls::HandshakeKind;

use crate::lab::{BOTH, NOTHING, SUITES, bytes, resuming, run, run_under, server, server_showing};

const OFFERS: [Offer; 2] = [BOTH, NOTHING];
const REKEYING: Offer = Offer { rekeys: true, ..BOTH };
/// The first message of a handshake: HelloRequest (RFC 5246 §7.4.1.1).
const HELLO_REQUEST: [u8; 4] = [0, 0, 0, 0];

fn is_13(suite: rustls::SupportedCipherSuite) -> bool {
    matches!(suite, rustls::SupportedCipherSuite::Tls13(_))
}

/// As a client of the gateway does: it asks at once, and the server answers.
#[test]
fn what_waits_at_the_plain_leg_is_heard_first() {
    for seed in 0..200 {
        for offer in OFFERS {
            let (request, sends) = (bytes(5000, seed), bytes(20_000, seed + 1));
            let mut plan = Plan::new(seed, sends.clone());
            plan.backend = Backend::Greets(request.clone());
            let outcome = run(plan, offer, server(SUITES[seed as usize % 6]));
            assert_eq!(outcome.report.fault, None, "seed {seed}");
            assert_eq!(outcome.peer.received, [request, sends].concat(), "seed {seed}");
        }
    }
}

#[test]
fn server_flight_and_data_arrive_in_order_at_any_cut() {
    for suite in SUITES {
        // In TLS 1.2 what the server sends last is ChangeCipherSpec, Finished and data; in TLS 1.3 its only
        // flight, which is cut more coarsely.
        let (cuts, shortest) =
            if is_13(suite) { ((1..2000).step_by(7), 800) } else { ((1..600).step_by(1), 450) };
        for cut in cuts {
            let sends = bytes(400, cut as u64);
            let mut plan = Plan::new(cut as u64, sends.clone());
            plan.script.sends_at_once = true;
            plan.cut = cut;
            let outcome = run(plan, BOTH, server(suite));
            assert!(outcome.was_cut || cut >= shortest, "{suite:?}: no cut at {cut}");
            assert_eq!(outcome.report.fault, None, "{suite:?} cut {cut}");
            assert_eq!(outcome.to_backend, sends, "{suite:?} cut {cut}");
            assert_eq!(outcome.peer.received, sends, "{suite:?} cut {cut}");
        }
    }
}

#[test]
fn a_session_that_was_kept_resumes() {
    for suite in SUITES {
        for offer in OFFERS {
            for at_once in [false, true] {
                let (rules, peer) = (resuming(offer), server(suite));
                for nth in 0..4 {
                    let sends = bytes(30_000, nth);
                    let mut plan = Plan::new(nth, sends.clone());
                    plan.script.sends_at_once = at_once;
                    let outcome = run_under(plan, rules.clone(), peer.clone());
                    let kind = if nth == 0 { HandshakeKind::Full } else { HandshakeKind::Resumed };
                    assert_eq!(outcome.report.fault, None, "{suite:?} {nth}");
                    assert_eq!(outcome.peer.handshake_kind(), Some(kind), "{suite:?} {nth}");
                    assert_eq!(outcome.peer.received, sends, "{suite:?} {nth}");
                }
            }
        }
    }
}

#[test]
fn client_role_hands_over_each_way_after_its_bytes() {
    for suite in SUITES {
        for after_bytes in [1, 5000, 40_000] {
            for seed in 0..20 {
                let sends = bytes(120_000, seed);
                let outcome =
                    run(Plan::new(seed, sends.clone()), Offer { after_bytes, ..BOTH }, server(suite));
                assert_eq!(outcome.report.fault, None, "{suite:?} after {after_bytes} seed {seed}");
                assert_eq!(outcome.to_backend, sends, "{suite:?} after {after_bytes} seed {seed}");
                assert_eq!(outcome.peer.received, sends, "{suite:?} after {after_bytes} seed {seed}");
            }
        }
    }
}

#[test]
fn key_updates_of_the_server_are_followed() {
    for seed in 0..150 {
        for (offer, generation) in
            [(NOTHING, Generation::SingleKey), (REKEYING, Generation::Rekeying), (BOTH, Generation::None)]
        {
            let sends = bytes(100_000, seed);
            let mut plan = Plan::new(seed, sends.clone());
            plan.script.key_updates = 5;
            plan.script.sends_at_once = seed % 2 == 0;
            plan.habits = KernelProfile::of(generation);
            let outcome = run(plan, offer, server(SUITES[3 + seed as usize % 3]));
            assert_eq!(outcome.report.fault, None, "seed {seed} {generation:?}");
            assert_eq!(outcome.peer.error, None, "seed {seed} {generation:?}");
            assert_eq!(outcome.peer.received, sends, "seed {seed} {generation:?}");
        }
    }
}

#[test]
fn a_refused_server_is_named_and_the_plain_leg_reset() {
    for (errno, fault) in [
        (libc::ECONNREFUSED, Fault::BackendRefused),
        (libc::EHOSTUNREACH, Fault::BackendUnreachable),
        (libc::EADDRNOTAVAIL, Fault::NoLocalPort),
    ] {
        let mut plan = Plan::new(9, bytes(100, 9));
        plan.refuses = Some(errno);
        let outcome = run(plan, BOTH, server(SUITES[0]));
        assert_eq!(outcome.report.fault, Some(fault));
        assert!(outcome.backend_was_reset && outcome.wire.sent.is_empty());
    }
}

#[test]
fn reset_or_fin_at_any_step_leaves_nothing_behind() {
    let mut seen = BTreeSet::new();
    for at in 1..300 {
        for mishap in [
            InjectedFault::PeerReset,
            InjectedFault::PlainPeerReset,
            InjectedFault::PeerFin,
            InjectedFault::Drain,
        ] {
            for offer in OFFERS {
                let sends = bytes(30_000, 3);
                let mut plan = Plan::new(at as u64, sends.clone());
                plan.mishap = Some((at, mishap));
                let outcome = run(plan, offer, server(SUITES[at % 6]));
                let fault = outcome.report.fault;
                seen.extend(fault.map(Fault::label));
                assert_ne!(fault, Some(Fault::Internal), "{mishap:?} at {at}");
                assert!(sends.starts_with(&outcome.to_backend), "{mishap:?} at {at}");
                if fault.is_none() {
                    assert_eq!(outcome.to_backend, sends, "{mishap:?} at {at}");
                }
                if fault == Some(Fault::Truncated) {
                    assert!(outcome.backend_was_reset && !outcome.backend_saw_end, "{mishap:?} at {at}");
                }
            }
        }
    }
    for label in
        ["closed_in_handshake", "tls_peer_reset", "truncated", "plain_peer_reset", "backend_unreachable"]
    {
        assert!(seen.contains(label), "{label} is not among {seen:?}");
    }
}

#[test]
fn a_flipped_bit_is_never_passed_on() {
    for seed in 0..600 {
        let sends = bytes(3000, seed);
        let mut plan = Plan::new(seed, sends.clone());
        plan.mishap = Some((1 + seed as usize % 40, InjectedFault::FlippedBit));
        let outcome = run(plan, BOTH, server(SUITES[seed as usize % SUITES.len()]));
        assert!(sends.starts_with(&outcome.to_backend), "seed {seed}");
        assert_ne!(outcome.report.fault, Some(Fault::Internal), "seed {seed}");
        if outcome.report.fault.is_none() {
            assert_eq!(outcome.to_backend, sends, "seed {seed}");
        }
    }
}

/// Rubbish in the middle of everything that a server says, cutting its records in two or between them.
#[test]
fn garbage_ends_the_connection_and_is_never_relayed() {
    let rubbish: [&[u8]; 6] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &[0; 40],
        // An alert, a ChangeCipherSpec, a HelloRequest and an empty record, in the clear.
        &[21, 3, 3, 0, 2, 2, 40],
        &[20, 3, 3, 0, 1, 1],
        &[22, 3, 3, 0, 4, 0, 0, 0, 0],
        &[22, 3, 3, 0, 0],
    ];
    let mut faults = BTreeSet::new();
    for suite in SUITES {
        for (nth, what) in rubbish.into_iter().enumerate() {
            for at in (0..1500).step_by(37) {
                let sends = bytes(500, 1);
                let mut plan = Plan::new(at as u64, sends.clone());
                plan.script.interrupts = Some((at, what.to_vec()));
                let outcome = run(plan, OFFERS[nth % 2], server(suite));
                let world = format!("{suite:?} rubbish {nth} at {at}");
                assert_ne!(outcome.report.fault, Some(Fault::Internal), "{world}");
                assert!(sends.starts_with(&outcome.to_backend), "{world}");
                if outcome.backend_saw_end && !outcome.backend_was_reset {
                    assert_eq!(outcome.to_backend, sends, "{world}");
                }
                faults.extend(outcome.report.fault.map(Fault::label));
            }
        }
    }
    let expected = ["alert_in_handshake", "bad_record", "handshake_malformed", "handshake_unexpected"];
    assert!(expected.into_iter().all(|label| faults.contains(label)), "{faults:?}");
}

/// A message that says that it has no end, and one empty ticket after another.
#[test]
fn handshake_messages_without_end_are_refused() {
    let fragment = [&[22, 3, 3, 0x40, 0][..], &[11; 16_384]].concat();
    let certificate = [&[22, 3, 3, 0, 4, 11, 0xff, 0xff, 0xff][..], &fragment.repeat(40)].concat();
    for suite in SUITES {
        for at in [0, 40, 90, 127] {
            let mut plan = Plan::new(at as u64, Vec::new());
            plan.script.interrupts = Some((at, certificate.clone()));
            let fault = run(plan, BOTH, server(suite)).report.fault;
            assert!(fault.is_some_and(|fault| fault != Fault::Internal), "{suite:?} at {at}: {fault:?}");
        }
    }
    let floods = [
        vec![PeerAction::record(HANDSHAKE, &[4, 0xff, 0xff, 0xff]); 100],
        vec![PeerAction::record(HANDSHAKE, &[4, 0, 0, 5, 1]); 3000],
        vec![PeerAction::KeyUpdate { requested: true }; 2000],
        vec![PeerAction::record(21, &[1, 90]); 2000],
    ];
    for flood in floods {
        for (offer, generation) in [(NOTHING, Generation::None), (REKEYING, Generation::Rekeying)] {
            for suite in &SUITES[3..] {
                let outcome = says(*suite, offer, generation, &flood);
                let fault = outcome.report.fault;
                let expected = [Fault::UnexpectedRecord, Fault::KeyUpdateFlood, Fault::Malformed];
                assert!(fault.is_some_and(|fault| expected.contains(&fault)), "{suite:?}: {fault:?}");
            }
        }
    }
}

/// Messages that go on over many records, under the keys of the handshake in TLS 1.3. A certificate has some
/// hundred bytes; of 64 KiB in one message rustls takes no more.
#[test]
fn a_flight_of_any_length_is_taken_or_refused_by_name() {
    let mut ends = BTreeSet::new();
    for suite in SUITES {
        for times in [1, 40, 120, 170, 182, 190, 1000] {
            for seed in 0..3 {
                let sends = bytes(3000, seed);
                let mut plan = Plan::new(seed, sends.clone());
                plan.script.sends_at_once = true;
                let outcome = run(plan, BOTH, server_showing(suite, times));
                match outcome.report.fault {
                    None => assert_eq!(outcome.to_backend, sends, "{suite:?} {times}"),
                    Some(_) => assert!(outcome.to_backend.is_empty(), "{suite:?} {times}"),
                }
                ends.insert(outcome.report.fault.map_or("none", Fault::label));
            }
        }
    }
    assert_eq!(ends, ["handshake_malformed", "none"].into());
}

fn says(
    suite: rustls::SupportedCipherSuite,
    offer: Offer,
    generation: Generation,
    says: &[PeerAction],
) -> Outcome {
    let mut plan = Plan::new(says.len() as u64, Vec::new());
    plan.script.says = says.to_vec();
    plan.script.sends_at_once = says.len().is_multiple_of(2);
    plan.habits = KernelProfile::of(generation);
    run(plan, offer, server(suite))
}

#[test]
fn second_hello_request_ends_the_connection() {
    let request = || PeerAction::record(HANDSHAKE, &HELLO_REQUEST);
    let once = [PeerAction::data(b"a"), request(), PeerAction::data(b"b"), PeerAction::close_notify()];
    let twice = [PeerAction::data(b"a"), request(), request(), PeerAction::data(b"b")];
    for suite in SUITES {
        for offer in OFFERS {
            let outcome = says(suite, offer, Generation::SingleKey, &once);
            if is_13(suite) {
                assert_eq!(outcome.report.fault, Some(Fault::UnexpectedRecord), "{suite:?}");
                continue;
            }
            assert_eq!(outcome.report.fault, None, "{suite:?}");
            assert_eq!(outcome.to_backend, b"ab", "{suite:?}");
            let warning = (21, vec![1, alert::NO_RENEGOTIATION]);
            assert!(outcome.peer.heard.contains(&warning), "{suite:?} {:?}", outcome.peer.heard);
            let outcome = says(suite, offer, Generation::SingleKey, &twice);
            assert_eq!(outcome.report.fault, Some(Fault::Renegotiation), "{suite:?}");
            assert!(outcome.backend_was_reset, "{suite:?}");
        }
    }
}

#[test]
fn server_alert_is_named_and_resets_the_plain_leg() {
    for suite in SUITES {
        for offer in OFFERS {
            let outcome = says(
                suite,
                offer,
                Generation::SingleKey,
                &[PeerAction::data(b"x"), PeerAction::record(21, &[2, 49])],
            );
            assert_eq!(outcome.report.fault, Some(Fault::AlertReceived), "{suite:?}");
            assert_eq!(outcome.report.heard, Some(49), "{suite:?}");
            assert!(outcome.backend_was_reset && !outcome.backend_saw_end, "{suite:?}");
        }
    }
}

/// TLS 1.3: they come behind the handshake, in records that kernel records do not pass over.
#[test]
fn tickets_are_taken_whoever_carries_the_records() {
    for suite in &SUITES[3..] {
        for offer in OFFERS {
            for at_once in [false, true] {
                let mut plan = Plan::new(3, bytes(5000, 3));
                plan.script.sends_at_once = at_once;
                let outcome = run(plan, offer, server(*suite));
                let tickets = outcome.notes.iter().filter_map(|note| match note {
                    Milestone::Received { kind: ControlKind::Tickets, count } => Some(*count),
                    _ => None,
                });
                assert_eq!(outcome.report.fault, None, "{suite:?}");
                // Two of them, which may share a record.
                assert!((1..=2).contains(&tickets.sum::<u32>()), "{suite:?}");
            }
        }
    }
}

#[test]
fn malformed_ticket_is_answered_with_decode_error() {
    let broken =
        [PeerAction::data(b"x"), PeerAction::record(HANDSHAKE, &[4, 0, 0, 2, 7, 7]), PeerAction::data(b"y")];
    for suite in &SUITES[3..] {
        for (offer, generation) in [(NOTHING, Generation::None), (BOTH, Generation::SingleKey)] {
            let outcome = says(*suite, offer, generation, &broken);
            assert_eq!(outcome.report.fault, Some(Fault::Malformed), "{suite:?} {generation:?}");
            assert_eq!(outcome.peer.alert(), Some(alert::DECODE_ERROR), "{suite:?} {generation:?}");
            assert!(outcome.backend_was_reset && b"x".starts_with(&outcome.to_backend), "{suite:?}");
        }
    }
}
