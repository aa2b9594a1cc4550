//! Listeners on Unix sockets: TLS over them, the file, several workers, and a client without an address.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::proxy::header;
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::{Identity, NAME};
use offramp_testing::peer::{BOTH, End, Peer, Version, dial_unix, drain, plain};
use offramp_testing::server::{Setup, TestServer, identity_flags, refused};
use offramp_testing::tools::{eventually, scratch, signal};

/// A directory, a socket in it, and what stands behind the server.
struct Place {
    files: tempfile::TempDir,
    path: PathBuf,
    backend: Backend,
}

impl Place {
    fn new(behavior: BackendBehavior) -> Self {
        let files = scratch();
        let path = files.path().join("s.sock");
        Self { files, path, backend: Backend::start(behavior) }
    }

    /// As a configuration writes it.
    fn address(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    /// In guests the lab would ask for `always`, which no Unix socket can have.
    fn setup(&self, flags: &str) -> Setup {
        let listen = self.address();
        Setup::new(self.backend.addr).flags(&format!("--listen {listen} --offload auto {flags}"))
    }

    fn dial(&self) -> TcpStream {
        dial_unix(&self.address())
    }

    fn open(&self, version: Version) -> Peer {
        open(&self.address(), version)
    }

    fn ping(&self) {
        for version in BOTH {
            self.open(version).ping(b"there and back");
        }
    }

    /// A start that must fail, and the text.
    fn refused(&self, flags: &str) -> String {
        let backend = self.backend.addr.to_string();
        let mut words = vec!["--listen".to_owned(), self.address(), "--backend".to_owned(), backend];
        words.extend(identity_flags(Identity::ecdsa(), self.files.path()));
        words.extend(flags.split_whitespace().map(str::to_owned));
        let refusal = refused(&words);
        assert_eq!(refusal.status.code(), Some(1), "{}", refusal.stderr);
        refusal.stderr
    }

    /// A configuration file with the identity of the lab, and these lines in front.
    fn configure(&self, lines: &str) -> PathBuf {
        let (certificate, key) = Identity::ecdsa().write(self.files.path());
        let identity = format!(
            "[[identity]]\ncertificate = \"{}\"\nkey = \"{}\"\n",
            certificate.display(),
            key.display()
        );
        let file = self.files.path().join("offramp.toml");
        let (listeners, top) = lines.split_once("[[").map_or(("", lines), |(top, rest)| (rest, top));
        let listeners = if listeners.is_empty() { String::new() } else { format!("[[{listeners}") };
        fs::write(&file, format!("{top}{identity}{listeners}")).expect("the file can be written");
        file
    }

    fn listener(&self, path: &Path, more: &str) -> String {
        format!(
            "[[listener]]\nlisten = \"unix:{}\"\nbackend = \"{}\"\n{more}",
            path.display(),
            self.backend.addr
        )
    }
}

/// Connected and handshaken.
fn open(address: &str, version: Version) -> Peer {
    let mut peer = Peer::over(dial_unix(address), &plain(version), NAME);
    peer.handshake().expect("the handshake");
    peer
}

/// In order.
fn end(mut peer: Peer) {
    peer.close_notify();
    assert_eq!(peer.rest(), (Vec::new(), End::Clean));
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("the socket's file").ino()
}

#[test]
fn unix_listener_terminates_tls_and_echoes() {
    let place = Place::new(BackendBehavior::Echo);
    let server = place.setup("").start();
    let said = format!("listening on {}, backend {}, 1 worker", place.address(), place.backend.addr);
    assert!(server.ready.contains(&said), "{}", server.ready);
    assert!(server.ready.contains("records tx: userspace (a Unix socket)"), "{}", server.ready);
    for version in BOTH {
        let mut peer = place.open(version);
        peer.ping(&vec![7; 300_000]);
        end(peer);
    }
    assert_eq!(server.settled().faults().len(), 0);
    server.stop();
}

/// An abstract name has no file, and is free again with the process.
#[test]
fn unix_listener_may_be_abstract() {
    let place = Place::new(BackendBehavior::Echo);
    let address = format!("unix:@offramp-test-{}", std::process::id());
    for _ in 0..2 {
        let words = format!("--listen 127.0.0.1:0,{address} --offload auto");
        let server = Setup::new(place.backend.addr).flags(&words).start();
        let mut peer = open(&address, Version::Tls13);
        peer.ping(b"there and back");
        Peer::open(server.addr, &plain(Version::Tls12)).ping(b"beside it");
        drop(peer);
        server.stop();
    }
}

#[test]
fn unix_listener_is_served_by_all_workers() {
    let place = Place::new(BackendBehavior::Echo);
    let server = place.setup("--workers 2 --connection-log 1000").start();
    let mut peers: Vec<_> = (0..64).map(|_| place.open(Version::Tls13)).collect();
    peers.iter_mut().for_each(|peer| peer.ping(b"each is served"));
    peers.into_iter().for_each(end);
    let lines = |worker: &str| {
        let line = format!("INFO connection {worker} ");
        server.stderr().lines().filter(|said| said.contains(&line)).count()
    };
    eventually("each connection has a line", || lines("worker=0") + lines("worker=1") == 64);
    let (one, other) = (lines("worker=0"), lines("worker=1"));
    assert!(one.min(other) >= 8, "{one} and {other} of 64");
    server.stop();
}

#[test]
fn unix_socket_has_the_mode_and_owner_that_were_given() {
    let place = Place::new(BackendBehavior::Echo);
    let own = fs::metadata(place.files.path()).expect("a directory");
    // Only root may give a file away.
    let (user, group) = if own.uid() == 0 { (65_534, 65_534) } else { (own.uid(), own.gid()) };
    let given = format!("--socket-mode 0604 --socket-owner {user}:{group}");
    for (flags, mode, owner) in [("", 0o660, None), (&*given, 0o604, Some((user, group)))] {
        let server = place.setup(flags).start();
        let found = fs::symlink_metadata(&place.path).expect("the socket's file");
        assert_eq!(found.permissions().mode() & 0o7777, mode, "{flags}");
        owner.into_iter().for_each(|owner| assert_eq!((found.uid(), found.gid()), owner));
        server.stop();
    }
}

#[test]
fn unix_socket_that_nobody_listens_on_is_replaced() {
    let place = Place::new(BackendBehavior::Echo);
    drop(UnixListener::bind(&place.path).expect("a new file"));
    let mut killed = place.setup("").start();
    place.ping();
    assert!(killed.stderr().contains("a socket on which nobody listened is replaced"));
    signal(killed.pid(), "KILL");
    killed.await_exit();
    assert!(place.path.exists(), "whoever is killed removes nothing");
    let server = place.setup("").start();
    place.ping();
    server.stop();
    assert!(!place.path.exists());
}

#[test]
fn unix_socket_of_another_process_is_not_taken() {
    let place = Place::new(BackendBehavior::Echo);
    let server = place.setup("").start();
    let before = inode(&place.path);
    let said = place.refused("");
    let expected = format!("offramp: --listen: listen: {} is in use: another process", place.address());
    assert!(said.contains(&expected) && said.contains("ss -xlp"), "{said}");
    assert_eq!(inode(&place.path), before);
    place.ping();
    server.stop();
}

#[test]
fn unix_socket_replaces_nothing_but_sockets() {
    let place = Place::new(BackendBehavior::Echo);
    fs::write(&place.path, "precious").expect("a new file");
    let said = place.refused("");
    assert!(said.contains("is there already and is no socket") && said.contains("ls -ld"), "{said}");
    assert_eq!(fs::read(&place.path).expect("it is there"), b"precious");
    fs::remove_file(&place.path).expect("it is ours");
    let elsewhere = place.files.path().join("elsewhere");
    fs::write(&elsewhere, "precious").expect("a new file");
    std::os::unix::fs::symlink(&elsewhere, &place.path).expect("a new link");
    assert!(place.refused("").contains("is no socket"));
    assert!(elsewhere.exists() && place.path.exists());
}

#[test]
fn unix_socket_without_a_directory_is_refused_by_name() {
    let mut place = Place::new(BackendBehavior::Echo);
    let directory = place.files.path().join("none");
    place.path = directory.join("s.sock");
    let said = place.refused("");
    let shown = directory.display();
    assert!(said.contains(&format!("there is no directory {shown}; try: mkdir -p {shown}")), "{said}");
}

/// The file of a socket that took the place of its own is not removed at the end.
#[test]
fn unix_socket_of_a_successor_outlives_the_end() {
    let place = Place::new(BackendBehavior::Echo);
    let first = place.setup("").start();
    fs::remove_file(&place.path).expect("it is ours");
    let second = place.setup("").start();
    first.stop();
    place.ping();
    second.stop();
    assert!(!place.path.exists());
}

#[test]
fn unix_socket_goes_with_its_listener_at_a_reload() {
    let place = Place::new(BackendBehavior::Echo);
    let other = place.files.path().join("t.sock");
    let both = format!("{}{}", place.listener(&place.path, ""), place.listener(&other, ""));
    let server = Setup::from_file(&place.configure(&both)).start();
    let mut open = place.open(Version::Tls13);
    assert!(other.exists());
    place.configure(&place.listener(&other, ""));
    server.reload("timeouts in force");
    assert!(server.stderr().contains("no longer listening on unix:"), "{}", server.stderr());
    eventually("the file is removed", || !place.path.exists());
    assert!(other.exists());
    open.ping(b"goes on");
    drop(open);
    place.configure(&both);
    server.reload("timeouts in force");
    place.ping();
    // What cannot be is refused, and what was made for it is removed again.
    let third = place.files.path().join("u.sock");
    let bad = place.files.path().join("none").join("v.sock");
    place.configure(&format!("{}{}", place.listener(&third, ""), place.listener(&bad, "")));
    server.reload("there is no directory");
    assert!(!third.exists() && place.path.exists());
    place.ping();
    place.configure(&place.listener(&place.path, "offload = \"always\"\n"));
    server.reload("offload = \"always\" is refused");
    place.ping();
    server.stop();
    assert!(!place.path.exists() && !other.exists());
}

/// Who connects while a listener that stays is put in force again is served.
#[test]
fn unix_socket_stays_at_a_reload_and_nobody_is_lost() {
    const RELOADS: usize = 20;
    let place = Place::new(BackendBehavior::Echo);
    let file = place.configure(&place.listener(&place.path, ""));
    let server = Setup::from_file(&file).flags("--workers 2").start();
    let (before, address) = (inode(&place.path), place.address());
    let (mut earlier, done) = (place.open(Version::Tls12), AtomicBool::new(false));
    let served = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut served = 0;
            while !done.load(Ordering::Relaxed) {
                let mut peer = open(&address, Version::Tls13);
                peer.ping(b"during reloads");
                end(peer);
                served += 1;
            }
            served
        });
        (0..RELOADS).for_each(|_| server.reload("timeouts in force"));
        done.store(true, Ordering::Relaxed);
        client.join().expect("each was served")
    });
    assert!(served > 0 && inode(&place.path) == before);
    earlier.ping(b"was there before");
    place.configure(&place.listener(&place.path, "socket_mode = \"0600\"\n"));
    server.reload("not in force until an upgrade or a restart: socket_mode");
    end(earlier);
    assert_eq!(server.settled().faults().len(), 0);
    server.stop();
}

/// Client and listener have no address that a header could name; what else is known is in it.
#[test]
fn proxy_header_of_a_unix_client_has_no_address() {
    let place = Place::new(BackendBehavior::TakesProxy);
    let server = place.setup("--send-proxy v1").start();
    assert_eq!(header(&mut place.open(Version::Tls13)), b"PROXY UNKNOWN\r\n");
    server.stop();
    let server = place.setup("--send-proxy v2 --proxy-tlvs authority,ssl,unique-id,crc32c").start();
    for version in BOTH {
        let mut peer = place.open(version);
        let header = header(&mut peer);
        assert_eq!(header[12..14], [0x20, 0x00], "version 2, the command LOCAL, no family");
        let has = |text: &str| header.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(has(NAME) && has("TLSv1."), "{}", header.escape_ascii());
        peer.ping(b"and what follows is untouched");
    }
    server.stop();
}

/// A balancer on the same host: whoever may connect is believed.
#[test]
fn proxy_header_over_a_unix_socket_is_believed() {
    let place = Place::new(BackendBehavior::TakesProxy);
    let server = place.setup("--accept-proxy unix: --send-proxy v1 --source-connections 1").start();
    let said = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x01\x12\x67\x01\xbb";
    let dial = |said: &[u8]| {
        let mut peer = Peer::over(place.dial(), &plain(Version::Tls13), NAME);
        peer.tcp.write_all(said).expect("sent");
        peer
    };
    let mut peer = dial(said);
    peer.handshake().expect("TLS follows");
    assert_eq!(header(&mut peer), b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n");
    peer.ping(b"there and back");
    // The client of the header is the source: it has its one connection.
    let before = server.metrics();
    let mut other = dial(said);
    assert!(other.handshake().is_err());
    assert_eq!(server.faulted(&before, 1), ["source_connections"]);
    // LOCAL: the balancer's own.
    let mut own = dial(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    own.handshake().expect("TLS follows");
    assert_eq!(header(&mut own), b"PROXY UNKNOWN\r\n");
    drop((peer, other, own));
    server.stop();
}

#[test]
fn unix_client_is_no_source_of_a_limit() {
    let place = Place::new(BackendBehavior::Echo);
    let server = place.setup("--source-connections 1 --source-rate 1").start();
    let mut peers: Vec<_> = (0..8).map(|_| place.open(Version::Tls13)).collect();
    peers.iter_mut().for_each(|peer| peer.ping(b"not counted"));
    peers.into_iter().for_each(end);
    assert_eq!(server.settled().faults().len(), 0);
    server.stop();
}

#[test]
fn unix_listener_is_named_in_the_log() {
    let place = Place::new(BackendBehavior::Echo);
    let server = place.setup("").start();
    let before = server.metrics();
    let mut stranger = place.dial();
    stranger.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
    drain(&stranger);
    assert_eq!(server.faulted(&before, 1), ["not_tls"]);
    let said = format!("listener={}", place.address());
    eventually("the line of the fault", || server.stderr().contains(&said));
    let said = server.stderr();
    let line = said.lines().find(|line| line.contains("fault not_tls")).expect("the line");
    assert!(!line.contains("client="), "{line}");
    server.stop();
}

/// Plain on the Unix socket, TLS to a server behind TCP: of that the kernel may have the records.
#[test]
fn unix_listener_may_originate_and_reencrypt() {
    let place = Place::new(BackendBehavior::Echo);
    let inner = TestServer::start(place.backend.addr);
    let trust = offramp_testing::peer::trust_file(place.files.path());
    let words = |mode: &str| {
        let listen = place.address();
        format!(
            "--listen {listen} --mode {mode} --server-name {NAME} --server-ca {trust} \
             --offload auto"
        )
    };
    let server = Setup::new(inner.addr).identities(&[]).flags(&words("originate")).start();
    assert!(!server.ready.contains("a Unix socket"), "{}", server.ready);
    let mut plain = place.dial();
    plain.write_all(b"in plain").expect("sent");
    let mut back = [0; 8];
    plain.read_exact(&mut back).expect("the echo");
    assert_eq!(&back, b"in plain");
    drop(plain);
    server.stop();
    let server = Setup::new(inner.addr).flags(&words("reencrypt")).start();
    assert!(server.ready.contains("a Unix socket"), "{}", server.ready);
    place.ping();
    server.stop();
    inner.stop();
}
