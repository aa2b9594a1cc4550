//! Load that verifies each byte: processes of `loadgen`, which must be built beside the test.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::identity::NAME;
use crate::server::TestServer;
use crate::tools::{profile_directory, signal, skip};

/// A process of `loadgen`. Dropped while it runs, it is killed.
pub struct Loadgen(Child);

impl Loadgen {
    /// Whether there is one; says the skip if not.
    pub fn is_built() -> bool {
        let is_built = profile_directory().join("loadgen").exists();
        if !is_built {
            skip("loadgen is not built; try: cargo build --workspace");
        }
        is_built
    }

    fn start(words: &str) -> Self {
        let mut command = Command::new(profile_directory().join("loadgen"));
        command.args(words.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped());
        Self(command.stderr(Stdio::piped()).spawn().expect("loadgen runs"))
    }

    /// What stands behind the server, and where.
    pub fn backend() -> (Self, SocketAddr) {
        let mut backend = Self::start("backend");
        let mut line = String::new();
        let stdout = backend.0.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let addr = line.trim().rsplit(' ').next().and_then(|addr| addr.parse().ok());
        (backend, addr.unwrap_or_else(|| panic!("no address in {line:?}")))
    }

    /// A client of `server`, which goes on until the test ends it.
    pub fn client(server: &TestServer, trust: &Path, words: &str) -> Self {
        Self::client_of(server.addr, trust, &format!("{words} --warm-up 100ms"))
    }

    /// A client of whoever listens there, such as a balancer.
    pub fn client_of(target: SocketAddr, trust: &Path, words: &str) -> Self {
        let trust = trust.display();
        Self::start(&format!(
            "{words} --target {target} --ca {trust} --sni {NAME} -t 1 -d 10m --json --quiet --pin off"
        ))
    }

    /// Ends it, and says what it found.
    pub fn report(mut self) -> String {
        signal(self.0.id(), "INT");
        let stdout = self.0.stdout.take().expect("piped");
        let report = std::io::read_to_string(stdout).expect("it reports");
        let stderr = std::io::read_to_string(self.0.stderr.take().expect("piped")).expect("and complains");
        let status = self.0.wait().expect("it ends");
        // 7: all was as it was asked until the signal ended it.
        assert_eq!(status.code(), Some(7), "{stderr}\n{report}");
        // A burst may find no ticket left to offer; a ticket that was offered is to be taken.
        assert!(report.contains("\"resume_refused\": 0,"), "{stderr}\n{report}");
        report
    }
}

impl Drop for Loadgen {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
