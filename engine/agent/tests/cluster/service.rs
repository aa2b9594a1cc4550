//! What a service manager such as systemd is notified of.

use offramp_testing::service_manager::ServiceManager;
use offramp_testing::tools::eventually;

use crate::lab::{Etcd, Host, kek};

/// The messages up to the one that begins like this.
fn until(manager: &ServiceManager, start: &str) -> Vec<String> {
    let mut all = vec![manager.next_message()];
    while !all[all.len() - 1].starts_with(start) {
        all.push(manager.next_message());
    }
    all
}

#[test]
fn agent_is_ready_with_keys_and_says_how_it_stands() {
    let Some(mut etcd) = Etcd::start() else { return };
    let kek = kek(etcd.files.path(), "kek");
    let manager = ServiceManager::new(etcd.files.path());
    // An etcd that is killed before it has stored its own membership never serves again.
    eventually("etcd serves", || etcd.control(&["put", "/here", "now"]).status.success());
    etcd.stop();
    let mut host = Host::start_notifying(&etcd, "one", &kek, manager.path());
    let first = manager.next_message();
    assert!(first.starts_with("STATUS=has no ticket keys: etcd: "), "{first}");
    etcd.start_again(None);
    let before = until(&manager, "READY=1\n");
    let (ready, others) = before.split_last().unwrap();
    assert!(host.file().exists(), "ready with the file");
    assert!(ready.starts_with("READY=1\nSTATUS=leads: ticket keys of generation "), "{ready}");
    assert!(others.iter().all(|message| message.starts_with("STATUS=")), "{others:?}");
    etcd.stop();
    let stays = until(&manager, "STATUS=etcd: ").pop().unwrap();
    assert!(stays.contains("; the ticket keys in force stay until "), "{stays}");
    host.terminate();
    until(&manager, "STOPPING=1\n");
    // With the file of the run before, it stands without etcd.
    host.start_again();
    let ready = manager.next_message();
    assert!(ready.starts_with("READY=1\nSTATUS=etcd: ") && ready.contains(" stay until "), "{ready}");
}
