//! Several hosts, one balancer: a session that was made on one resumes on another.
//!
//! Each host is a network namespace with an Offramp of its own; the hosts share nothing, and each has its
//! own copy of the file of ticket keys. Debian's HAProxy balances TCP between them, connection by connection.
//! It takes root, `ip` and `haproxy`; where one is missing the test says SKIP and why.
#![expect(clippy::disallowed_methods, reason = "what hangs is ended by the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod agents;
mod lab;
mod load;
mod net;

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, SystemTime};

use lab::{Cluster, Open, Version, handshake, name_in_ticket};
use load::Load;
use offramp_testing::tools::eventually;
use rustls::HandshakeKind::{Full, Resumed};

const BOTH: [Version; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

#[test]
fn ticket_resumes_on_a_host_not_visited_before() {
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
fn key_rotation_under_load_causes_no_full_handshake() {
    let Some(cluster) = Cluster::start(2) else { return };
    let load = Load::start(&cluster, cluster.balancer());
    // For a look at the tickets of each host, beside the load.
    let lookers = cluster.hosts.each_ref().map(|host| (host.tls, cluster.client(BOTH[0])));
    let names = || lookers.each_ref().map(|(addr, client)| name_in_ticket(*addr, client));
    for order in [[0, 1], [1, 0]] {
        let old = cluster.sealing_key();
        assert_eq!(names(), [&old, &old].map(Clone::clone));
        cluster.ticket_key(&["rotate", "--start-in", "12s"]);
        let [first, second] = order;
        cluster.distribute(&[first]);
        // For a while one host has the key and the other has not heard of it.
        std::thread::sleep(Duration::from_secs(2));
        load.goes_on_for(20);
        cluster.distribute(&[second]);
        assert_eq!(names(), [&old, &old].map(Clone::clone), "before its time the new key opens only");
        assert_eq!(cluster.sealing_key(), old, "this machine is too slow: the new key's time came first");
        let new = loop {
            load.goes_on_for(1);
            let sealing = cluster.sealing_key();
            if sealing != old {
                break sealing;
            }
        };
        eventually("both hosts seal with the new key", || names() == [&new, &new].map(Clone::clone));
        load.goes_on_for(100);
    }
    let (resumed, otherwise) = load.finish();
    assert!(otherwise.is_empty(), "beside {resumed} resumed: {otherwise:?}");
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

/// What runs through the other host meanwhile does not notice: connections that are open, and new ones.
#[test]
fn killed_host_does_not_disturb_the_other_under_load() {
    let Some(mut cluster) = Cluster::start(2) else { return };
    let (dies, stays) = (cluster.hosts[0].tls, cluster.hosts[1].tls);
    let on_both = BOTH.map(|version| cluster.client(version));
    on_both.iter().for_each(|client| assert_eq!(handshake(dies, client).unwrap(), Full));
    let mut open: Vec<Open> =
        BOTH.into_iter().cycle().take(8).map(|version| Open::new(stays, &cluster.client(version))).collect();
    let (load, killed) = (Load::start(&cluster, stays), Load::start(&cluster, dies));
    (0..20).for_each(|_| open.iter_mut().for_each(Open::ping));
    killed.goes_on_for(20);
    cluster.hosts[0].kill();
    (0..20).for_each(|_| open.iter_mut().for_each(Open::ping));
    load.goes_on_for(100);
    let (resumed, otherwise) = load.finish();
    assert!(otherwise.is_empty(), "beside {resumed} resumed: {otherwise:?}");
    assert!(!killed.finish().1.is_empty(), "it was killed under load");
    for client in &on_both {
        assert_eq!(handshake(stays, client).unwrap(), Resumed, "a session of the one that is gone");
    }
}

#[test]
fn ticket_ends_with_its_key_but_not_by_a_bad_file() {
    let Some(cluster) = Cluster::start(1) else { return };
    let host = &cluster.hosts[0];
    for version in BOTH {
        let client = cluster.client(version);
        assert_eq!(handshake(cluster.balancer(), &client).unwrap(), Full);
        host.give_keys(b"key of no form\n");
        let complaint = "not the word `key` and four more; a line is";
        eventually(complaint, || host.log().contains(complaint));
        assert_eq!(handshake(cluster.balancer(), &client).unwrap(), Resumed, "the keys in force stay");

        std::fs::write(cluster.keys(), other_keys(&cluster)).unwrap();
        cluster.distribute(&[0]);
        assert_eq!(handshake(cluster.balancer(), &client).unwrap(), Full, "a foreign ticket is no error");
        assert_eq!(handshake(cluster.balancer(), &client).unwrap(), Resumed, "and a fresh one came");
    }
}

#[test]
fn key_expires_though_it_is_still_in_the_file() {
    let Some(cluster) = Cluster::start(1) else { return };
    let host = &cluster.hosts[0];
    let now = SystemTime::now();
    let at = |seconds| humantime::format_rfc3339_seconds(now + Duration::from_secs(seconds)).to_string();
    // One that lasts for fourteen seconds more, and one that seals from the eighth.
    let brief = with_times(&std::fs::read(cluster.keys()).unwrap(), "2026-01-01T00:00:00Z", &at(14));
    let next = with_times(&other_keys(&cluster), &at(8), &at(3600));
    std::fs::write(cluster.keys(), format!("{brief}{next}")).unwrap();
    cluster.distribute(&[0]);
    let clients = BOTH.map(|version| [cluster.client(version), cluster.client(version)]);
    for [lives, dies] in &clients {
        assert_eq!(handshake(host.tls, dies).unwrap(), Full);
        assert_eq!(handshake(host.tls, lives).unwrap(), Full);
        assert_eq!(handshake(host.tls, lives).unwrap(), Resumed, "while its time lasts");
    }
    let readings = host.readings();
    // The hosts' clocks tick in seconds.
    let over = now + Duration::from_secs(16);
    while SystemTime::now() < over {
        // With its newest ticket, a client goes over to the next key.
        clients.iter().for_each(|[lives, _]| assert_eq!(handshake(host.tls, lives).unwrap(), Resumed));
        std::thread::sleep(Duration::from_millis(100));
    }
    for [lives, dies] in &clients {
        assert_eq!(handshake(host.tls, dies).unwrap(), Full, "its key's time is over");
        assert_eq!(handshake(host.tls, dies).unwrap(), Resumed, "and a fresh one came");
        assert_eq!(handshake(host.tls, lives).unwrap(), Resumed, "under the next key");
    }
    assert_eq!(host.readings(), readings, "nobody has touched the file");
}

#[test]
fn sighup_rereads_keys_without_a_visible_file_change() {
    let Some(cluster) = Cluster::start(1) else { return };
    let host = &cluster.hosts[0];
    let clients = BOTH.map(|version| cluster.client(version));
    clients.iter().for_each(|client| assert_eq!(handshake(host.tls, client).unwrap(), Full));
    let others = other_keys(&cluster);
    let file = OpenOptions::new().write(true).open(host.keys()).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), others.len() as u64);
    // In place, as long as before, as old as before: only the time of the inode's own change tells.
    (&file).write_all(&others).unwrap();
    file.set_modified(metadata.modified().unwrap()).unwrap();
    eventually("the change is seen", || host.readings() >= 1);
    // Two changes in two ticks are read twice.
    std::thread::sleep(Duration::from_secs(3));
    let readings = host.readings();
    host.reload();
    eventually("the keys are read again", || host.readings() == readings + 1);
    for client in &clients {
        assert_eq!(handshake(host.tls, client).unwrap(), Full, "the old key is gone");
        assert_eq!(handshake(host.tls, client).unwrap(), Resumed);
    }
}

/// The line of the one key of a file, with other times.
fn with_times(file: &[u8], from: &str, until: &str) -> String {
    let text = String::from_utf8(file.to_vec()).unwrap();
    let line = text.lines().find(|line| line.starts_with("key ")).unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    format!("key {} {from} {until} {}\n", words[1], words[4])
}

/// A file with a key that no host has seen.
fn other_keys(cluster: &Cluster) -> Vec<u8> {
    let path = cluster.keys().with_extension("other");
    let made = Command::new(lab::OFFRAMP).args(["ticket-key", "new"]).arg(&path).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let keys = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    keys
}
