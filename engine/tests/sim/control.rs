//! Records that are not application data, whoever carries them.

use offramp_core::conn::action::{ControlKind, Milestone, RecordPath};
use offramp_core::conn::fault::{Fault, alert};
use offramp_core::conn::record_path::Offer;
use offramp_core::tls::secrets::Direction;
use offramp_proto::CipherSet;
use offramp_proto::record::HANDSHAKE;
use offramp_sim::{Backend, Generation, KernelProfile, Outcome, PeerAction, Plan};
use rustls::SupportedCipherSuite;

use crate::lab::{BOTH, NOTHING, SUITES, peers, run};

const CLIENT_HELLO: [u8; 4] = [1, 0, 0, 0];

fn is_13(suite: SupportedCipherSuite) -> bool {
    matches!(suite, SupportedCipherSuite::Tls13(_))
}

/// Says these things in worlds of every suite, record path and role, all at once and one by one.
fn say(says: &[PeerAction], only_13: bool, check: impl Fn(&Outcome, &str)) {
    for suite in SUITES.into_iter().filter(|suite| !only_13 || is_13(*suite)) {
        for (offer, generation) in [(NOTHING, Generation::None), (BOTH, Generation::SingleKey)] {
            for (at_once, role) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
                let mut plan = Plan::new(3, Vec::new());
                plan.script.says = says.to_vec();
                plan.script.sends_at_once = at_once;
                plan.habits = KernelProfile::of(generation);
                let outcome = run(plan, offer, peers(suite)[role].clone());
                check(&outcome, &format!("{:?} {generation:?} at once {at_once} role {role}", suite.suite()));
            }
        }
    }
}

fn count(outcome: &Outcome, kind: ControlKind) -> u32 {
    let counts = outcome.notes.iter().filter_map(|note| match note {
        Milestone::Received { kind: of, count } if *of == kind => Some(*count),
        _ => None,
    });
    counts.sum()
}

#[test]
fn empty_records_and_padding_do_no_harm() {
    let empty = |padding| PeerAction::Record { record_type: 23, payload: Vec::new(), padding };
    let padded = PeerAction::Record { record_type: 23, payload: b"padded".to_vec(), padding: 9000 };
    let says = [PeerAction::data(b"one "), empty(0), empty(500), padded, PeerAction::close_notify()];
    say(&says, false, |outcome, world| {
        assert_eq!(outcome.report.fault, None, "{world}");
        assert_eq!(outcome.to_backend, b"one padded", "{world}");
        assert_eq!(outcome.peer.received, b"one padded", "{world}");
        assert!(outcome.backend_saw_end && outcome.peer.saw_close, "{world}");
        assert_eq!(count(outcome, ControlKind::CloseNotify), 1, "{world}");
    });
}

/// In one read of the kernel's it looks like the end of the file.
#[test]
fn an_empty_record_in_front_of_another_type_is_no_end() {
    let says = [PeerAction::data(b"x"), PeerAction::data(b""), PeerAction::close_notify()];
    say(&says, false, |outcome, world| {
        assert_eq!(outcome.report.fault, None, "{world}");
        assert!(outcome.backend_saw_end && !outcome.backend_was_reset, "{world}");
    });
    let rekeying = Offer { rekeys: true, ..BOTH };
    for seed in 0..8 {
        let mut plan = Plan::new(seed, Vec::new());
        plan.script.sends_at_once = seed % 2 == 0;
        plan.script.says = vec![
            PeerAction::data(b"old "),
            PeerAction::data(b""),
            PeerAction::KeyUpdate { requested: true },
            PeerAction::data(b""),
            PeerAction::data(b"new"),
            PeerAction::data(b""),
            PeerAction::close_notify(),
        ];
        plan.habits = KernelProfile::of(Generation::Rekeying);
        let outcome = run(plan, rekeying, peers(SUITES[3])[seed as usize / 2 % 2].clone());
        assert_eq!(outcome.report.fault, None, "seed {seed}");
        assert_eq!(outcome.peer.received, b"old new", "seed {seed}");
    }
}

#[test]
fn a_fatal_alert_is_named_and_resets_the_plain_leg() {
    say(&[PeerAction::data(b"x"), PeerAction::record(21, &[2, 20])], false, |outcome, world| {
        assert_eq!(outcome.report.fault, Some(Fault::AlertReceived), "{world}");
        assert_eq!(outcome.report.heard, Some(alert::BAD_RECORD_MAC), "{world}");
        assert!(outcome.backend_was_reset && !outcome.backend_saw_end, "{world}");
        assert_eq!(outcome.peer.heard.iter().filter(|(kind, _)| *kind == 21).count(), 0, "{world}");
        assert_eq!(count(outcome, ControlKind::Alert), 1, "{world}");
    });
}

#[test]
fn unexpected_record_is_refused_with_its_alert() {
    let cases = [
        (PeerAction::record(20, &[1]), Fault::UnexpectedRecord, alert::UNEXPECTED_MESSAGE),
        (PeerAction::record(HANDSHAKE, &[2, 0, 0, 0]), Fault::UnexpectedRecord, alert::UNEXPECTED_MESSAGE),
        (PeerAction::record(HANDSHAKE, &[]), Fault::UnexpectedRecord, alert::UNEXPECTED_MESSAGE),
        (PeerAction::record(21, &[1]), Fault::Malformed, alert::DECODE_ERROR),
    ];
    for (what, fault, description) in cases {
        say(&[PeerAction::data(b"x"), what], false, |outcome, world| {
            assert_eq!(outcome.report.fault, Some(fault), "{world}");
            assert_eq!(outcome.peer.alert(), Some(description), "{world}");
            assert!(outcome.backend_was_reset, "{world}");
        });
    }
}

#[test]
fn unknown_record_type_is_refused_before_later_data() {
    say(
        &[PeerAction::data(b"x"), PeerAction::record(24, b"heartbeat"), PeerAction::data(b"y")],
        false,
        |outcome, world| {
            let fault = outcome.report.fault;
            // In TLS 1.2 the type is in the clear: what is no type is no record.
            assert!(matches!(fault, Some(Fault::UnexpectedRecord | Fault::Malformed)), "{world}: {fault:?}");
            assert!(b"x".starts_with(&outcome.to_backend), "{world}");
        },
    );
}

/// In the handshake it is passed over (RFC 8446 §5); behind it, it belongs nowhere. The kernel takes it for a
/// record that cannot be opened.
#[test]
fn a_stray_change_cipher_spec_in_the_clear_is_refused() {
    let stray = PeerAction::Raw(vec![20, 3, 3, 0, 1, 1]);
    say(&[PeerAction::data(b"x"), stray, PeerAction::data(b"y")], true, |outcome, world| {
        let is_by_kernel = |note: &Milestone| {
            matches!(note, Milestone::RecordPath { direction: Direction::Rx, path: RecordPath::Kernel, .. })
        };
        let (fault, description) = if outcome.notes.iter().any(is_by_kernel) {
            (Fault::BadRecord, alert::BAD_RECORD_MAC)
        } else {
            (Fault::UnexpectedRecord, alert::UNEXPECTED_MESSAGE)
        };
        assert_eq!(outcome.report.fault, Some(fault), "{world}");
        assert_eq!(outcome.peer.alert(), Some(description), "{world}");
        assert!(outcome.backend_was_reset && b"x".starts_with(&outcome.to_backend), "{world}");
    });
}

#[test]
fn second_renegotiation_ends_the_connection() {
    let hello = PeerAction::record(HANDSHAKE, &CLIENT_HELLO);
    let mut once = Plan::new(1, Vec::new());
    once.script.says =
        vec![PeerAction::data(b"a"), hello.clone(), PeerAction::data(b"b"), PeerAction::close_notify()];
    let mut twice = once.clone();
    twice.script.says.insert(2, hello);
    for suite in SUITES.into_iter().filter(|suite| !is_13(*suite)) {
        for (offer, role) in [(NOTHING, 0), (BOTH, 0), (NOTHING, 1), (BOTH, 1)] {
            let outcome = run(once.clone(), offer, peers(suite)[role].clone());
            assert_eq!(outcome.report.fault, None, "{suite:?}");
            assert_eq!(outcome.to_backend, b"ab", "{suite:?}");
            let warning = (21, vec![1, alert::NO_RENEGOTIATION]);
            assert!(outcome.peer.heard.contains(&warning), "{suite:?} {:?}", outcome.peer.heard);
            assert_eq!(count(&outcome, ControlKind::Renegotiation), 1);
            let outcome = run(twice.clone(), offer, peers(suite)[role].clone());
            assert_eq!(outcome.report.fault, Some(Fault::Renegotiation), "{suite:?}");
        }
    }
}

#[test]
fn key_update_is_answered_on_request_and_followed() {
    let rekeying = Offer { rekeys: true, ..BOTH };
    for suite in SUITES.into_iter().filter(|suite| is_13(*suite)) {
        for (offer, generation) in [(NOTHING, Generation::None), (rekeying, Generation::Rekeying)] {
            for (at_once, role) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
                let mut plan = Plan::new(8, Vec::new());
                plan.script.sends_at_once = at_once;
                plan.script.says = vec![
                    PeerAction::data(b"old "),
                    PeerAction::KeyUpdate { requested: true },
                    PeerAction::data(b"new "),
                    PeerAction::KeyUpdate { requested: false },
                    PeerAction::data(b"newer"),
                    PeerAction::close_notify(),
                ];
                plan.habits = KernelProfile::of(generation);
                let outcome = run(plan, offer, peers(suite)[role].clone());
                let world = format!("{:?} {generation:?} {at_once} role {role}", suite.suite());
                assert_eq!(outcome.report.fault, None, "{world}");
                assert_eq!(outcome.to_backend, b"old new newer", "{world}");
                assert_eq!(outcome.peer.received, b"old new newer", "{world}");
                assert_eq!(outcome.peer.error, None, "{world}");
                assert_eq!(count(&outcome, ControlKind::KeyUpdate), 2, "{world}");
                let answer = (HANDSHAKE, vec![24, 0, 0, 1, 0]);
                let answers = outcome.peer.heard.iter().filter(|heard| **heard == answer).count();
                let sent = outcome.notes.iter().filter(|note| **note == Milestone::KeyUpdateSent).count();
                assert_eq!((answers, sent), (1, 1), "{world}");
            }
        }
    }
}

/// `auto` gives the kernel what goes to the client alone. A kernel that cannot replace its key could not seal
/// what follows our answer: the client is told, under the old key, and hears no KeyUpdate.
#[test]
fn key_update_is_refused_if_the_kernel_cannot_answer() {
    let sealing = Offer { rx: CipherSet::NONE, ..BOTH };
    for suite in SUITES.into_iter().filter(|suite| is_13(*suite)) {
        for seed in 0..16 {
            let mut plan = Plan::new(seed, Vec::new());
            plan.script.sends_at_once = seed % 2 == 0;
            plan.script.says = vec![
                PeerAction::data(b"old "),
                PeerAction::KeyUpdate { requested: true },
                PeerAction::data(b"new"),
            ];
            let peer = peers(suite)[seed as usize / 2 % 2].clone();
            let outcome = run(plan.clone(), sealing, peer.clone());
            let world = format!("{:?} seed {seed}", suite.suite());
            assert_eq!(outcome.report.fault, Some(Fault::RekeyRefused), "{world}");
            assert_eq!(outcome.peer.alert(), Some(alert::INTERNAL_ERROR), "{world}");
            let answer = (HANDSHAKE, vec![24, 0, 0, 1, 0]);
            assert!(!outcome.peer.heard.contains(&answer), "{world}");
            assert!(!outcome.notes.contains(&Milestone::KeyUpdateSent), "{world}");
            // One that asks for no answer is followed.
            plan.script.says[1] = PeerAction::KeyUpdate { requested: false };
            plan.script.says.push(PeerAction::close_notify());
            let outcome = run(plan, sealing, peer);
            assert_eq!(outcome.report.fault, None, "{world}");
            assert_eq!(outcome.peer.received, b"old new", "{world}");
        }
    }
}

/// As Java does when the key that it receives under has reached its limit: with every record on the way.
#[test]
fn repeated_key_update_requests_get_one_answer() {
    let rekeying = Offer { rekeys: true, ..BOTH };
    for (offer, generation) in [(NOTHING, Generation::None), (rekeying, Generation::Rekeying)] {
        for at_once in [false, true] {
            let mut plan = Plan::new(8, Vec::new());
            plan.script.sends_at_once = at_once;
            plan.script.says = vec![PeerAction::KeyUpdate { requested: true }; 300];
            plan.script.says.extend([PeerAction::data(b"goes on"), PeerAction::close_notify()]);
            plan.habits = KernelProfile::of(generation);
            for peer in peers(SUITES[3]) {
                let outcome = run(plan.clone(), offer, peer);
                assert_eq!(outcome.report.fault, None, "{generation:?} {at_once}");
                assert_eq!(outcome.peer.received, b"goes on", "{generation:?} {at_once}");
                // One answer, in front of the data: it does for all of them (RFC 8446 §4.6.3).
                let answer = (HANDSHAKE, vec![24, 0, 0, 1, 0]);
                let answers = outcome.peer.heard.iter().filter(|heard| **heard == answer).count();
                assert_eq!(answers, 1, "{generation:?} {at_once}");
            }
        }
    }
}

#[test]
fn control_record_flood_ends_connection_at_its_bound() {
    let update = || PeerAction::KeyUpdate { requested: true };
    let floods = [
        (vec![update(); 2000], Fault::KeyUpdateFlood),
        // Data in between makes it no better.
        ((0..2000).flat_map(|_| [update(), PeerAction::data(b"x")]).collect(), Fault::KeyUpdateFlood),
        (vec![PeerAction::record(21, &[1, 90]); 2000], Fault::UnexpectedRecord),
    ];
    for (says, fault) in floods {
        for suite in [SUITES[3], SUITES[5]] {
            let mut plan = Plan::new(5, Vec::new());
            plan.script.says = says.clone();
            plan.script.sends_at_once = true;
            plan.habits = KernelProfile::of(Generation::Rekeying);
            let rekeying = Offer { rekeys: true, ..BOTH };
            for (offer, role) in [(NOTHING, 0), (rekeying, 0), (NOTHING, 1), (rekeying, 1)] {
                let outcome = run(plan.clone(), offer, peers(suite)[role].clone());
                assert_eq!(outcome.report.fault, Some(fault), "{:?} role {role}", suite.suite());
                assert!(count(&outcome, ControlKind::KeyUpdate) <= 1025);
            }
        }
    }
}

#[test]
fn empty_records_without_end_are_refused_in_userspace() {
    let mut plan = Plan::new(5, Vec::new());
    plan.script.says = vec![PeerAction::data(&[]); 200];
    plan.script.sends_at_once = true;
    for peer in peers(SUITES[0]) {
        let outcome = run(plan.clone(), NOTHING, peer);
        assert_eq!(outcome.report.fault, Some(Fault::UnexpectedRecord));
    }
}

#[test]
fn bytes_that_are_no_record_are_named() {
    let cases: [(&[u8], Fault); 3] = [
        (&[23, 3, 3, 0x41, 0x01], Fault::RecordTooLong),
        (&[23, 2, 0, 0, 1, 0], Fault::Malformed),
        (
            &[
                23, 3, 3, 0, 30, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                22, 23, 24, 25, 26, 27, 28, 29, 30,
            ],
            Fault::BadRecord,
        ),
    ];
    for (bytes, fault) in cases {
        say(&[PeerAction::data(b"x"), PeerAction::Raw(bytes.to_vec())], false, |outcome, world| {
            assert_eq!(outcome.report.fault, Some(fault), "{world}");
            assert!(outcome.backend_was_reset, "{world}");
        });
    }
}

#[test]
fn nothing_of_ours_follows_our_close_notify() {
    // The client goes on sending and then breaks the rules, when we have said our last word long before.
    for suite in SUITES {
        for offer in [NOTHING, BOTH] {
            for seed in 0..40 {
                let mut plan = Plan::new(seed, Vec::new());
                plan.backend = Backend::AnswersAndCloses(b"answer".to_vec());
                let mut says = vec![PeerAction::data(&[7; 5000]); 20];
                says.push(PeerAction::record(20, &[1]));
                plan.script.says = says;
                let outcome = run(plan, offer, peers(suite)[seed as usize % 2].clone());
                let alerts: Vec<_> = outcome.peer.heard.iter().filter(|(kind, _)| *kind == 21).collect();
                assert!(alerts.len() <= 1, "seed {seed}: {alerts:?}");
            }
        }
    }
}
