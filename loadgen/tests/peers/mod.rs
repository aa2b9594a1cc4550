//! Servers to put load on: OpenSSL's and nginx, each with a certificate of its own, on free ports.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

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
        .args(arguments)
        .arg("-cert")
        .arg(identity.certificate_file())
        .arg("-key")
        .arg(identity.key_file())
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
    Some(Peer { child, address, directory: None })
}

/// nginx with one worker: a short page over TLS, tickets under the key in `ticket_key`, or under its own.
pub(crate) fn nginx(identity: &Identity, ticket_key: Option<&Path>) -> Option<Peer> {
    if !has("nginx") {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    // nginx cannot be given port 0: the port is free when asked.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let d = directory.path().display();
    let tickets =
        ticket_key.map_or(String::new(), |key| format!("ssl_session_ticket_key {};", key.display()));
    let text = format!(
        "daemon off; master_process off; pid {d}/pid; error_log {d}/error.log;
         events {{ worker_connections 512; }}
         http {{
           access_log off;
           client_body_temp_path {d}/body; proxy_temp_path {d}/proxy; fastcgi_temp_path {d}/fastcgi;
           uwsgi_temp_path {d}/uwsgi; scgi_temp_path {d}/scgi;
           server {{
             listen {address} ssl; ssl_protocols TLSv1.2 TLSv1.3; {tickets}
             ssl_certificate {}; ssl_certificate_key {};
             location / {{ return 200 hello; }}
           }}
         }}\n",
        identity.certificate_file().display(),
        identity.key_file().display(),
    );
    let conf = directory.path().join("nginx.conf");
    fs::write(&conf, text).unwrap();
    let program = if Path::new("/usr/sbin/nginx").is_file() { "/usr/sbin/nginx" } else { "nginx" };
    let child = Command::new(program)
        .arg("-e")
        .arg(directory.path().join("error.log"))
        .arg("-p")
        .arg(directory.path())
        .arg("-c")
        .arg(&conf)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let peer = Peer { child, address, directory: Some(directory) };
    // A slow machine may need long; one that never listens ends with the test's own limit.
    while TcpStream::connect(address).is_err() {
        thread::park_timeout(Duration::from_millis(5));
    }
    Some(peer)
}

/// A ticket key for nginx: 48 bytes of this value.
pub(crate) fn ticket_key(directory: &Path, value: u8) -> PathBuf {
    let path = directory.join(format!("ticket-{value}.key"));
    fs::write(&path, [value; 48]).unwrap();
    path
}
