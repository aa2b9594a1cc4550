//! Stage 4: every byte once, in order, unchanged; each direction ends by itself; what the backend does wrong
//! is counted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use offramp_testing::backend::{Backend, BackendBehavior, EARLY_ANSWER, LATE_ANSWER};
use offramp_testing::metrics::Metrics;
use offramp_testing::peer::{BOTH, End, Peer, Version, plain};
use offramp_testing::rng::{Noise, Rng, cut, sha256_of};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{PATIENCE, eventually, pause};

const MILLION_AND_ONE: usize = 1_000_001;

#[test]
fn a_million_and_one_bytes_cross_both_ways_at_once() {
    let backend = Backend::start(BackendBehavior::EchoCut(1));
    let server = TestServer::start(backend.addr);
    for (version, seed) in BOTH.into_iter().zip(1..) {
        for bytes in [1, MILLION_AND_ONE] {
            let data = Noise::bytes(seed, bytes);
            let mut peer = Peer::open(server.addr, &plain(version));
            let back = peer.exchange(&data, &mut Rng::with_seed(seed));
            assert!(back == data, "{version:?}, seed {seed}, {bytes} bytes: not what was sent");
            peer.close_notify();
            assert_eq!(peer.rest(), (Vec::new(), End::Clean), "nothing comes twice");
            let seen = backend.seen();
            assert_eq!((seen.bytes, seen.end), (bytes as u64, Ok(())));
        }
    }
    assert_eq!(server.settled().faults().len(), 0, "{:?}", server.metrics().faults());
    server.stop();
}

#[test]
fn a_million_and_one_bytes_to_the_backend_in_any_cut() {
    let backend = Backend::start(BackendBehavior::Sink);
    let server = TestServer::start(backend.addr);
    for (version, seed) in BOTH.into_iter().zip(10..) {
        for bytes in [1, MILLION_AND_ONE] {
            let data = Noise::bytes(seed, bytes);
            let mut peer = Peer::open(server.addr, &plain(version));
            peer.seal(&data);
            let (sealed, mut rng) = (peer.outgoing(), Rng::with_seed(seed));
            let mut rest = sealed.as_slice();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(cut(&mut rng).min(rest.len()));
                peer.tcp.write_all(now).expect("the server reads");
                rest = later;
            }
            peer.close_notify();
            let expected = sha256_of(data.as_slice());
            let (answer, end) = peer.rest();
            assert_eq!((String::from_utf8_lossy(&answer), end), (expected.0.as_str().into(), End::Clean));
            let seen = backend.seen();
            assert_eq!((seen.sha256, seen.bytes, seen.end), (expected.0, expected.1, Ok(())), "seed {seed}");
        }
    }
    server.settled();
    server.stop();
}

#[test]
fn a_million_and_one_bytes_arrive_from_the_backend() {
    for (version, seed) in BOTH.into_iter().zip(20..) {
        for bytes in [1, MILLION_AND_ONE] {
            let backend = Backend::start(BackendBehavior::Source { seed, bytes });
            let server = TestServer::start(backend.addr);
            let mut peer = Peer::open(server.addr, &plain(version));
            let (data, end) = peer.rest();
            assert_eq!(end, End::Clean, "{version:?}, seed {seed}");
            assert!(
                data == Noise::bytes(seed, bytes),
                "{version:?}, seed {seed}: {} of {bytes} bytes",
                data.len()
            );
            peer.close_notify();
            assert_eq!(backend.seen().end, Ok(()));
            server.settled();
            server.stop();
        }
    }
}

#[test]
fn a_client_that_ends_first_still_gets_its_answer() {
    let backend = Backend::start(BackendBehavior::AnswerAfterEnd);
    let server = TestServer::start(backend.addr);
    for version in BOTH {
        for fin_too in [false, true] {
            let mut peer = Peer::open(server.addr, &plain(version));
            peer.send(b"a question");
            peer.close_notify();
            if fin_too {
                peer.truncate();
            }
            let answer = peer.rest();
            assert_eq!(answer, (LATE_ANSWER.to_vec(), End::Clean), "{version:?}, FIN: {fin_too}");
            let seen = backend.seen();
            assert_eq!((seen.bytes, seen.end), (10, Ok(())), "{version:?}, FIN: {fin_too}");
        }
    }
    let metrics = server.settled();
    assert_eq!(metrics.faults().len(), 0, "a proper end is no fault: {:?}", metrics.faults());
    server.stop();
}

#[test]
fn a_backend_that_ends_first_can_still_be_sent_to() {
    let backend = Backend::start(BackendBehavior::EndFirst);
    let server = TestServer::start(backend.addr);
    for version in BOTH {
        let mut peer = Peer::open(server.addr, &plain(version));
        assert_eq!(peer.rest(), (EARLY_ANSWER.to_vec(), End::Clean), "{version:?}");
        let late = Noise::bytes(3, 100_000);
        peer.send(&late);
        peer.close_notify();
        let seen = backend.seen();
        assert_eq!((seen.sha256, seen.end), (sha256_of(late.as_slice()).0, Ok(())), "{version:?}");
    }
    let metrics = server.settled();
    assert_eq!(metrics.faults().len(), 0, "a proper end is no fault: {:?}", metrics.faults());
    server.stop();
}

#[test]
fn truncation_resets_the_backend_and_counts_a_fault() {
    let backend = Backend::start(BackendBehavior::Sink);
    let server = TestServer::start(backend.addr);
    for version in BOTH {
        let before = server.metrics();
        let mut peer = Peer::open(server.addr, &plain(version));
        peer.send(b"half a messa");
        let from_near = |metrics: &Metrics| metrics.sum("offramp_bytes_total", &[("leg", "near")]);
        eventually("the data is on its way", || from_near(&server.metrics()) > from_near(&before));
        peer.truncate();
        let (answer, end) = peer.rest();
        assert!(answer.is_empty() && end != End::Clean, "{version:?}: {end:?} after {answer:?}");
        let seen = backend.seen();
        assert_eq!(seen.end, Err(std::io::ErrorKind::ConnectionReset), "{version:?}: {} bytes", seen.bytes);
        assert_eq!(server.faulted(&before, 1), ["truncated"]);
    }
    server.settled();
    server.stop();
}

/// What came is counted, whether or not the other leg has taken it.
#[test]
fn bytes_count_as_plaintext_of_the_leg_they_came_from() {
    const ANSWER: usize = 10_000;
    for version in BOTH {
        let backend = Backend::start(BackendBehavior::Source { seed: 31, bytes: ANSWER });
        let server = TestServer::start(backend.addr);
        let counted = |leg| server.metrics().sum("offramp_bytes_total", &[("leg", leg)]);
        let mut peer = Peer::open(server.addr, &plain(version));
        eventually("what came is counted though nobody reads it", || counted("far") == ANSWER as u64);
        assert_eq!(counted("near"), 0, "{version:?}");
        peer.send(b"one record");
        eventually("what came in a record is counted", || counted("near") == 10);
        peer.reset();
        server.settled();
        assert_eq!((counted("near"), counted("far")), (10, ANSWER as u64), "{version:?}");
        server.stop();
    }
}

#[test]
fn refusing_backend_counts_faults_until_it_returns() {
    let mut backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let client = plain(Version::Tls13);
    let mut healthy = Peer::open(server.addr, &client);
    healthy.ping(b"before");
    let before = server.metrics();
    backend.refuse();
    let mut peer = Peer::open(server.addr, &client);
    let (answer, end) = peer.rest();
    assert!(answer.is_empty(), "{end:?} after {answer:?}");
    assert_eq!(server.faulted(&before, 1), ["backend_refused"]);
    healthy.ping(b"during");
    backend.resume();
    Peer::open(server.addr, &client).ping(b"after");
    drop((peer, healthy));
    server.settled();
    server.stop();
}

#[test]
fn backend_reset_is_a_counted_fault_and_no_clean_end() {
    let backend = Backend::start(BackendBehavior::Obedient);
    let server = TestServer::start(backend.addr);
    for version in BOTH {
        // Those of the version before were cut, which is a fault too.
        server.settled();
        let mut healthy = Peer::open(server.addr, &plain(version));
        healthy.ping(b"echo");
        let before = server.metrics();
        let mut peer = Peer::open(server.addr, &plain(version));
        peer.send(b"r");
        let (answer, end) = peer.rest();
        assert!(answer.is_empty() && end != End::Clean, "{version:?}: {end:?} after {answer:?}");
        assert_eq!(server.faulted(&before, 1), ["plain_peer_reset"]);
        healthy.ping(b"during");
        Peer::open(server.addr, &plain(version)).ping(b"echo after");
    }
    server.settled();
    server.stop();
}

#[test]
fn a_slow_backend_holds_up_nobody_else() {
    let backend = Backend::start(BackendBehavior::Obedient);
    let server = TestServer::start(backend.addr);
    let client = plain(Version::Tls12);
    let mut silent: Vec<Peer> = (0..20).map(|_| Peer::open(server.addr, &client)).collect();
    silent.iter_mut().for_each(|peer| peer.send(b"silence, please"));
    Peer::open(server.addr, &client).ping(b"echo while others wait");
    for mut peer in silent {
        peer.close_notify();
        assert_eq!(peer.rest(), (Vec::new(), End::Clean));
    }
    server.settled();
    server.stop();
}

#[test]
fn backend_connect_timeout_is_a_counted_fault() {
    let (listener, addr) = listener_with_no_backlog();
    let server = Setup::new(addr).flags("--connect-timeout 2s").start();
    let client = plain(Version::Tls13);
    let mut healthy = Peer::open(server.addr, &client);
    let (mut behind, _) = listener.accept().expect("the healthy connection");
    converse(&mut healthy, &mut behind);
    let queue = fill(addr);

    let before = server.metrics();
    let mut peer = Peer::open(server.addr, &client);
    let (answer, end) = peer.rest();
    assert!(answer.is_empty(), "{end:?} after {answer:?}");
    assert_eq!(server.faulted(&before, 1), ["connect_timeout"]);
    converse(&mut healthy, &mut behind);

    // Emptying the queue heals it.
    queue.iter().for_each(|_| drop(listener.accept().expect("what filled the queue")));
    let mut later = Peer::open(server.addr, &client);
    let (mut behind, _) = listener.accept().expect("the connection after");
    converse(&mut later, &mut behind);
    drop((later, healthy, behind, queue));
    server.stop();
}

fn listener_with_no_backlog() -> (TcpListener, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    socket.listen(0).expect("a bound socket can listen");
    let listener = TcpListener::from(socket);
    let addr = listener.local_addr().expect("a bound listener has an address");
    (listener, addr)
}

/// Connects until the kernel no longer answers: from there on a connect hangs.
fn fill(addr: SocketAddr) -> Vec<TcpStream> {
    let mut queue = Vec::new();
    while let Ok(socket) = TcpStream::connect_timeout(&addr, Duration::from_millis(500)) {
        queue.push(socket);
        assert!(queue.len() < 64, "the queue of {addr} has no end");
    }
    queue
}

fn converse(peer: &mut Peer, behind: &mut TcpStream) {
    behind.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    peer.send(b"ping");
    let mut heard = [0; 4];
    behind.read_exact(&mut heard).expect("the ping arrives");
    behind.write_all(b"pong").expect("the pong can be sent");
    assert_eq!((&heard, peer.receive(4).as_slice()), (b"ping", b"pong".as_slice()));
}

#[test]
fn idle_timeout_ends_only_idle_connections() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--idle-timeout 3s").start();
    let client = plain(Version::Tls13);
    let mut busy = Peer::open(server.addr, &client);
    busy.ping(b"before");
    let before = server.metrics();
    let mut idle = Peer::open(server.addr, &client);
    idle.ping(b"the last for a long time");
    eventually("the idle connection was ended", || {
        busy.ping(b"busy");
        pause();
        server.metrics().open() <= 1
    });
    let (answer, end) = idle.rest();
    assert!(answer.is_empty(), "{end:?} after {answer:?}");
    assert_eq!(server.faulted(&before, 1), ["idle_timeout"]);
    busy.ping(b"during");
    Peer::open(server.addr, &client).ping(b"after");
    drop(busy);
    server.settled();
    server.stop();
}
