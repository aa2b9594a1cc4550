//! Three hosts behind a balancer whose ticket keys come from etcd, by an agent on each host: rotations and a rolling
//! restart under load.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;

use crate::BOTH;
use crate::lab::{
    Balancer, Host, OFFRAMP, Version, client, echo, eventually, make_identity, name_in_ticket, skip,
};
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

/// Fields are dropped in this order.
struct Cluster {
    hosts: Vec<Host>,
    balancer: Balancer,
    agents: Vec<Running>,
    _etcd: Running,
    certificate: CertificateDer<'static>,
    /// In memory, as is good for keys.
    keys: tempfile::TempDir,
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
        let agents = namespaces.iter().map(agent).collect();
        let backend = echo();
        let host = |namespace: Namespace| {
            let keys = file(&namespace);
            eventually("the agent writes the file", || keys.exists());
            Host::start(namespace, backend, files.path(), &keys)
        };
        let hosts: Vec<Host> = namespaces.into_iter().map(host).collect();
        let balancer = Balancer::start(files.path(), &hosts);
        Self { hosts, balancer, agents, _etcd: etcd, certificate, keys, files }
    }

    fn client(&self, version: Version) -> Arc<ClientConfig> {
        client(&self.certificate, version)
    }

    /// What the agents have logged.
    fn logs(&self) -> String {
        let directories = std::fs::read_dir(self.keys.path()).unwrap().flatten();
        let log = |entry: std::fs::DirEntry| self.files.path().join(format!("{}.log", name(&entry.path())));
        directories.map(|entry| std::fs::read_to_string(log(entry)).unwrap()).collect()
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// It is a package of its own, and cargo builds it for this test only where it tests the whole workspace. Cargo has
/// given back its lock on target/ while tests run.
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
fn start_agent(endpoint: &str, kek: &Path, file: &Path, files: &Path) -> Running {
    let directory: PathBuf = file.parent().unwrap().to_owned();
    std::fs::create_dir(&directory).unwrap();
    let host = name(&directory);
    let log = std::fs::File::create(files.join(format!("{host}.log"))).unwrap();
    let child = Command::new(OFFRAMP)
        .args(["ticket-key", "agent", "--etcd", endpoint, "--name", &host, "--lease", "5s"])
        .args(["--rotate-every", "14s", "--lead", "10s", "--open-for", "10m"])
        .arg("--kek")
        .arg(kek)
        .arg("--file")
        .arg(file)
        .stderr(log)
        .spawn()
        .unwrap();
    Running(child)
}

#[test]
fn agents_rotate_and_hosts_restart_under_load_without_a_full_handshake() {
    let Some(mut cluster) = Cluster::start() else { return };
    let load = Load::start_with(|version| cluster.client(version), cluster.balancer.addr);
    let looker = cluster.client(BOTH[0]);
    let mut sealing = vec![name_in_ticket(cluster.hosts[0].tls, &looker)];
    load.goes_on_for(50);
    for nth in 0..3 {
        // The host is taken out, drained, started again with the keys of its file, and put back.
        cluster.balancer.set(nth, "maint");
        cluster.hosts[nth].restart();
        cluster.balancer.set(nth, "ready");
        let names = || {
            let names = cluster.hosts.iter().map(|host| name_in_ticket(host.tls, &looker));
            names.collect::<std::collections::BTreeSet<_>>()
        };
        eventually("all hosts seal with the next key", || {
            names().len() == 1 && !sealing.contains(names().first().unwrap())
        });
        sealing.extend(names());
        load.goes_on_for(50);
    }
    // Hosts that have restarted are led by agents, one of which is gone.
    drop(cluster.agents.remove(0));
    load.goes_on_for(50);
    let (resumed, otherwise) = load.finish();
    assert!(otherwise.is_empty(), "beside {resumed} resumed: {otherwise:?}\n{}", cluster.logs());
    assert!(cluster.hosts.iter().all(|host| host.handshakes("resumed") > 0), "each had its share");
}
