//! Servers to put load on, in processes of their own: OpenSSL's, on a free port.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use offramp_loadgen::identity::Identity;

/// Whether a program is there; says the skip if not, or fails where skips are failures.
pub(crate) fn has(program: &str) -> bool {
    let known = |directory: &Path| directory.join(program).is_file();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|directory| known(&directory)) || known(Path::new("/usr/sbin")) {
        return true;
    }
    let refused = std::env::var("OFFRAMP_SKIPS_ARE_FAILURES").is_ok_and(|value| value == "1");
    assert!(!refused, "SKIP: no {program} on this host (and OFFRAMP_SKIPS_ARE_FAILURES=1)");
    eprintln!("SKIP: no {program} on this host");
    false
}

/// A server in a process of its own.
pub(crate) struct Peer {
    child: Child,
    pub(crate) address: SocketAddr,
    // Its files are gone with it.
    directory: Option<tempfile::TempDir>,
}

impl Peer {
    pub(crate) fn new(child: Child, address: SocketAddr, directory: Option<tempfile::TempDir>) -> Self {
        Self { child, address, directory }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking()
            && let Some(directory) = &self.directory
        {
            let log = directory.path().join("error.log");
            eprintln!("--- the peer\n{}", fs::read_to_string(log).unwrap_or_default());
        }
    }
}

/// `openssl s_server`: one connection at a time, a page for every request.
pub(crate) fn openssl(identity: &Identity, arguments: &[&str]) -> Option<Peer> {
    if !has("openssl") {
        return None;
    }
    let mut child = Command::new("openssl")
        .args(["s_server", "-accept", "127.0.0.1:0", "-www"])
        .arg("-cert")
        .arg(identity.certificate_file())
        .arg("-key")
        .arg(identity.key_file())
        // Those of the arguments win.
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let address = loop {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "it says where it listens");
        if let Some(address) = line.strip_prefix("ACCEPT ") {
            break address.trim().parse().unwrap();
        }
    };
    // It must not wait for somebody to read what it says.
    thread::spawn(move || lines.read_to_end(&mut Vec::new()));
    Some(Peer::new(child, address, None))
}
