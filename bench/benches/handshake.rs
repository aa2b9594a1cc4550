//! The server's part of a handshake, in memory: full and resumed, by version; from the client's first bytes
//! to the keys in hand. Beside it the floor: the same through rustls's own connection and its own ticketer.
//!
//! Only the server's calls are timed; the client's part of a full handshake costs more than the server's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use offramp::buf::{BUF_BYTES, Buf};
use offramp::tls::Terms;
use offramp::tls::session::{Progress, Session};
use offramp_bench::scenario;
use offramp_loadgen::identity::{Identity, SERVER_NAME};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, cipher_suite, default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

const VERSIONS: [(&str, &SupportedProtocolVersion); 2] =
    [("1.2", &rustls::version::TLS12), ("1.3", &rustls::version::TLS13)];

/// AES-128-GCM and X25519 on both sides, as `compare` has it; P-256 is for the certificate (RFC 8422 §5.1.1).
fn provider() -> Arc<CryptoProvider> {
    let cipher_suites =
        vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
    let kx_groups = vec![kx_group::X25519, kx_group::SECP256R1];
    Arc::new(CryptoProvider { cipher_suites, kx_groups, ..default_provider() })
}

fn client(identity: &Identity, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.certificate.clone()).expect("a certificate that can be trusted");
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[version]);
    Arc::new(config.expect("a version of the suites").with_root_certificates(roots).with_no_client_auth())
}

fn floor(identity: &Identity) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(identity.certificate_file()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_file(identity.key_file()).expect("its key");
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("versions of the suites")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a pair");
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new().expect("randomness");
    config.send_tls13_tickets = 1;
    Arc::new(config)
}

fn timed<T>(total: &mut Duration, call: impl FnOnce() -> T) -> T {
    #[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
    let begin = Instant::now();
    let result = call();
    *total += begin.elapsed();
    result
}

fn begin(client: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from(SERVER_NAME).expect("a DNS name");
    ClientConnection::new(Arc::clone(client), name).expect("a valid configuration")
}

fn say(peer: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while peer.wants_write() {
        peer.write_tls(&mut bytes).expect("a vector takes all");
    }
    bytes
}

fn hear(peer: &mut ClientConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        peer.read_tls(&mut bytes).expect("a slice can be read");
        peer.process_new_packets().expect("the server keeps to the protocol");
    }
}

/// One handshake with our session: the time of the server's calls, until the keys are in hand.
fn ours(terms: &Terms, client: &Arc<ClientConfig>, wanted: HandshakeKind) -> Duration {
    let (mut total, mut peer) = (Duration::ZERO, begin(client));
    let (mut incoming, mut outgoing) = (Buf::with_capacity(BUF_BYTES), Buf::with_capacity(BUF_BYTES));
    let mut session = timed(&mut total, || Session::begin(terms).expect("a session"));
    loop {
        incoming.extend(&say(&mut peer));
        let progress = timed(&mut total, || session.feed(&mut incoming, &mut outgoing));
        hear(&mut peer, outgoing.filled());
        outgoing.clear();
        if progress.expect("a handshake of the profile") == Progress::Complete {
            break;
        }
    }
    let established = timed(&mut total, || session.establish().expect("keys"));
    assert_eq!(peer.handshake_kind(), Some(wanted));
    assert_eq!(established.resumed, wanted == HandshakeKind::Resumed);
    total
}

/// The same through rustls's own connection.
fn floors(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>, wanted: HandshakeKind) -> Duration {
    let (mut total, mut peer) = (Duration::ZERO, begin(client));
    let mut connection =
        timed(&mut total, || ServerConnection::new(Arc::clone(server)).expect("a connection"));
    while connection.is_handshaking() {
        let incoming = say(&mut peer);
        let outgoing = timed(&mut total, || {
            connection.read_tls(&mut &incoming[..]).expect("a slice can be read");
            connection.process_new_packets().expect("a handshake of the profile");
            let mut outgoing = Vec::new();
            while connection.wants_write() {
                connection.write_tls(&mut outgoing).expect("a vector takes all");
            }
            outgoing
        });
        hear(&mut peer, &outgoing);
    }
    assert_eq!(peer.handshake_kind(), Some(wanted));
    total
}

fn group(criterion: &mut Criterion, name: &str, wanted: HandshakeKind) {
    let identity = Identity::generate().expect("a certificate can be made");
    let (terms, server) = (scenario::terms(&identity).expect("an identity of the profile"), floor(&identity));
    let mut group = criterion.benchmark_group(name);
    for (version, supported) in VERSIONS {
        let measure = |handshake: &dyn Fn(&Arc<ClientConfig>, HandshakeKind) -> Duration, count: u64| {
            let config = client(&identity, supported);
            if wanted == HandshakeKind::Resumed {
                handshake(&config, HandshakeKind::Full);
                return (0..count).map(|_| handshake(&config, wanted)).sum();
            }
            (0..count).map(|_| handshake(&client(&identity, supported), wanted)).sum::<Duration>()
        };
        group.bench_function(format!("{version} ours"), |bencher| {
            bencher.iter_custom(|count| measure(&|config, kind| ours(&terms, config, kind), count));
        });
        group.bench_function(format!("{version} rustls alone"), |bencher| {
            bencher.iter_custom(|count| measure(&|config, kind| floors(&server, config, kind), count));
        });
    }
}

fn full(criterion: &mut Criterion) {
    group(criterion, "handshake", HandshakeKind::Full);
}

fn resumed(criterion: &mut Criterion) {
    group(criterion, "resume", HandshakeKind::Resumed);
}

criterion_group!(benches, full, resumed);
criterion_main!(benches);
