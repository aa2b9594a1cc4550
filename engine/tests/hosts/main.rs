//! Several hosts, one balancer: a session that was made on one resumes on another.
//!
//! Each host is a network namespace with an Offramp of its own; the hosts share nothing but the file of
//! ticket keys. Debian's HAProxy balances TCP between them, connection by connection. It takes root, `ip`
//! and `haproxy`; where one is missing the test says SKIP and why.
#![expect(clippy::disallowed_methods, reason = "what hangs is ended by the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod lab;
mod net;

use std::process::Command;
use std::sync::Arc;

use lab::{Cluster, Version, eventually, handshake};
use rustls::HandshakeKind::{Full, Resumed};

const BOTH: [Version; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

#[test]
fn a_ticket_of_one_host_resumes_on_another_as_its_very_first_connection() {
    let Some(cluster) = Cluster::start(2) else { return };
    for (nth, version) in (1..).zip(BOTH) {
        let client = cluster.client(version);
        assert_eq!(handshake(cluster.balancer(), &client).unwrap(), Full);
        assert_eq!(handshake(cluster.balancer(), &client).unwrap(), Resumed);
        // Round robin: each of the two had one of the two.
        let counts =
            cluster.hosts.each_ref().map(|host| (host.handshakes("full"), host.handshakes("resumed")));
        assert_eq!(counts, [(nth, 0), (0, nth)], "{version:?}");
    }
}

#[test]
fn keys_rotate_under_load_without_a_failed_or_full_handshake() {
    let Some(cluster) = Cluster::start(2) else { return };
    let clients = BOTH.map(|version| cluster.client(version));
    for client in &clients {
        assert_eq!(handshake(cluster.balancer(), client).unwrap(), Full);
    }
    let load = || {
        for client in &clients {
            assert_eq!(handshake(cluster.balancer(), client).unwrap(), Resumed);
        }
    };
    let first = cluster.sealing_key();
    cluster.ticket_key(&["rotate", "--start-in", "3s"]);
    let mut rounds = 0;
    while cluster.sealing_key() == first {
        load();
        rounds += 1;
    }
    assert!(rounds > 1, "there was load before the new key sealed");
    (0..50).for_each(|_| load());
    for host in &cluster.hosts {
        eventually("the host has read the file again", || host.log().contains("ticket keys read from"));
    }
}

#[test]
fn a_host_that_is_killed_takes_nothing_with_it() {
    let Some(mut cluster) = Cluster::start(2) else { return };
    let clients = BOTH.map(|version| cluster.client(version));
    for client in &clients {
        assert_eq!(handshake(cluster.balancer(), client).unwrap(), Full);
        assert_eq!(handshake(cluster.balancer(), client).unwrap(), Resumed);
    }
    cluster.hosts[0].kill();
    let before = cluster.hosts[1].handshakes("resumed");
    for client in &clients {
        (0..10).for_each(|_| assert_eq!(handshake(cluster.balancer(), client).unwrap(), Resumed));
    }
    assert_eq!(cluster.hosts[1].handshakes("resumed") - before, 20);
}

#[test]
fn a_ticket_dies_with_its_key_and_a_bad_file_kills_none() {
    let Some(cluster) = Cluster::start(1) else { return };
    for version in BOTH {
        let client = cluster.client(version);
        assert_eq!(handshake(cluster.balancer(), &client).unwrap(), Full);
        let good = std::fs::read(cluster.keys()).unwrap();
        cluster.replace_keys(b"key of no form\n");
        let complaint = "not the word `key` and four more; a line is";
        eventually(complaint, || cluster.hosts[0].log().contains(complaint));
        assert_eq!(handshake(cluster.balancer(), &client).unwrap(), Resumed, "the keys in force stay");

        cluster.replace_keys(&good);
        cluster.await_reading();
        let spare = Arc::clone(&client);
        cluster.replace_keys(&other_keys(&cluster));
        cluster.await_reading();
        assert_eq!(handshake(cluster.balancer(), &spare).unwrap(), Full, "a foreign ticket is no error");
        assert_eq!(handshake(cluster.balancer(), &spare).unwrap(), Resumed, "and a fresh one came");
    }
}

/// A file with a key that no host has seen.
fn other_keys(cluster: &Cluster) -> Vec<u8> {
    let path = cluster.keys().with_extension("other");
    let status = Command::new(lab::OFFRAMP).args(["ticket-key", "new"]).arg(&path).status().unwrap();
    assert!(status.success());
    let keys = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    keys
}
