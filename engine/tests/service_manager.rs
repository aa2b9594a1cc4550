//! What a service manager such as systemd is notified of, and sockets that it passes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::Identity;
use offramp_testing::peer::{Peer, Version, plain};
use offramp_testing::server::{Setup, binary, identity_flags};
use offramp_testing::service_manager::ServiceManager;
use offramp_testing::tools::{eventually, scratch, signal};

/// A service manager, and the files of its service.
struct Manager {
    files: tempfile::TempDir,
    notified: ServiceManager,
}

impl Manager {
    fn new() -> Self {
        let files = scratch();
        let notified = ServiceManager::new(files.path());
        Self { files, notified }
    }

    /// The next message, but for those of the watchdog.
    fn next_of_state(&self) -> String {
        std::iter::repeat_with(|| self.notified.next_message())
            .find(|message| message != "WATCHDOG=1")
            .unwrap()
    }

    fn expect(&self, start: &str) -> String {
        let message = self.next_of_state();
        assert!(message.starts_with(start), "{start:?}: {message:?}");
        message
    }
}

#[test]
fn manager_is_notified_from_start_to_end() {
    let (manager, backend) = (Manager::new(), Backend::start(BackendBehavior::Echo));
    let path = manager.files.path().join("offramp.toml");
    let write = |first: &str| {
        let (certificate, key) = Identity::ecdsa().files(manager.files.path());
        let text = format!(
            "{first}listen = \"127.0.0.1:0\"\nbackend = \"{}\"\n[[identity]]\ncertificate = \
             {certificate:?}\nkey = {key:?}\n",
            backend.addr
        );
        std::fs::write(&path, text).unwrap();
    };
    Identity::ecdsa().write(manager.files.path());
    write("");
    let setup = Setup::from_file(&path).environment("NOTIFY_SOCKET", manager.notified.path());
    let mut server = setup.environment("WATCHDOG_USEC", "2000000").start();
    let ready = manager.expect("READY=1\nSTATUS=serving: listening on 127.0.0.1:");
    assert_eq!(ready.lines().count(), 2, "{ready}");
    (0..2).for_each(|_| assert_eq!(manager.notified.next_message(), "WATCHDOG=1"));
    server.reload("SIGHUP: listeners, pools");
    let reloading = manager.expect("RELOADING=1\nMONOTONIC_USEC=");
    let micros = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse::<u64>().ok());
    assert!(micros.is_some_and(|micros| micros > 0), "{reloading}");
    manager.expect("READY=1\nSTATUS=serving; the last reload is in force");
    write("max_connections = 0\n");
    server.reload("the configuration in force stays");
    manager.expect("RELOADING=1\n");
    manager.expect("READY=1\nSTATUS=serving; the last reload failed: ");
    signal(server.pid(), "USR2");
    manager.expect("STATUS=serving; the upgrade failed: ");
    write("");
    let old = server.upgrade();
    assert_ne!(old, server.pid());
    manager.expect(&format!("MAINPID={}", server.pid()));
    manager.expect("READY=1\nSTATUS=serving: ");
    assert_eq!(manager.notified.next_message(), "WATCHDOG=1", "the new process has the watchdog");
    server.terminate();
    manager.expect("STOPPING=1\n");
    server.stop();
}

#[test]
fn missing_notify_socket_keeps_nobody_from_serving() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).environment("NOTIFY_SOCKET", "/nowhere/notify").start();
    Peer::open(server.addr, &plain(Version::Tls13)).ping(b"served");
    assert!(
        server.stderr().contains("NOTIFY_SOCKET=/nowhere/notify: the service manager cannot be notified")
    );
    server.stop();
}

/// A server whose first socket is passed as descriptor 3, and its second one as 4. A shell puts them there,
/// and says for whom they are.
struct Activated {
    child: Child,
    files: tempfile::TempDir,
}

impl Activated {
    fn start(sockets: [Option<OwnedFd>; 2], count: usize, listen: &str, backend: &str) -> Self {
        let files = scratch();
        let flags = identity_flags(Identity::ecdsa(), files.path());
        let script = "export LISTEN_PID=$$; exec \"$@\" 3<&0 4<&1 0</dev/null 1>&2";
        let [first, second] = sockets.map(|socket| socket.map_or_else(Stdio::null, Stdio::from));
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(binary()).args([
            "serve",
            "--workers",
            "3",
            "--backend",
            backend,
        ]);
        command.args(["--listen", listen]).args(flags).env("LISTEN_FDS", count.to_string());
        command.env("LISTEN_FDNAMES", "web:other").stdin(first).stdout(second).stderr(Stdio::piped());
        Self { child: command.spawn().unwrap(), files }
    }

    /// How a start was refused.
    fn refused(mut self) -> String {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(1), "{said}");
        assert!(self.files.path().exists());
        said
    }

    fn stop(mut self) {
        signal(self.child.id(), "TERM");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn passed_sockets_are_shared_by_all_workers() {
    let (backend, files) = (Backend::start(BackendBehavior::Echo), scratch());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, path) = (tcp.local_addr().unwrap(), files.path().join("passed.sock"));
    let unix = UnixListener::bind(&path).unwrap();
    let listen = format!("{address},unix:{}", path.display());
    let sockets = [Some(tcp.into()), Some(unix.into())];
    let server = Activated::start(sockets, 2, &listen, &backend.addr.to_string());
    for _ in 0..20 {
        // From the first one on: who connects before it is ready waits in the queue.
        Peer::open(address, &plain(Version::Tls13)).ping(b"over TCP");
    }
    let unix = format!("unix:{}", path.display());
    let tcp = offramp_testing::peer::dial_unix(&unix);
    let mut peer = Peer::over(tcp, &plain(Version::Tls13), offramp_testing::identity::NAME);
    peer.handshake().unwrap();
    peer.ping(b"over a Unix socket");
    drop(peer);
    server.stop();
    assert!(path.exists(), "the file is the service manager's");
}

#[test]
fn wrong_sockets_are_refused_by_name() {
    let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
    let refused =
        |sockets, count, listen: &str| Activated::start(sockets, count, listen, "127.0.0.1:1").refused();
    let one = tcp();
    let address = one.local_addr().unwrap();
    let one = || Some(OwnedFd::from(one.try_clone().unwrap()));
    let said = refused([one(), None], 1, &format!("{address},127.0.0.1:1"));
    assert!(said.contains("1 sockets were passed; passed without a listener: none"), "{said}");
    assert!(said.contains("listeners without a socket: 127.0.0.1:1; try: "), "{said}");
    let said = refused([one(), Some(tcp().into())], 2, &address.to_string());
    assert!(said.contains("2 sockets were passed; passed without a listener: 127.0.0.1:"), "{said}");
    assert!(said.contains("listeners without a socket: none"), "{said}");
    let said = refused([one(), one()], 2, &address.to_string());
    assert!(said.contains("descriptor 4 (\"other\") is bound to"), "{said}");
    let said = refused([one(), None], 3, &address.to_string());
    assert!(said.contains("descriptor 4 (\"other\") is no socket"), "{said}");
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let said = refused([Some(udp.into()), None], 1, &address.to_string());
    assert!(said.contains("descriptor 3 (\"web\") is a datagram socket; try: ListenStream="), "{said}");
    let said = refused([one(), None], 1000, &address.to_string());
    assert!(said.contains("LISTEN_FDS=1000 is refused"), "{said}");
    let dual = TcpListener::bind("[::]:0");
    if let Ok(dual) = dual {
        let address = dual.local_addr().unwrap();
        let said = refused([Some(dual.into()), None], 1, &address.to_string());
        assert!(said.contains("takes IPv4 too") && said.contains("BindIPv6Only=ipv6-only"), "{said}");
    }
}

/// Variables for another process are none of ours.
#[test]
fn sockets_for_another_process_are_not_taken() {
    let backend = Backend::start(BackendBehavior::Echo);
    let setup = Setup::new(backend.addr).environment("LISTEN_FDS", "1").environment("LISTEN_PID", "1");
    let server = setup.start();
    Peer::open(server.addr, &plain(Version::Tls12)).ping(b"bound as ever");
    server.stop();
}

/// `offramp launcher` by hand: it has nobody to obey.
#[test]
fn launcher_ends_where_nobody_can_ask() {
    let mut child = Command::new(binary())
        .args(["launcher", "--", "/bin/false"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it ends", || child.try_wait().unwrap().is_some());
}

#[test]
fn launcher_ends_with_the_process_that_has_started_it() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).start();
    let children = format!("/proc/{0}/task/{0}/children", server.pid());
    let Ok(children) = std::fs::read_to_string(&children) else {
        return offramp_testing::tools::skip("this kernel lists no children: CONFIG_PROC_CHILDREN");
    };
    let launcher: u32 = children.split_whitespace().next().expect("one child").parse().unwrap();
    let comm = || std::fs::read_to_string(format!("/proc/{launcher}/comm")).unwrap_or_default();
    eventually("its name", || comm().trim() == "offramp-launch");
    // Signals that are sent to all of this name do not end it: HUP, INT, USR1, USR2, TERM.
    let caught = || {
        let status = std::fs::read_to_string(format!("/proc/{launcher}/status")).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
        u64::from_str_radix(mask.trim(), 16).unwrap_or_default()
    };
    eventually("signals are caught", || caught() & 0x4a03 == 0x4a03);
    let descriptors = std::fs::read_dir(format!("/proc/{launcher}/fd")).unwrap().flatten();
    let targets = descriptors.filter_map(|it| std::fs::read_link(it.path()).ok());
    let sockets = targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count();
    assert_eq!(sockets, 3, "its channel and the pair of its signals, and none that listens");
    signal(server.pid(), "KILL");
    eventually("it ends", || offramp_testing::tools::has_ended(launcher));
}
