//! etcd and agents as processes, with times of seconds.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use offramp_testing::tools::{eventually, patiently, pause, scratch, signal, skip};

pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_offramp-ticket-key-agent");
/// Keys seal for twelve seconds, are published eight before, and open for twelve more.
pub(crate) const TIMES: [&str; 6] = ["--rotate-every", "12s", "--lead", "8s", "--open-for", "12s"];
pub(crate) const PREFIX: &str = "/offramp/ticket-keys";

/// Debian's etcd with one member, on ports of its own; `None`, and said so, where it is not installed.
pub(crate) struct Etcd {
    child: Child,
    ports: [u16; 2],
    data: PathBuf,
    /// More of its command line.
    extra: Vec<String>,
    scheme: &'static str,
    /// More of etcdctl's command line.
    control: Vec<String>,
    pub(crate) files: tempfile::TempDir,
}

impl Etcd {
    pub(crate) fn start() -> Option<Self> {
        Self::start_with("http", |_| (Vec::new(), Vec::new()))
    }

    /// `more` makes files, and says what is added to the command lines of etcd and of etcdctl.
    pub(crate) fn start_with(
        scheme: &'static str,
        more: impl FnOnce(&Path) -> (Vec<String>, Vec<String>),
    ) -> Option<Self> {
        for (program, package) in [("etcd", "etcd-server"), ("etcdctl", "etcd-client")] {
            let found =
                Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
            if found.is_err() {
                skip(&format!("{program} is not installed: apt-get install {package}"));
                return None;
            }
        }
        let files = scratch();
        let (extra, control) = more(files.path());
        // Somebody else may take a port between the choice and the start.
        let started = patiently(|| {
            let ports = free_ports();
            let data = files.path().join(format!("data-{}", ports[0]));
            run(scheme, ports, &data, &extra).map(|child| (child, ports, data))
        });
        let (child, ports, data) = started.expect("etcd starts");
        Some(Self { child, ports, data, extra, scheme, control, files })
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.ports[0])
    }

    pub(crate) fn control(&self, words: &[&str]) -> Output {
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoint()])
            .args(&self.control)
            .args(words);
        command.output().expect("etcdctl runs")
    }

    /// etcdctl, which must succeed: what it prints.
    pub(crate) fn must(&self, words: &[&str]) -> String {
        let output = self.control(words);
        assert!(output.status.success(), "etcdctl {words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Puts bytes that no command line can have.
    pub(crate) fn put(&self, key: &str, value: &[u8]) {
        use std::io::Write;
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint(), "put", key]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("etcdctl runs");
        child.stdin.take().expect("piped").write_all(value).expect("taken");
        assert!(child.wait().expect("it ends").success());
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Vec<u8> {
        let mut value = self.control(&["get", "--print-value-only", key]).stdout;
        // etcdctl adds a newline.
        value.pop();
        value
    }

    pub(crate) fn leader(&self) -> String {
        String::from_utf8_lossy(&self.get(&format!("{PREFIX}/leader"))).into_owned()
    }

    pub(crate) fn hold(&self) {
        signal(self.child.id(), "STOP");
    }

    pub(crate) fn go_on(&self) {
        signal(self.child.id(), "CONT");
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// At the same address, with the data that there are, or with those of `data`.
    pub(crate) fn start_again(&mut self, data: Option<PathBuf>) {
        self.stop();
        self.data = data.unwrap_or_else(|| self.data.clone());
        let started = patiently(|| run(self.scheme, self.ports, &self.data, &self.extra));
        self.child = started.expect("etcd starts again");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.files.path().join("etcd.log")).unwrap_or_default();
            eprintln!("--- etcd\n{log}");
        }
    }
}

fn free_ports() -> [u16; 2] {
    let both = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    both.each_ref().map(|listener| listener.local_addr().expect("bound").port())
}

/// Until it answers; `None` if it ends instead.
fn run(scheme: &str, [client, peer]: [u16; 2], data: &Path, extra: &[String]) -> Option<Child> {
    let client = format!("{scheme}://127.0.0.1:{client}");
    let peer = format!("http://127.0.0.1:{peer}");
    let log = std::fs::File::create(data.with_file_name("etcd.log")).expect("a log");
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(data)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        // A lease may be as short as one and a half elections.
        .args(["--heartbeat-interval", "100", "--election-timeout", "1000", "--log-level", "warn"])
        .args(extra)
        .stdout(Stdio::null())
        .stderr(log);
    let mut child = command.spawn().expect("etcd runs");
    let address = client.split_once("://").expect("a URL").1.to_owned();
    let is_up = patiently(|| {
        if child.try_wait().expect("its state").is_some() {
            return Some(false);
        }
        std::net::TcpStream::connect(&address).is_ok().then_some(true)
    });
    (is_up == Some(true)).then_some(child)
}

/// An agent in a directory of its own, which stands for a host.
pub(crate) struct Host {
    child: Child,
    pub(crate) name: String,
    directory: PathBuf,
    command: Vec<String>,
    /// The socket of its service manager.
    manager: Option<PathBuf>,
    log: Arc<Mutex<String>>,
}

impl Host {
    pub(crate) fn start(etcd: &Etcd, name: &str, keks: &[&Path]) -> Self {
        Self::start_with(etcd, name, keks, &TIMES)
    }

    pub(crate) fn start_with(etcd: &Etcd, name: &str, keks: &[&Path], options: &[&str]) -> Self {
        Self::start_under(etcd, name, keks, options, None)
    }

    /// With a service manager at this socket.
    pub(crate) fn start_notifying(etcd: &Etcd, name: &str, kek: &Path, manager: &Path) -> Self {
        Self::start_under(etcd, name, &[kek], &TIMES, Some(manager.to_owned()))
    }

    fn start_under(
        etcd: &Etcd,
        name: &str,
        keks: &[&Path],
        options: &[&str],
        manager: Option<PathBuf>,
    ) -> Self {
        let directory = etcd.files.path().join(name);
        std::fs::create_dir_all(&directory).expect("made");
        let mut command: Vec<String> = ["--name", name, "--lease", "4s"].map(str::to_owned).to_vec();
        if !options.contains(&"--etcd") {
            command.extend(["--etcd".to_owned(), etcd.endpoint()]);
        }
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let named = |option: &str, file: &str| [option.to_owned(), text(&directory.join(file))];
        command.extend(named("--file", "ticket.keys"));
        command.extend(named("--metrics-file", "agent.prom"));
        keks.iter().for_each(|kek| command.extend(["--kek".to_owned(), text(kek)]));
        command.extend(options.iter().map(|word| (*word).to_owned()));
        let log = Arc::default();
        let child = spawn(&command, manager.as_deref(), &log);
        Self { child, name: name.to_owned(), directory, command, manager, log }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.directory.join("ticket.keys")
    }

    /// The names of the keys with their times, as the file has them, the newest first.
    pub(crate) fn keys(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.file()).unwrap_or_default();
        let key = |line: &str| {
            line.strip_prefix("key ").map(|rest| rest.split(' ').take(3).collect::<Vec<_>>().join(" "))
        };
        text.lines().filter_map(key).collect()
    }

    pub(crate) fn generation(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.file()).ok()?;
        text.lines().find_map(|line| line.split_once("Generation: ")?.1.parse().ok())
    }

    pub(crate) fn metric(&self, name: &str) -> Option<u64> {
        let text = std::fs::read_to_string(self.directory.join("agent.prom")).ok()?;
        let line =
            text.lines().find_map(|line| line.strip_prefix(&format!("offramp_ticket_key_agent_{name} ")))?;
        line.parse().ok()
    }

    pub(crate) fn alarm(&self, name: &str) -> bool {
        self.metric(&format!("alarm{{alarm=\"{name}\"}}")) == Some(1)
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn says(&self, text: &str) {
        eventually(&format!("{} says: {text}", self.name), || self.log().contains(text));
    }

    /// Without a word to etcd.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// SIGTERM, and until it has ended well.
    pub(crate) fn terminate(&mut self) {
        self.signal("TERM");
        let status = patiently(|| self.child.try_wait().expect("its state")).expect("it ends");
        assert!(status.success(), "{status}: {}", self.log());
    }

    pub(crate) fn start_again(&mut self) {
        self.kill();
        self.child = spawn(&self.command, self.manager.as_deref(), &self.log);
    }

    /// With other key-encryption keys.
    pub(crate) fn start_again_with(&mut self, keks: &[&Path]) {
        while let Some(at) = self.command.iter().position(|word| word == "--kek") {
            self.command.drain(at..at + 2);
        }
        let kek = |kek: &&Path| ["--kek".to_owned(), kek.to_str().expect("UTF-8").to_owned()];
        self.command.extend(keks.iter().flat_map(kek));
        self.start_again();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- agent {}\n{}", self.name, self.log());
        }
    }
}

fn spawn(words: &[String], manager: Option<&Path>, log: &Arc<Mutex<String>>) -> Child {
    let mut command = Command::new(AGENT);
    command.args(words).stderr(Stdio::piped()).env_remove("NOTIFY_SOCKET");
    command.envs(manager.map(|socket| ("NOTIFY_SOCKET", socket)));
    let mut child = command.spawn().expect("the agent runs");
    let (into, stderr) = (Arc::clone(log), child.stderr.take().expect("piped"));
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            *into.lock().unwrap() += &format!("{line}\n");
        }
    });
    child
}

/// A key-encryption key in a file.
pub(crate) fn kek(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    let words = ["-c", "umask 077; openssl rand -out \"$0\" 32"];
    let status = Command::new("sh").args(words).arg(&path).status().expect("openssl runs");
    assert!(status.success());
    path
}

/// All hosts have the same keys, and some; which.
pub(crate) fn agreed(hosts: &[&Host]) -> Vec<String> {
    let agreement = patiently(|| {
        let keys: Vec<_> = hosts.iter().map(|host| host.keys()).collect();
        (!keys[0].is_empty() && keys.windows(2).all(|two| two[0] == two[1])).then(|| keys[0].clone())
    });
    agreement.expect("all hosts have the same keys")
}

/// Waits until all hosts have the same keys and the newest is another than that of `before`.
pub(crate) fn rotated(hosts: &[&Host], before: &[String]) -> Vec<String> {
    let newer = patiently(|| {
        let keys = agreed(hosts);
        let is_newer = keys.first() != before.first();
        if !is_newer {
            pause();
        }
        is_newer.then_some(keys)
    });
    newer.expect("the keys are rotated")
}
