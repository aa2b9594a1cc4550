//! Pools: which endpoint a connection goes to, and what becomes of it where that one does not serve.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::foreign::Typed;
use offramp_testing::identity::{Identity, NAME};
use offramp_testing::peer::{End, Peer, Version, plain};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{eventually, scratch};
use rustls::ClientConfig;

/// Each says its own name.
fn backends() -> [Backend; 3] {
    ["one", "two", "three"].map(|name| Backend::start(BackendBehavior::Says(name)))
}

fn list(backends: &[Backend]) -> String {
    backends.iter().map(|backend| backend.addr.to_string()).collect::<Vec<_>>().join(", ")
}

/// Who answers a client that asks for this name.
fn answer_to(addr: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> String {
    let mut peer = Peer::dial(addr, config, name);
    peer.handshake().unwrap_or_else(|error| panic!("{name}: {error}"));
    let (answer, end) = peer.rest();
    assert_eq!(end, End::Clean, "{name}");
    peer.close_notify();
    String::from_utf8(answer).expect("a name")
}

fn answer(server: &TestServer) -> String {
    answer_to(server.addr, &plain(Version::Tls13), NAME)
}

fn answers(server: &TestServer, count: usize) -> BTreeMap<String, usize> {
    let mut by_name = BTreeMap::new();
    for _ in 0..count {
        *by_name.entry(answer(server)).or_default() += 1;
    }
    by_name
}

#[test]
fn connections_go_to_all_endpoints_by_weight() {
    let backends = backends();
    let server = Setup::new(format!("{} weight=2", list(&backends))).start();
    let by_name = answers(&server, 12);
    assert_eq!(by_name, BTreeMap::from([("one".into(), 3), ("two".into(), 3), ("three".into(), 6)]));
    server.stop();
}

#[test]
fn a_refused_connect_goes_on_to_the_next() {
    let mut backends = backends();
    backends[0].refuse();
    let server = Setup::new(list(&backends)).start();
    let by_name = answers(&server, 8);
    assert!(by_name.len() == 2 && !by_name.contains_key("one"), "{by_name:?}");
    assert_eq!(server.settled().faults().len(), 0, "nobody noticed");
    eventually("it is taken out", || server.stderr().contains("is down: 3 connections in a row have failed"));
    backends[0].resume();
    eventually("it is tried again", || answer(&server) == "one");
    server.stop();
}

#[test]
fn a_silent_endpoint_is_given_up_for_the_next() {
    // A backlog that is full answers nothing: what comes is the second endpoint's doing.
    let silent = offramp::sys::socket::listener(([127, 0, 0, 1], 0).into(), false, 0).expect("a free port");
    let addr = offramp::sys::socket::local_addr(std::os::fd::AsFd::as_fd(&silent)).expect("it is bound");
    let _queued: Vec<_> = (0..2).map(|_| std::net::TcpStream::connect(addr)).take(1).collect();
    let backend = Backend::start(BackendBehavior::Says("two"));
    let server = Setup::new(format!("{addr}, {}", backend.addr)).flags("--connect-timeout 8s").start();
    let by_name = answers(&server, 2);
    assert_eq!(by_name, BTreeMap::from([("two".into(), 2)]));
    assert_eq!(server.settled().faults().len(), 0);
    server.stop();
}

#[test]
fn a_backup_serves_when_nobody_else_does() {
    let mut backends = backends();
    let server = Setup::new(format!("{} backup", list(&backends))).start();
    assert!(!answers(&server, 6).contains_key("three"));
    backends[0].refuse();
    backends[1].refuse();
    assert_eq!(answers(&server, 3), BTreeMap::from([("three".into(), 3)]));
    server.stop();
}

#[test]
fn a_pool_without_an_endpoint_is_a_named_fault() {
    let mut backend = Backend::start(BackendBehavior::Echo);
    let server =
        Setup::new(format!("{} max_connections=1", backend.addr)).flags("--health-check tcp").start();
    let config = plain(Version::Tls13);
    let mut first = Peer::open(server.addr, &config);
    first.ping(b"the only one");
    let before = server.metrics();
    let mut second = Peer::open(server.addr, &config);
    assert!(matches!(second.rest().1, End::Alert(text) if text.contains("InternalError")));
    assert_eq!(server.faulted(&before, 1), ["no_endpoint"]);
    first.close_notify();
    assert_eq!(first.rest().1, End::Clean);
    backend.refuse();
    eventually("the probe finds nobody", || server.stderr().contains("is down: it does not answer"));
    backend.resume();
    eventually("the probe finds it again", || server.stderr().contains("is up again"));
    Peer::open(server.addr, &config).ping(b"again");
    server.stop();
}

#[test]
fn unresolved_host_name_does_not_prevent_the_start() {
    let backend = Backend::start(BackendBehavior::Says("two"));
    let nowhere = "nowhere.invalid:80";
    let server = Setup::new(format!("{nowhere}, localhost:{}", backend.addr.port())).start();
    assert_eq!(answer(&server), "two");
    let log = server.stderr();
    assert!(
        log.contains("nowhere.invalid:80 cannot be resolved: ") && log.contains("getent ahosts"),
        "{log}"
    );
    server.stop();
    let alone = Setup::new(nowhere).start();
    let before = alone.metrics();
    let mut peer = Peer::open(alone.addr, &plain(Version::Tls13));
    assert!(matches!(peer.rest().1, End::Alert(text) if text.contains("InternalError")));
    assert_eq!(alone.faulted(&before, 1), ["no_endpoint"]);
    alone.stop();
}

#[test]
fn a_client_stays_with_its_endpoint_by_hash() {
    let backends = backends();
    for balance in ["hash-client", "hash-sni"] {
        let server = Setup::new(list(&backends)).flags(&format!("--balance {balance}")).start();
        assert_eq!(answers(&server, 6).len(), 1, "{balance}");
        server.stop();
    }
}

/// A server with a file that has these pools and routes.
fn routed(dir: &Path, backends: &[Backend], alpn: &str) -> TestServer {
    let (certificate, key) = Identity::ecdsa().write(dir);
    let [one, two, three] = backends else { panic!("three") };
    let text = format!(
        "alpn = [{alpn}]\n[[identity]]\ncertificate = {certificate:?}\nkey = {key:?}\n\
         [[pool]]\nname = \"msrp\"\nbackend = \"{}\"\n[[pool]]\nname = \"web\"\nbackend = \"{}\"\n\
         [[listener]]\nlisten = \"127.0.0.1:0\"\nbackend = \"{}\"\n\
         [[listener.route]]\nsni = [\"*.msrp.example\"]\npool = \"msrp\"\n\
         [[listener.route]]\nalpn = [\"web\"]\npool = \"web\"\n",
        one.addr, two.addr, three.addr
    );
    let file = dir.join("offramp.toml");
    std::fs::write(&file, text).expect("a file");
    Setup::from_file(&file).start()
}

/// Without verifying the name, which the certificate does not have.
fn asking(alpn: &[u8]) -> Arc<ClientConfig> {
    let mut config = (*plain(Version::Tls13)).clone();
    config.alpn_protocols = vec![alpn.to_vec()];
    offramp_testing::peer::trusting_any_name(&mut config);
    Arc::new(config)
}

#[test]
fn routes_lead_by_name_and_by_protocol() {
    let (backends, dir) = (backends(), scratch());
    let server = routed(dir.path(), &backends, "\"msrp\", \"web\"");
    for (name, alpn, expected) in [
        ("a.msrp.example", &b"msrp"[..], "one"),
        ("a.b.msrp.example", b"web", "one"),
        ("other.example", b"web", "two"),
        ("other.example", b"msrp", "three"),
        ("msrp.example", b"msrp", "three"),
    ] {
        assert_eq!(answer_to(server.addr, &asking(alpn), name), expected, "{name} {}", alpn.escape_ascii());
    }
    server.stop();
}

#[test]
fn endpoints_change_at_a_reload() {
    let (backends, dir) = (backends(), scratch());
    let server = routed(dir.path(), &backends, "\"web\"");
    assert_eq!(answer_to(server.addr, &asking(b"web"), "other.example"), "two");
    let file = dir.path().join("offramp.toml");
    let text = std::fs::read_to_string(&file).expect("it is there");
    let changed = text.replace(&backends[1].addr.to_string(), &backends[0].addr.to_string());
    std::fs::write(&file, changed).expect("a file");
    server.reload("SIGHUP: listeners");
    assert_eq!(answer_to(server.addr, &asking(b"web"), "other.example"), "one");
    std::fs::write(&file, text.replace("pool = \"web\"", "pool = \"wbe\"")).expect("a file");
    server.reload("there is no pool \"wbe\"");
    assert_eq!(answer_to(server.addr, &asking(b"web"), "other.example"), "one", "all stays");
    server.stop();
}

#[test]
fn a_pass_through_reads_the_name_and_changes_nothing() {
    let dir = scratch();
    // Behind the pass-through another server of ours ends the TLS.
    let backend = Backend::start(BackendBehavior::Echo);
    let inner = Setup::new(backend.addr).start();
    let refused = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let text = format!(
        "mode = \"passthrough\"\n[[pool]]\nname = \"inner\"\nbackend = \"{}\"\n\
         [[listener]]\nlisten = \"127.0.0.1:0\"\nbackend = \"{refused}\"\n\
         [[listener.route]]\nsni = \"offramp.test\"\npool = \"inner\"\n",
        inner.addr
    );
    let file = dir.path().join("offramp.toml");
    std::fs::write(&file, text).expect("a file");
    let outer = Setup::from_file(&file).start();
    let mut peer = Peer::open(outer.addr, &plain(Version::Tls13));
    peer.ping(&[7; 50_000]);
    peer.close_notify();
    assert_eq!(peer.rest().1, End::Clean);
    drop(peer);
    let before = outer.metrics();
    let mut other = Peer::dial(outer.addr, &asking(b"web"), "elsewhere.example");
    let error = other.handshake().expect_err("nobody is there").to_string();
    assert!(error.contains("InternalError"), "an alert comes first: {error}");
    assert_eq!(outer.faulted(&before, 1), ["backend_refused"]);
    let before = outer.metrics();
    offramp_testing::peer::end_of_dial(outer.addr, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(outer.faulted(&before, 1), ["not_tls"]);
    drop(other);
    outer.stop();
    inner.stop();
}

/// Which version it is, is between the client and the server.
#[test]
fn passthrough_relays_old_versions_of_tls() {
    let dir = scratch();
    let words = "-tls1_1 -cipher ALL:@SECLEVEL=0";
    let (_server, addr) = Typed::openssl_server(dir.path(), &format!("-rev {words}"));
    let text = format!("mode = \"passthrough\"\nlisten = \"127.0.0.1:0\"\nbackend = \"{addr}\"\n");
    let file = dir.path().join("offramp.toml");
    std::fs::write(&file, text).expect("a file");
    let server = Setup::from_file(&file).start();
    let mut client = Typed::openssl(server.addr, dir.path(), words);
    client.write(b"a question\n");
    client.await_text("noitseuq a");
    client.kill();
    server.stop();
}

/// What a refused file no longer has is still in force, and so are its host names.
#[test]
fn a_refused_reload_forgets_no_host_name() {
    let (backend, dir) = (Backend::start(BackendBehavior::Says("two")), scratch());
    let (certificate, key) = Identity::ecdsa().write(dir.path());
    let file = dir.path().join("offramp.toml");
    let write = |backend: String, key: &Path| {
        let text = format!(
            "listen = \"127.0.0.1:0\"\nbackend = \"{backend}\"\n[[identity]]\ncertificate = {certificate:?}\n\
             key = {key:?}\n"
        );
        std::fs::write(&file, text).expect("a file");
    };
    let named = format!("localhost:{}", backend.addr.port());
    write(named, &key);
    let server = Setup::from_file(&file).start();
    assert_eq!(answer_to(server.addr, &plain(Version::Tls13), NAME), "two");
    write(backend.addr.to_string(), &dir.path().join("gone.key"));
    server.reload("the configuration in force stays");
    // The certificate is renewed: what is in force is read again.
    let renewed = Identity::ecdsa();
    std::fs::write(dir.path().join("next"), &renewed.certificate).expect("a file");
    std::fs::rename(dir.path().join("next"), &certificate).expect("a file");
    eventually("it was read", || server.stderr().contains("changed and in force"));
    assert_eq!(answer_to(server.addr, &plain(Version::Tls13), NAME), "two");
    server.stop();
}

/// A certificate that a connection would refuse takes an endpoint out before any connection fails.
#[test]
fn endpoint_with_a_wrong_certificate_gets_nothing() {
    let backends = backends();
    let good = Setup::new(backends[0].addr).identities(&[Identity::ecdsa()]).start();
    let wrong = Setup::new(backends[1].addr).identities(&[Identity::one()]).start();
    let files = scratch();
    let (authority, _) = Identity::ecdsa().write(files.path());
    let flags = format!(
        "--mode reencrypt --server-name {NAME} --server-ca {} --health-check tls",
        authority.display()
    );
    let server = Setup::new(format!("{}, {}", good.addr, wrong.addr)).flags(&flags).start();
    let down = format!("{} is down: its TLS handshake has failed: peer_certificate_refused", wrong.addr);
    eventually("the probe refuses it", || server.stderr().contains(&down));
    assert_eq!(answers(&server, 4), BTreeMap::from([("one".into(), 4)]));
    assert_eq!(server.settled().faults().len(), 0, "nobody noticed");
    // The endpoint gets the right certificate, key first: a pair that does not match yet is not used.
    for (file, content) in [("key", &Identity::ecdsa().key), ("crt", &Identity::ecdsa().certificate)] {
        let path = wrong.certificate(Identity::one()).with_extension(file);
        std::fs::write(path, content).expect("a file");
    }
    eventually("it is mended", || server.stderr().contains(&format!("{} is up again", wrong.addr)));
    eventually("it serves", || answer(&server) == "two");
    [server, good, wrong].into_iter().for_each(TestServer::stop);
}

#[test]
fn probe_follows_the_authorities_that_change() {
    let (backend, files) = (Backend::start(BackendBehavior::Says("one")), scratch());
    let inner = Setup::new(backend.addr).identities(&[Identity::ecdsa()]).start();
    let authority = files.path().join("ca.pem");
    std::fs::write(&authority, &Identity::one().certificate).expect("a file");
    let flags = format!("--mode reencrypt --server-name {NAME} --server-ca {}", authority.display());
    let server = Setup::new(inner.addr).flags(&flags).flags("--health-check tls").start();
    eventually("the probe refuses it", || server.stderr().contains("is down: its TLS handshake has failed"));
    std::fs::write(files.path().join("next"), &Identity::ecdsa().certificate).expect("a file");
    std::fs::rename(files.path().join("next"), &authority).expect("a file");
    eventually("it is trusted", || server.stderr().contains("is up again"));
    assert_eq!(answer(&server), "one");
    [server, inner].into_iter().for_each(TestServer::stop);
}

#[test]
fn endpoint_with_a_wrong_answer_gets_nothing() {
    let echo = Backend::start(BackendBehavior::Echo);
    let wrong = Backend::start(BackendBehavior::Says("-ERR"));
    let server = Setup::new(format!("{}, {}", wrong.addr, echo.addr))
        .flags("--health-check tcp --health-send PING\\x0d\\n --health-expect PING\\r\\n")
        .start();
    let down = format!("{} is down: its answer does not contain health_expect", wrong.addr);
    eventually("the probe refuses it", || server.stderr().contains(&down));
    let config = plain(Version::Tls13);
    for _ in 0..4 {
        Peer::open(server.addr, &config).ping(b"to the other");
    }
    server.stop();
}
