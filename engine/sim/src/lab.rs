//! What worlds have in common: a certificate made on the spot, rules for either role, clients and servers.

use std::slice;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::WantsClientCert;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite as suite, default_provider};
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
};

use super::sources::{self, Key, Noon, private_key};
use offramp_core::config::{
    ClientAuth, Fingerprint, IdentityFiles, Mode, Originate, PeerRules, PostQuantum, Timeouts, TrustAnchor,
    UnknownName,
};
use offramp_core::conn::policy::{Policy, Security};
use offramp_core::conn::record_path::Offer;
use offramp_core::tls::ticket_keys::KeyRing;
use offramp_core::tls::{Settings, Tickets, TlsPolicy, TlsRole};
use offramp_proto::CipherSet;

/// A suite of each AEAD in each version, TLS 1.2 first.
pub const SUITES: [SupportedCipherSuite; 6] = [
    suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// Both directions at once, to a kernel that takes each key once.
pub const BOTH: Offer = Offer { tx: CipherSet::ALL, rx: CipherSet::ALL, after_bytes: 0, rekeys: false };

/// Nothing.
pub const NOTHING: Offer = Offer { tx: CipherSet::NONE, rx: CipherSet::NONE, after_bytes: 0, rekeys: false };

struct Fixture {
    server_policy: Arc<TlsPolicy>,
    client_policy: Arc<TlsPolicy>,
    /// As `server_policy` and `client_policy`, where the peer's fingerprint is not known yet.
    held_server_policy: Arc<TlsPolicy>,
    held_client_policy: Arc<TlsPolicy>,
    certificate: rcgen::Certificate,
}

fn lab() -> &'static Fixture {
    static LAB: OnceLock<Fixture> = OnceLock::new();
    LAB.get_or_init(|| make().expect("a certificate can be made and loaded"))
}

fn make() -> Result<Fixture, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&Key::new())?;
    let files =
        IdentityFiles { certificate: dir.path().join("c.pem"), key: dir.path().join("k.pem"), ocsp: None };
    std::fs::write(&files.certificate, certificate.pem())?;
    std::fs::write(&files.key, KeyPair::try_from(&private_key())?.serialize_pem())?;
    let (nobody, pending) = (PeerRules::default(), TrustAnchor::Pending);
    let held = PeerRules { auth: ClientAuth::Require, trust_anchor: pending.clone(), ..PeerRules::default() };
    let server = |peers| tls_policy(&Mode::Terminate, slice::from_ref(&files), true, peers);
    let held_server =
        Originate { server_name: "localhost".to_owned(), forward_server_name: false, trust: pending };
    Ok(Fixture {
        server_policy: Arc::new(server(&nobody)?),
        client_policy: Arc::new(originate(&certificate.pem(), false)?),
        held_server_policy: Arc::new(server(&held)?),
        held_client_policy: Arc::new(tls_policy(&Mode::Originate(held_server), &[], false, &nobody)?),
        certificate,
    })
}

/// Keys that are the same in every process.
fn tickets() -> Result<Arc<Tickets>, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("ticket.keys");
    let hex = |count: u8| (0..count).map(|byte| format!("{byte:02x}")).collect::<String>();
    let (name, secret) = (hex(16), hex(48));
    let line = format!("key {name} 1970-01-01T00:00:00Z 2100-01-01T00:00:00Z {secret}\n");
    KeyRing::parse(&file, &line)?.create(&file)?;
    Ok(Arc::new(Tickets::from_file(&file, 3600, 0)?))
}

/// The client's role towards whoever has this certificate.
fn originate(pem: &str, resumes: bool) -> Result<TlsPolicy, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let authority = dir.path().join("a.pem");
    std::fs::write(&authority, pem)?;
    let server_name = "localhost".to_owned();
    let rules =
        Originate { server_name, forward_server_name: false, trust: TrustAnchor::Authorities(authority) };
    tls_policy(&Mode::Originate(rules), &[], resumes, &PeerRules::default())
}

/// What a listener in this role has by default.
fn tls_policy(
    mode: &Mode,
    identities: &[IdentityFiles],
    tickets: bool,
    peers: &PeerRules,
) -> Result<TlsPolicy, Box<dyn std::error::Error>> {
    let unknown_name = UnknownName::First;
    let role = mode.server().map_or(TlsRole::Server, TlsRole::Client);
    let post_quantum = PostQuantum::Off;
    let found = &[];
    let settings =
        Settings { role, identities, found, unknown_name, alpn: &[], tickets, post_quantum, peers };
    Ok(TlsPolicy::load_from(&sources::sources(), settings, Some(&self::tickets()?))?)
}

/// The defaults in the server's role, with this offer.
#[must_use]
pub fn rules(offer: Offer) -> Policy {
    rules_of(Arc::clone(&lab().server_policy), offer)
}

/// The defaults in the client's role. No session is kept: worlds share no state.
#[must_use]
pub fn originating(offer: Offer) -> Policy {
    rules_of(Arc::clone(&lab().client_policy), offer)
}

/// Neither role: the TLS of clients is passed through.
#[must_use]
pub fn passing_through() -> Policy {
    Policy { near: Security::Plain, passes_tls_through: true, ..rules(NOTHING) }
}

/// The server's role, which requires a certificate whose fingerprint is not known yet.
#[must_use]
pub fn held(offer: Offer) -> Policy {
    rules_of(Arc::clone(&lab().held_server_policy), offer)
}

/// The client's role towards a server whose fingerprint is not known yet.
#[must_use]
pub fn held_originating(offer: Offer) -> Policy {
    rules_of(Arc::clone(&lab().held_client_policy), offer)
}

/// The same with a store of sessions of its own.
///
/// # Panics
/// If the policy cannot be loaded.
#[must_use]
pub fn held_resuming(offer: Offer) -> Policy {
    let rules = Originate {
        server_name: "localhost".to_owned(),
        forward_server_name: false,
        trust: TrustAnchor::Pending,
    };
    let policy = tls_policy(&Mode::Originate(rules), &[], true, &PeerRules::default());
    rules_of(Arc::new(policy.expect("what was loaded before")), offer)
}

/// That of the certificate that peers show.
///
/// # Panics
/// If what was made here is no fingerprint.
#[must_use]
pub fn fingerprint() -> Fingerprint {
    let digest = digest::digest(&digest::SHA256, lab().certificate.der());
    let digits: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    Fingerprint::parse(&format!("sha-256 {}", digits.join(":"))).expect("as SDP writes it")
}

/// The client's role with a store of sessions of its own.
///
/// # Panics
/// If the policy cannot be loaded.
#[must_use]
pub fn resuming(offer: Offer) -> Policy {
    let tls_policy = originate(&lab().certificate.pem(), true).expect("what was loaded before");
    rules_of(Arc::new(tls_policy), offer)
}

fn rules_of(tls_policy: Arc<TlsPolicy>, offer: Offer) -> Policy {
    let originates = tls_policy.is_client();
    let tls = Security::Tls(tls_policy);
    let (near, far) = if originates { (Security::Plain, tls) } else { (tls, Security::Plain) };
    Policy {
        near,
        far,
        timeouts: Timeouts::default(),
        offload: offer,
        record_limit: u64::MAX,
        accepts_proxy: false,
        passes_tls_through: false,
        takes_fin_for_the_end: false,
        expect_no_pad: false,
    }
}

/// A client that offers one suite, and so one version.
///
/// # Panics
/// If rustls does not know the suite.
#[must_use]
pub fn client(suite: SupportedCipherSuite) -> Arc<ClientConfig> {
    Arc::new(client_of(suite).with_no_client_auth())
}

/// The same, which shows its certificate.
///
/// # Panics
/// If rustls does not know the suite.
#[must_use]
pub fn client_with_certificate(suite: SupportedCipherSuite) -> Arc<ClientConfig> {
    let chain = vec![lab().certificate.der().clone()];
    let config = client_of(suite).with_client_auth_cert(chain, private_key());
    Arc::new(config.expect("the certificate's key"))
}

fn client_of(suite: SupportedCipherSuite) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(lab().certificate.der().clone()).expect("a certificate that was loaded before");
    ClientConfig::builder_with_details(provider(suite), Arc::new(Noon))
        .with_protocol_versions(&[version(suite)])
        .expect("a version of the suite")
        .with_root_certificates(roots)
}

/// A server that takes one suite, and so one version, and whose data waits for nobody's Finished.
///
/// # Panics
/// If rustls does not know the suite.
#[must_use]
pub fn server(suite: SupportedCipherSuite) -> Arc<ServerConfig> {
    server_showing(suite, 1)
}

/// The same, which shows its certificate so many times.
///
/// # Panics
/// If rustls does not know the suite.
#[must_use]
pub fn server_showing(suite: SupportedCipherSuite, times: usize) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_details(provider(suite), Arc::new(Noon))
        .with_protocol_versions(&[version(suite)])
        .expect("a version of the suite")
        .with_no_client_auth()
        .with_single_cert(vec![lab().certificate.der().clone(); times], private_key())
        .expect("the certificate's key");
    config.send_half_rtt_data = true;
    Arc::new(config)
}

fn provider(suite: SupportedCipherSuite) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { cipher_suites: vec![suite], ..sources::provider(default_provider()) })
}

fn version(suite: SupportedCipherSuite) -> &'static SupportedProtocolVersion {
    match suite {
        SupportedCipherSuite::Tls12(_) => &rustls::version::TLS12,
        SupportedCipherSuite::Tls13(_) => &rustls::version::TLS13,
    }
}

/// Bytes that differ from place to place, so that an exchange or a repetition shows.
#[must_use]
pub fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut dice = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| dice.u8(..)).collect()
}
