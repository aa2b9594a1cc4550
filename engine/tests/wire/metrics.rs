//! What is counted by listener, pool and endpoint, and how long the phases of connections take.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::Identity;
use offramp_testing::metrics::Metrics;
use offramp_testing::peer::{BOTH, End, Peer, Version, end_of_dial, plain};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tls_server;
use offramp_testing::tools::{eventually, scratch};
use rustls::{CipherSuite, ClientConfig, RootCertStore};

fn unused() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("it is bound")
}

/// A file with these listeners, which share a backend.
fn write(directory: &Path, backend: SocketAddr, listeners: &[SocketAddr]) {
    let (certificate, key) = Identity::ecdsa().write(directory);
    let mut text = format!("[[identity]]\ncertificate = {certificate:?}\nkey = {key:?}\n");
    for listener in listeners {
        text.push_str(&format!("[[listener]]\nlisten = \"{listener}\"\nbackend = \"{backend}\"\n"));
    }
    fs::write(directory.join("offramp.toml"), text).expect("it is ours");
}

fn exchange(addr: SocketAddr, config: &Arc<ClientConfig>) {
    let mut peer = Peer::open(addr, config);
    peer.ping(b"hello");
    peer.close_notify();
    assert_eq!(peer.rest().1, End::Clean);
}

fn of(metrics: &Metrics, name: &str, listener: SocketAddr) -> u64 {
    metrics.sum(name, &[("listener", &listener.to_string())])
}

#[test]
fn metrics_of_a_removed_listener_stay() {
    let (backend, files, both) = (Backend::start(BackendBehavior::Echo), scratch(), [unused(), unused()]);
    write(files.path(), backend.addr, &both);
    let server = Setup::from_file(&files.path().join("offramp.toml")).flags("--workers 2").start();
    let config = plain(Version::Tls13);
    exchange(both[0], &config);
    (0..2).for_each(|_| exchange(both[1], &config));
    let metrics = server.settled();
    for name in ["offramp_connections_accepted_total", "offramp_connections_closed_total"] {
        assert_eq!(both.map(|listener| of(&metrics, name, listener)), [1, 2], "{name}: {}", metrics.raw);
    }
    assert_eq!(both.map(|listener| of(&metrics, "offramp_handshakes_total", listener)), [1, 2]);
    assert_eq!(both.map(|listener| of(&metrics, "offramp_bytes_total", listener)), [10, 20]);
    // It is removed while it has a connection, and comes back.
    let mut held = Peer::open(both[1], &config);
    held.ping(b"hello");
    let open = || of(&server.metrics(), "offramp_connections_open", both[1]);
    eventually("it is open", || open() == 1);
    for listeners in [&both[..1], &both] {
        write(files.path(), backend.addr, listeners);
        server.reload("SIGHUP: listeners");
    }
    exchange(both[1], &config);
    eventually("it counts on", || of(&server.metrics(), "offramp_connections_closed_total", both[1]) == 3);
    assert_eq!(of(&server.metrics(), "offramp_connections_accepted_total", both[1]), 4);
    write(files.path(), backend.addr, &both[..1]);
    server.reload("SIGHUP: listeners");
    assert_eq!(open(), 1);
    held.close_notify();
    held.rest();
    eventually("it has ended", || open() == 0);
    // A scraper gets the last values, however often others look; they go by time, which a unit test has.
    for _ in 0..8 {
        assert_eq!(of(&server.metrics(), "offramp_connections_closed_total", both[1]), 4);
    }
    assert_eq!(of(&server.metrics(), "offramp_connections_accepted_total", both[0]), 1);
    server.stop();
}

#[test]
fn metrics_name_suite_group_and_kind_of_each_leg() {
    let files = scratch();
    Identity::ecdsa().write(files.path());
    let authority = files.path().join("ecdsa.crt");
    let far = tls_server::echo(Version::Tls12, SUITE_12, usize::MAX);
    let name = offramp_testing::identity::NAME;
    let flags = format!("--mode reencrypt --server-name {name} --server-ca {}", authority.display());
    let server = Setup::new(far).identities(&[Identity::ecdsa()]).flags(&flags).start();
    let config = plain(Version::Tls13);
    (0..2).for_each(|_| exchange(server.addr, &config));
    let metrics = server.settled();
    let count = |labels: &[(&str, &str)]| metrics.sum("offramp_handshakes_total", labels);
    let near = [("leg", "near"), ("version", "1.3")];
    assert_eq!(count(&[&near[..], &[("kind", "full")]].concat()), 1, "{}", metrics.raw);
    assert_eq!(count(&[&near[..], &[("kind", "resumed")]].concat()), 1, "{}", metrics.raw);
    let far = [("leg", "far"), ("version", "1.2"), ("suite", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")];
    assert_eq!(count(&far), 2, "{}", metrics.raw);
    assert_eq!(count(&[("group", "none"), ("kind", "full")]), 0, "{}", metrics.raw);
    for (name, labels, expected) in [
        ("offramp_accept_to_hello_seconds_count", &[][..], 2),
        ("offramp_handshake_seconds_count", &[("leg", "near"), ("kind", "full")], 1),
        ("offramp_handshake_seconds_count", &[("leg", "near"), ("kind", "resumed")], 1),
        ("offramp_handshake_seconds_count", &[("leg", "far")], 2),
        ("offramp_connect_seconds_count", &[], 2),
        ("offramp_first_byte_seconds_count", &[], 2),
        ("offramp_connection_seconds_count", &[], 2),
        ("offramp_connection_seconds_bucket", &[("le", "+Inf")], 2),
    ] {
        assert_eq!(metrics.sum(name, labels), expected, "{name}: {}", metrics.raw);
    }
    server.stop();
}

const SUITE_12: CipherSuite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;

fn alerts(server: &TestServer, direction: &str, alert: &str) -> u64 {
    let labels = [("leg", "near"), ("direction", direction), ("alert", alert)];
    server.settled().sum("offramp_alerts_total", &labels)
}

#[test]
fn metrics_name_alerts_of_both_directions() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    for (nth, version) in BOTH.into_iter().enumerate() {
        exchange(server.addr, &plain(version));
        let closed = ["sent", "received"].map(|direction| alerts(&server, direction, "close_notify"));
        assert_eq!(closed, [nth as u64 + 1; 2], "{version:?}: {}", server.metrics().raw);
    }
    // A client that trusts nobody.
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let mut peer = Peer::dial(server.addr, &Arc::new(config), offramp_testing::identity::NAME);
    peer.handshake().expect_err("it refuses");
    peer.flush().expect("the alert is sent");
    drop(peer);
    assert_eq!(alerts(&server, "received", "unknown_ca"), 1, "{}", server.metrics().raw);
    // A hello that cannot be parsed.
    end_of_dial(server.addr, &[22, 3, 1, 0, 4, 1, 0, 0, 0]);
    assert_eq!(alerts(&server, "sent", "decode_error"), 1, "{}", server.metrics().raw);
    server.stop();
}

#[test]
fn metrics_name_alerts_that_are_sealed() {
    let files = scratch();
    Identity::rsa().write(files.path());
    let far = tls_server::echo(Version::Tls13, CipherSuite::TLS13_AES_128_GCM_SHA256, usize::MAX);
    let name = offramp_testing::identity::NAME;
    let authority = files.path().join("rsa.crt");
    let flags = format!("--mode reencrypt --server-name {name} --server-ca {}", authority.display());
    let server = Setup::new(far).identities(&[Identity::ecdsa()]).flags(&flags).start();
    let mut peer = Peer::open(server.addr, &plain(Version::Tls13));
    peer.rest();
    let metrics = server.settled();
    for (leg, alert) in [("far", "unknown_ca"), ("near", "internal_error")] {
        let labels = [("leg", leg), ("direction", "sent"), ("alert", alert)];
        assert_eq!(metrics.sum("offramp_alerts_total", &labels), 1, "{leg}: {}", metrics.raw);
    }
    server.stop();
}

#[test]
fn metrics_show_the_endpoints_of_a_pool() {
    let (backend, dead) = (Backend::start(BackendBehavior::Echo), unused());
    let server = Setup::new(format!("{}, {dead}", backend.addr)).start();
    let config = plain(Version::Tls13);
    let endpoint =
        |name: &str, endpoint: SocketAddr| server.metrics().sum(name, &[("endpoint", &endpoint.to_string())]);
    let began = endpoint("offramp_endpoint_changed_seconds", dead);
    assert_eq!([dead, backend.addr].map(|it| endpoint("offramp_endpoint_up", it)), [1, 1]);
    eventually("it is down", || {
        exchange(server.addr, &config);
        endpoint("offramp_endpoint_up", dead) == 0
    });
    assert_eq!(endpoint("offramp_endpoint_up", backend.addr), 1);
    assert!(endpoint("offramp_endpoint_changed_seconds", dead) >= began);
    let metrics = server.settled();
    let sum = |name: &str| metrics.required(name);
    let (retries, failures) = (sum("offramp_pool_retries_total"), sum("offramp_pool_failures_total"));
    assert!(retries >= 3 && retries == failures, "{retries} and {failures}: {}", metrics.raw);
    assert_eq!(sum("offramp_pool_attempts_total"), metrics.accepted() + retries, "{}", metrics.raw);
    assert_eq!(sum("offramp_connect_seconds_count"), metrics.accepted(), "{}", metrics.raw);
    server.stop();
}
