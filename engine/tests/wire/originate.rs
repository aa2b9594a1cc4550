//! The client's role: plain in, TLS out. A pair of servers, one in each role; and `openssl s_server`.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use rustls::CipherSuite;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::capture::{Capture, distinct_nonces, records};
use offramp_testing::foreign::Typed;
use offramp_testing::identity::{Identity, NAME};
use offramp_testing::peer::{End, Version, dial, drain, end_of_dial, trust_file};
use offramp_testing::rng::{Noise, sha256_of};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{have, in_guest, scratch, skip};

fn bulk_bytes() -> u64 {
    std::env::var("OFFRAMP_BULK_BYTES").ok().and_then(|text| text.parse().ok()).unwrap_or(1 << 30)
}

/// A server in the client's role, towards `server`, that trusts what `trust` says.
fn originating(server: SocketAddr, trust: &str) -> (TestServer, tempfile::TempDir) {
    originating_with(server, trust, "")
}

/// The same, with more of the command line.
pub(crate) fn originating_with(
    server: SocketAddr,
    trust: &str,
    flags: &str,
) -> (TestServer, tempfile::TempDir) {
    let files = scratch();
    for identity in Identity::all() {
        identity.write(files.path());
    }
    trust_file(files.path());
    let path = files.path().join("offramp.toml");
    std::fs::write(&path, format!("mode = \"originate\"\n{trust}\n")).expect("the file can be written");
    let words = format!("{flags} --config {}", path.display());
    (Setup::new(server).identities(&[]).flags(&words).start(), files)
}

fn by_name() -> String {
    format!("server_name = \"{NAME}\"\nserver_ca = \"ecdsa.crt\"")
}

/// Of either key type.
pub(crate) fn by_name_and_any_key() -> String {
    format!("server_name = \"{NAME}\"\nserver_ca = \"trust.pem\"")
}

fn fingerprint(identity: &Identity) -> String {
    let digest = sha256_of(&identity.der[..]).0;
    let bytes: Vec<&str> = (0..32).map(|at| &digest[2 * at..2 * at + 2]).collect();
    format!("fingerprints = [\"sha-256 {}\"]", bytes.join(":"))
}

/// A plain connection through, so many bytes there and back, and an orderly end of both directions.
fn exchange(offramp: &TestServer, bytes: u64) {
    let mut tcp = dial(offramp.addr);
    let (sent, _) = sha256_of(Noise::new(11, bytes));
    let mut writing = tcp.try_clone().expect("a second handle");
    let writer = std::thread::spawn(move || {
        std::io::copy(&mut Noise::new(11, bytes), &mut writing).expect("all can be sent");
        writing.shutdown(Shutdown::Write).expect("connected");
    });
    let (received, count) = sha256_of(&mut tcp);
    writer.join().expect("the writer ends");
    assert!((count, &received) == (bytes, &sent), "{count} of {bytes} bytes, or not those");
}

#[test]
fn a_pair_carries_bulk_both_ways_and_then_resumes() {
    let backend = Backend::start(BackendBehavior::Echo);
    let terminating = TestServer::start(backend.addr);
    let (originating, _files) = originating(terminating.addr, &by_name());
    exchange(&originating, bulk_bytes());
    for _ in 0..3 {
        exchange(&originating, 100_000);
    }
    let (ours, theirs) = (originating.settled(), terminating.settled());
    for metrics in [&ours, &theirs] {
        let counts = (metrics.handshakes("full"), metrics.handshakes("resumed"));
        assert_eq!(counts, (1, 3), "{}", metrics.raw);
        assert_eq!(metrics.faults().len(), 0, "{}", metrics.raw);
        if in_guest() {
            // A short connection's FIN may come before its keys: then the kernel refuses them (ENOTCONN).
            for direction in ["tx", "rx"] {
                let by = |path| metrics.offload(direction, path);
                assert!(by("kernel") >= 1, "the bulk is the kernel's: {}", metrics.raw);
                assert_eq!(by("kernel") + by("fallback"), 4, "{}", metrics.raw);
            }
        }
    }
    let tickets = ours.sum("offramp_control_records_total", &[("type", "new_session_ticket")]);
    assert!(tickets >= 1, "tickets come behind the handshake: {}", ours.raw);
    originating.stop();
    terminating.stop();
}

/// Under the rule for the nonces of AES-GCM, of which Finished has used the first
/// (`TrafficKeys::kernel_iv`).
#[test]
fn bulk_goes_both_ways_in_the_client_role_on_tls12() {
    for (suite, bytes) in [
        (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, bulk_bytes()),
        (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, bulk_bytes() / 16),
    ] {
        let server = offramp_testing::tls_server::echo(Version::Tls12, suite, 2);
        let (offramp, _files) = originating(server, &by_name());
        exchange(&offramp, bytes);
        exchange(&offramp, 100_000);
        let metrics = offramp.settled();
        let counts = (metrics.handshakes("full"), metrics.handshakes("resumed"), metrics.faults().len());
        assert_eq!(counts, (1, 1, 0), "{suite:?}: {}", metrics.raw);
        if in_guest() {
            let kernel = (metrics.offload("tx", "kernel"), metrics.offload("rx", "kernel"));
            assert_eq!(kernel, (2, 2), "{suite:?}: {}", metrics.raw);
        }
        offramp.stop();
    }
}

#[test]
fn wrong_server_is_refused_and_resets_the_plain_leg() {
    let backend = Backend::start(BackendBehavior::Echo);
    let terminating = Setup::new(backend.addr).identities(&[Identity::ecdsa()]).start();
    for trust in [
        "server_name = \"other.test\"\nserver_ca = \"ecdsa.crt\"".to_owned(),
        format!("server_name = \"{NAME}\"\nserver_ca = \"one.crt\""),
        format!("server_name = \"{NAME}\"\n{}", fingerprint(Identity::two())),
    ] {
        let (originating, _files) = originating(terminating.addr, &trust);
        let before = originating.metrics();
        assert_eq!(end_of_dial(originating.addr, b"to whom?"), (Vec::new(), End::Reset), "{trust}");
        assert_eq!(originating.faulted(&before, 1), ["peer_certificate_refused"], "{trust}");
        originating.stop();
    }
    assert_eq!(terminating.settled().sum("offramp_bytes_total", &[("leg", "near")]), 0);
    terminating.stop();
}

#[test]
fn fingerprint_suffices_and_our_certificate_is_sent() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let path = files.path().join("offramp.toml");
    let asks = format!("client_auth = \"require\"\n{}\n", fingerprint(Identity::one()));
    std::fs::write(&path, asks).expect("the file can be written");
    let terminating = Setup::new(backend.addr)
        .identities(&[Identity::ecdsa()])
        .flags(&format!("--config {}", path.display()))
        .start();
    let trust = format!("server_name = \"any.example\"\n{}", fingerprint(Identity::ecdsa()));
    let with_identity = format!("{trust}\n[[identity]]\ncertificate = \"one.crt\"\nkey = \"one.key\"");
    let (originating_with, _files) = originating(terminating.addr, &with_identity);
    exchange(&originating_with, 1000);
    exchange(&originating_with, 1000);
    assert_eq!(originating_with.settled().handshakes("resumed"), 1);
    let (originating_without, _files) = originating(terminating.addr, &trust);
    let before = terminating.metrics();
    assert_eq!(end_of_dial(originating_without.addr, b"who am I?").1, End::Reset, "not told a clean end");
    assert_eq!(terminating.faulted(&before, 1), ["peer_certificate_missing"]);
    originating_with.stop();
    originating_without.stop();
    terminating.stop();
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let (offramp, _files) = originating(nobody.expect("a port"), &by_name());
    let before = offramp.metrics();
    assert_eq!(end_of_dial(offramp.addr, b""), (Vec::new(), End::Reset));
    assert_eq!(offramp.faulted(&before, 1), ["backend_refused"]);
    offramp.stop();
}

/// A connection through to `openssl s_server -rev`, which sends each line back reversed, and one line.
pub(crate) fn reversed(offramp: &TestServer, line: &str) -> TcpStream {
    let tcp = dial(offramp.addr);
    writeln!(&tcp, "{line}").expect("it can be sent");
    let mut back = vec![0; line.len() + 1];
    (&tcp).read_exact(&mut back).expect("it comes back");
    let expected: String = line.chars().rev().chain(['\n']).collect();
    assert_eq!(String::from_utf8_lossy(&back), expected);
    tcp
}

#[test]
fn openssl_server_works_and_nonces_are_distinct() {
    if !have("openssl") {
        return;
    }
    for (words, is_gcm_12) in [
        ("-tls1_3", false),
        ("-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256", true),
        ("-tls1_2 -cipher ECDHE-ECDSA-AES256-GCM-SHA384", true),
        ("-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305", false),
    ] {
        let files = scratch();
        let (_server, server) = Typed::openssl_server(files.path(), &format!("-rev {words}"));
        let (offramp, _files) = originating(server, &by_name());
        let capture = if is_gcm_12 { Some(Capture::start(server.port())) } else { None };
        let capture = match capture.transpose() {
            Ok(capture) => capture,
            Err(why) => return skip(&why),
        };
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let tcp = reversed(&offramp, "there and back again");
            (0..20).for_each(|nth| {
                writeln!(&tcp, "line {nth}").expect("it can be sent");
                let mut back = vec![0; format!("line {nth}\n").len()];
                (&tcp).read_exact(&mut back).expect("it comes back");
            });
            tcp.shutdown(Shutdown::Write).expect("connected");
            assert_eq!(drain(&tcp).0, b"");
            let metrics = offramp.settled();
            kinds.push((metrics.handshakes("full"), metrics.handshakes("resumed")));
        }
        assert_eq!(kinds, [(1, 0), (1, 1)], "{words}");
        if let Some(capture) = capture {
            let streams = capture.finish();
            assert!(streams.len() >= 4, "two connections, both ways");
            for ((from, to), stream) in streams {
                let stream = stream.unwrap_or_else(|why| panic!("{from} to {to}: {why}"));
                let checked = distinct_nonces(&records(&stream), 22);
                checked.unwrap_or_else(|why| panic!("{words}, {from} to {to}: {why}"));
            }
        }
        offramp.stop();
    }
}
