//! The sockets of both legs: addresses, families, keepalive, and a connect that reaches its own socket.
//!
//! Where a port must be this one and no other, the scenario runs in a network namespace of its own.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::process::Command;

use socket2::{Domain, Socket, Type};

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::NAME;
use offramp_testing::peer::{BOTH, End, Peer, Version, plain};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{in_guest, scratch, skip, text};

const ALONE: &str = "OFFRAMP_TEST_ALONE";
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Whether this is a network namespace of the scenario's own. If not, the scenario runs once more in one,
/// with these addresses on its loopback device beside the usual ones, and must hold there. In a guest it is
/// left out: what happens to sockets before there are records is the host kernel's to show.
fn is_alone(scenario: &str, addresses: &[&str]) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    if in_guest() {
        return false;
    }
    let privileged = &["--net"][..];
    let ways = [privileged, &["--user", "--map-root-user", "--net"]];
    let works = |way: &&&[&str]| {
        let output = Command::new("unshare").args(**way).args(["ip", "link", "set", "lo", "up"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let Some(way) = ways.iter().find(works) else {
        skip("no network namespace can be made; try as root, or: sysctl kernel.unprivileged_userns_clone=1");
        return false;
    };
    let add = addresses.iter().map(|address| format!("ip addr add {address} dev lo && ")).collect::<String>();
    let program = std::env::current_exe().expect("the kernel knows it");
    let mut command = Command::new("unshare");
    command.args(*way).args(["sh", "-c", &format!("ip link set lo up && {add} exec \"$0\" \"$@\"")]);
    command.arg(program).args([&format!("sockets::{scenario}"), "--exact", "--nocapture"]).env(ALONE, "1");
    let output = command.output().expect("it has run before");
    let said = text(&output);
    assert!(output.status.success() && said.contains("1 passed"), "{scenario} in a namespace: {said}");
    false
}

/// A port of this host on which nobody listens lies in the range that the kernel chooses from: a connect to
/// it may get that very port, and succeeds.
#[test]
fn self_connect_is_backend_refused() {
    if !is_alone("self_connect_is_backend_refused", &[]) {
        return;
    }
    const DEAD: u16 = 40_032;
    let server = TestServer::start(format!("127.0.0.1:{DEAD}"));
    let range = fs::read_to_string(PORT_RANGE).expect("/proc is mounted");
    for version in BOTH {
        let before = server.metrics();
        let mut peer = Peer::dial(server.addr, &plain(version), NAME);
        fs::write(PORT_RANGE, format!("{DEAD} {DEAD}")).expect("the namespace is ours");
        // The plain leg fails when the handshake is complete, and the alert may come before all this is sent.
        let _ = peer.handshake().and_then(|()| {
            peer.seal(b"mirror");
            peer.flush()
        });
        let (said, end) = peer.rest();
        fs::write(PORT_RANGE, &range).expect("the namespace is ours");
        assert_eq!(said, [0; 0], "its own bytes are no answer");
        assert!(matches!(end, End::Alert(_) | End::Reset), "{end:?}");
        assert_eq!(server.faulted(&before, 1), ["backend_refused"]);
        server.settled();
        // Without SO_REUSEADDR: nothing is left of the connection, TIME_WAIT included.
        let backend = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let port = SocketAddr::from(([127, 0, 0, 1], DEAD));
        backend.bind(&port.into()).expect("the backend can start");
    }
    server.stop();
}

#[test]
fn both_wildcards_serve_on_one_port() {
    if !is_alone("both_wildcards_serve_on_one_port", &[]) {
        return;
    }
    let (backend, files) = (Backend::start(BackendBehavior::Echo), scratch());
    let listener = |ip| format!("[[listener]]\nlisten = \"{ip}:8443\"\nbackend = \"{}\"\n", backend.addr);
    let path = files.path().join("offramp.toml");
    let start = |listeners: String| {
        fs::write(&path, listeners).expect("the file can be written");
        Setup::new(backend.addr).flags(&format!("--workers 2 --config {}", path.display())).start()
    };
    for (first, second) in [("0.0.0.0", "[::]"), ("[::]", "0.0.0.0")] {
        let server = start(listener(first) + &listener(second));
        for address in ["127.0.0.1:8443", "[::1]:8443"] {
            let address = address.parse().expect("an address");
            Peer::open(address, &plain(Version::Tls13)).ping(b"by either family");
        }
        assert!(!server.stderr().contains("takes IPv6 alone"), "{}", server.stderr());
        server.stop();
    }
    let server = start(listener("[::]"));
    assert!(TcpStream::connect("127.0.0.1:8443").is_err(), "[::] takes IPv6 alone");
    assert!(server.stderr().contains("takes IPv6 alone"), "{}", server.stderr());
    server.stop();
}

#[test]
fn backend_at_an_abstract_name_is_reached() {
    let name = format!("offramp-wire-{}", std::process::id());
    let address = UnixAddr::from_abstract_name(&name).expect("short enough");
    let listener = UnixListener::bind_addr(&address).expect("nobody else has it");
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut block = [0; 64];
            while let Ok(count @ 1..) = socket.read(&mut block) {
                if socket.write_all(&block[..count]).is_err() {
                    break;
                }
            }
        }
    });
    let server = TestServer::start(format!("unix:@{name}"));
    assert!(server.ready.contains(&format!("backend unix:@{name}")), "{}", server.ready);
    let mut peer = Peer::open(server.addr, &plain(Version::Tls13));
    peer.ping(b"through a name");
    peer.close_notify();
    assert_eq!(peer.rest(), (Vec::new(), End::Clean));
    assert_eq!(server.settled().faults().len(), 0);
    server.stop();
    // Nobody has that name: the same fault as for a path.
    let server = TestServer::start(format!("unix:@{name}-nobody"));
    let before = server.metrics();
    let _ = Peer::open(server.addr, &plain(Version::Tls13)).rest();
    assert_eq!(server.faulted(&before, 1), ["backend_refused"]);
    server.stop();
}

/// Sockets of this namespace on which a keepalive timer runs: column `tr` is 2 (Linux, `proc_net_tcp`).
fn kept_alive() -> usize {
    let table = fs::read_to_string("/proc/net/tcp").expect("/proc is mounted");
    let timer = |line: &str| line.split_whitespace().nth(5).is_some_and(|field| field.starts_with("02:"));
    table.lines().skip(1).filter(|line| timer(line)).count()
}

#[test]
fn keepalive_runs_on_both_legs_unless_off() {
    const ELSEWHERE: &str = "198.51.100.1";
    if !is_alone("keepalive_runs_on_both_legs_unless_off", &[&format!("{ELSEWHERE}/32")]) {
        return;
    }
    let listener = TcpListener::bind((ELSEWHERE, 0)).expect("the address is ours");
    let elsewhere = listener.local_addr().expect("it is bound").to_string();
    let local = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at_home = local.local_addr().expect("it is bound").to_string();
    // The timer of a leg is seen while nothing else is under way on it, so that the backends say nothing.
    for (backend, flags, expected) in
        [(&elsewhere, "", 2), (&elsewhere, "--keepalive off", 0), (&at_home, "--keepalive on", 1)]
    {
        let server = Setup::new(backend).flags(flags).start();
        let peer = Peer::open(server.addr, &plain(Version::Tls13));
        let listener = if backend == &at_home { &local } else { &listener };
        let accepted = listener.accept().expect("the plain leg comes").0;
        offramp_testing::tools::eventually(&format!("{expected} timers with {flags:?}"), || {
            kept_alive() == expected
        });
        drop((accepted, peer));
        server.settled();
        server.stop();
    }
}

/// A listener that stays keeps its sockets, and what they accept from then on is as the file says.
#[test]
fn keepalive_of_a_listener_changes_at_a_reload() {
    const ELSEWHERE: &str = "198.51.100.1";
    if !is_alone("keepalive_of_a_listener_changes_at_a_reload", &[&format!("{ELSEWHERE}/32")]) {
        return;
    }
    let backend = TcpListener::bind((ELSEWHERE, 0)).expect("the address is ours");
    let (address, files) = (backend.local_addr().expect("it is bound"), scratch());
    let path = files.path().join("offramp.toml");
    let write = |keepalive: &str| {
        fs::write(&path, format!("keepalive = \"{keepalive}\"\n")).expect("the file can be written");
    };
    write("off");
    let server = Setup::new(address).flags(&format!("--workers 2 --config {}", path.display())).start();
    let open = || {
        let peer = Peer::open(server.addr, &plain(Version::Tls13));
        (peer, backend.accept().expect("the plain leg comes").0)
    };
    let mut held = vec![open()];
    // Some for each worker: the kernel distributes them.
    for (keepalive, timers) in [("on", 2 * 8), ("off", 2 * 8)] {
        write(keepalive);
        server.reload("in force");
        assert!(!server.stderr().contains("restart"), "{}", server.stderr());
        held.extend((0..8).map(|_| open()));
        offramp_testing::tools::eventually(&format!("{timers} timers"), || kept_alive() == timers);
    }
    drop(held);
    server.settled();
    server.stop();
}

/// A phone that is gone with data on its way to it: nothing is acknowledged, and nobody resets.
#[test]
fn a_vanished_peer_is_given_up_while_data_waits() {
    const ELSEWHERE: &str = "198.51.100.1";
    if !is_alone("a_vanished_peer_is_given_up_while_data_waits", &[&format!("{ELSEWHERE}/32")]) {
        return;
    }
    let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = backend.local_addr().expect("it is bound");
    let server = Setup::new(address).flags("--tcp-user-timeout 1s --keepalive off").start();
    let config = plain(Version::Tls13);
    let mut peer = Peer::dial(server.addr, &config, NAME);
    let from = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    from.bind(&SocketAddr::new(ELSEWHERE.parse().expect("an address"), 0).into()).expect("it is ours");
    from.connect(&server.addr.into()).expect("the server accepts");
    peer.tcp = from.into();
    peer.handshake().expect("both are on this host");
    let mut far = backend.accept().expect("the plain leg comes").0;
    let before = server.metrics();
    // From here on nothing reaches the peer, and its own packets have no source any more.
    ip(&["addr", "del", &format!("{ELSEWHERE}/32"), "dev", "lo"]);
    ip(&["route", "add", "blackhole", &format!("{ELSEWHERE}/32")]);
    far.write_all(b"to nobody").expect("the server takes it");
    assert_eq!(server.faulted(&before, 1), ["tls_peer_reset"]);
    server.terminate();
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().expect("ip runs");
    assert!(output.status.success(), "ip {words:?}: {}", text(&output));
}
