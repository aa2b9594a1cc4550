//! What counts and what does not: warm-up, the slow tail, and a count that cannot begin.

#![expect(clippy::unwrap_used, reason = "a test stops at what must not fail")]

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use offramp_loadgen::backend::Backend;
use offramp_loadgen::identity::{Identity, SERVER_NAME};
use offramp_loadgen::plan::{Ending, Load, Pace, Pin, Plan, Request, Target, Until, Version, Work};
use offramp_loadgen::profiles::ClientProfile;
use offramp_loadgen::runner::{Clients, Outcome};
use offramp_loadgen::schedule::{Rate, Spacing};
use offramp_loadgen::tally::Part;

mod engine;
mod ring;

/// Longer than any handshake takes on its own.
const SLOW: Duration = Duration::from_secs(2);

fn plan(work: Work, connections: usize) -> Plan {
    Plan {
        work,
        load: Load::Closed { connections },
        resume: 0.0,
        ending: Ending::Reset,
        sources: Vec::new(),
        threads: 1,
        pin: Pin::Off,
        warm_up: Duration::ZERO,
        until: Until::Elapsed(Duration::from_millis(500)),
        patience: Duration::from_secs(20),
        give_up_after: 1000,
        seed: 1,
    }
}

fn run(plan: &Plan, versions: &[Version], target: SocketAddr, identity: &Identity) -> Outcome {
    let target = Target { host: SERVER_NAME.to_owned(), address: target };
    let versions = versions.to_vec();
    let profile = ClientProfile {
        versions,
        ..ClientProfile::equal(Version::Tls13, SERVER_NAME, &identity.certificate).unwrap()
    };
    Clients::new(plan, &profile).unwrap().run(plan, &target, |_| {}).unwrap()
}

/// A relay to `target` that breaks every connection off after a while.
fn breaking(target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process.
    thread::spawn(move || {
        for (number, client) in listener.incoming().flatten().enumerate() {
            let Ok(server) = TcpStream::connect(target) else { continue };
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { continue };
                thread::spawn(move || io::copy(&mut from, &mut to));
            }
            thread::spawn(move || {
                thread::park_timeout(Duration::from_millis(40 + number as u64 % 7 * 10));
                [client, server].map(|socket| socket.shutdown(Shutdown::Both).is_ok())
            });
        }
    });
    address
}

/// A relay to `target` that lets the connections of these numbers wait before anything passes.
fn waiting(target: SocketAddr, slow: fn(usize) -> bool) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process.
    thread::spawn(move || {
        for (number, client) in listener.incoming().flatten().enumerate() {
            thread::spawn(move || {
                if slow(number) {
                    thread::park_timeout(SLOW);
                }
                let server = TcpStream::connect(target)?;
                let (mut up, mut down) = (client.try_clone()?, server.try_clone()?);
                thread::spawn(move || {
                    let _ = io::copy(&mut up, &mut down);
                    down.shutdown(Shutdown::Write)
                });
                io::copy(&mut &server, &mut &client)?;
                client.shutdown(Shutdown::Write)
            });
        }
    });
    address
}

#[test]
fn a_count_that_cannot_begin_breaks_the_run_off() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let (told, hears) = mpsc::channel();
    let address = engine.local_addr().unwrap();
    // The engine takes 64 connections; its queue takes the others, and nobody ever answers them.
    thread::spawn(move || {
        let work = Work::Message { request: 1, answer: 1, pace: Pace::Every(Duration::from_millis(100)) };
        let plan = Plan { patience: Duration::from_millis(700), ..plan(work, 67) };
        told.send(run(&plan, &[Version::Tls13], address, &identity)).is_ok()
    });
    let outcome = hears.recv_timeout(Duration::from_secs(120)).expect("it ends");
    let reason = outcome.broken_off.expect("counting never began");
    assert!(reason.contains("of 67 connections became active"), "{reason}");
    assert!(outcome.tally.failures().keys().any(|name| name.starts_with("timeout")), "{reason}");
}

#[test]
fn nothing_of_the_warm_up_is_in_the_figures() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    // The first connection of each place is slow, and none after them.
    let target = waiting(engine.local_addr().unwrap(), |number| number < 2);
    let closed = run(&plan(Work::Handshake(Request::Echo), 2), &[Version::Tls13], target, &identity);
    let rate = Rate::steady(20.0);
    let open = Plan {
        load: Load::Open { rate, spacing: Spacing::Even, connections_max: 100 },
        warm_up: SLOW / 2,
        until: Until::Elapsed(SLOW),
        ..plan(Work::Handshake(Request::Echo), 1)
    };
    let target = waiting(engine.local_addr().unwrap(), |number| number < 5);
    let open = run(&open, &[Version::Tls13], target, &identity);
    for outcome in [closed, open] {
        let tally = &outcome.tally;
        assert_eq!(tally.failed(), 0, "{:?}", tally.failures());
        for part in [Part::Handshake, Part::Ready, Part::Total] {
            assert!(tally.latency_us(part, 1.0) < SLOW.as_micros() as u64, "{part:?}");
            assert_eq!(tally.latencies(part).len(), tally.handshakes(), "{part:?}");
        }
        assert!(tally.ended > tally.done && tally.done > 0, "{} {}", tally.ended, tally.done);
    }
}

#[test]
fn connections_that_last_are_no_samples_of_handshakes() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let work = Work::Message { request: 9, answer: 9, pace: Pace::AtOnce };
    let tally = run(&plan(work, 3), &[Version::Tls12], engine.local_addr().unwrap(), &identity).tally;
    for part in [Part::Connect, Part::Handshake, Part::Ready, Part::FirstByte, Part::Total, Part::Close] {
        assert_eq!(tally.latencies(part).len(), 0, "{part:?}");
    }
    assert!(!tally.latencies(Part::Message).is_empty());
    assert_eq!((tally.handshakes(), tally.completed, tally.done), (3, 0, 3), "what carried the messages");
}

#[test]
fn connection_begun_in_the_window_always_counts() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    // The window opens with the end of the first one's handshake, and is over before that of the second.
    let target = waiting(engine.local_addr().unwrap(), |_| true);
    let tally = run(&plan(Work::Handshake(Request::Echo), 1), &[Version::Tls13], target, &identity).tally;
    assert_eq!((tally.handshakes(), tally.started, tally.done), (1, 1, 1));
    assert_eq!(tally.completed, 0, "but it is not throughput");
    assert!(tally.latency_us(Part::Total, 1.0) >= SLOW.as_micros() as u64);
}

#[test]
fn a_run_by_count_has_as_many_samples_of_every_part() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let plan = Plan { until: Until::Counted(25), ..plan(Work::Handshake(Request::Echo), 4) };
    let outcome = run(&plan, &[Version::Tls13], engine.local_addr().unwrap(), &identity);
    let tally = &outcome.tally;
    for part in [Part::Connect, Part::Handshake, Part::Ready, Part::FirstByte, Part::Total] {
        assert_eq!(tally.latencies(part).len(), 25, "{part:?}");
    }
    assert_eq!((tally.handshakes(), tally.done, tally.completed), (25, 25, 25));
    assert!(!outcome.measured.is_zero());
}

#[test]
fn each_version_fetches_its_ticket_with_few_places() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    for connections in [1, 3] {
        let plan = Plan { resume: 1.0, ..plan(Work::Handshake(Request::Echo), connections) };
        let tally = run(&plan, &Version::BOTH, engine.local_addr().unwrap(), &identity).tally;
        assert!(tally.kinds.tls12 > 0 && tally.kinds.tls13 > 0, "{:?}", tally.kinds);
        assert_eq!((tally.as_asked(), tally.failed()), (tally.handshakes(), 0), "{:?}", tally.resumption);
    }
}

#[test]
fn idle_connection_loss_does_not_affect_its_place() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let (gap, connections) = (Duration::from_millis(25), 20);
    let work = Work::Message { request: 1, answer: 1, pace: Pace::Every(gap) };
    let plan = Plan { give_up_after: u64::MAX, ..plan(work, connections) };
    let target = breaking(engine.local_addr().unwrap());
    let (told, hears) = mpsc::channel();
    thread::spawn(move || told.send(run(&plan, &[Version::Tls13], target, &identity)).is_ok());
    let tally = hears.recv_timeout(Duration::from_secs(120)).expect("it ends, in order").tally;
    assert!(tally.failed() >= connections as u64, "{:?}", tally.failures());
    // Each place goes on with its messages: as many were due as without the failures.
    let due = connections as u64 * 500 / 25;
    let told = tally.latencies(Part::Message).len() + tally.unanswered;
    assert!(told.abs_diff(due) <= 2 * connections as u64, "{told} of {due}");
}
