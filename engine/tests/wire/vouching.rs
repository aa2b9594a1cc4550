//! Who vouches for a peer changes while its sessions live: certificates end, authorities are replaced. And
//! what a fingerprint does not ask.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::ExtendedKeyUsagePurpose;
use rustls::{ClientConfig, HandshakeKind};

use crate::peers::{Client, authority, goes_on, refused, serve};
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::peer::{BOTH, Version};
use offramp_testing::tools::{eventually, scratch};

const REFUSED: &str = "peer_certificate_refused";

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970")
}

/// Configurations of both versions, with the version.
fn both(client: &Client) -> [(Version, Arc<ClientConfig>); 2] {
    BOTH.map(|version| (version, client.config(version)))
}

#[test]
fn expired_client_certificate_ends_its_sessions() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let (issuer, file) = authority(files.path(), "ca.pem");
    let (offramp, _files) =
        serve(&backend, &format!("client_auth = \"require\"\nclient_ca = \"{}\"\n", file.display()));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let last = Duration::from_secs(unix_now().as_secs() + 10);
    let brief = Client::issued_by(&issuer, |params| params.not_after = epoch + last);
    let configs = both(&brief);
    for (_, config) in &configs {
        goes_on(&offramp, config, HandshakeKind::Full);
        goes_on(&offramp, config, HandshakeKind::Resumed);
    }
    eventually("the certificate ends", || unix_now() > last + Duration::from_secs(1));
    for (version, config) in &configs {
        // The ticket is good, and nobody would look at the certificate but for our judgement behind it. In
        // a full handshake it is the verifier that says so, in words of its own.
        refused(&offramp, config, "BadCertificate", REFUSED);
        refused(&offramp, &brief.config(*version), "CertificateExpired", REFUSED);
    }
    // The keys and the age of the sessions have not ended them.
    for (_, config) in both(&Client::issued_by(&issuer, |_| {})) {
        goes_on(&offramp, &config, HandshakeKind::Full);
        goes_on(&offramp, &config, HandshakeKind::Resumed);
    }
    offramp.settled();
    offramp.stop();
}

#[test]
fn replaced_client_ca_ends_the_sessions_under_it() {
    const IN_FORCE: &str = "timeouts in force";
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let (issuer, file) = authority(files.path(), "ca.pem");
    let (_, other) = authority(files.path(), "other.pem");
    let read = |file| std::fs::read_to_string(file).expect("it was written");
    let (ours, others) = (read(&file), read(&other));
    let lines = format!("client_auth = \"require\"\nclient_ca = \"{}\"\n", file.display());
    let (offramp, _files) = serve(&backend, &lines);
    let client = Client::issued_by(&issuer, |_| {});
    for (_, config) in both(&client) {
        goes_on(&offramp, &config, HandshakeKind::Full);
        goes_on(&offramp, &config, HandshakeKind::Resumed);
        std::fs::write(&file, &others).expect("the file can be written");
        offramp.reload(IN_FORCE);
        refused(&offramp, &config, "UnknownCA", REFUSED);
        std::fs::write(&file, format!("{others}{ours}")).expect("the file can be written");
        offramp.reload(IN_FORCE);
        // Under other authorities than before the session does not count, but the client does.
        goes_on(&offramp, &config, HandshakeKind::Full);
        goes_on(&offramp, &config, HandshakeKind::Resumed);
        std::fs::write(&file, &ours).expect("the file can be written");
        offramp.reload(IN_FORCE);
    }
    offramp.settled();
    offramp.stop();
}

/// TS 33.310 clause 6.1.1 asks for neither where the fingerprint decides, and RFC 8122 §6.2 for nothing but
/// the hash.
#[test]
fn fingerprint_needs_no_dates_purpose_or_authority() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let (issuer, _) = authority(files.path(), "ca.pem");
    let expired = Client::issued_by(&issuer, |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let to_come = Client::issued_by(&issuer, |params| params.not_before = rcgen::date_time_ymd(2090, 1, 1));
    let server = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let for_servers = Client::issued_by(&issuer, |params| params.extended_key_usages = server);
    let clients = [&expired, &to_come, &for_servers];
    let told: Vec<String> = clients.map(Client::fingerprint).map(|told| format!("\"{told}\"")).into();
    let (offramp, _files) =
        serve(&backend, &format!("client_auth = \"require\"\nfingerprints = [{}]\n", told.join(", ")));
    for client in clients {
        for (_, config) in both(client) {
            goes_on(&offramp, &config, HandshakeKind::Full);
            goes_on(&offramp, &config, HandshakeKind::Resumed);
        }
    }
    // Nor does a good one help where it was not told.
    for (_, config) in both(&Client::issued_by(&issuer, |_| {})) {
        refused(&offramp, &config, "BadCertificate", REFUSED);
    }
    offramp.settled();
    offramp.stop();
}

#[test]
fn fingerprints_of_several_hashes_hold_side_by_side() {
    let backend = Backend::start(BackendBehavior::Echo);
    let clients = [256, 384, 512].map(|bits| (bits, Client::self_signed()));
    let told = clients.each_ref().map(|(bits, client)| format!("\"{}\"", client.fingerprint_of(*bits)));
    let (offramp, _files) =
        serve(&backend, &format!("client_auth = \"require\"\nfingerprints = [{}]\n", told.join(", ")));
    for (_, client) in &clients {
        for (_, config) in both(client) {
            goes_on(&offramp, &config, HandshakeKind::Full);
            goes_on(&offramp, &config, HandshakeKind::Resumed);
        }
    }
    for (_, config) in both(&Client::self_signed()) {
        refused(&offramp, &config, "BadCertificate", REFUSED);
    }
    offramp.settled();
    offramp.stop();
}
