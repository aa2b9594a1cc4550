//! What a service manager such as systemd is notified of.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use offramp_testing::tools::{PATIENCE, eventually};

use crate::lab::{Etcd, Host, kek};

/// The socket of a service manager.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(directory: &Path) -> Self {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path }
    }

    fn next(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).expect("a message");
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// The messages up to the one that begins like this.
    fn until(&self, start: &str) -> Vec<String> {
        let mut all = vec![self.next()];
        while !all[all.len() - 1].starts_with(start) {
            all.push(self.next());
        }
        all
    }
}

#[test]
fn agent_is_ready_with_keys_and_says_how_it_stands() {
    let Some(mut etcd) = Etcd::start() else { return };
    let kek = kek(etcd.files.path(), "kek");
    let manager = Manager::new(etcd.files.path());
    // An etcd that is killed before it has stored its own membership never serves again.
    eventually("etcd serves", || etcd.control(&["put", "/here", "now"]).status.success());
    etcd.stop();
    let mut host = Host::start_notifying(&etcd, "one", &kek, &manager.path);
    let first = manager.next();
    assert!(first.starts_with("STATUS=has no ticket keys: etcd: "), "{first}");
    etcd.start_again(None);
    let before = manager.until("READY=1\n");
    let (ready, others) = before.split_last().unwrap();
    assert!(host.file().exists(), "ready with the file");
    assert!(ready.starts_with("READY=1\nSTATUS=leads: ticket keys of generation "), "{ready}");
    assert!(others.iter().all(|message| message.starts_with("STATUS=")), "{others:?}");
    etcd.stop();
    let stays = manager.until("STATUS=etcd: ").pop().unwrap();
    assert!(stays.contains("; the ticket keys in force stay until "), "{stays}");
    host.terminate();
    manager.until("STOPPING=1\n");
    // With the file of the run before, it stands without etcd.
    host.start_again();
    let ready = manager.next();
    assert!(ready.starts_with("READY=1\nSTATUS=etcd: ") && ready.contains(" stay until "), "{ready}");
}
