//! A client that reads slowly: what the kernel has sealed and TCP has no room for is not lost at the end.

use std::io::Read;
use std::time::Duration;

use rustls::ClientConnection;
use socket2::{Domain, Socket, Type};

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::NAME;
use offramp_testing::peer::{BOTH, End, Peer, Version, plain};
use offramp_testing::rng::Noise;
use offramp_testing::server::TestServer;
use offramp_testing::tools::{PATIENCE, in_guest};

/// Of the smallest that a socket can have.
const RECEIVE_BUFFER: usize = 4096;

/// A handshaken client whose socket takes little at a time.
fn narrow(server: &TestServer, version: Version) -> Peer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(RECEIVE_BUFFER).expect("a socket option");
    socket.connect(&server.addr.into()).expect("the server accepts");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    let tls = ClientConnection::new(plain(version), NAME.try_into().expect("a name")).expect("a client");
    let mut peer = Peer { tls, tcp: socket.into() };
    peer.handshake().expect("the handshake is complete");
    peer
}

/// Reads in sips, to the end.
fn trickle(peer: &mut Peer) -> (Vec<u8>, End) {
    let mut sealed = vec![0; 3000];
    let mut whole = Vec::new();
    loop {
        std::thread::sleep(Duration::from_micros(300));
        let count = match peer.tcp.read(&mut sealed) {
            Err(error) => panic!("after {} bytes: {error}", whole.len()),
            Ok(0) => return (whole, End::Truncated),
            Ok(count) => count,
        };
        let mut rest = &sealed[..count];
        while !rest.is_empty() {
            peer.tls.read_tls(&mut rest).expect("memory is read");
            let state = peer.tls.process_new_packets().expect("the records are good");
            let mut block = vec![0; state.plaintext_bytes_to_read()];
            peer.tls.reader().read_exact(&mut block).expect("as much as was said");
            whole.extend(block);
            if state.peer_has_closed() {
                return (whole, End::Clean);
            }
        }
    }
}

/// The kernel of the guest is nobody else's: a send buffer that a record or two fill.
fn narrow_send_buffers() {
    if in_guest() {
        std::fs::write("/proc/sys/net/ipv4/tcp_wmem", "4096 4096 8192").expect("root may");
    }
}

#[test]
fn a_slow_reader_gets_the_whole_stream_and_its_end() {
    const BYTES: usize = 150_000;
    narrow_send_buffers();
    let rounds = if in_guest() { 12 } else { 2 };
    for version in BOTH {
        for seed in 0..rounds {
            let backend = Backend::start(BackendBehavior::Source { seed, bytes: BYTES });
            let server = TestServer::start(backend.addr);
            let mut peer = narrow(&server, version);
            let (data, end) = trickle(&mut peer);
            let count = data.len();
            assert!(data == Noise::bytes(seed, BYTES), "{version:?} seed {seed}: {count} bytes");
            assert_eq!(end, End::Clean, "{version:?} seed {seed}");
            // Behind the close_notify there is nothing but FIN.
            assert_eq!(peer.tcp.read(&mut [0; 16]).expect("FIN, not a reset"), 0, "{version:?} seed {seed}");
            peer.close_notify();
            drop(peer);
            assert_eq!(server.settled().faults().len(), 0, "{:?}", server.metrics().faults());
            server.stop();
        }
    }
}
