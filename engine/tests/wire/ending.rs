//! Ends that are not orderly: what came whole and authentic reaches a backend that is slow to take it.

use std::io::ErrorKind;

use offramp_testing::backend::{Backend, BackendBehavior, Seen};
use offramp_testing::peer::{BOTH, End, Peer, plain};
use offramp_testing::rng::Noise;
use offramp_testing::server::{Setup, TestServer};

pub(crate) const BYTES: usize = 1_000_000;

/// A backend that does not read until all is sent and the peer is gone, for all that is likely.
pub(crate) fn slow() -> Backend {
    Backend::start(BackendBehavior::SinkAfter(300))
}

pub(crate) fn is_whole(seen: &Seen, world: &str) {
    assert_eq!(seen.bytes, BYTES as u64, "{world}: {seen:?}");
    assert_eq!(seen.sha256, offramp_testing::rng::sha256_of(&Noise::bytes(3, BYTES)[..]).0, "{world}");
}

#[test]
fn truncation_resets_a_slow_backend_after_all_data() {
    let backend = slow();
    let server = TestServer::start(backend.addr);
    for version in BOTH {
        let before = server.metrics();
        let mut peer = Peer::open(server.addr, &plain(version));
        peer.send(&Noise::bytes(3, BYTES));
        peer.truncate();
        let seen = backend.seen();
        is_whole(&seen, &format!("{version:?}"));
        assert_eq!(seen.end, Err(ErrorKind::ConnectionReset), "{version:?}");
        assert_eq!(server.faulted(&before, 1), ["truncated"], "{version:?}");
    }
    server.settled();
    server.stop();
}

#[test]
fn truncation_fin_delivers_an_end_and_counts_a_fault() {
    let backend = slow();
    let server = Setup::new(backend.addr).flags("--truncation fin").start();
    for version in BOTH {
        let before = server.metrics();
        let mut peer = Peer::open(server.addr, &plain(version));
        peer.send(&Noise::bytes(3, BYTES));
        peer.truncate();
        let (answer, end) = peer.rest();
        assert_eq!(end, End::Clean, "{version:?}: the other direction goes on to its end");
        let seen = backend.seen();
        is_whole(&seen, &format!("{version:?}"));
        assert_eq!((answer, seen.end), (seen.sha256.into_bytes(), Ok(())), "{version:?}");
        assert_eq!(server.faulted(&before, 1), ["truncated"], "{version:?}: counted nevertheless");
    }
    server.settled();
    server.stop();
}

/// A socket that is closed over unread bytes, as over a ticket, resets the connection.
#[test]
fn a_reset_of_the_client_leaves_what_came_before_it() {
    const LITTLE: usize = 30_000;
    let backend = slow();
    let server = TestServer::start(backend.addr);
    for version in BOTH {
        let before = server.metrics();
        let mut peer = Peer::open(server.addr, &plain(version));
        peer.send(&Noise::bytes(3, LITTLE));
        offramp_testing::tools::eventually("all of it has come", || {
            server.metrics().sum("offramp_bytes_total", &[("leg", "near")])
                >= before.sum("offramp_bytes_total", &[("leg", "near")]) + LITTLE as u64
        });
        peer.reset();
        let seen = backend.seen();
        assert_eq!((seen.bytes, seen.end), (LITTLE as u64, Err(ErrorKind::ConnectionReset)), "{version:?}");
        assert_eq!(server.faulted(&before, 1), ["tls_peer_reset"], "{version:?}");
    }
    server.settled();
    server.stop();
}
