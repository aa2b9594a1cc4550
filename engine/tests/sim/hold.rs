//! The hold: the fingerprints of the peer become known during its handshake, behind it, or not at all.

use std::sync::Arc;

use offramp_core::config::Fingerprint;
use offramp_core::conn::action::{Milestone, RecordPath};
use offramp_core::conn::fault::Fault;
use offramp_core::conn::policy::Policy;
use offramp_core::conn::record_path::Offer;
use offramp_sim::{InjectedFault, Outcome, Plan, Role};
use rustls::{AlertDescription, Error, HandshakeKind, SupportedCipherSuite};

use crate::lab::{
    BOTH, NOTHING, SUITES, bytes, client, client_with_certificate, fingerprint, held, held_originating,
    held_resuming, run_under, server,
};

const OFFERS: [Offer; 2] = [BOTH, NOTHING];
/// Later than any handshake of these worlds, so that the leg is held before.
const LATE: usize = usize::MAX;

/// In the server's role, and in the client's.
fn roles(suite: SupportedCipherSuite, offer: Offer) -> [(Policy, Role); 2] {
    [(held(offer), client_with_certificate(suite).into()), (held_originating(offer), server(suite).into())]
}

fn other() -> Fingerprint {
    Fingerprint::parse(&format!("sha-256 {}", ["AB"; 32].join(":"))).expect("as SDP writes it")
}

/// The backend got nothing, the kernel got no keys, and the peer was told.
fn assert_refused(outcome: &Outcome, why: &str, what: &str) {
    assert_eq!(outcome.report.fault, Some(Fault::PeerCertificateRefused), "{what}");
    let reason = outcome.report.evidence.as_ref().and_then(|evidence| evidence.reason.as_deref());
    assert!(reason.is_some_and(|reason| reason.contains(why)), "{what}: {reason:?}");
    assert!(outcome.to_backend.is_empty(), "{what}");
    let is_kernel = |note: &Milestone| matches!(note, Milestone::RecordPath { path: RecordPath::Kernel, .. });
    assert!(!outcome.notes.iter().any(is_kernel), "{what}: {:?}", outcome.notes);
    let told = Some(Error::AlertReceived(AlertDescription::BadCertificate));
    assert_eq!(outcome.peer.error, told, "{what}");
}

#[test]
fn hold_ends_when_the_right_fingerprint_arrives() {
    for (nth, suite) in SUITES.into_iter().enumerate() {
        for offer in OFFERS {
            for at in (1..40).chain([LATE]) {
                for (policy, peer) in roles(suite, offer) {
                    let (what, sends) = (format!("{suite:?} {offer:?} at {at}"), bytes(30_000, nth as u64));
                    let mut plan = Plan::new(at as u64 ^ nth as u64, sends.clone());
                    plan.script.sends_at_once = at % 2 == 0;
                    plan.pinned = Some((at, Arc::from([other(), fingerprint()])));
                    let outcome = run_under(plan, policy, peer);
                    assert_eq!(outcome.report.fault, None, "{what}");
                    assert_eq!(outcome.to_backend, sends, "{what}");
                    assert_eq!(outcome.peer.received, sends, "{what}");
                }
            }
        }
    }
}

#[test]
fn hold_ends_with_an_alert_on_another_fingerprint() {
    for suite in SUITES {
        for offer in OFFERS {
            for at in (1..40).chain([LATE]) {
                for (policy, peer) in roles(suite, offer) {
                    let mut plan = Plan::new(at as u64, bytes(30_000, 1));
                    plan.pinned = Some((at, Arc::from([other()])));
                    let outcome = run_under(plan, policy, peer);
                    assert_refused(&outcome, "that is configured", &format!("{suite:?} {offer:?} at {at}"));
                }
            }
        }
    }
}

#[test]
fn hold_times_out_without_a_fingerprint() {
    for suite in SUITES {
        for (policy, peer) in roles(suite, BOTH) {
            let outcome = run_under(Plan::new(7, bytes(30_000, 7)), policy, peer);
            assert_refused(&outcome, "in time", &format!("{suite:?}"));
        }
    }
}

#[test]
fn hold_refuses_a_client_without_a_certificate() {
    for suite in SUITES {
        let mut plan = Plan::new(3, bytes(100, 3));
        plan.pinned = Some((LATE, Arc::from([fingerprint()])));
        let outcome = run_under(plan, held(BOTH), client(suite));
        assert_eq!(outcome.report.fault, Some(Fault::PeerCertificateMissing), "{suite:?}");
        assert!(outcome.to_backend.is_empty(), "{suite:?}");
    }
}

#[test]
fn hold_survives_whatever_befalls_it() {
    for mishap in [InjectedFault::PeerReset, InjectedFault::PeerFin, InjectedFault::Drain] {
        for at in 1..60 {
            for (policy, peer) in roles(SUITES[at % SUITES.len()], BOTH) {
                let mut plan = Plan::new(at as u64, bytes(5_000, at as u64));
                plan.mishap = Some((at, mishap));
                plan.pinned = Some((LATE, Arc::from([fingerprint()])));
                let outcome = run_under(plan, policy, peer);
                let is_over = outcome.report.fault.is_some() || outcome.peer.received.len() == 5_000;
                assert!(is_over, "{mishap:?} at {at}: {:?}", outcome.report);
            }
        }
    }
}

#[test]
fn hold_forgets_the_sessions_of_a_wrong_server() {
    for suite in SUITES {
        let (policy, peer) = (held_resuming(NOTHING), server(suite));
        let run = |nth, pinned: Fingerprint| {
            let mut plan = Plan::new(nth, bytes(1000, nth));
            plan.pinned = Some((LATE, Arc::from([pinned])));
            run_under(plan, policy.clone(), peer.clone())
        };
        let kinds = [fingerprint(), fingerprint(), other(), fingerprint()].into_iter().zip(0..);
        let kinds: Vec<_> = kinds.map(|(pinned, nth)| run(nth, pinned).peer.handshake_kind()).collect();
        let (full, resumed) = (Some(HandshakeKind::Full), Some(HandshakeKind::Resumed));
        assert_eq!(kinds, [full, resumed, resumed, full], "{suite:?}");
    }
}

/// As the worker does for a newcomer: before its time is over.
#[test]
fn hold_that_ends_for_a_newcomer_is_no_refusal() {
    for suite in SUITES {
        for (policy, peer) in roles(suite, BOTH) {
            let mut plan = Plan::new(5, bytes(100, 5));
            plan.evicted_when_idle = true;
            let outcome = run_under(plan, policy, peer);
            assert_eq!(outcome.report.fault, Some(Fault::HandshakeTimeout), "{suite:?}");
            assert!(outcome.to_backend.is_empty(), "{suite:?}");
        }
    }
}
