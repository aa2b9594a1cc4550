//! Kamailio as an MSRP peer, on a free port.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::peers::has;

/// A Kamailio. Dropped, it ends; dropped in a panic, it prints its log.
pub(crate) struct Kamailio {
    child: Child,
    pub(crate) address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Kamailio {
    /// Executes `statements` for each MSRP request; none if Kamailio is not installed.
    pub(crate) fn start(statements: &str) -> Option<Self> {
        if !has("kamailio") {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        // Kamailio does not report a port that the kernel chose: the port is free when asked.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        // Without tcp_accept_no_cl it takes a request of MSRP for one of SIP without a length.
        let text = format!(
            "log_stderror=yes\nchildren=1\ntcp_children=1\nauto_aliases=no\ndns=no\nrev_dns=no\n\
             tcp_accept_no_cl=yes\nlisten=tcp:{address}\nloadmodule \"msrp.so\"\n\
             request_route {{ exit; }}\nevent_route[msrp:frame-in] {{ {statements} }}\n"
        );
        fs::write(directory.path().join("configuration"), text).unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let installed = "/usr/sbin/kamailio";
        let program = if Path::new(installed).is_file() { installed } else { "kamailio" };
        let child = Command::new(program)
            .args(["-DD", "-E", "-m", "16", "-M", "4", "-w", ".", "-Y", ".", "-f", "configuration"])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            // It has several processes: a group, should they have to be killed.
            .process_group(0)
            .spawn()
            .unwrap();
        let mut kamailio = Self { child, address, directory };
        let mut left = 12_000;
        while TcpStream::connect(address).is_err() {
            left -= 1;
            assert!(left > 0, "Kamailio does not listen on {address}");
            let ended = kamailio.child.try_wait().unwrap();
            assert!(ended.is_none(), "Kamailio ended: {ended:?}");
            thread::park_timeout(Duration::from_millis(5));
        }
        Some(kamailio)
    }
}

impl Drop for Kamailio {
    /// On SIGTERM Kamailio awaits its processes; killed alone, it would leave them.
    fn drop(&mut self) {
        let pid = self.child.id();
        let kill = |name, whom: &str| Command::new("kill").args(["-s", name, "--", whom]).status();
        let _ = kill("TERM", &pid.to_string());
        let mut left = 4000;
        while left > 0 && matches!(self.child.try_wait(), Ok(None)) {
            thread::park_timeout(Duration::from_millis(5));
            left -= 1;
        }
        if left == 0 {
            let _ = kill("KILL", &format!("-{pid}"));
            let _ = self.child.wait();
        }
        if thread::panicking() {
            let log = fs::read(self.directory.path().join("log")).unwrap_or_default();
            eprintln!("--- Kamailio\n{}", String::from_utf8_lossy(&log));
        }
    }
}
