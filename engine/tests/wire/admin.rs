//! The admin address: slow clients, foreign names, HEAD, and what `/healthz` says of full slots.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::backend::{Backend, BackendBehavior};
use crate::lab::{Setup, TestServer};
use crate::peer::{Peer, Version, plain};
use crate::tools::{PATIENCE, eventually};

/// What the admin address answers to these lines.
pub(crate) fn ask(lab: &TestServer, request: &str) -> String {
    let mut tcp = TcpStream::connect(lab.admin()).expect("it listens");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    write!(tcp, "{request}\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).expect("it answers");
    answer
}

#[test]
fn admin_slow_clients_keep_no_health_check_out() {
    let backend = Backend::start(BackendBehavior::Echo);
    let lab = TestServer::start(backend.addr);
    let mut slow = Vec::new();
    for _ in 0..40 {
        for _ in 0..20 {
            let mut tcp = TcpStream::connect(lab.admin()).expect("it listens");
            // One that was ended for others may be gone already.
            let _ = tcp.write_all(b"GET /healthz HTT");
            slow.push(tcp);
        }
        assert!(ask(&lab, "GET /healthz HTTP/1.0").starts_with("HTTP/1.1 200 "));
    }
    lab.stop();
}

#[test]
fn admin_full_slots_are_a_line_a_gauge_and_a_text() {
    let backend = Backend::start(BackendBehavior::Echo);
    let lab = Setup::new(backend.addr).flags("--max-connections 2").start();
    let full = || lab.metrics().required("offramp_workers_full");
    assert_eq!(full(), 0);
    let mut held = [Version::Tls12, Version::Tls13].map(|version| Peer::open(lab.addr, &plain(version)));
    held.iter_mut().for_each(|peer| peer.ping(b"held"));
    eventually("the gauge says so", || full() == 1);
    let health = ask(&lab, "GET /healthz HTTP/1.1");
    assert!(
        health.starts_with("HTTP/1.1 200 ") && health.ends_with("full: 1 of 1 workers have no free slot\n")
    );
    eventually("the log says so", || lab.stderr().contains("every slot is in use (max_connections)"));
    drop(held);
    eventually("they are free again", || full() == 0);
    assert!(ask(&lab, "GET /healthz HTTP/1.1").ends_with("\r\n\r\nok\n"));
    lab.stop();
}

#[test]
fn admin_post_that_changes_nothing_logs_nothing() {
    let backend = Backend::start(BackendBehavior::Echo);
    let lab = TestServer::start(backend.addr);
    let turned = || lab.stderr().matches("offload turned ").count();
    (0..100).for_each(|_| assert!(ask(&lab, "POST /offload/on HTTP/1.1").ends_with("\r\n\r\non\n")));
    (0..100).for_each(|_| assert!(ask(&lab, "POST /offload/off HTTP/1.1").ends_with("\r\n\r\noff\n")));
    eventually("one line", || turned() == 1);
    assert!(ask(&lab, "POST /offload/on HTTP/1.1").ends_with("\r\n\r\non\n"));
    eventually("and another", || turned() == 2);
    lab.stop();
}

#[test]
fn admin_host_of_a_rebound_name_is_refused() {
    let backend = Backend::start(BackendBehavior::Echo);
    let lab = TestServer::start(backend.addr);
    let port = lab.admin().port();
    let foreign = ask(&lab, &format!("GET /metrics HTTP/1.1\r\nHost: rebound.example:{port}"));
    assert!(foreign.starts_with("HTTP/1.1 421 ") && !foreign.contains("offramp_"), "{foreign}");
    for host in [lab.admin().to_string(), format!("localhost:{port}")] {
        let head = ask(&lab, &format!("HEAD /healthz HTTP/1.1\r\nHost: {host}"));
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    }
    lab.stop();
}
