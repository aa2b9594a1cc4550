//! nginx as a peer, on a free port.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use offramp_loadgen::identity::Identity;

use crate::peers::{Peer, has};

/// nginx with one worker: a short page over TLS, tickets under the key in `ticket_key`, or under its own.
pub(crate) fn start(identity: &Identity, ticket_key: Option<&Path>) -> Option<Peer> {
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
    let peer = Peer::new(child, address, Some(directory));
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
