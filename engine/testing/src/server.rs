//! One running `offramp`: started on a free port with fresh certificates, watched, and stopped with SIGTERM.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::identity::Identity;
use crate::metrics::{Metrics, ask, ask_socket};
use crate::process::Process;
use crate::tools::{
    PATIENCE, eventually, has_ended, patiently, profile_directory, raise_descriptor_limit, scratch, signal,
};

/// A running server. Dropped while it runs, it is killed; dropped in a panic, it says all that it knows.
pub struct TestServer {
    process: Process,
    /// Where it listens for TLS; port 0 where its first listener is on a Unix socket.
    pub addr: SocketAddr,
    admin: SocketAddr,
    admin_socket: PathBuf,
    /// The line that it printed when ready.
    pub ready: String,
    files: tempfile::TempDir,
}

/// What to start.
pub struct Setup {
    backend: String,
    identities: Vec<&'static Identity>,
    extra: Vec<String>,
    says_offload: bool,
    says_workers: bool,
    is_from_file: bool,
    stdout: Option<Stdio>,
    stderr: Option<Stdio>,
    program: Option<PathBuf>,
    environment: Vec<(String, PathBuf)>,
}

/// How a server that did not become ready ended.
#[derive(Debug)]
pub struct Refusal {
    pub status: ExitStatus,
    pub stderr: String,
}

impl Setup {
    /// One worker, both an ECDSA and an RSA identity.
    pub fn new(backend: impl ToString) -> Self {
        let identities = vec![Identity::ecdsa(), Identity::rsa()];
        let (backend, extra) = (backend.to_string(), Vec::new());
        Self {
            backend,
            identities,
            extra,
            says_offload: true,
            says_workers: true,
            is_from_file: false,
            stdout: None,
            stderr: None,
            program: None,
            environment: Vec::new(),
        }
    }

    /// What a configuration file says: no backend, identity, listener or offload beside it.
    pub fn from_file(file: &Path) -> Self {
        let mut setup = Self::new("");
        setup.extra = vec!["--config".to_owned(), file.to_str().expect("UTF-8").to_owned()];
        setup.identities.clear();
        setup.is_from_file = true;
        setup.says_offload = false;
        setup
    }

    /// Where its log goes, which the lab then does not see.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    /// No `--workers`: the configuration file decides.
    pub fn without_workers(mut self) -> Self {
        self.says_workers = false;
        self
    }

    /// Another file than the one that cargo has built.
    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// A variable of its environment.
    pub fn environment(mut self, name: &str, value: impl Into<PathBuf>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Where the ready line goes, which the lab then does not see: `--listen` and `--admin` must be given.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = Some(stdout.into());
        self
    }

    pub fn identities(mut self, identities: &[&'static Identity]) -> Self {
        self.identities = identities.to_vec();
        self
    }

    /// More of the command line, as one string of words.
    pub fn flags(mut self, words: &str) -> Self {
        self.extra.extend(words.split_whitespace().map(str::to_owned));
        self
    }

    /// No `--offload`: the configuration file decides.
    pub fn without_offload(mut self) -> Self {
        self.says_offload = false;
        self
    }

    pub fn start(self) -> TestServer {
        raise_descriptor_limit();
        let files = scratch();
        let mut arguments = Vec::new();
        if !self.is_from_file {
            arguments.extend(["--backend".to_owned(), self.backend]);
        }
        for identity in &self.identities {
            arguments.extend(identity_flags(identity, files.path()));
        }
        let has = |flag: &str| self.extra.iter().any(|word| word == flag);
        let admin_socket = files.path().join("admin.sock");
        let defaults = [
            ("--listen", "127.0.0.1:0"),
            ("--admin", "127.0.0.1:0"),
            ("--admin-socket", admin_socket.to_str().expect("scratch paths are UTF-8")),
            ("--workers", "1"),
        ];
        let is_of_file =
            |flag: &str| self.is_from_file && flag == "--listen" || !self.says_workers && flag == "--workers";
        let is_due = |flag: &str| !(has(flag) || is_of_file(flag));
        for (flag, value) in defaults.into_iter().filter(|(flag, _)| is_due(flag)) {
            arguments.extend([flag.to_owned(), value.to_owned()]);
        }
        if self.says_offload && !has("--offload") {
            let offload = std::env::var("OFFRAMP_TEST_OFFLOAD").unwrap_or_else(|_| "auto".to_owned());
            arguments.extend(["--offload".to_owned(), offload]);
        }
        arguments.extend(self.extra);
        let value = |flag: &str| {
            let at = arguments.iter().position(|word| word == flag).expect("it is given");
            arguments[at + 1].clone()
        };
        let (given, admin) = (self.stdout.is_some(), value("--admin"));
        let admin_socket = value("--admin-socket").into();
        let listen = if given { value("--listen") } else { String::new() };
        let mut command = Command::new(self.program.unwrap_or_else(binary));
        command.envs(self.environment);
        let mut process = Process::spawn(command, &arguments, self.stdout, self.stderr);
        let ready = if given {
            let admin = admin.parse().expect("an address");
            eventually("it serves", || Metrics::scrape(admin).is_ok());
            format!("listening on {listen}, admin on {admin}")
        } else {
            process.await_ready()
        };
        let is_unix = ready.contains("listening on unix:");
        let addr = address_after(&ready, "listening on ").or(is_unix.then_some(([127, 0, 0, 1], 0).into()));
        let addr = addr.expect("the ready line names the listener");
        let admin = address_after(&ready, "admin on ").expect("the ready line names the admin listener");
        let has_ports = is_unix || addr.port() != 0 && admin.port() != 0;
        assert!(has_ports, "the ready line names the real ports: {ready}");
        TestServer { process, addr, admin, admin_socket, ready, files }
    }
}

/// `--cert … --key …` for an identity written into `directory`.
pub fn identity_flags(identity: &Identity, directory: &Path) -> [String; 4] {
    let (certificate, key) = identity.write(directory);
    let path = |path: PathBuf| path.to_str().expect("scratch paths are UTF-8").to_owned();
    ["--cert".to_owned(), path(certificate), "--key".to_owned(), path(key)]
}

/// Starts a server that must not become ready, and gives how it ended.
pub fn refused(arguments: &[String]) -> Refusal {
    let mut process = Process::spawn(Command::new(binary()), arguments, None, None);
    let status = process.await_exit(PATIENCE);
    let stderr = process.stderr.text();
    let status = status.unwrap_or_else(|| panic!("still running with {arguments:?}; it said: {stderr}"));
    let stdout = process.stdout.text();
    assert!(!stdout.contains("ready"), "it said it was ready with {arguments:?}: {stdout}");
    Refusal { status, stderr }
}

impl TestServer {
    pub fn start(backend: impl ToString) -> Self {
        Setup::new(backend).start()
    }

    /// Whether this server has a kernel carry records that cannot follow a KeyUpdate (before Linux 6.14).
    pub fn refuses_key_updates(&self) -> bool {
        self.ready.contains("kernel (") && probed_rekey() == Some(false)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// SIGUSR2: another process takes over, which is this server from then on. The process number of the old
    /// one.
    pub fn upgrade(&mut self) -> u32 {
        let (old, before) = (self.pid(), self.stderr().len());
        signal(old, "USR2");
        let taken_over = || {
            let said = self.stderr()[before..].to_owned();
            let words = said.split_once("SIGUSR2: process ")?.1;
            words.split_once(" accepts connections")?.0.parse().ok()
        };
        let new = patiently(taken_over).unwrap_or_else(|| panic!("no upgrade: {}", self.stderr()));
        self.follow(new);
        old
    }

    /// Another process is this server from now on.
    pub fn follow(&mut self, successor: u32) {
        self.process.successor = Some(successor);
    }

    pub fn metrics(&self) -> Metrics {
        Metrics::scrape(self.admin).unwrap_or_else(|error| panic!("/metrics: {error}"))
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Where everything may be asked of it.
    pub fn admin_socket(&self) -> &Path {
        &self.admin_socket
    }

    /// What it answers there to a method and a path, such as `POST /offload/off`.
    pub fn control(&self, request: &str) -> String {
        let request = format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        ask_socket(&self.admin_socket, &request).expect("it answers")
    }

    /// What the admin address answers to a method and a path, such as `GET /healthz`.
    pub fn ask(&self, request: &str) -> String {
        ask(self.admin, &format!("{request} HTTP/1.1\r\nHost: localhost")).expect("it answers")
    }

    /// The file of a certificate that it was started with.
    pub fn certificate(&self, identity: &Identity) -> PathBuf {
        identity.files(self.files.path()).0
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.process.stderr.text()
    }

    /// SIGHUP, and what it then says.
    pub fn reload(&self, expected: &str) {
        let before = self.stderr().len();
        signal(self.pid(), "HUP");
        eventually(expected, || self.stderr()[before..].contains(expected));
    }

    /// For how much of this time its threads do not wait, in total: 1.0 is one thread that polls. What else
    /// runs on the host does not count.
    pub fn load(&self, time: Duration) -> f64 {
        let begin = Instant::now();
        let before = self.busy_time();
        std::thread::sleep(time);
        (self.busy_time() - before).as_secs_f64() / begin.elapsed().as_secs_f64()
    }

    /// How long its threads ran or, where the kernel counts that, waited for a processor.
    fn busy_time(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("the server runs");
        let of_thread = |thread: PathBuf| {
            let numbers =
                |text: &str| text.split(' ').map(|it| it.parse().unwrap_or(0)).collect::<Vec<u64>>();
            if let Ok(counted) = std::fs::read_to_string(thread.join("schedstat")) {
                return numbers(&counted).iter().take(2).map(|it| Duration::from_nanos(*it)).sum();
            }
            let stat = std::fs::read_to_string(thread.join("stat")).unwrap_or_default();
            // In ticks of 10 ms, as fields 14 and 15 (proc_pid_stat(5)); the state is field 3.
            let ticks =
                stat.rsplit_once(") ").map_or(0, |(_, rest)| numbers(rest).iter().skip(11).take(2).sum());
            Duration::from_millis(10 * ticks)
        };
        threads.map(|thread| of_thread(thread.expect("/proc is mounted").path())).sum()
    }

    /// Open descriptors of the server.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the server runs").count()
    }

    /// Connections to the TLS listener that the server has accepted and holds. One that still waits in the
    /// backlog has no inode yet, and one that was closed none any more (Linux, `proc_net_tcp`). As they are
    /// listed there.
    pub fn accepted_sockets(&self) -> Vec<String> {
        const LISTEN: &str = "0A";
        let table = std::fs::read_to_string("/proc/net/tcp").expect("/proc is mounted");
        let port = format!(":{:04X}", self.addr.port());
        let held = |line: &&str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields[1].ends_with(&port) && fields[3] != LISTEN && fields[9] != "0"
        };
        // The table is read in pieces, and a line that moves meanwhile may come twice: an inode counts once.
        let inode = |line: &str| line.split_whitespace().nth(9).map(str::to_owned);
        let mut seen = std::collections::HashSet::new();
        let once = |line: &&str| seen.insert(inode(line));
        table.lines().skip(1).filter(held).filter(once).map(str::to_owned).collect()
    }

    /// Waits until no connection is open any more.
    pub fn settled(&self) -> Metrics {
        let none_open = || Some(self.metrics()).filter(|metrics| metrics.open() == 0);
        patiently(none_open).unwrap_or_else(|| panic!("connections stay open: {}", self.metrics().raw))
    }

    /// Waits until the faults since `before` number at least `count`, and gives their labels.
    pub fn faulted(&self, before: &Metrics, count: u64) -> Vec<String> {
        let (was, mut labels) = (before.faults(), Vec::new());
        eventually(&format!("{count} fault(s) counted; before: {was:?}"), || {
            let now = self.metrics().faults();
            let grown = now.iter().map(|(label, n)| (label, n - was.get(label).unwrap_or(&0)));
            let grown: Vec<_> = grown.filter(|(_, more)| *more > 0).collect();
            labels = grown.iter().map(|(label, _)| (*label).clone()).collect();
            grown.iter().map(|(_, more)| more).sum::<u64>() >= count
        });
        labels
    }

    pub fn terminate(&self) {
        signal(self.pid(), "TERM");
    }

    pub fn await_exit(&mut self) -> ExitStatus {
        let status = self.process.await_exit(PATIENCE);
        status.unwrap_or_else(|| panic!("still running: {}", self.process.report()))
    }

    /// The end of every scenario: SIGTERM, a drain with nothing left to drain, exit 0.
    pub fn stop(mut self) {
        self.terminate();
        if let Some(successor) = self.process.successor {
            // It is no child of the test, which cannot learn its status.
            return eventually("it ends after SIGTERM", || has_ended(successor));
        }
        let status = self.await_exit();
        assert!(status.success(), "after SIGTERM: {status}; {}", self.process.report());
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if std::thread::panicking() && self.process.is_running() {
            let metrics = Metrics::scrape(self.admin).map_or_else(|e| format!("none: {e}"), |m| m.raw);
            eprintln!("--- metrics of the server\n{metrics}");
        }
    }
}

/// The server under test: `OFFRAMP_BIN`, or the one that cargo has built beside this test.
pub fn binary() -> PathBuf {
    std::env::var_os("OFFRAMP_BIN").map_or_else(|| profile_directory().join("offramp"), PathBuf::from)
}

/// What `offramp probe` says of this kernel: whether it replaces keys; `None` if it was not tried.
pub fn probed_rekey() -> Option<bool> {
    static SAID: OnceLock<Option<bool>> = OnceLock::new();
    *SAID.get_or_init(|| {
        let output = Command::new(binary()).arg("probe").output().expect("the probe runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.contains("rekey TLS 1.3")).expect("it tells of rekeying");
        (!line.contains("untried")).then(|| line.contains(" ok "))
    })
}

fn address_after(line: &str, mark: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(mark)?;
    rest.split([',', ';', ']', ' ']).next()?.trim().parse().ok()
}

#[test]
fn addresses_are_found_in_the_ready_line() {
    let line = "offramp ready: listening on 127.0.0.1:40123, backend 127.0.0.1:80, 2 workers; records tx: \
                kernel (TLS 1.2), rx: userspace (no module); admin on 127.0.0.1:9100";
    assert_eq!(address_after(line, "listening on "), Some("127.0.0.1:40123".parse().expect("an address")));
    assert_eq!(address_after(line, "admin on "), Some("127.0.0.1:9100".parse().expect("an address")));
    assert_eq!(address_after("offramp ready: listening on nowhere", "listening on "), None);
}
