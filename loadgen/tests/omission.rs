//! Coordinated omission: a server that stalls must show in the percentiles of an open loop.

#![expect(clippy::unwrap_used, reason = "a test stops at what must not fail")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::Duration;

use offramp_loadgen::backend::Backend;
use offramp_loadgen::identity::{Identity, SERVER_NAME};
use offramp_loadgen::plan::{Ending, Load, Pace, Pin, Plan, Request, Target, Until, Version, Work};
use offramp_loadgen::profiles::ClientProfile;
use offramp_loadgen::runner::Clients;
use offramp_loadgen::schedule::{Rate, Spacing};
use offramp_loadgen::tally::{Part, Tally};

mod engine;
mod ring;

const STALL: Duration = Duration::from_millis(800);
/// While it counts, in an open loop and in a closed one.
const AFTER: After = After::Connections(40);

/// When a relay stalls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// So many connections.
    Connections(usize),
    /// Something has passed so often.
    Passed(usize),
}

/// A relay to `target` through which nothing passes for the time of [`STALL`], once.
fn stalling(target: SocketAddr, after: After) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let line = Arc::new(Line { gate: RwLock::default(), passed: AtomicUsize::new(0), after });
    // Ends with the test's process.
    thread::spawn(move || {
        for (number, client) in listener.incoming().flatten().enumerate() {
            line.stall_after(After::Connections(number));
            // One that ended meanwhile is of no interest.
            let Ok(server) = TcpStream::connect(target) else { continue };
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                let line = Arc::clone(&line);
                thread::spawn(move || pass(from, to, &line));
            }
        }
    });
    address
}

struct Line {
    gate: RwLock<()>,
    passed: AtomicUsize,
    after: After,
}

impl Line {
    fn stall_after(self: &Arc<Self>, event: After) {
        if event == self.after {
            let line = Arc::clone(self);
            thread::spawn(move || {
                let _closed = line.gate.write();
                thread::park_timeout(STALL);
            });
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, line: &Arc<Line>) {
    let _ = to.set_nodelay(true);
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        line.stall_after(After::Passed(line.passed.fetch_add(1, Ordering::Relaxed)));
        let _open = line.gate.read();
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn plan(work: Work, load: Load) -> Plan {
    Plan {
        work,
        load,
        resume: 0.0,
        ending: Ending::Orderly,
        sources: Vec::new(),
        threads: 1,
        pin: Pin::Off,
        warm_up: Duration::ZERO,
        until: Until::Elapsed(3 * STALL),
        patience: Duration::from_secs(10),
        give_up_after: 1000,
        seed: 1,
    }
}

fn run(plan: &Plan, target: SocketAddr, identity: &Identity) -> Tally {
    let profile = ClientProfile::equal(Version::Tls13, SERVER_NAME, &identity.certificate).unwrap();
    let target = Target { host: SERVER_NAME.to_owned(), address: target };
    let outcome = Clients::new(plan, &profile).unwrap().run(plan, &target, |_| {}).unwrap();
    assert_eq!(outcome.broken_off, None);
    outcome.tally
}

fn tally(load: Load, target: SocketAddr, identity: &Identity) -> Tally {
    let tally = run(&plan(Work::Handshake(Request::Echo), load), target, identity);
    assert_eq!(tally.failed(), 0, "{:?}", tally.failures());
    tally
}

/// How many of the latencies of a part were a good part of the stall.
fn slow(tally: &Tally, part: Part) -> u64 {
    tally.latencies(part).count_between(STALL.as_micros() as u64 / 4, u64::MAX)
}

#[test]
fn stall_shows_in_an_open_loop_and_once_in_a_closed() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let rate = Rate::steady(100.0);
    let open = Load::Open { rate, spacing: Spacing::Even, connections_max: 1000 };
    let open = tally(open, stalling(engine.local_addr().unwrap(), AFTER), &identity);
    let closed =
        tally(Load::Closed { connections: 1 }, stalling(engine.local_addr().unwrap(), AFTER), &identity);
    // Both met it.
    let stalled = |tally: &Tally| tally.latency_us(Part::Total, 1.0) >= STALL.as_micros() as u64 / 2;
    assert!(stalled(&open) && stalled(&closed));
    // A third of the time was stalled: a third of the planned starts saw it, on average for half its length.
    let share = |tally: &Tally| slow(tally, Part::Total) as f64 / tally.latencies(Part::Total).len() as f64;
    assert!(share(&open) > 0.15, "{}", share(&open));
    assert!(share(&open) > 10.0 * share(&closed), "{} against {}", share(&open), share(&closed));
    assert!(
        open.latency_us(Part::Total, 0.9) > 5 * closed.latency_us(Part::Total, 0.9),
        "{} against {}",
        open.latency_us(Part::Total, 0.9),
        closed.latency_us(Part::Total, 0.9)
    );
}

/// Connections that have a message every 20 ms for one and a half stalls, of which the last part is one.
const TALKERS: usize = 4;
const EVERY: Duration = Duration::from_millis(20);

fn messages(patience: Duration) -> (Plan, u64) {
    let measured = STALL * 3 / 2;
    let pace = Pace::Every(EVERY);
    let plan = Plan {
        until: Until::Elapsed(measured),
        patience,
        ..plan(Work::Message { request: 1, answer: 1, pace }, Load::Closed { connections: TALKERS })
    };
    (plan, TALKERS as u64 * measured.div_duration_f64(EVERY) as u64)
}

/// Messages that pass before the stall: half of those that are due, both ways, and the handshakes.
fn halfway(due: u64) -> After {
    After::Passed(due as usize + 4 * TALKERS)
}

#[test]
fn messages_due_before_the_end_are_recorded_after_it() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let (plan, due) = messages(Duration::from_secs(10));
    let tally = run(&plan, stalling(engine.local_addr().unwrap(), halfway(due)), &identity);
    let recorded = tally.latencies(Part::Message).len();
    // Each connection has one more or less, depending on when in a gap it begins.
    assert!(recorded.abs_diff(due) <= TALKERS as u64, "{recorded} of {due}");
    assert!(slow(&tally, Part::Message) > due / 5, "{} of {due}", slow(&tally, Part::Message));
    assert_eq!((tally.unanswered, tally.failed()), (0, 0), "{:?}", tally.failures());
}

#[test]
fn timed_out_connection_keeps_its_messages_counted() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let (plan, due) = messages(STALL / 4);
    let tally = run(&plan, stalling(engine.local_addr().unwrap(), halfway(due)), &identity);
    let recorded = tally.latencies(Part::Message).len();
    assert!(
        (recorded + tally.unanswered).abs_diff(due) <= 2 * TALKERS as u64,
        "{recorded} {}",
        tally.unanswered
    );
    assert!(tally.unanswered >= TALKERS as u64, "those that were under way: {}", tally.unanswered);
    assert!(tally.failed() >= TALKERS as u64, "{:?}", tally.failures());
}

#[test]
fn stall_does_not_exhaust_the_tickets_of_an_open_loop() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let rate = Rate::steady(200.0);
    let load = Load::Open { rate, spacing: Spacing::Even, connections_max: 1000 };
    let warm_up = Duration::from_secs(4);
    let plan = Plan { resume: 1.0, warm_up, ..plan(Work::Handshake(Request::Echo), load) };
    // A second and a half before the end.
    let after = After::Connections(200 * 5 - 20);
    let tally = run(&plan, stalling(engine.local_addr().unwrap(), after), &identity);
    assert!(slow(&tally, Part::Total) > 64, "more were open than any fixed stock has");
    assert_eq!((tally.resumption.without_ticket, tally.failed()), (0, 0), "{:?}", tally.resumption);
    assert_eq!(tally.as_asked(), tally.handshakes());
}
