//! The ceiling on the memory of buffers, while peers hold as much of it as they can: the others are served.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::alone;
use offramp_testing::metrics::Metrics;
use offramp_testing::peer::{Peer, Version, plain};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::eventually;

const MIB: u64 = 1 << 20;
const CEILING: u64 = 8 * MIB;
/// What was on its way when the ceiling was reached.
const EXCESS: u64 = 8 * MIB;
/// A client that sends this byte first gets bytes without end.
const FLOOD: u8 = b'F';

/// Sends without end to who wants that, and all others back what they send.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            thread::spawn(move || answer(tcp));
        }
    });
    addr
}

fn answer(mut tcp: TcpStream) {
    let mut block = vec![0; 64 << 10];
    while let Ok(count @ 1..) = tcp.read(&mut block) {
        if block[0] == FLOOD {
            while tcp.write_all(&block).is_ok() {}
            return;
        }
        if tcp.write_all(&block[..count]).is_err() {
            return;
        }
    }
}

fn server() -> TestServer {
    Setup::new(backend())
        .flags("--workers 1 --buffer-memory 8MiB --offload never --idle-timeout 1h --handshake-timeout 5m")
        .start()
}

fn ended(metrics: &Metrics) -> u64 {
    metrics.faults().get("buffer_memory").copied().unwrap_or_default()
}

fn held(metrics: &Metrics) -> u64 {
    metrics.required("offramp_buffer_bytes")
}

/// A client with little to send is served all the while, and the memory stays where it may be.
fn serves_others(server: &TestServer, victim: &mut Peer) {
    eventually("connections end for those that wait", || {
        victim.ping(b"a victim");
        let metrics = server.metrics();
        assert!(held(&metrics) <= CEILING + EXCESS, "{} bytes", held(&metrics));
        ended(&metrics) > 0
    });
    for _ in 0..50 {
        victim.ping(b"a victim");
    }
    let metrics = server.metrics();
    let pauses = metrics.sum("offramp_limit_pauses_total", &[("limit", "buffer_memory")]);
    assert!(pauses > 0 && held(&metrics) <= CEILING + EXCESS, "{}", metrics.raw);
    assert_eq!(metrics.faults().len(), 1, "{}", metrics.raw);
}

#[test]
fn ceiling_ends_who_does_not_read() {
    let _alone = alone();
    const COUNT: usize = 150;
    let server = server();
    let mut victim = Peer::open(server.addr, &plain(Version::Tls13));
    victim.ping(b"before");
    let stalled: Vec<_> = (0..COUNT)
        .map(|_| {
            let mut peer = Peer::dial(server.addr, &plain(Version::Tls13), offramp_testing::identity::NAME);
            socket2::SockRef::from(&peer.tcp).set_recv_buffer_size(4096).expect("a socket option");
            peer.handshake().expect("a handshake");
            peer.send(&[FLOOD]);
            peer
        })
        .collect();
    serves_others(&server, &mut victim);
    drop(stalled);
    victim.ping(b"after");
    drop(victim);
    server.stop();
}

#[test]
fn ceiling_ends_who_sends_no_whole_record() {
    let _alone = alone();
    const COUNT: usize = 700;
    let server = server();
    let mut victim = Peer::open(server.addr, &plain(Version::Tls13));
    let halves: Vec<_> = (0..COUNT)
        .map(|_| {
            let mut peer = Peer::open(server.addr, &plain(Version::Tls13));
            peer.seal(&[b'x'; 16 << 10]);
            let record = peer.outgoing();
            match peer.tcp.write_all(&record[..record.len() - 1]) {
                Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
                _ => peer,
            }
        })
        .collect();
    serves_others(&server, &mut victim);
    drop((victim, halves));
    server.stop();
}
