//! Authorities whose certificate does not hold, and those that are a peer's own certificate.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::HandshakeKind;
use rustls::pki_types::CertificateDer;

use crate::originate::originating_with;
use crate::peers::{Client, goes_on, refused, serve};
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::NAME;
use offramp_testing::peer::{BOTH, dial, end_of_dial};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{eventually, have, scratch, text};

const REFUSED: &str = "peer_certificate_refused";

/// An authority with its certificate in a file.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    file: PathBuf,
}

fn params(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    change(&mut params);
    params
}

fn root(directory: &Path, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Authority {
    let (params, key) = (params(name, change), KeyPair::generate().expect("a key"));
    let certificate = params.self_signed(&key).expect("signs");
    let file = directory.join(format!("{name}.pem"));
    std::fs::write(&file, certificate.pem()).expect("the file can be written");
    Authority { der: certificate.der().clone(), issuer: Issuer::new(params, key), file }
}

fn below(authority: &Authority, name: &str) -> Authority {
    let (params, key) = (params(name, |_| {}), KeyPair::generate().expect("a key"));
    let certificate = params.signed_by(&key, &authority.issuer).expect("signs");
    let der = certificate.der().clone();
    Authority { der, issuer: Issuer::new(params, key), file: PathBuf::new() }
}

fn requiring(backend: &Backend, authority: &Authority) -> (TestServer, tempfile::TempDir) {
    let file = authority.file.display();
    serve(backend, &format!("client_auth = \"require\"\nclient_ca = \"{file}\"\n"))
}

#[test]
fn authorities_out_of_their_bounds_vouch_for_nobody() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let directory = files.path();
    let over = root(directory, "over", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let to_come = root(directory, "to-come", |params| params.not_before = rcgen::date_time_ymd(2090, 1, 1));
    let plain = root(directory, "plain", |params| params.is_ca = IsCa::ExplicitNoCa);
    let short = root(directory, "short", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let too_deep = below(&short, "too deep");
    for (authority, client, alert, warning) in [
        (&over, Client::issued_by(&over.issuer, |_| {}), "CertificateExpired", "has expired"),
        (&to_come, Client::issued_by(&to_come.issuer, |_| {}), "CertificateExpired", "is not valid before"),
        (&plain, Client::issued_by(&plain.issuer, |_| {}), "UnknownCA", "is no authority (CA:FALSE)"),
        (
            &short,
            Client::issued_by(&too_deep.issuer, |_| {}).showing([too_deep.der.clone()]),
            "CertificateUnknown",
            "",
        ),
    ] {
        let (offramp, _files) = requiring(&backend, authority);
        for version in BOTH {
            refused(&offramp, &client.config(version), alert, REFUSED);
        }
        let warned = offramp.stderr();
        assert!(warned.contains(warning) && warned.contains(".pem: ") != warning.is_empty(), "{warned}");
        offramp.reload("timeouts in force");
        let again = offramp.stderr().split_off(warned.len());
        assert!(again.contains(warning), "SIGHUP: {again}");
        offramp.stop();
    }
    let (offramp, _files) = requiring(&backend, &short);
    for version in BOTH {
        goes_on(&offramp, &Client::issued_by(&short.issuer, |_| {}).config(version), HandshakeKind::Full);
    }
    offramp.stop();
}

#[test]
fn an_authority_that_ends_takes_its_sessions_along() {
    let unix_now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let last = Duration::from_secs(unix_now().as_secs() + 10);
    let brief =
        root(files.path(), "brief", |params| params.not_after = rcgen::date_time_ymd(1970, 1, 1) + last);
    let (offramp, _files) = requiring(&backend, &brief);
    let client = Client::issued_by(&brief.issuer, |_| {});
    let configs = BOTH.map(|version| client.config(version));
    for config in &configs {
        goes_on(&offramp, config, HandshakeKind::Full);
        goes_on(&offramp, config, HandshakeKind::Resumed);
    }
    eventually("the authority ends", || unix_now() > last + Duration::from_secs(1));
    for config in &configs {
        refused(&offramp, config, "BadCertificate", REFUSED);
    }
    for version in BOTH {
        refused(&offramp, &client.config(version), "CertificateExpired", REFUSED);
    }
    offramp.stop();
}

#[test]
fn a_long_chain_is_refused_by_name() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let authority = root(files.path(), "ca", |_| {});
    let (offramp, _files) = requiring(&backend, &authority);
    let strangers: Vec<_> = (0..10).map(|nth| below(&authority, &format!("stranger {nth}")).der).collect();
    let namesakes: Vec<_> = (0..3).map(|_| below(&authority, "namesake").der).collect();
    let client = || Client::issued_by(&authority.issuer, |_| {});
    for version in BOTH {
        let nine = client().showing(strangers[..9].to_vec());
        goes_on(&offramp, &nine.config(version), HandshakeKind::Full);
        for chain in [strangers.clone(), namesakes.clone()] {
            let config = client().showing(chain).config(version);
            refused(&offramp, &config, "BadCertificate", "peer_chain_too_long");
        }
    }
    offramp.stop();
}

/// What `openssl req -x509` makes, as it is and with a key usage for a server: an authority, and a peer's
/// own.
#[test]
fn a_certificate_is_its_own_authority_in_either_role() {
    if !have("openssl") {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let path = |name: &str| files.path().join(name).display().to_string();
    let key = "-nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -keyout it.key -out it.crt";
    for usage in ["", " -addext keyUsage=digitalSignature"] {
        let words = format!("req -x509 -subj /CN={NAME} -addext subjectAltName=DNS:{NAME} {key}{usage}");
        let output =
            Command::new("openssl").args(words.split_whitespace()).current_dir(files.path()).output();
        let output = output.expect("openssl runs");
        assert!(output.status.success(), "{}", text(&output));
        let flags = format!("--cert {} --key {}", path("it.crt"), path("it.key"));
        let required = format!("{flags} --client-auth require --client-ca {}", path("it.crt"));
        let server = Setup::new(backend.addr).identities(&[]).flags(&required).start();
        let trust = format!("server_name = \"{NAME}\"\nserver_ca = \"{}\"", path("it.crt"));
        let (client, _files) = originating_with(server.addr, &trust, &flags);
        for _ in 0..2 {
            let mut plain = dial(client.addr);
            std::io::Write::write_all(&mut plain, b"known to each other").expect("sent");
            let mut echo = [0; 19];
            std::io::Read::read_exact(&mut plain, &mut echo).expect("echoed");
            assert_eq!(&echo, b"known to each other");
        }
        // By another name it is not.
        let other = trust.replace(NAME, "other.test");
        let (stranger, _files) = originating_with(server.addr, &other, &flags);
        let before = stranger.metrics();
        end_of_dial(stranger.addr, b"to whom?");
        assert_eq!(stranger.faulted(&before, 1), [REFUSED]);
        stranger.stop();
        client.stop();
        server.stop();
    }
}

#[test]
fn the_end_of_each_certificate_is_a_gauge() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let authority = root(files.path(), "gauge", |params| {
        params.not_after = rcgen::date_time_ymd(2050, 1, 1);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    });
    let (offramp, _files) = requiring(&backend, &authority);
    let raw = offramp.metrics().raw;
    let line = format!(
        "offramp_certificate_not_after_seconds{{certificate=\"{}\",nth=\"1\"}} 2524608000",
        authority.file.display()
    );
    assert!(raw.lines().any(|found| found == line), "{line} is not in {raw}");
    let ends = raw.lines().filter(|line| line.starts_with("offramp_certificate_not_after_seconds{"));
    assert_eq!(ends.count(), 3, "two identities and an authority: {raw}");
    offramp.stop();
}
