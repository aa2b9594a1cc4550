//! Coordinated omission: a server that stalls must show in the percentiles of an open loop.

#![expect(clippy::unwrap_used, reason = "a test stops at what must not fail")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::Duration;

use offramp_loadgen::backend::Backend;
use offramp_loadgen::identity::{Identity, SERVER_NAME};
use offramp_loadgen::plan::{Ending, Load, Plan, Request, Target, Until, Version, Work};
use offramp_loadgen::runner::Clients;
use offramp_loadgen::schedule::{Rate, Spacing};
use offramp_loadgen::tally::{Part, Tally};
use offramp_loadgen::terms::Terms;

mod engine;
mod ring;

const STALL: Duration = Duration::from_millis(800);

/// A relay to `target` through which nothing passes for the time of [`STALL`], once, from its 40th connection
/// on.
fn stalling(target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let gate: Arc<RwLock<()>> = Arc::default();
    // Ends with the test's process.
    thread::spawn(move || {
        for (index, client) in listener.incoming().flatten().enumerate() {
            if index == 40 {
                let gate = Arc::clone(&gate);
                thread::spawn(move || {
                    let _closed = gate.write();
                    thread::park_timeout(STALL);
                });
            }
            let server = TcpStream::connect(target).unwrap();
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let gate = Arc::clone(&gate);
                thread::spawn(move || pass(from, to, &gate));
            }
        }
    });
    address
}

fn pass(mut from: TcpStream, mut to: TcpStream, gate: &RwLock<()>) {
    let _ = to.set_nodelay(true);
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let _open = gate.read();
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn tally(load: Load, target: SocketAddr, identity: &Identity) -> Tally {
    let plan = Plan {
        work: Work::Handshake(Request::Echo),
        load,
        resume: 0.0,
        ending: Ending::Orderly,
        sources: Vec::new(),
        threads: 1,
        warm_up: Duration::ZERO,
        until: Until::Elapsed(3 * STALL),
        patience: Duration::from_secs(10),
        give_up_after: 5,
        seed: 1,
    };
    let terms = Terms::equal(Version::Tls13, SERVER_NAME, &identity.certificate).unwrap();
    let target = Target { host: SERVER_NAME.to_owned(), address: target };
    let outcome = Clients::new(&plan, &terms).unwrap().run(&plan, &target, |_| {}).unwrap();
    assert_eq!((outcome.broken_off, outcome.tally.failed()), (None, 0));
    outcome.tally
}

#[test]
fn a_stall_shows_in_an_open_loop_and_is_one_sample_of_a_closed_one() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let rate = Rate::steady(100.0);
    let open = Load::Open { rate, spacing: Spacing::Even, connections_max: 1000 };
    let open = tally(open, stalling(engine.local_addr()), &identity);
    let closed = tally(Load::Closed { connections: 1 }, stalling(engine.local_addr()), &identity);
    // Both met it.
    let stalled = |tally: &Tally| tally.latency_us(Part::Total, 1.0) >= STALL.as_micros() as u64 / 2;
    assert!(stalled(&open) && stalled(&closed));
    // A third of the time was stalled: a third of the planned starts saw it, on average for half its length.
    let share = |tally: &Tally| {
        let total = tally.latencies(Part::Total);
        let slow = total.count_between(STALL.as_micros() as u64 / 4, u64::MAX);
        slow as f64 / total.len() as f64
    };
    assert!(share(&open) > 0.15, "{}", share(&open));
    assert!(share(&open) > 10.0 * share(&closed), "{} against {}", share(&open), share(&closed));
    assert!(
        open.latency_us(Part::Total, 0.9) > 5 * closed.latency_us(Part::Total, 0.9),
        "{} against {}",
        open.latency_us(Part::Total, 0.9),
        closed.latency_us(Part::Total, 0.9)
    );
}
