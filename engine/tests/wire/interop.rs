//! Every version and AEAD with clients that are not ours: bytes there and back, whoever carries the records.

use crate::handshake::SUITES;
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::capture::{Capture, distinct_nonces, records};
use offramp_testing::foreign::{AEADS, Typed, java, java_offers};
use offramp_testing::ktls_client::echo_over_ktls;
use offramp_testing::peer::{BOTH, Version, config};
use offramp_testing::rng::{Noise, hex};
use offramp_testing::server::TestServer;
use offramp_testing::tools::{have, scratch, skip};

/// Noise that a program which reads lines passes on unchanged.
pub(crate) fn lines(seed: u64, count: usize) -> Vec<u8> {
    let line = |number| hex(&Noise::bytes(seed + number, 2000)) + "\n";
    (0..count as u64).map(line).collect::<String>().into_bytes()
}

#[test]
fn gnutls_with_every_version_and_aead() {
    if !have("gnutls-cli") {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let data = lines(1, 75);
    for version in BOTH {
        for [cipher, ..] in AEADS {
            let files = scratch();
            let mut client = Typed::gnutls(server.addr, files.path(), version, cipher);
            client.write(&data);
            client.await_bytes(data.len());
            assert!(client.end() == data, "{version:?} {cipher}: the echo differs");
            let log = std::fs::read_to_string(files.path().join("log")).expect("it keeps a log");
            assert!(log.contains(&format!("({cipher})")), "{version:?} {cipher}: {log}");
            let seen = backend.seen();
            assert_eq!((seen.bytes, seen.end), (data.len() as u64, Ok(())), "{version:?} {cipher}");
        }
    }
    let metrics = server.settled();
    assert_eq!(metrics.handshakes("full"), 6, "{}", metrics.raw);
    assert_eq!(metrics.faults().len(), 0, "{:?}", metrics.faults());
    server.stop();
}

#[test]
fn nonces_towards_gnutls_are_distinct() {
    if !have("gnutls-cli") {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let capture = match Capture::start(server.addr.port()) {
        Ok(capture) => capture,
        Err(why) => return skip(&why),
    };
    let (files, data) = (scratch(), lines(2, 25));
    let mut client = Typed::gnutls(server.addr, files.path(), Version::Tls12, "AES-128-GCM");
    client.write(&data);
    client.await_bytes(data.len());
    client.end();
    server.settled();
    let streams = capture.finish();
    assert_eq!(streams.len(), 2, "one connection: {:?}", streams.keys());
    for (direction, stream) in streams {
        let stream = stream.unwrap_or_else(|why| panic!("{direction:?}: {why}"));
        // Finished, the data in at least as many records as it needs, close_notify.
        let checked = distinct_nonces(&records(&stream), 2 + data.len().div_ceil(1 << 14));
        checked.unwrap_or_else(|why| panic!("{direction:?} of server {}: {why}", server.addr));
    }
    server.stop();
}

#[test]
fn java_with_every_version_and_aead() {
    const BYTES: u64 = 3_000_001;
    if !have("java") {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let files = scratch();
    for transfer in java(server.addr, files.path(), BYTES, None, &java_offers()) {
        assert_eq!(transfer.received, transfer.sent, "{}", transfer.negotiated);
        let seen = backend.seen();
        assert_eq!((seen.sha256, seen.bytes, seen.end), (transfer.sent, BYTES, Ok(())));
    }
    let metrics = server.settled();
    assert_eq!(metrics.handshakes("full"), 6, "{}", metrics.raw);
    assert_eq!(metrics.faults().len(), 0, "{:?}", metrics.faults());
    server.stop();
}

/// The records of both sides are a kernel's, but the other side's hand-over is not ours.
#[test]
#[ignore = "needs a kernel with TLS for the client too: tests/kernel runs it"]
fn ktls_crate_client_exchanges_data_with_every_suite() {
    if !std::path::Path::new("/proc/net/tls_stat").exists() {
        return skip("this kernel knows no TLS (modprobe tls)");
    }
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let data = Noise::bytes(4, 1_000_001);
    for (version, suite) in SUITES {
        let back = echo_over_ktls(server.addr, &config(version, Some(suite), None), &data);
        assert!(back == data, "{suite:?}: the echo differs");
        let seen = backend.seen();
        assert_eq!((seen.bytes, seen.end), (data.len() as u64, Ok(())), "{suite:?}");
    }
    let metrics = server.settled();
    assert_eq!(metrics.offload("rx", "kernel"), SUITES.len() as u64, "{}", metrics.raw);
    assert_eq!(metrics.faults().len(), 0, "{:?}", metrics.faults());
    server.stop();
}
