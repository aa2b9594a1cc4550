//! Three agents and one etcd: who leads, how keys rotate, and what becomes of the file where etcd is gone,
//! or has something else than the ring.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod lab;
mod secured;
mod service;

use std::path::Path;
use std::process::Command;

use lab::{AGENT, Etcd, Host, PREFIX, TIMES, agreed, kek, rotated};
use offramp_testing::tools::{eventually, patiently};

const NAMES: [&str; 3] = ["one", "two", "three"];

fn cluster(etcd: &Etcd, kek: &Path) -> [Host; 3] {
    NAMES.map(|name| Host::start(etcd, name, &[kek]))
}

fn ring() -> String {
    format!("{PREFIX}/ring")
}

/// Times of RFC 3339 of the same form order as text.
fn span(key: &str) -> (&str, &str) {
    let words: Vec<&str> = key.split(' ').collect();
    (words[1], words[2])
}

#[test]
fn agents_rotate_with_overlap_and_no_host_learns_late() {
    let Some(etcd) = Etcd::start() else { return };
    let kek = kek(etcd.files.path(), "kek");
    let hosts = cluster(&etcd, &kek);
    let hosts = hosts.each_ref();
    let mut keys = agreed(&hosts);
    let mut seen = keys.clone();
    for _ in 0..3 {
        let next = rotated(&hosts, &keys);
        let begin = span(&next[0]).0.to_owned();
        let now = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().unwrap();
        let now = String::from_utf8(now.stdout).unwrap();
        assert!(now.trim() < begin.as_str(), "all know {begin} before it seals; it is {now}");
        assert!(span(&next[1]).1 > begin.as_str(), "the one before opens still");
        assert!(next.len() <= 4, "{next:?}");
        seen.push(next[0].clone());
        keys = next;
    }
    assert!(!keys.contains(&seen[0]), "dead keys go");
    let mut published: Vec<String> = hosts.iter().flat_map(|host| published(&host.log())).collect();
    let count = published.len();
    published.sort();
    published.dedup();
    assert_eq!(published.len(), count, "no two have published the same generation");
}

/// The generations that an agent has published.
fn published(log: &str) -> Vec<String> {
    let number = |line: &str| Some(line.split_once("published generation ")?.1.split(':').next()?.to_owned());
    log.lines().filter_map(number).collect()
}

#[test]
fn leader_killed_is_followed_by_another_that_rotates() {
    let Some(etcd) = Etcd::start() else { return };
    let kek = kek(etcd.files.path(), "kek");
    let mut hosts = cluster(&etcd, &kek);
    let keys = agreed(&hosts.each_ref());
    let at = |leader: &str| NAMES.iter().position(|name| *name == leader).unwrap();
    let first = etcd.leader();
    hosts[at(&first)].kill();
    let rest: Vec<&Host> = hosts.iter().filter(|host| host.name != first).collect();
    eventually("another leads", || ![first.as_str(), ""].contains(&etcd.leader().as_str()));
    let keys = rotated(&rest, &keys);
    // An agent that gets SIGTERM leaves the lead at once.
    let second = etcd.leader();
    hosts[at(&second)].terminate();
    assert_ne!(etcd.leader(), second, "it has given up its lease");
    hosts[at(&first)].start_again();
    let rest: Vec<&Host> = hosts.iter().filter(|host| host.name != second).collect();
    rotated(&rest, &keys);
}

/// The old leader sleeps past its lease and wakes up with a decision in its hand.
#[test]
fn leader_that_was_stopped_changes_nothing_afterwards() {
    let Some(etcd) = Etcd::start() else { return };
    let kek = kek(etcd.files.path(), "kek");
    let hosts = cluster(&etcd, &kek);
    let keys = agreed(&hosts.each_ref());
    let first = etcd.leader();
    let (old, rest): (Vec<_>, Vec<_>) = hosts.iter().partition(|host| host.name == first);
    old[0].signal("STOP");
    let before = published(&old[0].log());
    eventually("another leads", || ![first.as_str(), ""].contains(&etcd.leader().as_str()));
    rotated(&rest, &keys);
    old[0].signal("CONT");
    let keys = agreed(&hosts.each_ref());
    rotated(&hosts.each_ref(), &keys);
    assert_eq!(published(&old[0].log()), before);
    assert!(hosts.iter().all(|host| !host.alarm("ring")));
}

#[test]
fn etcd_outage_keeps_the_keys_and_raises_alarms() {
    let Some(mut etcd) = Etcd::start() else { return };
    let kek = kek(etcd.files.path(), "kek");
    let hosts = cluster(&etcd, &kek);
    let mut keys = agreed(&hosts.each_ref());
    for is_partition in [true, false] {
        if is_partition {
            etcd.hold()
        } else {
            etcd.stop()
        }
        let held = agreed(&hosts.each_ref());
        for host in &hosts {
            eventually("an alarm for etcd", || host.alarm("etcd"));
            eventually("an alarm for the rotation", || host.alarm("rotation"));
        }
        assert_eq!(agreed(&hosts.each_ref()), held, "the keys in force stay");
        if is_partition {
            etcd.go_on()
        } else {
            etcd.start_again(None)
        }
        keys = rotated(&hosts.each_ref(), &keys);
        for host in &hosts {
            eventually("the alarms end", || !host.alarm("etcd") && !host.alarm("rotation"));
            assert!(host.log().contains("the ticket keys in force stay until"));
        }
    }
}

#[test]
fn etcd_garbage_is_refused_and_a_deleted_ring_returns() {
    let Some(etcd) = Etcd::start() else { return };
    let own = kek(etcd.files.path(), "kek");
    let hosts = cluster(&etcd, &own);
    agreed(&hosts.each_ref());
    let good = etcd.get(&ring());
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    let mut newer = good.clone();
    newer[8] = 2;
    let foreign = {
        let other = kek(etcd.files.path(), "other");
        let options = [&TIMES[..], &["--prefix", "/elsewhere"]].concat();
        let host = Host::start_with(&etcd, "foreign", &[&other], &options);
        agreed(&[&host]);
        etcd.get("/elsewhere/ring")
    };
    for (value, complaint) in [
        (b"rubbish".to_vec(), "it is no ring that an agent has sealed (7 bytes)"),
        (vec![b'x'; 70_000], "it has 70000 bytes, and at most 65536 are read"),
        (vec![b'x'; 400_000], "the response body is larger than request limit"),
        (good[..good.len() - 3].to_vec(), "it was changed after it was sealed"),
        (changed, "it was changed after it was sealed"),
        (newer, "its format has version 2"),
        (foreign, "it is sealed with the key-encryption key"),
    ] {
        let before = agreed(&hosts.each_ref());
        let said: Vec<usize> = hosts.iter().map(|host| host.log().matches(complaint).count()).collect();
        etcd.put(&ring(), &value);
        for (host, said) in hosts.iter().zip(said) {
            eventually(complaint, || host.log().matches(complaint).count() > said);
            assert_eq!(host.keys(), before, "the keys in force stay");
        }
        etcd.must(&["del", &ring()]);
        for host in &hosts {
            eventually("the alarm ends", || !host.alarm("ring") && !host.alarm("etcd"));
        }
        let after = agreed(&hosts.each_ref());
        assert!(
            before.iter().take(1).all(|key| after.contains(key)),
            "{before:?} are published again: {after:?}"
        );
    }
}

#[test]
fn restored_backup_of_etcd_is_refused_as_older() {
    let Some(mut etcd) = Etcd::start() else { return };
    let kek = kek(etcd.files.path(), "kek");
    let hosts = cluster(&etcd, &kek);
    let first = agreed(&hosts.each_ref());
    let backup = etcd.files.path().join("backup.db");
    etcd.must(&["snapshot", "save", backup.to_str().unwrap()]);
    let second = rotated(&hosts.each_ref(), &first);
    etcd.stop();
    let restored = etcd.files.path().join("restored");
    let words = ["snapshot", "restore", backup.to_str().unwrap(), "--data-dir", restored.to_str().unwrap()];
    etcd.must(&words);
    etcd.start_again(Some(restored));
    for host in &hosts {
        host.says("it is older than the one in force: generation");
        assert!(host.keys().contains(&second[0]), "the keys in force stay");
        // The file of metrics follows the line of the log.
        eventually("an alarm for the ring", || host.alarm("ring"));
    }
    // An agent that starts again has the generation from its file.
    let mut hosts = hosts;
    hosts[0].start_again();
    eventually("refused again", || hosts[0].log().matches("it is older than").count() >= 2);
    etcd.must(&["del", &ring()]);
    let generation = hosts[0].generation();
    eventually("the ring in force is published", || hosts.iter().all(|host| host.generation() > generation));
    assert!(hosts.iter().all(|host| host.keys().contains(&second[0])));
}

#[test]
fn key_encryption_key_is_changed_while_agents_run() {
    let Some(etcd) = Etcd::start() else { return };
    let [old, new] = ["old", "new"].map(|name| kek(etcd.files.path(), name));
    let mut hosts = cluster(&etcd, &old);
    agreed(&hosts.each_ref());
    for keks in [vec![&*old, &*new], vec![&*new, &*old], vec![&*new]] {
        for host in &mut hosts {
            host.start_again_with(&keks);
        }
        let keys = agreed(&hosts.each_ref());
        rotated(&hosts.each_ref(), &keys);
    }
    assert!(hosts.iter().all(|host| !host.log().contains("is refused")), "no ring was refused on the way");
    hosts[0].start_again_with(&[&old]);
    hosts[0].says("it is sealed with the key-encryption key");
}

#[test]
fn cluster_starts_from_an_existing_ticket_key_file() {
    let Some(etcd) = Etcd::start() else { return };
    let kek = kek(etcd.files.path(), "kek");
    let hosts = cluster(&etcd, &kek);
    let keys = agreed(&hosts.each_ref());
    drop(hosts);
    etcd.must(&["del", "--prefix", PREFIX]);
    // One has lost its file with the memory that it was in; it waits for those that have keys.
    std::fs::remove_file(etcd.files.path().join("one/ticket.keys")).unwrap();
    let hosts = cluster(&etcd, &kek);
    let after = patiently(|| Some(agreed(&hosts.each_ref())).filter(|keys| keys.len() > 1)).unwrap();
    assert!(after.contains(&keys[0]), "{keys:?} are in {after:?}");
}

#[test]
fn options_that_do_not_fit_are_refused_by_name() {
    let directory = offramp_testing::tools::scratch();
    let kek = kek(directory.path(), "kek");
    let file = directory.path().join("ticket.keys");
    let refused = |words: &[&str]| {
        let mut command = Command::new(AGENT);
        command.arg("--kek").arg(&kek);
        let defaults = [("--file", file.to_str().unwrap()), ("--etcd", "http://127.0.0.1:1")];
        for (option, value) in defaults.into_iter().filter(|(option, _)| !words.contains(option)) {
            command.args([option, value]);
        }
        let output = command.args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for (words, said) in [
        (&["--lead", "29s"][..], "--lead: must be at least twice --lease (30s)"),
        (&["--lease", "1s"], "--lease: allowed is 2s to 1h"),
        (&["--rotate-every", "10m"], "--rotate-every: must be longer than --lead"),
        (&["--rotate-every", "15m"], "--open-for: with --rotate-every 15m there would be 67 keys at once"),
        (&["--etcd", "https://127.0.0.1:1"], "https needs --etcd-ca"),
        (&["--etcd", "127.0.0.1:1"], "expected http://HOST:PORT"),
        (&["--group", "no-such-group"], "try: groupadd --system no-such-group"),
        (&["--kek", "/dev/zero"], "/dev/zero: it is not a regular file"),
        (&["--prefix", "/"], "--prefix: must name something"),
        (&["--file", "/none/such/file"], "/none/such: the directory of the ticket keys cannot be used"),
    ] {
        let error = refused(words);
        assert!(error.contains(said), "{words:?}: {error}");
    }
}
