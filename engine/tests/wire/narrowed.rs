//! Who is narrowed further than by authority: by name, by revocation. And identities that lie in a directory.

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber, date_time_ymd};

use crate::peers::{Client, authority, serve};
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::Identity;
use offramp_testing::peer::{BOTH, Peer, Version, plain};
use offramp_testing::server::Setup;
use offramp_testing::tools::{eventually, scratch};

#[test]
fn clients_without_a_name_of_the_list_are_refused() {
    let (backend, dir) = (Backend::start(BackendBehavior::Echo), scratch());
    let (issuer, file) = authority(dir.path(), "ca.pem");
    let lines = format!(
        "client_auth = \"require\"\nclient_ca = {file:?}\nclient_names = [\"*.example\", \"spiffe://a/*\"]\n"
    );
    let (server, _files) = serve(&backend, &lines);
    let uri = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://a/b".try_into().expect("ASCII"))];
    };
    let other = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("phone.test".try_into().expect("ASCII"))];
    };
    for version in BOTH {
        for good in [Client::issued_by(&issuer, |_| {}), Client::issued_by(&issuer, uri)] {
            Peer::open(server.addr, &good.config(version)).ping(b"it has a name of the list");
        }
        // The good ones have cut their connections, which is a fault too.
        let before = server.settled();
        let mut refused =
            Peer::dial(server.addr, &Client::issued_by(&issuer, other).config(version), "offramp.test");
        let is_served = refused.handshake().is_ok() && refused.try_ping(b"?");
        assert!(!is_served, "{version:?}");
        assert!(server.faulted(&before, 1).contains(&"peer_certificate_refused".to_owned()), "{version:?}");
    }
    server.terminate();
}

/// The list is read again when it changes: who was good before is refused from then on, resumed or not.
#[test]
fn clients_that_were_revoked_are_refused() {
    let (backend, dir) = (Backend::start(BackendBehavior::Echo), scratch());
    let (issuer, ca) = authority(dir.path(), "ca.pem");
    let crl = dir.path().join("crl.pem");
    let revoke = |serials: &[u64]| {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2025, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(2125, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&issuer).expect("signs").pem().expect("PEM");
        let next = dir.path().join("next");
        std::fs::write(&next, list).and_then(|()| std::fs::rename(&next, &crl)).expect("a file");
    };
    revoke(&[9]);
    let lines = format!("client_auth = \"require\"\nclient_ca = {ca:?}\nclient_crl = {crl:?}\n");
    let (server, _files) = serve(&backend, &lines);
    let phone = Client::issued_by(&issuer, |params| params.serial_number = Some(SerialNumber::from(7_u64)));
    let clients = BOTH.map(|version| phone.config(version));
    for config in &clients {
        let mut peer = Peer::open(server.addr, config);
        peer.ping(b"not revoked, and with a ticket from now on");
        peer.close_notify();
        peer.rest();
    }
    revoke(&[7, 9]);
    eventually("the list was read", || server.stderr().contains("crl.pem"));
    for config in &clients {
        let before = server.metrics();
        let mut peer = Peer::dial(server.addr, config, "offramp.test");
        assert!(peer.handshake().is_err() || !peer.try_ping(b"?"));
        assert!(server.faulted(&before, 1).contains(&"peer_certificate_refused".to_owned()));
    }
    server.terminate();
}

/// The good ones of a directory serve, the bad one is named; one that comes later serves without a reload.
#[test]
fn identities_of_a_directory_serve_as_far_as_they_can() {
    let (backend, dir) = (Backend::start(BackendBehavior::Echo), scratch());
    let certificates = dir.path().join("certificates");
    std::fs::create_dir(&certificates).expect("a directory");
    Identity::ecdsa().write(&certificates);
    std::fs::write(certificates.join("bad.pem"), "no PEM").expect("a file");
    // As lego writes the issuer's, and cert-manager that of the authority: its key is nowhere.
    let lone = Identity::rsa().write(dir.path()).0;
    std::fs::rename(lone, certificates.join("lone.crt")).expect("it is there");
    let file = dir.path().join("offramp.toml");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nbackend = \"{}\"\n[[identity]]\ndirectory = {certificates:?}\n",
        backend.addr
    );
    std::fs::write(&file, text).expect("a file");
    let server = Setup::from_file(&file).start();
    let log = server.stderr();
    assert!(log.contains("not used: ") && log.contains("bad.pem"), "{log}");
    Peer::open(server.addr, &plain(Version::Tls13)).ping(b"by the good one");
    let served = |name: &str| {
        let mut peer = Peer::dial(server.addr, &plain(Version::Tls13), name);
        peer.handshake().is_ok() && peer.try_ping(b"by its own name")
    };
    assert!(!served("one.test"));
    Identity::one().write(&certificates);
    eventually("the new one serves", || served("one.test"));
    server.terminate();
    // Nothing that serves is an error, which names what is there.
    std::fs::remove_file(certificates.join("ecdsa.crt")).expect("it is there");
    std::fs::remove_file(certificates.join("one.crt")).expect("it is there");
    let arguments = ["--config".to_owned(), file.to_str().expect("UTF-8").to_owned()];
    let refused = offramp_testing::server::refused(&arguments).stderr;
    assert!(refused.contains("no certificate: ") && refused.contains("bad.pem"), "{refused}");
}
