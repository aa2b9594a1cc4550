//! A server whose log goes where the test says: everything else is the laboratory's of the wire tests.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::identity::Identity;
use crate::lab::{binary, identity_flags};
use crate::tools::{pause, raise_descriptor_limit, scratch, signal};

/// A guard: by then whatever works has worked.
pub(crate) const GUARD: Duration = Duration::from_secs(20);

/// One running server, one worker, one ECDSA identity in files of its own. Dropped, it is killed.
pub(crate) struct Server {
    child: Child,
    pub(crate) addr: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) certificate: PathBuf,
    _files: tempfile::TempDir,
}

impl Server {
    /// Starts one whose log goes to `stderr`, or fails with what it printed to stdout.
    pub(crate) fn start(backend: SocketAddr, stderr: Stdio, flags: &str) -> Result<Self, String> {
        raise_descriptor_limit();
        let files = scratch();
        let identity = identity_flags(Identity::ecdsa(), files.path());
        let certificate = Path::new(&identity[1]).to_owned();
        let mut command = Command::new(binary());
        command.arg("serve").args(["--backend", &backend.to_string(), "--listen", "127.0.0.1:0"]);
        command.args(["--admin", "127.0.0.1:0"]).args(identity).args(flags.split_whitespace());
        if !flags.contains("--workers") {
            command.args(["--workers", "1"]);
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().expect("it starts");
        // The command keeps its own copy of the log's descriptor.
        drop(command);
        let lines = follow(child.stdout.take().expect("piped"));
        let Ok(ready) = lines.recv_timeout(GUARD) else {
            let status = child.try_wait();
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("it did not become ready: {status:?}"));
        };
        let after = |mark: &str| {
            let (_, rest) = ready.split_once(mark).unwrap_or_else(|| panic!("{mark:?} is in {ready:?}"));
            rest.split([',', ';', ']', ' ']).next().unwrap_or_default().trim().parse().expect("an address")
        };
        let (addr, admin) = (after("listening on "), after("admin on "));
        Ok(Self { child, addr, admin, certificate, _files: files })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM, and how it then ended; `None` if it did not.
    pub(crate) fn terminate(mut self) -> Option<ExitStatus> {
        signal(self.pid(), "TERM");
        let end = Instant::now() + GUARD;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return Some(status);
            }
            pause();
        }
        None
    }

    /// The end of every scenario.
    pub(crate) fn stop(self) {
        let status = self.terminate();
        assert!(status.is_some_and(|status| status.success()), "after SIGTERM: {status:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Its lines, one after the other.
pub(crate) fn follow(stdout: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}
