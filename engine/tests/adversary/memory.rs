//! Memory in the number of connections that stall: with half a hello, with half a record, and with bytes that
//! nobody reads.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use offramp_attack::hello::{Hello, Key};
use offramp_attack::{resident, stall};
use socket2::{Domain, Socket, Type};

use crate::alone;
use offramp_testing::peer::{Peer, Version, dial, plain};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{PATIENCE, eventually};

const HELLO: Hello = Hello { tls13: false, key: Key::Ecdsa };
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Beside the state of a connection that has sent nothing: what half a hello or half a record may cost.
const HALF_MAX: u64 = 4 * KIB;
/// A buffer of one direction that nobody reads; a direction has two, one being sent and one that waits.
const BUFFER_MAX: u64 = 64 * KIB;
const BUFFERS: u64 = 4;
/// What a connection is beside its buffers: its state, and a record of at most 16.3 KiB that is not whole.
const STATE_MAX: u64 = 20 * KIB;
/// What stays when all have gone: a share of the wave, and what the allocator keeps in any case: it takes
/// memory in segments of this size, whatever a connection needs of the last one.
const KEPT_SHARE: u64 = 4;
const KEPT_BYTES: u64 = 4 * MIB;

/// A backend that takes connections and then neither reads nor writes: nobody accepts them.
fn silent_backend() -> TcpListener {
    const BACKLOG: i32 = 4096;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    socket.listen(BACKLOG).expect("it listens");
    socket.into()
}

/// Deadlines that outlast the test.
fn patient_server(backend: SocketAddr) -> TestServer {
    Setup::new(backend).flags("--handshake-timeout 5m --max-connections 9500").start()
}

fn bytes(server: &TestServer) -> u64 {
    resident::bytes(server.pid()).expect("the server runs")
}

/// Resident memory once it does not grow any more: the last bytes may still be on their way.
fn settled_bytes(server: &TestServer) -> u64 {
    let mut most = bytes(server);
    let mut since = 0;
    while since < 20 {
        thread::sleep(Duration::from_millis(25));
        let now = bytes(server);
        since = if now > most { 0 } else { since + 1 };
        most = most.max(now);
    }
    most
}

/// After the wave, the memory is back.
fn returns_to(server: &TestServer, before: u64, wave: u64) {
    let limit = before + wave.saturating_sub(before) / KEPT_SHARE + KEPT_BYTES;
    let end = Instant::now() + PATIENCE;
    while bytes(server) > limit && Instant::now() < end {
        thread::sleep(Duration::from_millis(100));
    }
    assert!(
        bytes(server) <= limit,
        "{before} bytes before, {wave} in the wave, {} after: above {limit}",
        bytes(server)
    );
}

fn each(before: u64, after: u64, count: usize) -> u64 {
    after.saturating_sub(before) / count as u64
}

#[test]
fn memory_of_half_hellos_is_their_bytes() {
    let _alone = alone();
    const COUNT: usize = 5000;
    const TOTAL_MAX: u64 = 64 * MIB;
    let backend = silent_backend();
    let server = patient_server(backend.local_addr().expect("it is bound"));
    let before = settled_bytes(&server);
    let mut silent: Vec<_> = (0..COUNT).map(|_| dial(server.addr)).collect();
    eventually("all are accepted", || server.metrics().open() == COUNT as u64);
    let open = settled_bytes(&server);
    for tcp in &mut silent {
        stall::half_hello_on(tcp, HELLO).expect("the server takes nine bytes");
    }
    let wave = settled_bytes(&server);
    let still = server.metrics().open();
    let half = each(open, wave, COUNT);
    println!("{} bytes of state, {half} more with half a hello; {wave} in all", each(before, open, COUNT));
    assert_eq!(still, COUNT as u64, "none was closed in between");
    assert!(half <= HALF_MAX + stall::HALF_HELLO_BYTES as u64, "half a hello costs {half} bytes");
    assert!(wave <= TOTAL_MAX, "{wave} bytes resident with {COUNT} half hellos");
    drop(silent);
    returns_to(&server, before, wave);
    server.stop();
}

#[test]
fn memory_of_half_records_is_their_bytes() {
    let _alone = alone();
    const COUNT: usize = 1000;
    let backend = silent_backend();
    let server = patient_server(backend.local_addr().expect("it is bound"));
    let config = plain(Version::Tls13);
    let open = |count: usize| -> Vec<_> { (0..count).map(|_| Peer::open(server.addr, &config)).collect() };
    // What handshakes leave behind: pools, and the allocator's pages.
    drop(open(COUNT));
    server.settled();
    let before = settled_bytes(&server);
    let mut peers = open(COUNT);
    let idle = settled_bytes(&server);
    for peer in &mut peers {
        stall::half_record(&mut peer.tcp).expect("the server takes a byte");
    }
    let wave = settled_bytes(&server);
    let half = each(idle, wave, COUNT);
    println!("{} bytes idle, {half} more with half a record", each(before, idle, COUNT));
    assert_eq!(server.metrics().open(), COUNT as u64, "none was closed in between");
    assert!(half <= HALF_MAX + 1, "one byte of a record costs {half} bytes");
    drop(peers);
    returns_to(&server, before, wave);
    server.stop();
}

/// A backend that reads nothing and sends for as long as anybody takes it; what it has accepted is given
/// back.
fn talking_backend() -> (SocketAddr, Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    let (give, accepted) = channel();
    thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let _ = tcp.set_nonblocking(true);
            if give.send(tcp).is_err() {
                return;
            }
        }
    });
    (addr, accepted)
}

#[test]
fn memory_of_stalled_readers_is_their_buffers() {
    let _alone = alone();
    const COUNT: usize = 300;
    let (addr, accepted) = talking_backend();
    let server = patient_server(addr);
    let before = settled_bytes(&server);
    let mut clients: Vec<_> = (0..COUNT).map(|_| Peer::open(server.addr, &plain(Version::Tls13))).collect();
    let mut backends: Vec<_> = (0..COUNT).map(|_| accepted.recv_timeout(PATIENCE)).collect();
    let block = vec![0x61; 64 << 10];
    let mut pending = vec![Vec::new(); COUNT];
    let mut quiet_rounds = 0;
    // Both sides send until neither takes a byte for a second.
    while quiet_rounds < 10 {
        let mut moved = 0;
        for (client, pending) in clients.iter_mut().zip(&mut pending) {
            client.tcp.set_nonblocking(true).expect("a socket option");
            if pending.is_empty() {
                client.seal(&block[..16 << 10]);
                *pending = client.outgoing();
            }
            moved += push(&client.tcp, pending);
        }
        for backend in backends.iter_mut().flatten() {
            moved += push(backend, &mut block.clone());
        }
        quiet_rounds = if moved == 0 { quiet_rounds + 1 } else { 0 };
        thread::sleep(Duration::from_millis(if moved == 0 { 100 } else { 0 }));
    }
    let wave = settled_bytes(&server);
    let one = each(before, wave, COUNT);
    println!("{one} bytes for a connection that nobody reads on either side");
    let most = COUNT as u64 * (BUFFERS * BUFFER_MAX + STATE_MAX) + KEPT_BYTES;
    assert!(wave - before <= most, "{one} bytes a connection");
    drop((clients, backends));
    returns_to(&server, before, wave);
    server.stop();
}

/// As many of these bytes as the socket takes at once.
fn push(mut tcp: &TcpStream, bytes: &mut Vec<u8>) -> usize {
    match tcp.write(bytes) {
        Ok(count) => {
            bytes.drain(..count);
            count
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => panic!("a connection that nobody reads stays open: {error}"),
    }
}

#[test]
fn memory_record_that_has_begun_has_a_deadline() {
    let backend = silent_backend();
    let addr = backend.local_addr().expect("it is bound");
    let server = Setup::new(addr).flags("--handshake-timeout 1s --idle-timeout 1h").start();
    let before = server.metrics();
    let mut peer = Peer::open(server.addr, &plain(Version::Tls13));
    let mut idle = Peer::open(server.addr, &plain(Version::Tls13));
    stall::half_record(&mut peer.tcp).expect("the server takes a byte");
    // An alert, FIN or a reset, and not the hour of an idle connection.
    let mut rest = Vec::new();
    let end = peer.tcp.read_to_end(&mut rest);
    let ended = !matches!(&end, Err(error) if error.kind() == ErrorKind::WouldBlock);
    assert!(ended, "a record that has begun is waited for: {end:?}");
    assert_eq!(server.faulted(&before, 1), ["record_timeout"]);
    // One that has begun none is left alone.
    idle.tcp.set_nonblocking(true).expect("a socket option");
    loop {
        match idle.tcp.read(&mut [0; 4096]) {
            // Its ticket.
            Ok(1..) => {}
            other => {
                break assert!(matches!(&other, Err(e) if e.kind() == ErrorKind::WouldBlock), "{other:?}");
            }
        }
    }
    drop(idle);
    server.stop();
}
