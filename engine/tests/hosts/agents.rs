//! Three hosts behind a balancer whose ticket keys come from etcd, by an agent on each host: rotations and
//! a rolling upgrade under load.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use offramp_testing::loadgen::Loadgen;
use offramp_testing::tools::{eventually, has_ended, skip};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;

use crate::BOTH;
use crate::lab::{Balancer, Host, OFFRAMP, Version, client, echo, make_identity, name_in_ticket};
use crate::load::Load;
use crate::net::Namespace;

/// A process that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent of the ticket keys, and the file that it logs to.
struct Agent {
    _process: Running,
    log: PathBuf,
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- {}\n{}",
                self.log.display(),
                std::fs::read_to_string(&self.log).unwrap_or_default()
            );
        }
    }
}

/// Fields are dropped in this order.
struct Cluster {
    hosts: Vec<Host>,
    balancer: Balancer,
    agents: Vec<Agent>,
    _etcd: Running,
    certificate: CertificateDer<'static>,
    /// In memory, as is good for keys.
    _keys: tempfile::TempDir,
    files: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Option<Self> {
        for (program, flag, package) in [
            ("haproxy", "-v", "haproxy"),
            ("etcd", "--version", "etcd-server"),
            ("openssl", "version", "openssl"),
        ] {
            if let Err(error) = Command::new(program).arg(flag).output() {
                skip(&format!("{program} cannot be run ({error}); try: apt-get install {package}"));
                return None;
            }
        }
        let namespaces: Result<Vec<_>, _> = (0..3).map(|_| Namespace::make()).collect();
        match namespaces {
            Ok(namespaces) => Some(Self::start_in(namespaces)),
            Err(why) => {
                skip(&why);
                None
            }
        }
    }

    fn start_in(namespaces: Vec<Namespace>) -> Self {
        let files = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let keys = tempfile::tempdir_in("/dev/shm").unwrap();
        let certificate = make_identity(files.path());
        let (etcd, endpoint) = start_etcd(files.path());
        let kek = files.path().join("kek");
        let words = ["-c", "umask 077; openssl rand -out \"$0\" 32"];
        assert!(Command::new("sh").args(words).arg(&kek).status().unwrap().success());
        build_agent();
        let file = |namespace: &Namespace| keys.path().join(&namespace.name).join("ticket.keys");
        let agent = |namespace: &Namespace| start_agent(&endpoint, &kek, &file(namespace), files.path());
        let agents: Vec<Agent> = namespaces.iter().map(agent).collect();
        let backend = echo();
        let host = |namespace: Namespace| {
            let keys = file(&namespace);
            eventually("the agent writes the file", || keys.exists());
            Host::start(namespace, backend, files.path(), &keys)
        };
        let hosts: Vec<Host> = namespaces.into_iter().map(host).collect();
        let balancer = Balancer::start(files.path(), &hosts);
        Self { hosts, balancer, agents, _etcd: etcd, certificate, _keys: keys, files }
    }

    fn client(&self, version: Version) -> Arc<ClientConfig> {
        client(&self.certificate, version)
    }

    /// `loadgen` at the balancer.
    fn load(&self, words: &str) -> Loadgen {
        Loadgen::client_of(self.balancer.addr, &self.files.path().join("c.pem"), words)
    }

    /// The names of the keys that the hosts seal with now.
    fn sealing(&self, looker: &Arc<ClientConfig>) -> BTreeSet<String> {
        self.hosts.iter().map(|host| name_in_ticket(host.tls, looker)).collect()
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// It is a package of its own, and cargo builds it for this test only where it tests the whole workspace.
/// Cargo has given back its lock on target/ while tests run.
fn build_agent() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--workspace", "--bin", "offramp-ticket-key-agent"]);
    if Path::new(OFFRAMP).ancestors().any(|path| path.ends_with("release")) {
        command.arg("--release");
    }
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// One member, at ports that are free.
fn start_etcd(files: &Path) -> (Running, String) {
    let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses: [SocketAddr; 2] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
    drop(listeners);
    let [clients, peers] = addresses.map(|address| format!("http://{address}"));
    let child = Command::new("etcd")
        .arg("--data-dir")
        .arg(files.join("etcd"))
        .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("default={peers}"), "--log-level", "error"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let running = Running(child);
    eventually("etcd listens", || std::net::TcpStream::connect(addresses[0]).is_ok());
    (running, clients)
}

/// By `offramp ticket-key agent`, in the way of an operator.
fn start_agent(endpoint: &str, kek: &Path, file: &Path, files: &Path) -> Agent {
    let directory: PathBuf = file.parent().unwrap().to_owned();
    std::fs::create_dir(&directory).unwrap();
    let host = name(&directory);
    let log = files.join(format!("{host}.log"));
    let child = Command::new(OFFRAMP)
        .args(["ticket-key", "agent", "--etcd", endpoint, "--name", &host, "--lease", "5s"])
        .args(["--rotate-every", "14s", "--lead", "10s", "--open-for", "2m"])
        .arg("--kek")
        .arg(kek)
        .arg("--file")
        .arg(file)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    Agent { _process: Running(child), log }
}

/// What `loadgen` reports of handshakes that were to be resumed.
struct Resumption {
    asked: u64,
    resumed: u64,
}

impl Resumption {
    /// Every ticket that was offered was taken ([`Loadgen::report`]).
    fn of(report: &str) -> Self {
        let report: serde_json::Value = serde_json::from_str(report).unwrap();
        let handshakes = &report["runs"][0]["handshakes"];
        let count = |name: &str| handshakes[name].as_u64().unwrap_or_else(|| panic!("{name}: {report}"));
        Self { asked: count("resume_asked"), resumed: count("resumed") }
    }

    fn share(&self) -> f64 {
        self.resumed as f64 / self.asked as f64
    }
}

const HANDSHAKES: &str =
    "handshake --tls 1.2,1.3 --resume 1 --allow-full --request echo --rate 40 -c 200 --warm-up 2s";
const TRANSFER: &str = "transfer --direction both -c 3 --warm-up 100ms";

/// Each host goes over to a new process while the agents rotate: no connection fails, none is refused for the
/// balancer to try again, and each ticket is taken, as before the upgrades.
#[test]
fn hosts_upgrade_and_rotate_under_load() {
    if !Loadgen::is_built() {
        return;
    }
    let Some(mut cluster) = Cluster::start() else { return };
    let load = Load::start_with(|version| cluster.client(version), cluster.balancer.addr);
    let before = cluster.load(HANDSHAKES);
    // Some seconds behind its warm-up.
    std::thread::sleep(Duration::from_secs(7));
    load.goes_on_for(50);
    let before = Resumption::of(&before.report());
    let loads = [cluster.load(HANDSHAKES), cluster.load(TRANSFER)];
    load.goes_on_for(100);
    let looker = cluster.client(BOTH[0]);
    let mut sealed_with = cluster.sealing(&looker);
    let mut old = Vec::new();
    for nth in 0..3 {
        old.push(cluster.hosts[nth].upgrade());
        eventually("the new process has connections", || cluster.hosts[nth].handshakes("resumed") > 20);
        eventually("all hosts seal with the next key", || {
            let now = cluster.sealing(&looker);
            now.len() == 1 && now.is_disjoint(&sealed_with)
        });
        sealed_with.extend(cluster.sealing(&looker));
        load.goes_on_for(50);
    }
    // Processes that have taken over are led by agents, one of which is gone.
    drop(cluster.agents.remove(0));
    load.goes_on_for(50);
    let transfers = old.iter().filter(|pid| !has_ended(**pid)).count();
    assert!(transfers > 0, "transfers that began in the old processes go on");
    let [handshakes, transfer] = loads.map(Loadgen::report);
    assert!(!transfer.is_empty());
    let after = Resumption::of(&handshakes);
    let (resumed, otherwise) = load.finish();
    assert!(otherwise.is_empty(), "beside {resumed} resumed: {otherwise:?}");
    assert_eq!(cluster.balancer.failed_connects(), 0, "refused, and tried again by the balancer");
    // Of TLS 1.3 a burst may find no ticket left.
    let (share, expected) = (after.share(), before.share());
    println!("resumed: {share:.4} of {}, before the upgrades {expected:.4} of {}", after.asked, before.asked);
    assert!(share > expected - 0.02, "{share} of {}, before the upgrades {expected}", after.asked);
    eventually("the old processes end", || old.iter().all(|pid| has_ended(*pid)));
}
