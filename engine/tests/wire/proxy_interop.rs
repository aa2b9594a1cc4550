//! The PROXY header, read by servers that are not ours: nginx, HAProxy and Kamailio tell the client what they
//! took from it. The scenario compares that with the sockets themselves.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustls::ClientConfig;

use crate::peers::Client;
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::NAME;
use offramp_testing::peer::{BOTH, End, Peer, Version, dial_unix, plain};
use offramp_testing::rng::hex;
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{eventually, have, in_guest, patiently, scratch, skip, text};

/// Every option that needs no certificate and no ALPN.
const TLVS: &str = "authority,ssl,unique-id,crc32c";
/// In front of what a server took from the header; its line ends there.
const MARK: &str = "Seen: ";
const HTTP: &str = "GET / HTTP/1.0\r\n\r\n";
const SIP: &str = "OPTIONS sip:b.test SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:5061;branch=z9hG4bK1\r\n\
     Max-Forwards: 70\r\nFrom: <sip:a@a.test>;tag=1\r\nTo: <sip:b.test>\r\nCall-ID: 1@a.test\r\n\
     CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";

/// A server that reads the header. Dropped, it ends; dropped in a panic, it prints its log.
struct Reader {
    program: &'static str,
    child: Child,
    addr: SocketAddr,
    /// What it answers.
    request: &'static str,
    files: tempfile::TempDir,
}

impl Reader {
    /// Answers any request with the header's four words.
    fn nginx() -> Option<Self> {
        let configuration = |addr| {
            format!(
                "daemon off; master_process off; pid pid; error_log stderr info;
                 events {{ worker_connections 64; }}
                 http {{
                   access_log off; client_body_temp_path body; proxy_temp_path proxy;
                   fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                   server {{
                     listen {addr} proxy_protocol;
                     return 200 \"{MARK}$proxy_protocol_addr $proxy_protocol_port \
                     $proxy_protocol_server_addr $proxy_protocol_server_port\\n\";
                   }}
                 }}\n"
            )
        };
        Self::start("nginx", "-e stderr -p ./ -c configuration", HTTP, configuration)
    }

    /// Answers any request with the header's four words, the authority and the unique ID. It refuses a header
    /// whose CRC32C is wrong.
    fn haproxy() -> Option<Self> {
        let configuration = |addr| {
            format!(
                "global\n  log stdout format raw local0 debug\n  maxconn 64\n\
                 defaults\n  mode http\n  log global\n\
                 \x20 timeout connect 60s\n  timeout client 60s\n  timeout server 60s\n\
                 frontend reader\n  bind {addr} accept-proxy\n\
                 \x20 http-request return status 200 content-type text/plain lf-string \
                 \"{MARK}%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]\\n\"\n"
            )
        };
        Self::start("haproxy", "-db -f configuration", HTTP, configuration)
    }

    /// Passes connections on to a Unix socket, each with a header.
    fn haproxy_before(path: &Path) -> Option<Self> {
        let configuration = |addr| {
            format!(
                "global\n  log stdout format raw local0 debug\n  maxconn 64\n\
                 defaults\n  mode tcp\n  log global\n\
                 \x20 timeout connect 60s\n  timeout client 60s\n  timeout server 60s\n\
                 frontend balancer\n  bind {addr}\n  default_backend offramp\n\
                 backend offramp\n  server offramp unix@{} send-proxy-v2\n",
                path.display()
            )
        };
        Self::start("haproxy", "-db -f configuration", HTTP, configuration)
    }

    /// Answers any SIP request with the header's four words. Without a header it takes the connection as it
    /// is.
    fn kamailio() -> Option<Self> {
        let configuration = |addr| {
            format!(
                "log_stderror=yes\nchildren=1\ntcp_children=1\nauto_aliases=no\ndns=no\nrev_dns=no\n\
                 tcp_accept_haproxy=yes\nreceived_route_mode=1\nlisten=tcp:{addr}\n\
                 loadmodule \"sl.so\"\nloadmodule \"pv.so\"\nloadmodule \"textops.so\"\n\
                 event_route[core:msg-received] {{ $var(to) = $_s($rcv(rcvip) $rcv(rcvport)); }}\n\
                 request_route {{\n\
                 \x20 append_to_reply(\"{MARK}$si $sp $var(to)\\r\\n\");\n\
                 \x20 sl_send_reply(\"200\", \"OK\");\n}}\n"
            )
        };
        Self::start("kamailio", "-DD -E -m 16 -M 4 -w . -Y . -f configuration", SIP, configuration)
    }

    /// None, and said so, where the program is not installed. In a guest it is left out: what a backend makes
    /// of the header has nothing to do with the records that brought the request.
    fn start(
        program: &'static str,
        words: &str,
        request: &'static str,
        configuration: impl Fn(SocketAddr) -> String,
    ) -> Option<Self> {
        if in_guest() || !have(program) {
            return None;
        }
        let files = scratch();
        // None of them tells a port that the kernel chose: the port is free when asked, and nothing else on
        // loopback is likely to take it.
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = free.local_addr().expect("a bound listener has an address");
        drop(free);
        fs::write(files.path().join("configuration"), configuration(addr)).expect("the file can be written");
        let log = File::create(files.path().join("log")).expect("the log can be made");
        let mut command = Command::new(program);
        command.args(words.split(' ')).current_dir(files.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
        // Kamailio has several processes: a group, should they have to be killed.
        let child = command.process_group(0).spawn().expect("it has run before");
        let mut reader = Self { program, child, addr, request, files };
        eventually("the server listens", || {
            let ended = reader.child.try_wait().expect("it can be waited for");
            assert!(ended.is_none(), "{program} ended: {ended:?}");
            TcpStream::connect(addr).is_ok()
        });
        Some(reader)
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.files.path().join("log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for Reader {
    /// Told to end, Kamailio awaits its processes; killed alone, it would leave them.
    fn drop(&mut self) {
        let pid = self.child.id();
        let kill = |name, whom: &str| Command::new("kill").args(["-s", name, "--", whom]).status();
        let _ = kill("TERM", &pid.to_string());
        if patiently(|| self.child.try_wait().ok().flatten()).is_none() {
            let _ = kill("KILL", &format!("-{pid}"));
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.program, self.log());
        }
    }
}

/// One connection through Offramp to a reader.
struct Visit {
    /// Client and listener, as the scenario knows them.
    addresses: [SocketAddr; 2],
    /// What the reader took from the header, word by word; none if it gave no such answer.
    seen: Option<Vec<String>>,
}

impl Visit {
    fn make(reader: &Reader, offramp: &TestServer, config: &Arc<ClientConfig>) -> Self {
        let mut peer = Peer::open(offramp.addr, config);
        let client = peer.tcp.local_addr().expect("it is connected");
        peer.seal(reader.request.as_bytes());
        // A reader that refused the header may be gone already.
        let sent = peer.flush().is_ok();
        let seen = if sent { marked_line(&mut peer) } else { None };
        if seen.is_some() {
            peer.close_notify();
            assert_eq!(peer.rest().1, End::Clean);
        }
        Self { addresses: [client, offramp.addr], seen }
    }

    /// The addresses as the readers write them, if they take a port for that.
    fn expected(&self, port: fn(u16) -> u16) -> Vec<String> {
        let words = |addr: SocketAddr| [addr.ip().to_string(), port(addr.port()).to_string()];
        self.addresses.into_iter().flat_map(words).collect()
    }

    /// What the reader took, of which there must be so many words.
    fn seen(&self, count: usize) -> &[String] {
        let seen = self.seen.as_ref().expect("the reader answers");
        assert_eq!(seen.len(), count, "{seen:?}");
        seen
    }
}

/// The words behind the mark, in the first line that begins with it; none if the connection ends before.
fn marked_line(peer: &mut Peer) -> Option<Vec<String>> {
    let (mut line, mut byte) = (String::new(), [0]);
    while peer.tls_read_exact(&mut byte) {
        line.push(char::from(byte[0]));
        if line.ends_with('\n') {
            if let Some(rest) = line.strip_prefix(MARK) {
                return Some(rest.split_whitespace().map(str::to_owned).collect());
            }
            line.clear();
        }
    }
    None
}

fn before(reader: &Reader, flags: &str) -> TestServer {
    Setup::new(reader.addr).flags(flags).start()
}

/// A reader takes the addresses, and so many words in all, with these flags and in both versions of TLS.
fn takes(reader: &Reader, flags: &str, count: usize) {
    let offramp = before(reader, flags);
    takes_from(&offramp, reader, count, |port| port);
    offramp.stop();
}

fn takes_from(offramp: &TestServer, reader: &Reader, count: usize, port: fn(u16) -> u16) {
    for version in BOTH {
        let visit = Visit::make(reader, offramp, &plain(version));
        assert_eq!(visit.seen(count)[..4], visit.expected(port), "{version:?}");
    }
    assert_eq!(offramp.settled().faults().len(), 0, "{:?}", offramp.metrics().faults());
}

/// A reader that insists on a header refuses the connection that has none, and says why.
fn refuses_without(reader: &Reader, why: &str) {
    let offramp = before(reader, "--send-proxy off");
    let visit = Visit::make(reader, &offramp, &plain(Version::Tls13));
    assert_eq!(visit.seen, None, "it answers without a header");
    eventually(why, || reader.log().contains(why));
    offramp.settled();
    offramp.stop();
}

#[test]
fn proxy_header_v1_is_taken_by_nginx() {
    let Some(nginx) = Reader::nginx() else { return };
    takes(&nginx, "--send-proxy v1", 4);
}

#[test]
fn proxy_header_v2_is_taken_by_nginx() {
    let Some(nginx) = Reader::nginx() else { return };
    takes(&nginx, "--send-proxy v2", 4);
    takes(&nginx, &format!("--send-proxy v2 --proxy-tlvs {TLVS}"), 4);
}

#[test]
fn without_a_proxy_header_nginx_refuses() {
    let Some(nginx) = Reader::nginx() else { return };
    refuses_without(&nginx, "broken header");
}

#[test]
fn proxy_header_v1_is_taken_by_haproxy() {
    let Some(haproxy) = Reader::haproxy() else { return };
    takes(&haproxy, "--send-proxy v1", 4);
}

#[test]
fn proxy_header_v2_is_taken_by_haproxy() {
    let Some(haproxy) = Reader::haproxy() else { return };
    takes(&haproxy, "--send-proxy v2", 4);
    takes(&haproxy, "--send-proxy v2 --proxy-tlvs crc32c", 4);
    takes(&haproxy, &format!("--send-proxy v2 --proxy-tlvs {TLVS}"), 6);
}

/// Behind a certificate too, HAProxy finds the end of the header and its CRC32C.
#[test]
fn proxy_header_v2_gives_haproxy_name_and_unique_id() {
    let Some(haproxy) = Reader::haproxy() else { return };
    let (client, files) = (Client::self_signed(), scratch());
    let lines = format!(
        "client_auth = \"require\"\nfingerprints = [\"{}\"]\nsend_proxy = \"v2\"\n\
         proxy_tlvs = [\"authority\", \"ssl\", \"unique-id\", \"crc32c\", \"certificate\"]\n",
        client.fingerprint()
    );
    let path = files.path().join("offramp.toml");
    fs::write(&path, lines).expect("the file can be written");
    let offramp = before(&haproxy, &format!("--config {}", path.display()));
    let mut ids = Vec::new();
    for version in [BOTH, BOTH].concat() {
        let visit = Visit::make(&haproxy, &offramp, &client.config(version));
        let (seen, id) = (visit.seen(6), &visit.seen(6)[5]);
        assert_eq!((&seen[..4], &*seen[4]), (&*visit.expected(|port| port), NAME), "{version:?}");
        assert!(id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit()), "{id}");
        assert!(!ids.contains(id), "{id} was the ID of an earlier connection: {ids:?}");
        ids.push(id.clone());
    }
    offramp.settled();
    offramp.stop();
}

#[test]
fn proxy_header_of_ipv6_is_taken_by_nginx_and_haproxy() {
    let (Some(nginx), Some(haproxy)) = (Reader::nginx(), Reader::haproxy()) else { return };
    if TcpListener::bind("[::1]:0").is_err() {
        return skip("the loopback device has no IPv6");
    }
    let files = scratch();
    let path = files.path().join("offramp.toml");
    for reader in [&nginx, &haproxy] {
        let listener = format!("[[listener]]\nlisten = \"[::1]:0\"\nbackend = \"{}\"\n", reader.addr);
        fs::write(&path, listener).expect("the file can be written");
        for version in ["v1", "v2"] {
            let mut offramp = before(reader, &format!("--config {} --send-proxy {version}", path.display()));
            let (_, second) = offramp.ready.rsplit_once("listening on ").expect("it names both");
            let second = second.split(',').next().and_then(|text| text.parse().ok());
            offramp.addr = second.expect("an address");
            takes_from(&offramp, reader, 4, |port| port);
            offramp.stop();
        }
    }
}

#[test]
fn without_a_proxy_header_haproxy_refuses() {
    let Some(haproxy) = Reader::haproxy() else { return };
    refuses_without(&haproxy, "does not look like a PROXY protocol header");
}

/// Kamailio before 5.7.4 takes the ports of version 2 in the byte order of the host (its issue 3683).
fn port_for_kamailio(port: u16) -> u16 {
    let output = Command::new("kamailio").arg("-v").output().expect("it runs");
    let said = text(&output);
    let version = said.split_once("version: kamailio ").and_then(|(_, rest)| rest.split([' ', '-']).next());
    let numbers = version.into_iter().flat_map(|version| version.split('.'));
    let numbers: Vec<u16> = numbers.map_while(|number| number.parse().ok()).collect();
    assert!(numbers.len() >= 2, "it tells its version: {said}");
    if numbers[..] < [5, 7, 4][..] { u16::from_ne_bytes(port.to_be_bytes()) } else { port }
}

#[test]
fn proxy_header_v1_is_taken_by_kamailio() {
    let Some(kamailio) = Reader::kamailio() else { return };
    takes(&kamailio, "--send-proxy v1", 4);
}

#[test]
fn proxy_header_v2_is_taken_by_kamailio() {
    let Some(kamailio) = Reader::kamailio() else { return };
    for more in [String::new(), format!("--proxy-tlvs {TLVS}")] {
        let offramp = before(&kamailio, &format!("--send-proxy v2 {more}"));
        takes_from(&offramp, &kamailio, 4, port_for_kamailio);
        offramp.stop();
    }
}

/// It takes the connection, and knows no other client than Offramp.
#[test]
fn without_a_proxy_header_kamailio_sees_no_client() {
    let Some(kamailio) = Reader::kamailio() else { return };
    let offramp = before(&kamailio, "--send-proxy off");
    let visit = Visit::make(&kamailio, &offramp, &plain(Version::Tls13));
    let own = [kamailio.addr.ip().to_string(), kamailio.addr.port().to_string()];
    assert_eq!(visit.seen(4)[2..], own, "the addresses are those of its own connection");
    offramp.settled();
    offramp.stop();
}

/// HAProxy on the same host as a balancer.
#[test]
fn proxy_header_of_haproxy_is_believed_over_unix() {
    let files = scratch();
    let path = files.path().join("s.sock");
    let backend = Backend::start(BackendBehavior::TakesProxy);
    let flags =
        format!("--listen unix:{} --offload auto --accept-proxy unix: --send-proxy v1", path.display());
    let offramp = Setup::new(backend.addr).flags(&flags).start();
    let Some(haproxy) = Reader::haproxy_before(&path) else { return };
    for version in BOTH {
        let mut peer = Peer::open(haproxy.addr, &plain(version));
        let client = peer.tcp.local_addr().expect("it is connected");
        let ends = format!("{} {} {} {}", client.ip(), haproxy.addr.ip(), client.port(), haproxy.addr.port());
        let expected = format!("{}\n", hex(format!("PROXY TCP4 {ends}\r\n").as_bytes()));
        assert_eq!(String::from_utf8(peer.receive(expected.len())).expect("text"), expected, "{version:?}");
        peer.ping(b"there and back");
    }
    drop(haproxy);
    offramp.stop();
}

/// A client on a Unix socket has no address: HAProxy goes on with that of its own connection.
#[test]
fn proxy_header_of_a_unix_client_is_taken_by_haproxy() {
    let Some(haproxy) = Reader::haproxy() else { return };
    let files = scratch();
    let listen = format!("unix:{}", files.path().join("s.sock").display());
    let more = format!("--send-proxy v2 --proxy-tlvs {TLVS}");
    for flags in ["--send-proxy v1", "--send-proxy v2", &more] {
        let offramp = before(&haproxy, &format!("--listen {listen} --offload auto {flags}"));
        let mut peer = Peer::over(dial_unix(&listen), &plain(Version::Tls13), NAME);
        peer.handshake().expect("the handshake");
        peer.send(haproxy.request.as_bytes());
        let seen = marked_line(&mut peer).expect("the reader answers");
        assert_eq!(seen[2..4], [haproxy.addr.ip().to_string(), haproxy.addr.port().to_string()]);
        assert!(seen[0] == "127.0.0.1", "{flags}: {seen:?}");
        drop(peer);
        offramp.stop();
    }
}
