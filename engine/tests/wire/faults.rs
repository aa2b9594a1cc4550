//! Faults in the log: who it was, where, and what was offending; a flood is a few lines, and none is lost.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use rustls::ClientConnection;
use socket2::{Domain, Socket, Type};

use crate::peers::{Client, authority, refused, serve};
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::Identity;
use offramp_testing::peer::{Peer, Version, dial, drain, plain};
use offramp_testing::server::{Setup, TestServer, identity_flags};
use offramp_testing::tools::{eventually, patiently, pause, scratch, skip};

/// Sends this to the TLS port, waits for the end, and gives the address that it came from.
fn send(server: &TestServer, bytes: &[u8]) -> SocketAddr {
    let mut tcp = dial(server.addr);
    let from = tcp.local_addr().expect("it is connected");
    let _ = tcp.write_all(bytes);
    drain(&tcp);
    from
}

/// The first line of the log about a fault, once it is there.
fn line(server: &TestServer, fault: &str) -> String {
    let start = format!("fault {fault} ").replace(": ", ":");
    let find = || server.stderr().lines().find(|line| line.contains(&start)).map(str::to_owned);
    patiently(find).unwrap_or_else(|| panic!("no line about {fault}: {}", server.stderr()))
}

fn says(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "no {part:?} in: {line}");
    }
    assert!(line.bytes().all(|byte| byte == b'\t' || (0x20..0x7f).contains(&byte)), "{line:?}");
}

/// Of a client that asks for this name.
fn hello(version: Version, name: &str) -> Vec<u8> {
    let name = name.to_owned().try_into().expect("a name");
    let mut client = ClientConnection::new(plain(version), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("memory");
    bytes
}

#[test]
fn faults_name_client_listener_and_first_bytes() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let from = send(&server, b"GET /\r\n2026 ERROR \x1b[31m\"forged\" HTTP/1.0\r\n\r\n");
    let line = line(&server, "not_tls");
    says(&line, &[&format!("client={from} "), &format!("listener={} ", server.addr), "count=1 "]);
    says(&line, &[r#"reason="GET /\r\n2026 ERRO""#]);
    server.stop();
}

#[test]
fn faults_name_the_client_that_has_reset() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let mut peer = Peer::open(server.addr, &plain(Version::Tls13));
    peer.ping(b"there");
    let from = peer.tcp.local_addr().expect("it is connected");
    peer.reset();
    says(&line(&server, "tls_peer_reset"), &[&format!("client={from} "), "error=ECONNRESET"]);
    server.stop();
}

#[test]
fn faults_name_the_server_name_and_the_versions() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--unknown-name refuse").start();
    send(&server, &hello(Version::Tls13, "stranger.example"));
    says(&line(&server, "unknown_name"), &[r#"sni="stranger.example""#, "offered=TLS1.3"]);
    // The same hello, its version and its list of versions lowered to TLS 1.1.
    let mut old = hello(Version::Tls13, "offramp.test");
    old[10] = 2;
    let versions = old.windows(7).position(|bytes| bytes == [0, 43, 0, 3, 2, 3, 4]).expect("it lists one");
    old[versions + 6] = 2;
    send(&server, &old);
    says(&line(&server, "no_common_version"), &[r#"sni="offramp.test""#, "offered=TLS1.1"]);
    server.stop();
}

#[test]
fn faults_name_what_a_client_says_in_its_alert() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let mut misled = Peer::dial(server.addr, &plain(Version::Tls13), "other.test");
    assert!(misled.handshake().is_err());
    let _ = misled.flush();
    drop(misled);
    says(&line(&server, "alert_in_handshake:"), &["bad_certificate (42)", r#"sni="other.test""#]);
    server.stop();
}

#[test]
fn faults_name_why_a_certificate_is_refused() {
    let (backend, files) = (Backend::start(BackendBehavior::Echo), scratch());
    let (_, authority) = authority(files.path(), "authority.pem");
    let flags = format!("--client-auth require --client-ca {}", authority.display());
    let server = Setup::new(backend.addr).flags(&flags).start();
    let stranger = Client::self_signed();
    refused(&server, &stranger.config(Version::Tls13), "", "peer_certificate_refused");
    says(
        &line(&server, "peer_certificate_refused"),
        &[r#"sni="offramp.test""#, "reason=\"", "UnknownIssuer"],
    );
    server.stop();
}

#[test]
fn faults_name_whose_fingerprint_is_not_known() {
    let backend = Backend::start(BackendBehavior::Echo);
    let known = Client::self_signed().fingerprint();
    let (server, _files) =
        serve(&backend, &format!("client_auth = \"require\"\nfingerprints = [\"{known}\"]\n"));
    refused(&server, &Client::self_signed().config(Version::Tls12), "", "peer_certificate_refused");
    says(
        &line(&server, "peer_certificate_refused"),
        &[r#"sni="offramp.test""#, "no authority that is configured"],
    );
    server.stop();
}

#[test]
fn faults_name_the_backend_and_the_error() {
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let server = TestServer::start(nobody);
    let mut peer = Peer::open(server.addr, &plain(Version::Tls13));
    let _ = peer.rest();
    says(&line(&server, "backend_refused"), &[&format!("backend={nobody} "), "error=ECONNREFUSED"]);
    server.stop();
}

/// The accepted leg is closed before the connection is over.
#[test]
fn faults_of_originate_name_the_client_and_the_server() {
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let files = scratch();
    let (_, authority) = authority(files.path(), "authority.pem");
    let flags = format!("--mode originate --server-name a.test --server-ca {}", authority.display());
    let server = Setup::new(nobody).identities(&[]).flags(&flags).start();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let from = socket.local_addr().ok().and_then(|addr| addr.as_socket()).expect("it is bound");
    // The reset may come before connect(2) has returned.
    let _ = socket.connect(&server.addr.into());
    let parts = [&*format!("client={from} "), &format!("backend={nobody} "), "error=ECONNREFUSED"];
    says(&line(&server, "backend_refused"), &parts);
    server.stop();
}

/// What the lines about a fault count in all.
fn counted(log: &str, what: &str) -> (usize, u64) {
    let lines = log.lines().filter(|line| line.contains(what));
    let counts = lines.filter_map(|line| line.split("count=").nth(1)?.split(' ').next()?.parse::<u64>().ok());
    counts.fold((0, 0), |(lines, sum), count| (lines + 1, sum + count))
}

#[test]
fn faults_are_all_counted_after_quiet_time_or_exit() {
    const FIRST: u64 = 40;
    let backend = Backend::start(BackendBehavior::Echo);
    let mut server = TestServer::start(backend.addr);
    let before = server.metrics();
    for _ in 0..FIRST {
        send(&server, b"GET / HTTP/1.0\r\n\r\n");
    }
    server.faulted(&before, FIRST);
    let what = "fault not_tls ";
    assert!(counted(&server.stderr(), what).0 <= 3, "{}", server.stderr());
    eventually("all are counted", || counted(&server.stderr(), what).1 == FIRST);
    send(&server, b"GET / HTTP/1.0\r\n\r\n");
    server.faulted(&before, FIRST + 1);
    server.terminate();
    assert!(server.await_exit().success());
    assert_eq!(counted(&server.stderr(), what).1, FIRST + 1, "{}", server.stderr());
}

/// Sets the soft limit on open files; `None` if that is not to be had.
fn limit_descriptors(server: &TestServer, limit: usize) -> Option<()> {
    let words = ["--pid".to_owned(), server.pid().to_string(), format!("--nofile={limit}:")];
    let done = Command::new("prlimit").args(words).status().is_ok_and(|status| status.success());
    if !done {
        skip("the limit of another process cannot be set: apt-get install util-linux");
    }
    done.then_some(())
}

#[test]
fn descriptor_shortage_logs_few_lines_and_recovers() {
    let backend = Backend::start(BackendBehavior::Echo);
    // Accepts are started ahead under the limit that there was: with few slots no more than 16 of them.
    let mut server = Setup::new(backend.addr).flags("--max-connections 100").start();
    let mut held = Peer::open(server.addr, &plain(Version::Tls13));
    held.ping(b"before");
    let unaccepted = |server: &TestServer| counted(&server.stderr(), "a connection could not be accepted");
    let (open, before) = (server.descriptors(), server.metrics());
    let Some(()) = limit_descriptors(&server, open + 3) else { return server.stop() };
    let waiting: Vec<_> =
        (0..40).map(|_| TcpStream::connect(server.addr).expect("the backlog has room")).collect();
    eventually("accepting is refused", || unaccepted(&server).0 > 0);
    for _ in 0..200 {
        held.ping(b"goes on");
        pause();
    }
    assert_eq!(unaccepted(&server).0, 1, "a line in ten seconds: {}", server.stderr());
    let log = server.stderr();
    says(
        log.lines().last().expect("a line"),
        &["error=EMFILE", &format!("listener={}", server.addr), "raise LimitNOFILE"],
    );
    limit_descriptors(&server, open + 500).expect("it was possible before");
    eventually("all are accepted", || server.metrics().accepted() == before.accepted() + 40);
    drop(waiting);
    Peer::open(server.addr, &plain(Version::Tls12)).ping(b"a new one");
    held.ping(b"after");
    drop(held);
    server.settled();
    server.terminate();
    assert!(server.await_exit().success());
    assert!(unaccepted(&server).1 > 1, "the rest is counted at the end: {}", server.stderr());
}

#[test]
fn inherited_descriptors_reduce_max_connections() {
    const LIMIT: usize = 700;
    let (backend, files) = (Backend::start(BackendBehavior::Echo), scratch());
    let mut script = Command::new("bash");
    script.args(["-c", "for i in $(seq 200); do exec {fd}</dev/null; done; ulimit -n $0; exec \"$@\""]);
    script.arg(LIMIT.to_string()).arg(env!("CARGO_BIN_EXE_offramp")).arg("serve");
    script.args(["--listen", "127.0.0.1:0", "--workers", "1", "--backend", &backend.addr.to_string()]);
    script.args(identity_flags(Identity::ecdsa(), files.path())).args(["--drain-timeout", "10ms"]);
    let mut child = script
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("bash runs");
    let pid = child.id();
    let ready = {
        use std::io::{BufRead, BufReader};
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        line
    };
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    offramp_testing::tools::signal(pid, "TERM");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(ready.contains("offramp ready") && open > 200, "{ready} {open} {said}");
    let lowered = said.split("max_connections lowered from 10000 to ").nth(1).expect("it says so");
    let slots: usize = lowered.split(':').next().expect("a number").parse().expect("a number");
    assert!(slots > 0 && open + 2 * slots + 64 <= LIMIT, "{slots} slots with {open} open: {said}");
}
