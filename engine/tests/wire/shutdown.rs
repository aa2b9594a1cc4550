//! Stage 5 for the whole process: SIGTERM drains and exits 0, a second one ends at once.

use std::net::TcpStream;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::NAME;
use offramp_testing::peer::{BOTH, End, Peer, Version, dial, plain};
use offramp_testing::rng::{Noise, Rng};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::eventually;

/// The drain has begun when nobody is listening any more.
fn draining(server: &TestServer) {
    eventually("new connections are refused", || TcpStream::connect(server.addr).is_err());
}

#[test]
fn sigterm_exits_with_0_after_open_transfers_finish() {
    let backend = Backend::start(BackendBehavior::EchoCut(5));
    let mut server = Setup::new(backend.addr).flags("--drain-timeout 10m").start();
    let mut peers: Vec<Peer> = BOTH.iter().map(|&version| Peer::open(server.addr, &plain(version))).collect();
    peers.iter_mut().for_each(|peer| peer.ping(b"the first part"));
    server.terminate();
    draining(&server);
    for (peer, seed) in peers.iter_mut().zip(50..) {
        let data = Noise::bytes(seed, 500_000);
        assert!(
            peer.exchange(&data, &mut Rng::with_seed(seed)) == data,
            "seed {seed}: the transfer was disturbed"
        );
    }
    for mut peer in peers {
        peer.close_notify();
        assert_eq!(peer.rest(), (Vec::new(), End::Clean));
    }
    let status = server.await_exit();
    assert_eq!(status.code(), Some(0), "after the drain: {status}");
}

#[test]
fn drain_serves_a_client_whose_hello_is_on_its_way() {
    let backend = Backend::start(BackendBehavior::Echo);
    let mut server = Setup::new(backend.addr).flags("--drain-timeout 10m").start();
    let silent = BOTH.map(|version| (dial(server.addr), version));
    eventually("both are accepted", || server.metrics().open() == 2);
    server.terminate();
    draining(&server);
    for (tcp, version) in silent {
        let mut peer = Peer::over(tcp, &plain(version), NAME);
        peer.handshake().expect("it was accepted");
        peer.ping(b"served");
        peer.close_notify();
        assert_eq!(peer.rest(), (Vec::new(), End::Clean));
    }
    assert_eq!(server.await_exit().code(), Some(0));
}

#[test]
fn sigint_drains_as_well() {
    let backend = Backend::start(BackendBehavior::Echo);
    let mut server = TestServer::start(backend.addr);
    Peer::open(server.addr, &plain(Version::Tls12)).ping(b"served");
    server.settled();
    offramp_testing::tools::signal(server.pid(), "INT");
    let status = server.await_exit();
    assert_eq!(status.code(), Some(0), "after the drain: {status}");
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let backend = Backend::start(BackendBehavior::Echo);
    // Longer than this test's patience: only the second signal can end it in time.
    let mut server = Setup::new(backend.addr).flags("--drain-timeout 10m").start();
    let mut peer = Peer::open(server.addr, &plain(Version::Tls13));
    peer.ping(b"held");
    server.terminate();
    draining(&server);
    peer.ping(b"held through the drain");
    server.terminate();
    server.await_exit();
    let (answer, end) = peer.rest();
    assert!(answer.is_empty(), "{end:?} after {answer:?}");
}

#[test]
fn a_drain_that_takes_too_long_is_cut_short() {
    let backend = Backend::start(BackendBehavior::Echo);
    let mut server = Setup::new(backend.addr).flags("--drain-timeout 1s").start();
    let mut peer = Peer::open(server.addr, &plain(Version::Tls13));
    peer.ping(b"held");
    server.terminate();
    server.await_exit();
    let (answer, end) = peer.rest();
    assert!(answer.is_empty(), "{end:?} after {answer:?}");
}
