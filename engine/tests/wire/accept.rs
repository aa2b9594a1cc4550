//! Stage 1: who gets in. Bad input costs its own connection and is counted; a healthy connection beside it,
//! one before and one after it do not notice.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::NAME;
use offramp_testing::metrics::Metrics;
use offramp_testing::peer::{BOTH, End, Peer, Version, dial, drain, plain};
use offramp_testing::rng::Rng;
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{eventually, pause};

/// An echo behind a server, and a healthy connection that stays open while something bad happens.
struct Beside {
    server: TestServer,
    healthy: Peer,
    before: Metrics,
    _backend: Backend,
}

impl Beside {
    fn start(flags: &str) -> Self {
        let backend = Backend::start(BackendBehavior::Echo);
        let server = Setup::new(backend.addr).flags(flags).start();
        let mut healthy = Peer::open(server.addr, &plain(Version::Tls13));
        healthy.ping(b"before");
        let before = server.metrics();
        Self { server, healthy, before, _backend: backend }
    }

    /// The bad connection was one counted fault; all else goes on.
    fn finish(mut self, faults: u64) -> Vec<String> {
        self.healthy.ping(b"during");
        let labels = self.server.faulted(&self.before, faults);
        self.healthy.ping(b"still");
        for version in BOTH {
            let mut later = Peer::open(self.server.addr, &plain(version));
            later.ping(b"after");
            later.close_notify();
            assert_eq!(later.rest(), (Vec::new(), End::Clean));
        }
        self.healthy.close_notify();
        assert_eq!(self.healthy.rest(), (Vec::new(), End::Clean));
        self.server.settled();
        self.server.stop();
        labels
    }
}

#[test]
fn slots_full_of_idle_handshakes_let_newcomers_in() {
    let backend = Backend::start(BackendBehavior::Echo);
    let flags = "--max-connections 8 --handshake-timeout 8s";
    let server = Setup::new(backend.addr).flags(flags).start();
    let mut healthy = Peer::open(server.addr, &plain(Version::Tls13));
    let mut idle: Vec<TcpStream> = (0..12).map(|_| dial(server.addr)).collect();
    for tcp in &mut idle {
        let _ = tcp.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc]);
    }
    // Behind twelve that have three quarters of the slots between them and say no more.
    let mut newcomer = Peer::open(server.addr, &plain(Version::Tls12));
    newcomer.ping(b"in");
    healthy.ping(b"still");
    let metrics = server.metrics();
    assert!(metrics.required("offramp_handshakes_evicted_total") > 0, "{}", metrics.raw);
    assert_eq!(metrics.handshakes("full"), 2);
    let unfinished = metrics.required("offramp_handshakes_unfinished");
    assert!((1..=6).contains(&unfinished), "{unfinished} of eight slots");
    drop(idle);
    for mut peer in [healthy, newcomer] {
        peer.close_notify();
        assert_eq!(peer.rest(), (Vec::new(), End::Clean));
    }
    let only: Vec<_> = server.settled().faults().into_keys().collect();
    assert!(
        only.iter().all(|fault| ["handshake_timeout", "closed_in_handshake"].contains(&&**fault)),
        "{only:?}"
    );
    server.stop();
}

/// Sends this to the TLS port and reads to the end; the server must end it, not the client.
fn send_and_drain(server: &TestServer, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = dial(server.addr);
    // The server may close before it has read all: that is an answer too.
    let _ = tcp.write_all(bytes);
    drain(&tcp).0
}

#[test]
fn plain_http_to_the_tls_port_is_a_counted_fault() {
    let beside = Beside::start("");
    let answer = send_and_drain(&beside.server, b"GET / HTTP/1.1\r\nHost: offramp.test\r\n\r\n");
    assert!(!answer.starts_with(b"HTTP"), "the request went through");
    assert_eq!(beside.finish(1), ["not_tls"]);
}

#[test]
fn sixteen_kibibytes_of_zeros_are_a_counted_fault() {
    let beside = Beside::start("");
    send_and_drain(&beside.server, &[0; 16 << 10]);
    assert_eq!(beside.finish(1), ["not_tls"]);
}

#[test]
fn noise_after_a_valid_header_is_a_counted_fault() {
    let beside = Beside::start("");
    // A handshake record of the largest size, filled with what is no ClientHello.
    let mut record = vec![22, 3, 1, 0x40, 0];
    record.extend(offramp_testing::rng::Noise::bytes(5, 16 << 10));
    send_and_drain(&beside.server, &record);
    assert_eq!(beside.finish(1), ["handshake_malformed"]);
}

#[test]
fn a_client_that_never_speaks_is_a_counted_fault() {
    let beside = Beside::start("--handshake-timeout 2s");
    let (said, _) = drain(&dial(beside.server.addr));
    assert_eq!(said, [0; 0], "nothing is owed to who never spoke");
    assert_eq!(beside.finish(1), ["handshake_timeout"]);
}

#[test]
fn client_stopping_in_its_hello_is_a_counted_fault() {
    let beside = Beside::start("--handshake-timeout 2s");
    let mut peer = Peer::dial(beside.server.addr, &plain(Version::Tls13), NAME);
    let hello = peer.outgoing();
    peer.tcp.write_all(&hello[..hello.len() / 2]).expect("half a hello can be sent");
    drain(&peer.tcp);
    assert_eq!(beside.finish(1), ["handshake_timeout"]);
}

#[test]
fn silence_and_plain_http_are_different_faults() {
    let silent = Beside::start("--handshake-timeout 2s");
    drain(&dial(silent.server.addr));
    let silent = silent.finish(1);
    let http = Beside::start("");
    send_and_drain(&http.server, b"GET / HTTP/1.0\r\n\r\n");
    let http = http.finish(1);
    assert_ne!(silent, http, "a fault is named after its cause");
}

#[test]
fn a_client_hello_of_one_byte_per_segment_succeeds() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    for version in BOTH {
        let mut peer = Peer::dial(server.addr, &plain(version), NAME);
        for byte in peer.outgoing() {
            peer.tcp.write_all(&[byte]).expect("the server reads");
        }
        peer.handshake().unwrap_or_else(|error| panic!("{version:?}: {error}"));
        peer.ping(b"one byte at a time");
        peer.close_notify();
        assert_eq!(peer.rest(), (Vec::new(), End::Clean));
    }
    assert_eq!(server.settled().faults().len(), 0, "{:?}", server.metrics().faults());
    server.stop();
}

#[test]
fn accepting_pauses_at_the_cap_and_resumes_below_it() {
    const CAP: u64 = 8;
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags(&format!("--max-connections {CAP}")).start();
    let client = plain(Version::Tls13);
    let mut held: Vec<Peer> = (0..CAP).map(|_| Peer::open(server.addr, &client)).collect();
    held.iter_mut().for_each(|peer| peer.ping(b"held"));

    // Connected by the kernel, with its hello sent: only accepting is missing.
    let mut waiting: Vec<Peer> = (0..4).map(|_| Peer::dial(server.addr, &client, NAME)).collect();
    waiting.iter_mut().for_each(|peer| peer.flush().expect("the kernel takes the hello"));
    for _ in 0..100 {
        let open = server.metrics().open();
        assert!(open <= CAP, "{open} connections open, the cap is {CAP}");
        pause();
    }
    held.iter_mut().for_each(|peer| peer.ping(b"undisturbed"));
    for (mut ends, mut begins) in held.drain(..4).zip(waiting) {
        ends.close_notify();
        assert_eq!(ends.rest(), (Vec::new(), End::Clean));
        drop(ends);
        begins.handshake().expect("a slot became free");
        begins.ping(b"in at last");
    }
    drop(held);
    let metrics = server.settled();
    assert_eq!(metrics.accepted(), CAP + 4);
    server.stop();
}

/// A backlog full of clients past the cap: they wait there, and hold neither descriptors nor anybody up.
#[test]
fn clients_far_past_the_cap_wait_in_the_backlog() {
    const CAP: usize = 4;
    const WAITING: usize = 500;
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags(&format!("--max-connections {CAP}")).start();
    let client = plain(Version::Tls13);
    let mut held: Vec<Peer> = (0..CAP - 1).map(|_| Peer::open(server.addr, &client)).collect();
    held.iter_mut().for_each(|peer| peer.ping(b"held"));
    // One slot is free, and all of them are there before the server is likely to look.
    let waiting: Vec<_> = (0..WAITING).map(|_| dial(server.addr)).collect();
    eventually("the cap is reached", || server.metrics().open() == CAP as u64);
    for _ in 0..50 {
        // At most one was accepted and found no slot.
        let accepted = server.accepted_sockets();
        assert!((CAP..=CAP + 1).contains(&accepted.len()), "the cap is {CAP}, accepted are {accepted:#?}");
        held.iter_mut().for_each(|peer| peer.ping(b"undisturbed"));
        pause();
    }
    drop(waiting);
    eventually("they are served, or found to be gone", || {
        server.metrics().accepted() == (CAP - 1 + WAITING) as u64
    });
    held.iter_mut().for_each(|peer| peer.ping(b"held"));
    let mut later = Peer::open(server.addr, &client);
    later.ping(b"and goes on");
    drop((held, later));
    server.settled();
    server.stop();
}

#[test]
fn connections_cut_at_random_moments_leak_nothing() {
    let backend = Backend::start(BackendBehavior::EchoCut(200));
    let server = TestServer::start(backend.addr);
    for version in BOTH {
        Peer::open(server.addr, &plain(version)).ping(b"warm");
    }
    let before = server.settled();
    let (descriptors, buffers, operations) =
        (server.descriptors(), before.buffers_lent(), before.operations());
    for seed in 0..200 {
        cut_one(&server, seed);
    }
    eventually("all 200 were accepted", || server.metrics().accepted() >= before.accepted() + 200);
    server.settled();
    let now = || (server.descriptors(), server.metrics().buffers_lent(), server.metrics().operations());
    eventually(
        &format!("back to {:?}; the last look is in the metrics", (descriptors, buffers, operations)),
        || {
            let (d, b, o) = now();
            d <= descriptors && b <= buffers && o <= operations
        },
    );
    for version in BOTH {
        Peer::open(server.addr, &plain(version)).ping(b"still serving");
    }
    server.settled();
    server.stop();
}

/// One client that is gone after a random number of bytes sent, in handshake or data, by RST or by FIN.
fn cut_one(server: &TestServer, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let mut budget = if rng.bool() { rng.usize(0..=700) } else { rng.usize(0..=60_000) };
    let mut peer =
        Peer::dial(server.addr, &plain(if rng.bool() { Version::Tls12 } else { Version::Tls13 }), NAME);
    let mut ends = false;
    while peer.tls.is_handshaking() && !ends {
        let flight = peer.outgoing();
        ends = send_within(&mut peer.tcp, &flight, &mut budget);
        ends = ends || peer.handshake_step().is_err();
    }
    if !ends {
        peer.seal(&vec![7; rng.usize(1..=50_000)]);
        let flight = peer.outgoing();
        send_within(&mut peer.tcp, &flight, &mut budget);
    }
    if rng.bool() {
        peer.reset();
    } else {
        let _ = peer.tcp.shutdown(Shutdown::Write);
    }
}

/// Sends what the budget allows; whether it is used up.
fn send_within(tcp: &mut TcpStream, bytes: &[u8], budget: &mut usize) -> bool {
    let allowed = bytes.len().min(*budget);
    *budget -= allowed;
    tcp.write_all(&bytes[..allowed]).is_err() || allowed < bytes.len()
}
