//! Sides: the TLS role does not follow from who opened the TCP connection; the route has several endpoints.

use offramp_core::conn::fault::Fault;
use offramp_core::conn::policy::Policy;
use offramp_sim::{Backend, InjectedFault, Plan, Role};

use crate::lab::{BOTH, NOTHING, SUITES, bytes, client, originating, peers, rules, run, run_under, server};

/// The server's role on the leg that is connected, and the client's on the one that is accepted.
#[test]
fn sides_have_either_role_on_either_leg() {
    for seed in 0..600_u64 {
        let (suite, offer) = (SUITES[seed as usize % 6], [BOTH, NOTHING][seed as usize / 6 % 2]);
        let sends = bytes([0, 1, 20_000, 150_000][seed as usize / 12 % 4], seed);
        for peer in peers(suite) {
            let policy = match &peer {
                Role::Client(_) => rules(offer),
                Role::Server(_) => originating(offer),
            };
            let swapped = Policy { near: policy.far.clone(), far: policy.near.clone(), ..policy };
            let outcome = run_under(Plan::new(seed, sends.clone()), swapped, peer);
            assert_eq!(outcome.report.fault, None, "seed {seed}");
            assert!(outcome.to_backend == sends && outcome.peer.received == sends, "seed {seed}");
            assert!(outcome.peer.saw_close && outcome.backend_saw_end, "seed {seed}");
        }
    }
}

#[test]
fn sides_connect_to_the_next_endpoint_on_refusal() {
    for seed in 0..100_u64 {
        let sends = bytes(5000, seed);
        for peer in peers(SUITES[seed as usize % 6]) {
            let mut plan = Plan::new(seed, sends.clone());
            plan.first_refuses = Some(libc::ECONNREFUSED);
            let outcome = run(plan, BOTH, peer);
            assert_eq!(outcome.report.fault, None, "seed {seed}");
            assert!(outcome.to_backend == sends && outcome.peer.received == sends, "seed {seed}");
        }
    }
}

#[test]
fn sides_report_the_failure_of_the_last_endpoint() {
    let mut plan = Plan::new(1, bytes(10, 1));
    (plan.first_refuses, plan.refuses) = (Some(libc::ECONNREFUSED), Some(libc::EHOSTUNREACH));
    let outcome = run(plan, BOTH, client(SUITES[3]));
    assert_eq!(outcome.report.fault, Some(Fault::BackendUnreachable));
}

#[test]
fn sides_try_the_next_endpoint_when_one_is_silent() {
    for seed in 0..100_u64 {
        let sends = bytes(5000, seed);
        for peer in peers(SUITES[seed as usize % 6]) {
            let mut plan = Plan::new(seed, sends.clone());
            plan.first_is_silent = true;
            let outcome = run(plan, BOTH, peer);
            assert_eq!(outcome.report.fault, None, "seed {seed}");
            assert!(outcome.to_backend == sends && outcome.peer.received == sends, "seed {seed}");
        }
    }
}

#[test]
fn sides_wait_for_the_last_endpoint_until_the_timeout() {
    let mut plan = Plan::new(1, bytes(10, 1));
    (plan.first_refuses, plan.last_is_silent) = (Some(libc::ECONNREFUSED), true);
    let outcome = run(plan, BOTH, client(SUITES[3]));
    assert_eq!(outcome.report.fault, Some(Fault::ConnectTimeout));
}

/// The backend's half of the world asserts that nothing comes before it.
#[test]
fn sides_send_the_preamble_before_anything_else() {
    for seed in 0..200_u64 {
        let sends = bytes([0, 5000][seed as usize % 2], seed);
        let mut plan = Plan::new(seed, sends.clone());
        plan.preamble = Some(bytes(1 + seed as usize, seed));
        let outcome = run(plan, [BOTH, NOTHING][seed as usize / 2 % 2], client(SUITES[seed as usize % 6]));
        assert_eq!(outcome.report.fault, None, "seed {seed}");
        assert!(outcome.to_backend == sends && outcome.peer.received == sends, "seed {seed}");
    }
}

#[test]
fn sides_report_a_backend_that_takes_no_preamble() {
    for step in 1..200 {
        let mut plan = Plan::new(step as u64, bytes(10, 1));
        plan.preamble = Some(bytes(300, 1));
        plan.mishap = Some((step, InjectedFault::PlainPeerReset));
        let outcome = run(plan, BOTH, client(SUITES[3]));
        assert!(matches!(outcome.report.fault, None | Some(Fault::PlainPeerReset)), "step {step}");
    }
}

#[test]
fn sides_say_what_the_handshake_came_to() {
    for suite in SUITES {
        let outcome = run(Plan::new(1, bytes(10, 1)), BOTH, client(suite));
        let info = outcome.established.expect("it was completed");
        assert_eq!(info.suite, u16::from(suite.suite()), "{suite:?}");
        assert_eq!((info.server_name.as_deref(), info.resumed), (Some("localhost"), false), "{suite:?}");
    }
}

#[test]
fn sides_take_a_proxy_header_off_the_near_leg() {
    let header = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n";
    for seed in 0..200_u64 {
        let sends = bytes([0, 1, 100, 9000][seed as usize % 4], seed);
        let mut plan = Plan::new(seed, Vec::new());
        plan.backend = Backend::Greets([&header[..], &sends].concat());
        let mut policy = originating([BOTH, NOTHING][seed as usize / 4 % 2]);
        policy.accepts_proxy = true;
        let outcome = run_under(plan, policy, server(SUITES[seed as usize % 6]));
        assert_eq!(outcome.report.fault, None, "seed {seed}");
        assert_eq!(outcome.proxied.map(|it| it.client.to_string()).as_deref(), Some("192.0.2.7:4711"));
        assert!(outcome.peer.received == sends, "seed {seed}");
    }
}

#[test]
fn sides_name_what_comes_in_place_of_a_proxy_header() {
    let malformed = [b"PROXY TCP4 1.2.3.4 ".as_slice(), &[b'9'; 200]].concat();
    for (sends, fault) in [
        (&b"GET / HTTP/1.1\r\n"[..], Fault::ProxyHeaderMissing),
        (&malformed, Fault::ProxyHeaderMalformed),
        (b"PROXY TCP4 1.2", Fault::ProxyHeaderTimeout),
        (b"", Fault::ProxyHeaderTimeout),
    ] {
        for seed in 0..20 {
            let mut plan = Plan::new(seed, Vec::new());
            plan.backend = Backend::Greets(sends.to_vec());
            let mut policy = originating(BOTH);
            policy.accepts_proxy = true;
            let outcome = run_under(plan, policy, server(SUITES[0]));
            assert_eq!(outcome.report.fault, Some(fault), "seed {seed}: {:?}", sends.escape_ascii());
            assert!(outcome.peer.received.is_empty(), "seed {seed}");
        }
    }
}

/// The client that the header names may not connect: nothing is done for it.
#[test]
fn sides_turn_away_before_anything_is_done() {
    for seed in 0..50 {
        let mut plan = Plan::new(seed, Vec::new());
        plan.backend = Backend::Greets(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\nmore".to_vec());
        plan.turns_away = Some(Fault::SourceConnections);
        let mut policy = originating(BOTH);
        policy.accepts_proxy = true;
        let outcome = run_under(plan, policy, server(SUITES[0]));
        assert_eq!(outcome.report.fault, Some(Fault::SourceConnections), "seed {seed}");
        assert!(outcome.established.is_none() && outcome.peer.received.is_empty(), "seed {seed}");
    }
}

/// Wherever it stands, it is over at once: neither leg waits for its peer, and every buffer is back.
#[test]
fn sides_end_at_once_when_their_memory_is_wanted() {
    let mut ended = 0;
    for step in 1..300_usize {
        let seed = step as u64;
        for peer in peers(SUITES[step % 6]) {
            let mut plan = Plan::new(seed, bytes(150_000, seed));
            plan.mishap = Some((step, InjectedFault::NoMoreMemory));
            plan.backend = [Backend::Echo, Backend::Stalls(1000)][step / 6 % 2].clone();
            let outcome = run(plan, [BOTH, NOTHING][step / 12 % 2], peer);
            let is_over = outcome.report.fault == Some(Fault::BufferMemory);
            assert!(is_over || step > 20, "step {step}: {:?}", outcome.report.fault);
            assert!(!is_over || outcome.backend_was_reset || !outcome.plain_was_open, "step {step}");
            ended += usize::from(is_over);
        }
    }
    assert!(ended > 300, "{ended}");
}

/// As the worker does for a newcomer: nobody is blamed, and a leg that lingers behind an alert ends too.
#[test]
fn sides_that_end_for_a_newcomer_end_at_once() {
    let (mut ended, mut lingering) = (0, 0);
    for step in 1..40_usize {
        for (nth, first_is_silent) in [false, true].into_iter().enumerate() {
            for (role, peer) in peers(SUITES[step % 6]).into_iter().enumerate() {
                let mut plan = Plan::new((step * 2 + nth) as u64, Vec::new());
                plan.script.closes_first = false;
                (plan.backend, plan.first_is_silent) = (Backend::Silent, first_is_silent);
                plan.last_is_silent = first_is_silent;
                plan.mishap = Some((step, InjectedFault::Evicted));
                // In the server's role the client gets an alert, and is waited for behind it.
                plan.may_begin_full = role > 0 || step % 2 > 0;
                let outcome = run(plan, NOTHING, peer);
                match outcome.report.fault {
                    Some(Fault::HandshakeTimeout) => {
                        assert_eq!(outcome.report.culprit, None, "step {step}");
                        ended += 1;
                    }
                    Some(Fault::FullHandshakeLimit) => lingering += usize::from(outcome.steps == step),
                    Some(Fault::ConnectTimeout) if first_is_silent => {}
                    other => panic!("step {step}: {other:?}"),
                }
            }
        }
    }
    assert!(ended > 20 && lingering > 0, "{ended} {lingering}");
}

#[test]
fn sides_end_at_the_lifetime_in_any_state() {
    for seed in 0..60 {
        let mut plan = Plan::new(seed, bytes(2000, seed));
        plan.script.closes_first = false;
        plan.backend = Backend::Silent;
        let mut policy = rules([BOTH, NOTHING][seed as usize % 2]);
        policy.timeouts.lifetime = Some(std::time::Duration::from_secs(20));
        policy.timeouts.idle = std::time::Duration::from_secs(60);
        let outcome = run_under(plan, policy, client(SUITES[seed as usize % 6]));
        assert_eq!(outcome.report.fault, Some(Fault::LifetimeOver), "seed {seed}");
    }
}
