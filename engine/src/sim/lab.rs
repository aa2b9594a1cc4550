//! What worlds have in common: a certificate made on the spot, rules, clients.

use std::sync::{Arc, OnceLock};

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite as suite, default_provider};
use rustls::{ClientConfig, RootCertStore, SupportedCipherSuite};

use crate::config::limits::Timeouts;
use crate::config::{Backend, IdentityFiles, Listener, Mode, OffloadRules, PeerRules, UnknownName};
use crate::conn::Rules;
use crate::conn::carrier::{Offer, Suites};
use crate::tls::{Terms, Tickets};

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
pub const BOTH: Offer = Offer { tx: Suites::ALL, rx: Suites::ALL, after_bytes: 0, rekeys: false };

/// Nothing.
pub const NOTHING: Offer = Offer { tx: Suites::NONE, rx: Suites::NONE, after_bytes: 0, rekeys: false };

struct Lab {
    terms: Arc<Terms>,
    roots: Arc<RootCertStore>,
}

fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| make().expect("a certificate can be made and loaded"))
}

fn make() -> Result<Lab, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let files =
        IdentityFiles { certificate: dir.path().join("c.pem"), key: dir.path().join("k.pem"), ocsp: None };
    std::fs::write(&files.certificate, certificate.pem())?;
    std::fs::write(&files.key, key.serialize_pem())?;
    let tickets = Arc::new(Tickets::generate(3600, 0)?);
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone())?;
    Ok(Lab { terms: Arc::new(Terms::load(&listener(files), Some(&tickets))?), roots: Arc::new(roots) })
}

/// What a listener of these files has by default; nobody listens there.
fn listener(identity: IdentityFiles) -> Listener {
    Listener {
        listen: ([127, 0, 0, 1], 0).into(),
        backend: Backend::Tcp(([127, 0, 0, 1], 0).into()),
        mode: Mode::Terminate,
        identities: vec![identity],
        unknown_name: UnknownName::First,
        offload: OffloadRules::default(),
        alpn: Vec::new(),
        tickets: true,
        peers: PeerRules::default(),
    }
}

/// The defaults, with this offer.
#[must_use]
pub fn rules(offer: Offer) -> Rules {
    let terms = Arc::clone(&lab().terms);
    Rules { terms, timeouts: Timeouts::default(), offer, record_limit: u64::MAX }
}

/// A client that offers one suite, and so one version.
///
/// # Panics
/// If rustls does not know the suite.
#[must_use]
pub fn client(suite: SupportedCipherSuite) -> Arc<ClientConfig> {
    let provider = CryptoProvider { cipher_suites: vec![suite], ..default_provider() };
    let versions: &[_] = match suite {
        SupportedCipherSuite::Tls12(_) => &[&rustls::version::TLS12],
        SupportedCipherSuite::Tls13(_) => &[&rustls::version::TLS13],
    };
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .expect("a version of the suite")
        .with_root_certificates(Arc::clone(&lab().roots))
        .with_no_client_auth();
    Arc::new(config)
}

/// Bytes that differ from place to place, so that an exchange or a repetition shows.
#[must_use]
pub fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut dice = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| dice.u8(..)).collect()
}
