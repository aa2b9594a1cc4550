//! Upgrades: another process takes over under load, and nobody notices; where it does not start, the old one
//! goes on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::Identity;
use offramp_testing::loadgen::Loadgen;
use offramp_testing::metrics::ask_socket;
use offramp_testing::peer::{BOTH, End, Peer, Version, dial_unix, plain, trust_file};
use offramp_testing::server::{Setup, TestServer, binary};
use offramp_testing::tools::{PATIENCE, eventually, has_ended, patiently, scratch, signal};
use rustls::HandshakeKind;

const UPGRADES: usize = 20;

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// A directory with the program, as a package installs it, a configuration, and certificates.
struct Place {
    files: tempfile::TempDir,
    identities: Vec<(PathBuf, PathBuf)>,
}

impl Place {
    fn new() -> Self {
        let files = scratch();
        let identities =
            [Identity::ecdsa(), Identity::rsa()].iter().map(|it| it.write(files.path())).collect();
        let place = Self { files, identities };
        place.install(&binary());
        place
    }

    fn program(&self) -> PathBuf {
        self.files.path().join("offramp")
    }

    fn file(&self) -> PathBuf {
        self.files.path().join("offramp.toml")
    }

    /// Replaces the program by a copy of this file.
    fn install(&self, program: &Path) {
        let beside = self.files.path().join("offramp.new");
        // By another process: one that this process forks meanwhile would have the copy open for writing, and
        // nobody could execute it.
        let copied = Command::new("cp").arg("--preserve=mode").args([program, &beside]).status().unwrap();
        assert!(copied.success());
        fs::rename(&beside, self.program()).unwrap();
    }

    /// Replaces it by a script.
    fn install_script(&self, script: &str) {
        let path = self.files.path().join("script");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        self.install(&path);
    }

    fn configure(&self, text: &str) {
        let identities = self.identities.iter().map(|(certificate, key)| {
            format!("[[identity]]\ncertificate = {certificate:?}\nkey = {key:?}\n")
        });
        let identities: String = identities.collect();
        fs::write(self.file(), format!("{text}\n{identities}")).unwrap();
    }

    /// A listener on a Unix socket at each of these paths.
    fn configure_unix(&self, paths: &[&PathBuf], backend: SocketAddr) {
        let listen: Vec<String> = paths.iter().map(|path| unix(path)).collect();
        self.configure(&format!(
            "listen = \"{}\"\noffload = \"auto\"\nbackend = \"{backend}\"",
            listen.join(",")
        ));
    }

    fn start(&self) -> TestServer {
        Setup::from_file(&self.file()).program(&self.program()).without_workers().start()
    }

    /// `offramp upgrade`.
    fn ask(&self, server: &TestServer) -> Output {
        Command::new(binary())
            .args(["upgrade", "--admin-socket"])
            .arg(server.admin_socket())
            .output()
            .unwrap()
    }

    /// An upgrade that must fail, and why.
    fn refused(&self, server: &TestServer) -> String {
        let output = self.ask(server);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    }

    /// One that must not.
    fn upgrade(&self, server: &mut TestServer) -> u32 {
        let (old, output) = (server.pid(), self.ask(server));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        let pid = said.strip_prefix("process ").and_then(|rest| rest.split(' ').next()?.parse().ok());
        server.follow(pid.unwrap_or_else(|| panic!("{said}")));
        old
    }
}

/// The new process of an upgrade that is under way.
fn started(server: &TestServer) -> u32 {
    let started = || {
        let said = server.stderr();
        let rest = said.split_once("upgrade: process ")?.1;
        rest.split(' ').next()?.parse().ok()
    };
    patiently(started).expect("it was started")
}

fn accepted(server: &TestServer) -> u64 {
    server.metrics().sum("offramp_connections_accepted_total", &[])
}

#[test]
fn upgrades_under_load_fail_nobody() {
    if !Loadgen::is_built() {
        return;
    }
    let place = Place::new();
    let trust = PathBuf::from(trust_file(place.files.path()));
    let (_backend, backend) = Loadgen::backend();
    let configure = |workers: usize| {
        place.configure(&format!(
            "listen = \"127.0.0.1:0\"\nbackend = \"{backend}\"\nworkers = {workers}\n\
             [timeouts]\ndrain = \"30m\""
        ));
    };
    configure(2);
    let mut server = place.start();
    let loads = [
        "handshake --tls 1.2,1.3 --resume 0 --request echo --rate 20 -c 200",
        "handshake --tls 1.2,1.3 --resume 1 --allow-full --request echo --rate 40 -c 200",
        "transfer --direction both -c 2",
    ];
    let loads = loads.map(|words| Loadgen::client(&server, &trust, words));
    let first = server.pid();
    for nth in 0..UPGRADES {
        eventually("connections come to this process", || accepted(&server) > 2);
        place.install(&binary());
        // More workers, as many and fewer: sockets are added, and none is closed.
        configure([2, 3, 1, 1, 4][nth % 5]);
        let old = if nth % 2 == 0 { server.upgrade() } else { place.upgrade(&mut server) };
        assert_ne!(old, server.pid());
    }
    assert!(!has_ended(first), "transfers that began in it go on");
    loads.into_iter().for_each(|load| drop(load.report()));
    eventually("the first process ends with its last connection", || has_ended(first));
    let said = server.stderr();
    assert!(!said.contains(" ERROR "), "{said}");
    server.stop();
}

#[test]
fn old_process_keeps_connections_and_sessions_resume() {
    let (place, backend) = (Place::new(), Backend::start(BackendBehavior::Echo));
    place.configure(&format!("listen = \"127.0.0.1:0\"\nbackend = \"{}\"", backend.addr));
    let mut server = place.start();
    let clients = BOTH.map(plain);
    let mut peers = clients.each_ref().map(|client| Peer::open(server.addr, client));
    peers.iter_mut().for_each(|peer| peer.ping(b"before"));
    let old = server.upgrade();
    peers.iter_mut().for_each(|peer| peer.ping(b"after"));
    for client in &clients {
        let mut peer = Peer::open(server.addr, client);
        peer.ping(b"to the new one");
        assert_eq!(peer.kind(), HandshakeKind::Resumed);
    }
    assert!(!has_ended(old));
    for mut peer in peers {
        peer.close_notify();
        assert_eq!(peer.rest(), (Vec::new(), End::Clean));
    }
    eventually("the old process ends", || has_ended(old));
    assert!(accepted(&server) >= 2);
    server.stop();
}

#[test]
fn upgrade_that_fails_leaves_the_old_process_in_force() {
    let (place, backend) = (Place::new(), Backend::start(BackendBehavior::Echo));
    let good = format!("listen = \"127.0.0.1:0\"\nbackend = \"{}\"", backend.addr);
    place.configure(&good);
    let mut server = place.start();
    let mut peer = Peer::open(server.addr, &plain(Version::Tls13));
    let serves = |server: &TestServer, peer: &mut Peer| {
        peer.ping(b"goes on");
        Peer::open(server.addr, &plain(Version::Tls12)).ping(b"as before");
    };
    place.configure(&format!("offload = \"sometimes\"\n{good}"));
    let why = place.refused(&server);
    assert!(
        why.contains("does not start") && why.contains("offramp.toml:1: offload = \"sometimes\""),
        "{why}"
    );
    serves(&server, &mut peer);
    // It has taken the sockets when it finds that it cannot start.
    place.configure(&format!("ticket_keys = \"none\"\n{good}"));
    let why = place.refused(&server);
    assert!(why.contains("does not start") && why.contains("ticket_keys"), "{why}");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap();
    let listeners = ["127.0.0.1:0".to_owned(), taken.to_string()];
    let listener = |listen| format!("[[listener]]\nlisten = \"{listen}\"\nbackend = \"{}\"\n", backend.addr);
    place.configure(&listeners.map(listener).concat());
    let why = place.refused(&server);
    assert!(why.contains("does not start") && why.contains("in use"), "{why}");
    serves(&server, &mut peer);
    for _ in 0..3 {
        server.metrics();
        let answer = ask_socket(server.admin_socket(), "GET /healthz HTTP/1.1\r\n\r\n").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "admin goes on too: {answer}");
    }
    place.configure(&good);
    place.install_script("exit 3");
    let why = place.refused(&server);
    assert!(why.contains("ended before it was ready") && why.contains("exit code 3"), "{why}");
    fs::remove_file(place.program()).unwrap();
    let why = place.refused(&server);
    assert!(why.contains("cannot be executed: ENOENT"), "{why}");
    signal(server.pid(), "USR2");
    eventually("the log says so", || server.stderr().contains("SIGUSR2: "));
    assert!(server.stderr().contains("this process goes on serving"), "{}", server.stderr());
    serves(&server, &mut peer);
    place.install(&binary());
    place.upgrade(&mut server);
    serves(&server, &mut peer);
    server.stop();
}

#[test]
fn upgrade_to_a_hanging_process_ends_at_the_deadline() {
    let (place, backend) = (Place::new(), Backend::start(BackendBehavior::Echo));
    place.configure(&format!("listen = \"127.0.0.1:0\"\nbackend = \"{}\"", backend.addr));
    let server = place.start();
    place.install_script("exec sleep 600");
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| place.refused(&server));
        let hanging = started(&server);
        let second = place.refused(&server);
        assert!(second.contains("an upgrade is under way"), "{second}");
        server.reload("SIGHUP: an upgrade is under way");
        Peer::open(server.addr, &plain(Version::Tls13)).ping(b"meanwhile");
        let why = asked.join().unwrap();
        assert!(has_ended(hanging));
        why
    });
    assert!(asked.contains("was not ready in time; it was killed"), "{asked}");
    server.reload("SIGHUP: listeners, pools, limits and timeouts in force");
    server.stop();
}

/// Both processes have the sockets of admin, and a change of the configuration must not reach the new one
/// before it serves.
#[test]
fn admin_waits_in_a_new_process_until_it_serves() {
    let (place, backend) = (Place::new(), Backend::start(BackendBehavior::Echo));
    place.configure(&format!("listen = \"127.0.0.1:0\"\nbackend = \"{}\"", backend.addr));
    let mut server = place.start();
    let old = server.pid();
    let go = place.files.path().join("go");
    let wait = format!("until [ -e {} ]; do sleep 0.1; done", go.display());
    place.install_script(&format!("{wait}\nexec {} \"$@\"", binary().display()));
    signal(old, "USR2");
    let new = started(&server);
    eventually("it has its sockets", || server.stderr().contains("was given the listening sockets"));
    signal(old, "STOP");
    fs::write(&go, "").unwrap();
    eventually("the new process has a thread for admin", || {
        let threads = fs::read_dir(format!("/proc/{new}/task")).ok().into_iter().flatten().flatten();
        let names = threads.filter_map(|it| fs::read_to_string(it.path().join("comm")).ok());
        names.filter(|name| name.trim() == "offramp-admin").count() == 2
    });
    let mut client = TcpStream::connect(server.admin()).unwrap();
    client.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let early = client.read(&mut [0; 64]);
    assert!(early.is_err(), "an answer of {early:?} bytes while the old process stands still");
    signal(old, "CONT");
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    eventually("the new process serves", || server.stderr().contains(&format!("process {new} accepts")));
    server.follow(new);
    Peer::open(server.addr, &plain(Version::Tls13)).ping(b"to the new one");
    assert!(server.control("GET /v1/config").starts_with("HTTP/1.1 200 "));
    server.stop();
}

#[test]
fn unix_socket_file_remains_while_a_process_serves_it() {
    let (place, backend) = (Place::new(), Backend::start(BackendBehavior::Echo));
    let [one, two] = ["one.sock", "two.sock"].map(|name| place.files.path().join(name));
    place.configure_unix(&[&one, &two], backend.addr);
    let mut server = place.start();
    let ping = |path: &Path| {
        let name = offramp_testing::identity::NAME;
        let mut peer = Peer::over(dial_unix(&unix(path)), &plain(Version::Tls13), name);
        peer.handshake().unwrap();
        peer.ping(b"there and back");
    };
    [&one, &two].into_iter().for_each(|path| ping(path));
    let old = server.upgrade();
    eventually("the old process ends", || has_ended(old));
    [&one, &two].into_iter().for_each(|path| ping(path));
    place.configure_unix(&[&one], backend.addr);
    let old = place.upgrade(&mut server);
    eventually("the old process ends", || has_ended(old));
    ping(&one);
    assert!(!two.exists(), "nobody listens there any more");
    server.stop();
    assert!(!one.exists());
}

#[test]
fn unix_socket_gets_its_mode_with_the_upgrade() {
    let (place, backend) = (Place::new(), Backend::start(BackendBehavior::Echo));
    let path = place.files.path().join("one.sock");
    let configure = |first: &str, mode: &str| {
        place.configure(&format!(
            "{first}listen = \"unix:{}\"\nsocket_mode = \"{mode}\"\noffload = \"auto\"\nbackend = \"{}\"",
            path.display(),
            backend.addr
        ));
    };
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
    configure("", "0600");
    let mut server = place.start();
    configure("ticket_keys = \"none\"\n", "0666");
    let why = place.refused(&server);
    assert!(why.contains("ticket_keys") && mode() == 0o600, "{why}");
    configure("", "0666");
    place.upgrade(&mut server);
    eventually("the new process has changed it", || mode() == 0o666);
    server.reload("SIGHUP: listeners, pools, limits and timeouts in force");
    assert!(!server.stderr().contains("not in force until"), "{}", server.stderr());
    server.stop();
}

#[test]
fn socket_file_out_of_reach_is_named() {
    let (place, backend) = (Place::new(), Backend::start(BackendBehavior::Echo));
    let other = scratch();
    let (one, two) = (place.files.path().join("one.sock"), other.path().join("two.sock"));
    place.configure_unix(&[&one, &two], backend.addr);
    let mut server = place.start();
    place.configure_unix(&[&one], backend.addr);
    place.upgrade(&mut server);
    // Where the kernel has no Landlock, nothing keeps the new process from removing it.
    let named = format!("try: rm {}", two.display());
    eventually("it is removed or named", || !two.exists() || server.stderr().contains(&named));
    assert_eq!(two.exists(), server.stderr().contains("landlock (ABI"), "{}", server.stderr());
    server.stop();
    assert!(!one.exists());
}
