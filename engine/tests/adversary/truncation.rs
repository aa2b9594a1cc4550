//! What came whole before an end without close_notify reaches a backend that is slow to read.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use offramp_testing::peer::{BOTH, Peer, plain};
use offramp_testing::rng::Noise;
use offramp_testing::server::TestServer;
use offramp_testing::tools::{PATIENCE, eventually};

/// For so long the backend reads nothing.
const SLOW: Duration = Duration::from_secs(1);
/// Of the smallest that a socket can have: what the backend has not read waits in the server.
const RECEIVE_BUFFER: usize = 4096;

/// What a backend got, and how it ended.
struct Got {
    bytes: Vec<u8>,
    end: Result<(), ErrorKind>,
}

/// Takes one connection, and reads it to its end after a while.
fn slow_backend() -> (SocketAddr, Receiver<Got>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(RECEIVE_BUFFER).expect("a socket option");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    socket.listen(1).expect("it listens");
    let addr = socket.local_addr().expect("it is bound").as_socket().expect("an IP address");
    let (sender, got) = channel();
    thread::spawn(move || {
        let (socket, _) = socket.accept().expect("the server connects");
        let mut tcp = TcpStream::from(socket);
        tcp.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        thread::sleep(SLOW);
        let mut bytes = Vec::new();
        let end = tcp.read_to_end(&mut bytes).map(drop).map_err(|error| error.kind());
        let _ = sender.send(Got { bytes, end });
    });
    (addr, got)
}

/// Holds what the backend got against what was sent. The end is a reset: the stream was cut.
fn arrived(got: &Receiver<Got>, sent: &[u8]) {
    let got = got.recv_timeout(2 * PATIENCE).expect("the backend sees an end");
    assert!(sent.starts_with(&got.bytes), "what came is what was sent");
    assert_eq!((got.bytes.len(), got.end), (sent.len(), Err(ErrorKind::ConnectionReset)));
}

/// Whether the other side's kernel has taken all that was written (`proc_net_tcp`: tx_queue).
fn is_acknowledged(tcp: &TcpStream) -> bool {
    let port = tcp.local_addr().expect("it is connected").port();
    let table = std::fs::read_to_string("/proc/net/tcp").expect("/proc is mounted");
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut ours = fields.filter(|fields| fields[1].ends_with(&format!(":{port:04X}")));
    ours.any(|fields| fields[4].starts_with("00000000:"))
}

#[test]
fn truncation_delivers_all_that_came_before_it() {
    const BYTES: usize = 1_000_000;
    for version in BOTH {
        let (addr, got) = slow_backend();
        let server = TestServer::start(addr);
        let before = server.metrics();
        let mut peer = Peer::open(server.addr, &plain(version));
        let sent = Noise::bytes(1, BYTES);
        peer.send(&sent);
        peer.truncate();
        arrived(&got, &sent);
        assert_eq!(server.faulted(&before, 1).len(), 1, "{version:?}");
        drop(peer);
        server.stop();
    }
}

#[test]
fn truncation_by_reset_delivers_all_earlier_data() {
    // What the server's receive buffer takes: nothing of it is left in the client when it resets.
    const BYTES: usize = 60_000;
    for version in BOTH {
        let (addr, got) = slow_backend();
        let server = TestServer::start(addr);
        let before = server.metrics();
        let mut peer = Peer::open(server.addr, &plain(version));
        let sent = Noise::bytes(2, BYTES);
        peer.send(&sent);
        eventually("the server's kernel has all", || is_acknowledged(&peer.tcp));
        // As a kernel does by itself where a ticket was not read.
        SockRef::from(&peer.tcp).set_linger(Some(Duration::ZERO)).expect("a socket option");
        drop(peer);
        arrived(&got, &sent);
        assert_eq!(server.faulted(&before, 1).len(), 1, "{version:?}");
        server.stop();
    }
}
