//! The admin address: slow clients, foreign names, HEAD, and what `/healthz` says of full slots.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::metrics::ask;
use offramp_testing::peer::{Peer, Version, plain};
use offramp_testing::server::{Setup, TestServer, refused};
use offramp_testing::tools::{eventually, scratch, signal};

#[test]
fn admin_slow_clients_keep_no_health_check_out() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let mut slow = Vec::new();
    for _ in 0..40 {
        for _ in 0..20 {
            let mut tcp = TcpStream::connect(server.admin()).expect("it listens");
            // One that was ended for others may be gone already.
            let _ = tcp.write_all(b"GET /healthz HTT");
            slow.push(tcp);
        }
        assert!(
            ask(server.admin(), "GET /healthz HTTP/1.0").expect("it answers").starts_with("HTTP/1.1 200 ")
        );
    }
    server.stop();
}

#[test]
fn admin_full_slots_are_a_line_a_gauge_and_a_text() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--max-connections 2").start();
    let full = || server.metrics().required("offramp_workers_full");
    assert_eq!(full(), 0);
    let mut held = [Version::Tls12, Version::Tls13].map(|version| Peer::open(server.addr, &plain(version)));
    held.iter_mut().for_each(|peer| peer.ping(b"held"));
    eventually("the gauge says so", || full() == 1);
    let health = server.ask("GET /healthz");
    assert!(
        health.starts_with("HTTP/1.1 200 ") && health.ends_with("full: 1 of 1 workers have no free slot\n")
    );
    eventually("the log says so", || server.stderr().contains("every slot is in use (max_connections)"));
    drop(held);
    eventually("they are free again", || full() == 0);
    assert!(server.ask("GET /healthz").ends_with("\r\n\r\nok\n"));
    server.stop();
}

#[test]
fn admin_post_that_changes_nothing_logs_nothing() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let turned = || server.stderr().matches("offload turned ").count();
    (0..100).for_each(|_| assert!(server.control("POST /offload/on").ends_with("\r\n\r\non\n")));
    (0..100).for_each(|_| assert!(server.control("POST /offload/off").ends_with("\r\n\r\noff\n")));
    eventually("one line", || turned() == 1);
    assert!(server.control("POST /offload/on").ends_with("\r\n\r\non\n"));
    eventually("and another", || turned() == 2);
    server.stop();
}

#[test]
fn admin_by_tcp_is_read_only() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    for request in ["POST /offload/off", "GET /v1/config", "PUT /v1/config HTTP/1.1\r\nContent-Length: 0"] {
        let head =
            request.split_once(" HTTP").map_or_else(|| format!("{request} HTTP/1.1"), |_| request.into());
        let answer = ask(server.admin(), &format!("{head}\r\nHost: localhost")).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("try: admin_socket ="), "{answer}");
    }
    assert!(server.ask("GET /offload").ends_with("\r\n\r\non\n"));
    for request in ["GET /healthz", "GET /metrics", "GET /offload"] {
        let status = |answer: &str| answer.lines().next().map(str::to_owned);
        assert_eq!(status(&server.ask(request)), status(&server.control(request)), "{request}");
    }
    server.stop();
}

#[test]
fn admin_socket_is_replaced_when_stale_but_not_live() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let path = files.path().join("admin.sock");
    let flags = format!("--admin-socket {}", path.display());
    let mode = || std::fs::symlink_metadata(&path).expect("a socket").permissions().mode() & 0o777;
    let mut killed = Setup::new(backend.addr).flags(&flags).start();
    assert_eq!(mode(), 0o600);
    signal(killed.pid(), "KILL");
    killed.await_exit();
    assert!(path.exists(), "it is left");
    let server = Setup::new(backend.addr).flags(&flags).start();
    assert!(server.control("GET /healthz").ends_with("\r\n\r\nok\n"));
    let words = format!("--listen 127.0.0.1:0 --mode plain --backend {} {flags} --workers 1", backend.addr);
    let refusal = refused(&words.split(' ').map(str::to_owned).collect::<Vec<_>>());
    assert!(refusal.stderr.contains("--admin-socket: admin_socket: unix:"), "{}", refusal.stderr);
    assert!(refusal.stderr.contains("is in use"), "{}", refusal.stderr);
    server.stop();
    assert!(!path.exists(), "it is removed at the end");
}

#[test]
fn admin_host_of_a_rebound_name_is_refused() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let port = server.admin().port();
    let foreign = ask(server.admin(), &format!("GET /metrics HTTP/1.1\r\nHost: rebound.example:{port}"))
        .expect("it answers");
    assert!(foreign.starts_with("HTTP/1.1 421 ") && !foreign.contains("offramp_"), "{foreign}");
    for host in [server.admin().to_string(), format!("localhost:{port}")] {
        let head =
            ask(server.admin(), &format!("HEAD /healthz HTTP/1.1\r\nHost: {host}")).expect("it answers");
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    }
    server.stop();
}
