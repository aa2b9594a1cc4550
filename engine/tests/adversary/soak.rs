//! All attacks at once: a flood, half hellos, half records, readers that stall, slow clients of the admin
//! address, a log that takes nothing, and reloads, while a victim's messages all arrive.

use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use offramp_attack::flood::{Flood, Priority};
use offramp_attack::hello::{Hello, Key};
use offramp_attack::victim::EVERY;
use offramp_attack::{resident, stall, yield_to_others};

use crate::admin::slow_clients;
use crate::alone;
use crate::log::{Stalled, make_it_log};
use crate::victim::{Watching, established};
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::metrics::Metrics;
use offramp_testing::peer::{Peer, Version, plain};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{patiently, signal};

/// In the gate.
const SHORT: Duration = Duration::from_secs(20);
const FLOOD_CLIENTS: usize = 300;
/// Connections of each kind that stalls, held at once.
const HELD: usize = 200;
/// Bytes that each backend connection sends to a client that may not read them.
const UNREAD_BYTES: usize = 4 << 20;
/// So much, whatever happened: beside buffers for those that stall, what a server is.
const RESIDENT_MAX: u64 = 128 << 20;

const HELLO: Hello = Hello { tls13: false, key: Key::Ecdsa };

/// Opens connections until it is over, [`HELD`] at once; at a lower priority, so that the victim does not
/// wait for a CPU that the attackers use.
fn wave<T>(over: &AtomicBool, addr: SocketAddr, open: impl Fn(SocketAddr) -> Option<T>) -> usize {
    yield_to_others().expect("a thread may lower its priority");
    let mut held = Vec::new();
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        // All at once, and from the first again.
        if held.len() >= HELD {
            held.clear();
        }
        match open(addr) {
            Some(one) => held.push(one),
            None => thread::sleep(Duration::from_millis(10)),
        }
        count += 1;
    }
    count
}

/// A client that has shaken hands; whoever is refused in the crowd comes again.
fn shaken(addr: SocketAddr, config: &std::sync::Arc<rustls::ClientConfig>) -> Option<Peer> {
    let tcp = TcpStream::connect_timeout(&addr, Duration::from_secs(5)).ok()?;
    tcp.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    tcp.set_write_timeout(Some(Duration::from_secs(5))).ok()?;
    let name = offramp_testing::identity::NAME.try_into().expect("a name");
    let tls = rustls::ClientConnection::new(std::sync::Arc::clone(config), name).expect("a client");
    let mut peer = Peer { tls, tcp };
    peer.handshake().ok()?;
    Some(peer)
}

fn half_record(addr: SocketAddr, config: &std::sync::Arc<rustls::ClientConfig>) -> Option<Peer> {
    let mut peer = shaken(addr, config)?;
    stall::half_record(&mut peer.tcp).ok()?;
    Some(peer)
}

/// Reloads and faults for a log that takes nothing.
fn reload_and_log(over: &AtomicBool, server: &TestServer) -> usize {
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        signal(server.pid(), "HUP");
        make_it_log(server.addr);
        thread::sleep(Duration::from_millis(200));
        count += 1;
    }
    count
}

fn soak(length: Duration) {
    let _alone = alone();
    let echo = Backend::start(BackendBehavior::Echo);
    let source = Backend::start(BackendBehavior::Source { seed: 1, bytes: UNREAD_BYTES });
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let ours = writer.try_clone().expect("a descriptor can be copied");
    let server = Setup::new(echo.addr).stderr(writer).start();
    // Its clients do not read, and its log is read by nobody either.
    let unread = Setup::new(source.addr).stderr(Stdio::null()).start();
    let victim = Watching::start(established(server.addr));
    let _stalled = Stalled::fill(reader, ours);
    let (over, config) = (AtomicBool::new(false), plain(Version::Tls13));
    let flood = Flood::start(server.addr, FLOOD_CLIENTS, HELLO, Priority::Lower).expect("a flood");
    let most = thread::scope(|scope| {
        scope.spawn(|| wave(&over, server.addr, |addr| stall::half_hello(addr, HELLO).ok()));
        scope.spawn(|| wave(&over, server.addr, |addr| half_record(addr, &config)));
        scope.spawn(|| wave(&over, unread.addr, |addr| shaken(addr, &config)));
        scope.spawn(|| slow_clients(server.admin(), HELD, &over));
        scope.spawn(|| reload_and_log(&over, &server));
        let end = Instant::now() + length;
        let mut most = 0;
        while Instant::now() < end {
            thread::sleep(Duration::from_millis(250));
            let all = [&server, &unread].map(|it| resident::bytes(it.pid()).expect("it runs"));
            most = all.into_iter().fold(most, u64::max);
        }
        over.store(true, Ordering::Relaxed);
        most
    });
    let answered = flood.answered();
    flood.stop().expect("the flood goes on to its end");
    let noticed = victim.finish();
    println!(
        "{} messages: p50 {:?} p99 {:?} max {:?}; {answered} handshakes of the flood; at most {most} bytes",
        noticed.count(),
        noticed.percentile(50),
        noticed.percentile(99),
        noticed.max(),
    );
    // Whoever has to wait sends later: half of the messages that were due is what a starved victim does not
    // get.
    let due = length.as_millis() / EVERY.as_millis();
    assert!(noticed.count() as u128 * 4 >= due, "{} messages where {due} were due", noticed.count());
    assert!(answered > 0, "the server makes handshakes");
    assert!(most <= RESIDENT_MAX, "{most} bytes resident");
    let none_open = || Metrics::scrape(server.admin()).ok().filter(|metrics| metrics.open() == 0);
    let raw =
        || Metrics::scrape(server.admin()).map_or_else(|error| error.to_string(), |metrics| metrics.raw);
    assert!(patiently(none_open).is_some(), "connections stay open: {}", raw());
    drop(established(server.addr));
    server.stop();
    unread.stop();
}

#[test]
fn soak_of_all_attacks_spares_the_victim() {
    soak(SHORT);
}

#[test]
#[ignore = "takes as long as OFFRAMP_SOAK_SECONDS says, ten minutes by default"]
fn soak_for_long() {
    let seconds = std::env::var("OFFRAMP_SOAK_SECONDS").map_or(600, |text| text.parse().expect("seconds"));
    soak(Duration::from_secs(seconds));
}
