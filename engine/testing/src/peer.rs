//! The client side: a rustls client whose every byte on the wire is the scenario's choice, and `openssl
//! s_client`.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, NamedGroup,
    RootCertStore, SignatureScheme,
};
use socket2::SockRef;

use crate::identity::{Identity, NAME};
use crate::rng::{Rng, cut};
use crate::tools::PATIENCE;

/// The two versions that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
}

pub const BOTH: [Version; 2] = [Version::Tls12, Version::Tls13];

/// A client configuration that offers exactly one version, only this suite where one is given, and this group
/// first. P-256 stands behind it: in TLS 1.2 the groups are also the curves of certificates that are taken
/// (RFC 8422 §5.1.1). Connections made with the same one resume each other.
pub fn config(version: Version, suite: Option<CipherSuite>, group: Option<NamedGroup>) -> Arc<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = aws_lc_rs::ALL_CIPHER_SUITES.to_vec();
    provider.cipher_suites.retain(|offered| suite.is_none_or(|only| offered.suite() == only));
    provider.kx_groups = aws_lc_rs::ALL_KX_GROUPS.to_vec();
    if let Some(group) = group {
        provider.kx_groups.retain(|offered| [group, NamedGroup::secp256r1].contains(&offered.name()));
        provider.kx_groups.sort_by_key(|offered| offered.name() != group);
    }
    let version = match version {
        Version::Tls12 => &rustls::version::TLS12,
        Version::Tls13 => &rustls::version::TLS13,
    };
    let mut roots = RootCertStore::empty();
    for identity in Identity::all() {
        roots.add(identity.der.clone()).expect("the certificate can be a trust anchor");
    }
    let config = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[version]);
    Arc::new(config.expect("the suite fits the version").with_root_certificates(roots).with_no_client_auth())
}

pub fn plain(version: Version) -> Arc<ClientConfig> {
    config(version, None, None)
}

/// The same client with other cryptography, and a store of sessions of its own.
pub fn with_provider(config: &ClientConfig, provider: rustls::crypto::CryptoProvider) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for identity in Identity::all() {
        roots.add(identity.der.clone()).expect("the certificate can be a trust anchor");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("the suites fit");
    let mut other = builder.with_root_certificates(roots).with_no_client_auth();
    other.alpn_protocols.clone_from(&config.alpn_protocols);
    other
}

/// Takes a certificate whatever its names are.
pub fn trusting_any_name(config: &mut ClientConfig) {
    let provider = aws_lc_rs::default_provider();
    config.dangerous().set_certificate_verifier(Arc::new(AnyName(provider)));
}

#[derive(Debug)]
struct AnyName(rustls::crypto::CryptoProvider);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A connected socket that sends each write as it is and never hangs for ever.
pub fn dial(addr: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect_timeout(&addr, PATIENCE).expect("the server accepts");
    tcp.set_nodelay(true).expect("a TCP option");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    tcp.set_write_timeout(Some(PATIENCE)).expect("a socket option");
    tcp
}

/// The same on a Unix socket, as a configuration writes it (`unix:/path`, `unix:@name`). The descriptor is
/// that of a Unix socket: of TcpStream's methods those work that are not about TCP.
pub fn dial_unix(address: &str) -> TcpStream {
    let address = address.strip_prefix("unix:").expect("a Unix socket");
    let unix = match address.strip_prefix('@') {
        Some(name) => UnixAddr::from_abstract_name(name).and_then(|name| UnixStream::connect_addr(&name)),
        None => UnixStream::connect(address),
    };
    let unix = unix.expect("the server accepts");
    unix.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    unix.set_write_timeout(Some(PATIENCE)).expect("a socket option");
    TcpStream::from(OwnedFd::from(unix))
}

/// Connects, says `words` and reads to the end, against a server that may reset the connection at any
/// moment: before the system call that makes it has returned, too.
pub fn end_of_dial(addr: SocketAddr, words: &[u8]) -> (Vec<u8>, End) {
    match TcpStream::connect_timeout(&addr, PATIENCE) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => (Vec::new(), End::Reset),
        Err(error) => panic!("the server accepts: {error}"),
        Ok(mut tcp) => {
            tcp.set_read_timeout(Some(PATIENCE)).expect("a socket option");
            let _ = tcp.write_all(words);
            drain(&tcp)
        }
    }
}

/// How the server's side of a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// close_notify.
    Clean,
    /// FIN without close_notify.
    Truncated,
    Reset,
    /// A fatal alert or a protocol error, in rustls' words.
    Alert(String),
}

/// A client connection.
pub struct Peer {
    pub tls: ClientConnection,
    pub tcp: TcpStream,
}

impl Peer {
    /// Connected, nothing sent.
    pub fn dial(addr: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Self {
        Self::over(dial(addr), config, name)
    }

    /// A client on this connection; nothing is sent.
    pub fn over(tcp: TcpStream, config: &Arc<ClientConfig>, name: &str) -> Self {
        let name = name.to_owned().try_into().expect("a server name");
        let mut tls = ClientConnection::new(Arc::clone(config), name).expect("a client");
        tls.set_buffer_limit(None);
        Self { tls, tcp }
    }

    /// Connected and handshaken.
    pub fn open(addr: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let mut peer = Self::dial(addr, config, NAME);
        peer.handshake().unwrap_or_else(|error| panic!("the handshake failed: {error}"));
        peer
    }

    /// Up to the client's last flight, which is sent.
    pub fn handshake(&mut self) -> io::Result<()> {
        self.handshake_but_for_the_last_flight()?;
        self.flush()
    }

    /// The client's last flight stays in hand, to be sent together with what follows.
    pub fn handshake_but_for_the_last_flight(&mut self) -> io::Result<()> {
        while self.tls.is_handshaking() {
            self.flush()?;
            self.take_in()?;
        }
        Ok(())
    }

    /// One read of a handshake whose sending the scenario does itself.
    pub fn handshake_step(&mut self) -> io::Result<()> {
        if self.tls.is_handshaking() { self.take_in() } else { Ok(()) }
    }

    pub fn kind(&self) -> HandshakeKind {
        self.tls.handshake_kind().expect("the handshake is complete")
    }

    /// All that TLS wants to send, as bytes.
    pub fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).expect("a vector takes all");
        }
        bytes
    }

    pub fn seal(&mut self, data: &[u8]) {
        self.tls.writer().write_all(data).expect("the buffer has no limit");
    }

    pub fn flush(&mut self) -> io::Result<()> {
        let bytes = self.outgoing();
        self.tcp.write_all(&bytes)
    }

    pub fn send(&mut self, data: &[u8]) {
        self.seal(data);
        self.flush().unwrap_or_else(|error| panic!("sending {} bytes: {error}", data.len()));
    }

    /// Ends this side properly; the other direction stays open.
    pub fn close_notify(&mut self) {
        self.tls.send_close_notify();
        self.flush().expect("close_notify can be sent");
    }

    /// Ends this side as a crashed client would: FIN and nothing said.
    pub fn truncate(&mut self) {
        self.tcp.shutdown(Shutdown::Write).expect("the socket is connected");
    }

    /// Gone at once: RST.
    pub fn reset(self) {
        SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO)).expect("a socket option");
    }

    /// Exactly this much data.
    pub fn receive(&mut self, count: usize) -> Vec<u8> {
        let mut data = vec![0; count];
        let mut have = 0;
        while have < count {
            match self.read(&mut data[have..]) {
                Ok(0) => panic!("clean end after {have} of {count} bytes"),
                Ok(more) => have += more,
                Err(error) => panic!("after {have} of {count} bytes: {error}"),
            }
        }
        data
    }

    /// Exactly this much data, unless the connection ends before.
    pub fn tls_read_exact(&mut self, data: &mut [u8]) -> bool {
        let mut have = 0;
        while have < data.len() {
            match self.read(&mut data[have..]) {
                Ok(0) | Err(_) => return false,
                Ok(more) => have += more,
            }
        }
        true
    }

    /// Everything up to the end, and how it ended.
    pub fn rest(&mut self) -> (Vec<u8>, End) {
        let (mut data, mut block) = (Vec::new(), vec![0; 1 << 14]);
        loop {
            match self.read(&mut block) {
                Ok(0) => return (data, End::Clean),
                Ok(count) => data.extend_from_slice(&block[..count]),
                Err(error) => return (data, end_of(&error)),
            }
        }
    }

    /// Whether the echo came; the server may have ended the connection in between.
    pub fn try_ping(&mut self, data: &[u8]) -> bool {
        self.seal(data);
        if self.flush().is_err() {
            return false;
        }
        let mut back = vec![0; data.len()];
        self.tls_read_exact(&mut back) && back == data
    }

    /// There and back; the healthy sign of an echo.
    pub fn ping(&mut self, data: &[u8]) {
        self.send(data);
        assert!(self.receive(data.len()) == data, "the echo differs");
    }

    /// Everything through an echo and back, both directions at once, each segment cut by rng.
    pub fn exchange(&mut self, data: &[u8], rng: &mut Rng) -> Vec<u8> {
        self.exchange_but(data, rng, |_| {})
    }

    /// The same, with something done to TLS in front of each part that is sealed.
    pub fn exchange_but(
        &mut self,
        data: &[u8],
        rng: &mut Rng,
        mut first: impl FnMut(&mut ClientConnection),
    ) -> Vec<u8> {
        self.tcp.set_nonblocking(true).expect("a socket option");
        let (mut rest, mut pending, mut back) = (data, Vec::new(), Vec::with_capacity(data.len()));
        let end = std::time::Instant::now() + 4 * PATIENCE;
        while back.len() < data.len() {
            if pending.is_empty() && !rest.is_empty() {
                let (now, later) = rest.split_at(rng.usize(1..=20_000).min(rest.len()));
                first(&mut self.tls);
                self.seal(now);
                (rest, pending) = (later, self.outgoing());
            }
            let wrote = self.write_some(&mut pending, cut(rng));
            let read = self.read_some(&mut back);
            assert!(std::time::Instant::now() < end, "hung after {} of {} bytes", back.len(), data.len());
            if !wrote && !read {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        self.tcp.set_nonblocking(false).expect("a socket option");
        back
    }

    fn write_some(&mut self, pending: &mut Vec<u8>, cut: usize) -> bool {
        let cut = cut.min(pending.len());
        if cut == 0 {
            return false;
        }
        match self.tcp.write(&pending[..cut]) {
            Ok(count) => drop(pending.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("sending: {error}"),
        }
        true
    }

    fn read_some(&mut self, back: &mut Vec<u8>) -> bool {
        let mut block = [0; 1 << 14];
        match self.read(&mut block) {
            Ok(0) => panic!("clean end after {} bytes", back.len()),
            Ok(count) => back.extend_from_slice(&block[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("receiving: {error}"),
        }
        true
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.take_in()?,
                done => return done,
            }
        }
    }

    /// One read from the socket into TLS.
    fn take_in(&mut self) -> io::Result<()> {
        let count = self.tls.read_tls(&mut self.tcp)?;
        let state = self.tls.process_new_packets().map_err(|e| io::Error::new(ErrorKind::InvalidData, e));
        if state.is_err() {
            // rustls has an alert to say; where the server is gone already, nobody needs it.
            let _ = self.flush();
        }
        state?;
        if count == 0 && self.tls.is_handshaking() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

fn end_of(error: &io::Error) -> End {
    match error.kind() {
        ErrorKind::UnexpectedEof => End::Truncated,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => End::Reset,
        ErrorKind::InvalidData => End::Alert(error.to_string()),
        _ => panic!("hung or broken while waiting for the end: {error}"),
    }
}

/// Reads a socket without TLS to its end: what came, and whether it ended with RST.
pub fn drain(mut tcp: &TcpStream) -> (Vec<u8>, End) {
    let mut data = Vec::new();
    match tcp.read_to_end(&mut data) {
        Ok(_) => (data, End::Truncated),
        Err(error) => (data, end_of(&error)),
    }
}

/// All certificates in one file, for clients that want to be told whom to trust.
pub fn trust_file(directory: &Path) -> String {
    let path = directory.join("trust.pem");
    let all: String = Identity::all().iter().map(|identity| identity.certificate.as_str()).collect();
    std::fs::write(&path, all).expect("the trust file can be written");
    path.to_str().expect("scratch paths are UTF-8").to_owned()
}

/// `openssl s_client` with these words: sends the line, waits for its echo, ends. All output, both streams.
pub fn s_client(addr: SocketAddr, trust: &str, words: &str, line: Option<&str>) -> (Output, bool) {
    let limit = PATIENCE.as_secs().to_string();
    let mut command = Command::new("timeout");
    command.args(["-k", "5", &limit, "openssl", "s_client", "-connect", &addr.to_string(), "-CAfile", trust]);
    command.arg("-verify_return_error").args(words.split_whitespace());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl runs");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let (mut seen, mut echoed) = (Vec::new(), false);
    if let Some(line) = line {
        // A refused client is gone before it reads this; its output says so.
        let _ = writeln!(stdin, "{line}");
        while !echoed && stdout.read_until(b'\n', &mut seen).expect("its output can be read") > 0 {
            echoed = seen.strip_suffix(b"\n").is_some_and(|seen| seen.ends_with(line.as_bytes()));
        }
    }
    drop(stdin);
    stdout.read_to_end(&mut seen).expect("its output can be read");
    let mut output = child.wait_with_output().expect("openssl ends");
    output.stdout = seen;
    (output, echoed)
}
