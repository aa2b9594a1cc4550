//! Who may connect: by authority, by fingerprint, in both versions, full and resumed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use aws_lc_rs::digest;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, HandshakeKind};

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::NAME;
use offramp_testing::peer::{BOTH, End, Peer, Version, plain, s_client, trust_file};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{have, scratch, text};

/// A client's certificate and key.
pub(crate) struct Client {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Client {
    pub(crate) fn self_signed() -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["phone.example".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("signs");
        Self { chain: vec![certificate.der().clone()], key: key.serialize_der() }
    }

    pub(crate) fn issued_by(
        issuer: &Issuer<'_, KeyPair>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["phone.example".to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, issuer).expect("signs");
        Self { chain: vec![certificate.der().clone()], key: key.serialize_der() }
    }

    /// One that shows these certificates behind its own.
    pub(crate) fn showing(mut self, issuers: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        self.chain.extend(issuers);
        self
    }

    /// With whom handshakes resume each other, as with any configuration.
    pub(crate) fn config(&self, version: Version) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&plain(version));
        let key = PrivateKeyDer::try_from(self.key.clone()).expect("PKCS #8");
        let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).expect("an EC key");
        let certified = rustls::sign::CertifiedKey::new(self.chain.clone(), signing);
        config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
        Arc::new(config)
    }

    pub(crate) fn fingerprint(&self) -> String {
        self.fingerprint_of(256)
    }

    /// By SHA-2 of so many bits, as SDP writes it.
    pub(crate) fn fingerprint_of(&self, bits: u32) -> String {
        let algorithm = match bits {
            256 => &digest::SHA256,
            384 => &digest::SHA384,
            _ => &digest::SHA512,
        };
        let digest = digest::digest(algorithm, &self.chain[0]);
        let bytes: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha-{bits} {}", bytes.join(":"))
    }
}

/// An authority, and its certificate in a file.
pub(crate) fn authority(directory: &Path, name: &str) -> (Issuer<'static, KeyPair>, PathBuf) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, format!("authority in {name}"));
    let certificate = params.self_signed(&key).expect("signs");
    let file = directory.join(name);
    std::fs::write(&file, certificate.pem()).expect("the file can be written");
    (Issuer::new(params, key), file)
}

/// A server with these lines in its configuration file.
pub(crate) fn serve(backend: &Backend, lines: &str) -> (TestServer, tempfile::TempDir) {
    let files = scratch();
    let path = files.path().join("offramp.toml");
    std::fs::write(&path, lines).expect("the file can be written");
    (Setup::new(backend.addr).flags(&format!("--config {}", path.display())).start(), files)
}

pub(crate) fn goes_on(offramp: &TestServer, config: &Arc<ClientConfig>, kind: HandshakeKind) {
    let mut peer = Peer::open(offramp.addr, config);
    assert_eq!(peer.kind(), kind);
    peer.ping(b"may connect");
    peer.close_notify();
    assert_eq!(peer.rest(), (Vec::new(), End::Clean));
}

/// The client is told so, whenever it notices; nothing of it reaches the backend.
pub(crate) fn refused(offramp: &TestServer, config: &Arc<ClientConfig>, alert: &str, fault: &str) {
    let before = offramp.metrics();
    let mut peer = Peer::dial(offramp.addr, config, NAME);
    let told = match peer.handshake() {
        Err(error) => error.to_string(),
        Ok(()) => match peer.rest().1 {
            End::Alert(alert) => alert,
            end => panic!("no alert, but {end:?}"),
        },
    };
    assert!(told.contains(alert), "{told}");
    // The server waits until its last words are read.
    drop(peer);
    assert_eq!(offramp.faulted(&before, 1), [fault]);
    assert_eq!(offramp.metrics().sum("offramp_bytes_total", &[]), before.sum("offramp_bytes_total", &[]));
}

#[test]
fn a_fingerprint_that_was_told_is_let_in_and_no_other() {
    let backend = Backend::start(BackendBehavior::Echo);
    let (first, second, stranger) = (Client::self_signed(), Client::self_signed(), Client::self_signed());
    let lines = format!(
        "client_auth = \"require\"\nfingerprints = [\"{}\", \"{}\"]\n",
        first.fingerprint(),
        second.fingerprint()
    );
    let (offramp, _files) = serve(&backend, &lines);
    for version in BOTH {
        for client in [&first, &second] {
            let config = client.config(version);
            goes_on(&offramp, &config, HandshakeKind::Full);
            goes_on(&offramp, &config, HandshakeKind::Resumed);
        }
        refused(&offramp, &stranger.config(version), "BadCertificate", "peer_certificate_refused");
        refused(&offramp, &plain(version), "BadCertificate", "peer_certificate_missing");
    }
    offramp.settled();
    offramp.stop();
}

/// A certificate as `openssl x509 -req` makes it: version 1, without extensions.
#[test]
fn version_1_certificate_is_accepted_by_fingerprint() {
    if !have("openssl") {
        return;
    }
    let files = scratch();
    let openssl = |words: &str| {
        let output = Command::new("openssl").args(words.split(' ')).current_dir(files.path()).output();
        let output = output.expect("openssl runs");
        assert!(output.status.success(), "{words}: {}", text(&output));
        text(&output)
    };
    openssl("ecparam -name prime256v1 -genkey -noout -out k.pem");
    openssl("req -new -key k.pem -subj /CN=v1 -out r.csr");
    openssl("x509 -req -in r.csr -signkey k.pem -days 30 -out c.pem");
    assert!(openssl("x509 -in c.pem -noout -text").contains("Version: 1"));
    let printed = openssl("x509 -in c.pem -noout -fingerprint -sha512");
    let bytes = printed.lines().find_map(|line| line.split_once("ingerprint=")).expect("a fingerprint").1;
    let backend = Backend::start(BackendBehavior::Echo);
    let lines = format!("client_auth = \"require\"\nfingerprints = [\"sha-512 {bytes}\"]\n");
    let (offramp, _files) = serve(&backend, &lines);
    let trust = trust_file(files.path());
    let path = |name: &str| files.path().join(name).display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let words = format!("{version} -servername {NAME} -cert {} -key {}", path("c.pem"), path("k.pem"));
        let (output, echoed) = s_client(offramp.addr, &trust, &words, Some("an old certificate"));
        assert!(echoed, "{version}: {}", text(&output));
    }
    offramp.settled();
    offramp.stop();
}

#[test]
fn a_request_lets_those_without_a_certificate_in() {
    let backend = Backend::start(BackendBehavior::Echo);
    let (known, stranger) = (Client::self_signed(), Client::self_signed());
    let lines = format!("client_auth = \"request\"\nfingerprints = [\"{}\"]\n", known.fingerprint());
    let (offramp, _files) = serve(&backend, &lines);
    for version in BOTH {
        goes_on(&offramp, &plain(version), HandshakeKind::Full);
        goes_on(&offramp, &known.config(version), HandshakeKind::Full);
        refused(&offramp, &stranger.config(version), "BadCertificate", "peer_certificate_refused");
    }
    offramp.settled();
    offramp.stop();
}

#[test]
fn only_valid_certificates_of_the_authority_pass() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let (issuer, file) = authority(files.path(), "ca.pem");
    let lines = format!("client_auth = \"require\"\nclient_ca = \"{}\"\n", file.display());
    let (offramp, _files) = serve(&backend, &lines);
    let good = Client::issued_by(&issuer, |_| {});
    let expired = Client::issued_by(&issuer, |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let server = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let for_servers = Client::issued_by(&issuer, |params| params.extended_key_usages = server);
    for version in BOTH {
        let config = good.config(version);
        goes_on(&offramp, &config, HandshakeKind::Full);
        goes_on(&offramp, &config, HandshakeKind::Resumed);
        refused(&offramp, &expired.config(version), "CertificateExpired", "peer_certificate_refused");
        refused(&offramp, &for_servers.config(version), "UnsupportedCertificate", "peer_certificate_refused");
        refused(&offramp, &Client::self_signed().config(version), "UnknownCA", "peer_certificate_refused");
        refused(&offramp, &plain(version), "BadCertificate", "peer_certificate_missing");
    }
    offramp.settled();
    offramp.stop();
}

/// Two listeners with one key ring: a ticket of the one that asks nobody opens nothing at the one that does,
/// and a fingerprint that is taken off the list ends the sessions made under it.
#[test]
fn a_session_does_not_outlive_what_let_it_in() {
    let backend = Backend::start(BackendBehavior::Echo);
    let (known, other) = (Client::self_signed(), Client::self_signed());
    let told = |client: &Client| format!("fingerprints = [\"{}\"]\n", client.fingerprint());
    let listener = |fingerprints: &str| {
        format!(
            "[[listener]]\nlisten = \"127.0.0.1:0\"\nbackend = \"{}\"\n\
             client_auth = \"require\"\n{fingerprints}",
            backend.addr
        )
    };
    let (mut offramp, files) = serve(&backend, &listener(&told(&known)));
    let (_, media) = offramp.ready.rsplit_once("listening on ").expect("the ready line names both");
    let media = media.split(',').next().and_then(|text| text.parse().ok()).expect("an address");
    let access = offramp.addr;
    for version in BOTH {
        // The one configuration would present the ticket of the access listener at the media listener.
        let config = plain(version);
        goes_on(&offramp, &config, HandshakeKind::Full);
        offramp.addr = media;
        refused(&offramp, &config, "BadCertificate", "peer_certificate_missing");
        let config = known.config(version);
        goes_on(&offramp, &config, HandshakeKind::Full);
        goes_on(&offramp, &config, HandshakeKind::Resumed);
        std::fs::write(files.path().join("offramp.toml"), listener(&told(&other))).expect("written");
        offramp.reload("timeouts in force");
        refused(&offramp, &config, "BadCertificate", "peer_certificate_refused");
        std::fs::write(files.path().join("offramp.toml"), listener(&told(&known))).expect("written");
        offramp.reload("timeouts in force");
        offramp.addr = access;
    }
    offramp.settled();
    offramp.stop();
}
