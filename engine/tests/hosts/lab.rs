//! A cluster: hosts, what they share, the balancer before them, the backend behind them.

use offramp_proto::handshake::NEW_SESSION_TICKET;
use offramp_proto::record::HANDSHAKE;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use offramp_testing::tools::{PATIENCE, eventually, has_ended, signal, skip};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedProtocolVersion};

use crate::net::Namespace;

pub(crate) type Version = &'static SupportedProtocolVersion;

pub(crate) const OFFRAMP: &str = env!("CARGO_BIN_EXE_offramp");
const NAME: &str = "offramp.test";

/// All of it. Dropped, everything ends.
pub(crate) struct Cluster {
    pub(crate) hosts: [Host; 2],
    balancer: Balancer,
    certificate: CertificateDer<'static>,
    keys: PathBuf,
    _files: tempfile::TempDir,
}

impl Cluster {
    /// Two hosts, of which the balancer uses so many; `None`, and said so, where that cannot be.
    pub(crate) fn start(balanced: usize) -> Option<Self> {
        let hosts = Namespace::make().and_then(|first| Ok([first, Namespace::make()?]));
        let haproxy = Command::new("haproxy")
            .arg("-v")
            .output()
            .map_err(|error| format!("haproxy cannot be run ({error}); try: apt-get install haproxy"));
        match hosts.and_then(|hosts| haproxy.map(|_| hosts)) {
            Ok(namespaces) => Some(Self::start_in(namespaces, balanced)),
            Err(why) => {
                skip(&why);
                None
            }
        }
    }

    fn start_in(namespaces: [Namespace; 2], balanced: usize) -> Self {
        let files = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let certificate = make_identity(files.path());
        let keys = files.path().join("ticket.keys");
        let made = Command::new(OFFRAMP).args(["ticket-key", "new"]).arg(&keys).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let backend = echo();
        let hosts = namespaces.map(|namespace| {
            let own = files.path().join(format!("{}.keys", namespace.name));
            // The mode comes along.
            std::fs::copy(&keys, &own).unwrap();
            Host::start(namespace, backend, files.path(), &own)
        });
        let balancer = Balancer::start(files.path(), &hosts[..balanced]);
        Self { hosts, balancer, certificate, keys, _files: files }
    }

    pub(crate) fn balancer(&self) -> SocketAddr {
        self.balancer.addr
    }

    /// Where `offramp ticket-key` works; no host looks there.
    pub(crate) fn keys(&self) -> &Path {
        &self.keys
    }

    /// A client of one version; connections made with the same one resume each other.
    pub(crate) fn client(&self, version: Version) -> Arc<ClientConfig> {
        client(&self.certificate, version)
    }

    /// `offramp ticket-key` on the file that is then distributed: what it prints.
    pub(crate) fn ticket_key(&self, words: &[&str]) -> String {
        let output = Command::new(OFFRAMP).arg("ticket-key").args(words).arg(&self.keys).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The name of the key that seals now.
    pub(crate) fn sealing_key(&self) -> String {
        let ids = self.ticket_key(&["show-ids"]);
        let line = ids.lines().find(|line| line.contains("  seals, ")).expect("one seals");
        line.split(' ').next().unwrap().to_owned()
    }

    /// The file as `offramp ticket-key` left it goes to these hosts, one after the other; each has read it.
    pub(crate) fn distribute(&self, hosts: &[usize]) {
        let content = std::fs::read(&self.keys).unwrap();
        for nth in hosts {
            let host = &self.hosts[*nth];
            let before = host.readings();
            host.give_keys(&content);
            eventually("the file is read again", || host.readings() > before);
        }
    }
}

/// The certificate and key that all hosts have, as `c.pem` and `k.pem`.
pub(crate) fn make_identity(files: &Path) -> CertificateDer<'static> {
    let pair = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    std::fs::write(files.join("c.pem"), pair.cert.pem()).unwrap();
    std::fs::write(files.join("k.pem"), pair.signing_key.serialize_pem()).unwrap();
    pair.cert.der().clone()
}

/// A client that trusts one certificate.
pub(crate) fn client(certificate: &CertificateDer<'static>, version: Version) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
    Arc::new(config.unwrap().with_root_certificates(roots).with_no_client_auth())
}

/// One Offramp in a namespace of its own.
pub(crate) struct Host {
    child: Child,
    /// Processes that have taken over, each from the one before.
    successors: Vec<u32>,
    log: Arc<Mutex<String>>,
    /// Its own copy: hosts share no disk.
    keys: PathBuf,
    pub(crate) tls: SocketAddr,
    admin: SocketAddr,
    /// The namespace is removed behind the processes.
    _namespace: Namespace,
}

impl Host {
    pub(crate) fn start(namespace: Namespace, backend: u16, files: &Path, keys: &Path) -> Self {
        let log = Arc::default();
        let (child, [tls, admin]) = serve(&namespace, backend, files, keys, &log);
        let (keys, successors) = (keys.to_owned(), Vec::new());
        Self { child, successors, log, keys, tls, admin, _namespace: namespace }
    }

    /// The process that serves.
    pub(crate) fn pid(&self) -> u32 {
        self.successors.last().copied().unwrap_or_else(|| self.child.id())
    }

    /// `offramp upgrade`; the process that served before.
    pub(crate) fn upgrade(&mut self) -> u32 {
        let old = self.pid();
        let socket = admin_socket(&self.keys);
        let asked = Command::new(OFFRAMP).args(["upgrade", "--admin-socket"]).arg(&socket).output().unwrap();
        assert!(asked.status.success(), "{asked:?}: {}", self.log());
        let said = String::from_utf8(asked.stdout).unwrap();
        let pid = said.strip_prefix("process ").and_then(|rest| rest.split(' ').next()?.parse().ok());
        self.successors.push(pid.unwrap_or_else(|| panic!("{said}")));
        old
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// How often it has read its ticket keys since it started.
    pub(crate) fn readings(&self) -> usize {
        self.log().matches("ticket keys read from").count()
    }

    pub(crate) fn keys(&self) -> &Path {
        &self.keys
    }

    /// As a tool for distributing secrets does: whole, with the mode it must have.
    pub(crate) fn give_keys(&self, content: &[u8]) {
        let beside = self.keys.with_extension("incoming");
        std::fs::write(&beside, content).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&beside, mode).unwrap();
        std::fs::rename(&beside, &self.keys).unwrap();
    }

    /// SIGHUP.
    pub(crate) fn reload(&self) {
        signal(self.pid(), "HUP");
    }

    /// As it counts them.
    pub(crate) fn handshakes(&self, kind: &str) -> u64 {
        let mut socket = TcpStream::connect(self.admin).unwrap();
        socket.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let wanted = format!("kind=\"{kind}\"");
        let counts = answer
            .lines()
            .filter(|line| line.starts_with("offramp_handshakes_total") && line.contains(&wanted))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
        counts.sum()
    }

    /// kill -9, and until its listener is gone: the kernel takes rings down in its own time, and what it
    /// accepts in between no balancer of TCP can take back.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        eventually("nobody listens there any more", || TcpStream::connect(self.tls).is_err());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Each may have ended before.
        self.successors.iter().filter(|pid| !has_ended(**pid)).for_each(|pid| signal(*pid, "KILL"));
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.tls, self.log());
        }
    }
}

/// The admin socket of the host that has these ticket keys.
fn admin_socket(keys: &Path) -> PathBuf {
    keys.with_extension("admin")
}

/// Starts Offramp; the addresses of its listener and of its admin listener.
fn serve(
    namespace: &Namespace,
    backend: u16,
    files: &Path,
    keys: &Path,
    log: &Arc<Mutex<String>>,
) -> (Child, [SocketAddr; 2]) {
    let (gateway, any) = (namespace.gateway, SocketAddr::from((namespace.address, 0)).to_string());
    let mut command = namespace.command(OFFRAMP);
    command
        .args(["serve", "--workers", "1", "--max-connections", "500", "--offload", "never"])
        .args(["--listen", &any, "--admin", &any, "--drain-timeout", "10m", "--admin-socket"])
        .arg(admin_socket(keys))
        .args(["--backend", &format!("{gateway}:{backend}"), "--cert", "c.pem", "--key", "k.pem"])
        .arg("--ticket-keys")
        .arg(keys)
        .current_dir(files)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (into, stderr) = (Arc::clone(log), child.stderr.take().unwrap());
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            *into.lock().unwrap() += &format!("{line}\n");
        }
    });
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let after = |mark: &str| {
        let (_, rest) = ready.split_once(mark).unwrap_or_else(|| panic!("{ready}{}", log.lock().unwrap()));
        rest.split([',', ';', ' ', '\n']).next().unwrap().parse().unwrap()
    };
    let addresses = [after("listening on "), after("admin on ")];
    (child, addresses)
}

/// HAProxy in TCP mode, round robin.
pub(crate) struct Balancer {
    child: Child,
    pub(crate) addr: SocketAddr,
    /// Where it is asked.
    control: PathBuf,
}

impl Balancer {
    pub(crate) fn start(files: &Path, hosts: &[Host]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        // The listening socket is its standard input: nobody else can take the port in between.
        let control = files.join("haproxy.sock");
        let mut lines = format!("global\n stats socket {}\n", control.display());
        lines += "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n \
             option redispatch 1\n retries 3\nlisten hosts\n bind fd@0\n balance roundrobin\n";
        for (nth, host) in hosts.iter().enumerate() {
            lines += &format!(" server host{nth} {}\n", host.tls);
        }
        let path = files.join("haproxy.cfg");
        std::fs::write(&path, lines).unwrap();
        let child = Command::new("haproxy")
            .args(["-db", "-f"])
            .arg(&path)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, addr, control }
    }

    /// Connections to hosts that failed, the ones that it has hidden by trying again included.
    pub(crate) fn failed_connects(&self) -> u64 {
        let mut socket = UnixStream::connect(&self.control).unwrap();
        socket.write_all(b"show stat\n").unwrap();
        let mut table = String::new();
        socket.read_to_string(&mut table).unwrap();
        let mut rows = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let names = rows.next().unwrap();
        let column = |name| names.iter().position(|it| *it == name).unwrap();
        let columns = ["wretr", "wredis", "econ"].map(column);
        let backend = rows.find(|row| row[column("svname")] == "BACKEND").unwrap();
        columns.iter().map(|at| backend[*at].parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A backend for the hosts, at every address of where the test runs; ends with the process.
pub(crate) fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut bytes = [0; 1024];
                while let Ok(count @ 1..) = socket.read(&mut bytes) {
                    if socket.write_all(&bytes[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// A connection with a byte there and back, which takes in the ticket; what kind of handshake it had.
pub(crate) fn handshake(addr: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<HandshakeKind> {
    let mut tcp = TcpStream::connect_timeout(&addr, PATIENCE)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    let mut tls = ClientConnection::new(Arc::clone(config), NAME.try_into().unwrap()).unwrap();
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    stream.write_all(b"!")?;
    stream.read_exact(&mut [0])?;
    tls.send_close_notify();
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    stream.flush()?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(tls.handshake_kind().unwrap())
}

/// A connection that stays open.
pub(crate) struct Open(rustls::StreamOwned<ClientConnection, TcpStream>);

impl Open {
    pub(crate) fn new(addr: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let tcp = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let tls = ClientConnection::new(Arc::clone(config), NAME.try_into().unwrap()).unwrap();
        Self(rustls::StreamOwned::new(tls, tcp))
    }

    /// There and back.
    pub(crate) fn ping(&mut self) {
        let mut back = [0; 8];
        self.0.write_all(b"unmoved?").unwrap();
        self.0.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"unmoved?");
    }
}

/// The name of the key that a host seals with: what a ticket of TLS 1.2 begins with (RFC 5077 §4), which
/// travels in the clear in front of the server's ChangeCipherSpec.
pub(crate) fn name_in_ticket(addr: SocketAddr, config: &Arc<ClientConfig>) -> String {
    let mut tcp = TcpStream::connect_timeout(&addr, PATIENCE).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut tls = ClientConnection::new(Arc::clone(config), NAME.try_into().unwrap()).unwrap();
    let mut heard = Vec::new();
    while tls.is_handshaking() {
        while tls.wants_write() {
            tls.write_tls(&mut tcp).unwrap();
        }
        if tls.is_handshaking() && tls.wants_read() {
            let mut block = [0; 4096];
            let count = tcp.read(&mut block).unwrap();
            assert!(count > 0, "the server ended the handshake");
            heard.extend_from_slice(&block[..count]);
            let mut rest = &block[..count];
            while !rest.is_empty() {
                tls.read_tls(&mut rest).unwrap();
                tls.process_new_packets().unwrap();
            }
        }
    }
    let ticket = new_session_ticket(&heard).expect("a NewSessionTicket in the clear");
    ticket[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The ticket of the NewSessionTicket (RFC 5077 §3.3) among handshake messages in the clear.
fn new_session_ticket(mut stream: &[u8]) -> Option<Vec<u8>> {
    let mut messages = Vec::new();
    while let [HANDSHAKE, _, _, high, low, rest @ ..] = stream {
        let (payload, later) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
        messages.extend_from_slice(payload);
        stream = later;
    }
    let mut rest = &messages[..];
    while let [kind, long @ ..] = rest {
        let (length, behind) = long.split_at_checked(3)?;
        let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let (body, later) = behind.split_at_checked(length)?;
        if *kind == NEW_SESSION_TICKET {
            // Four bytes of lifetime, two of length.
            return body.get(6..).map(<[u8]>::to_vec);
        }
        rest = later;
    }
    None
}
