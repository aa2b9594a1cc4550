//! KeyUpdates of clients, ours and others, in the middle of a stream.

use std::io::ErrorKind;

use rustls::CipherSuite;

use crate::bulk::bulk_bytes;
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::foreign::{AEADS, Typed, java};
use offramp_testing::metrics::Metrics;
use offramp_testing::peer::{End, Peer, Version, config};
use offramp_testing::rng::{Noise, Rng, sha256_of};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{have, in_guest, scratch};

/// Userspace, and the kernel if it can follow a KeyUpdate.
const RECORD_PATHS: [&str; 2] = ["--offload never", "--keyupdate userspace"];

/// All connections so far had both directions on the record path that `flags`, of [`RECORD_PATHS`], ask for.
fn carried_where_it_can_follow(server: &TestServer, flags: &str, connections: u64) {
    let follows = in_guest() && flags.contains("keyupdate") && !server.refuses_key_updates();
    let (metrics, kernel) = (server.settled(), if follows { connections } else { 0 });
    for direction in ["tx", "rx"] {
        assert_eq!(metrics.offload(direction, "kernel"), kernel, "{}", metrics.raw);
        assert_eq!(metrics.offload(direction, "userspace"), connections - kernel, "{}", metrics.raw);
    }
}

pub(crate) fn received(metrics: &Metrics) -> u64 {
    metrics.sum("offramp_control_records_total", &[("type", "key_update")])
}

pub(crate) fn sent(metrics: &Metrics) -> u64 {
    metrics.sum("offramp_key_updates_sent_total", &[])
}

#[test]
fn openssl_updates_keys_and_the_stream_goes_on() {
    if !have("openssl") {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    for flags in RECORD_PATHS {
        let server = Setup::new(backend.addr).flags(flags).start();
        openssl_updates_keys(&server);
        carried_where_it_can_follow(&server, flags, 1);
        server.stop();
    }
}

fn openssl_updates_keys(server: &TestServer) {
    let files = scratch();
    let mut client = Typed::openssl(server.addr, files.path(), "-tls1_3");
    client.write(b"under the first keys\n");
    client.await_text("under the first keys");
    for (order, line) in [("k\n", "client's second"), ("K\n", "both sides next"), ("K\n", "and once more")] {
        let before = received(&server.metrics());
        client.write(order.as_bytes());
        offramp_testing::tools::eventually("the KeyUpdate is counted", || {
            received(&server.metrics()) > before
        });
        client.write(format!("{line}\n").as_bytes());
        client.await_text(line);
    }
    client.end();
    let metrics = server.settled();
    assert_eq!((received(&metrics), sent(&metrics)), (3, 2), "K asks for an answer, k does not");
    assert_eq!(metrics.faults().len(), 0, "{:?}", metrics.faults());
}

/// Where the kernel carries the records and cannot replace keys, the client is told and the fault is counted;
/// elsewhere the stream goes on.
#[test]
fn openssl_key_update_is_followed_or_refused() {
    if !have("openssl") {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    for order in ["k\n", "K\n"] {
        let server = TestServer::start(backend.addr);
        let files = scratch();
        let mut client = Typed::openssl(server.addr, files.path(), "-tls1_3");
        client.write(b"under the first keys\n");
        client.await_text("under the first keys");
        let before = server.metrics();
        client.write(order.as_bytes());
        if in_guest() {
            let kernel = (before.offload("tx", "kernel"), before.offload("rx", "kernel"));
            assert_eq!(kernel, (1, 1), "{}", before.raw);
        }
        if server.refuses_key_updates() {
            assert_eq!(server.faulted(&before, 1), ["rekey_refused"], "{order:?}");
            // Before its input ends: its close_notify would come under a key that the kernel does not have.
            client.await_said("alert internal error");
            client.end();
        } else {
            offramp_testing::tools::eventually("the KeyUpdate is counted", || {
                received(&server.metrics()) == 1
            });
            client.write(b"under the next keys\n");
            client.await_text("under the next keys");
            client.end();
            assert_eq!(server.settled().faults().len(), 0, "{:?}", server.metrics().faults());
        }
        server.settled();
        server.stop();
    }
}

#[test]
fn gnutls_updates_keys_and_the_stream_goes_on() {
    if !have("gnutls-cli") {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    for flags in RECORD_PATHS {
        let server = Setup::new(backend.addr).flags(flags).start();
        gnutls_updates_keys(&server);
        carried_where_it_can_follow(&server, flags, AEADS.len() as u64);
        server.stop();
    }
}

fn gnutls_updates_keys(server: &TestServer) {
    const UPDATES: u64 = 5;
    for [cipher, ..] in AEADS {
        let (files, mut whole) = (scratch(), Vec::new());
        let before = server.metrics();
        let mut client = Typed::gnutls(server.addr, files.path(), Version::Tls13, cipher);
        for update in 0..=UPDATES {
            let text = format!("{:04000}\n", update).repeat(4);
            client.write(text.as_bytes());
            whole.extend_from_slice(text.as_bytes());
            client.await_bytes(whole.len());
            if update < UPDATES {
                client.write(b"^rekey^\n");
            }
        }
        assert!(client.end() == whole, "{cipher}: the echo differs");
        let metrics = server.settled();
        assert_eq!(received(&metrics) - received(&before), UPDATES, "{cipher}");
        assert_eq!(sent(&metrics) - sent(&before), UPDATES, "{cipher}: each asks for an answer");
        assert_eq!(metrics.faults().len(), 0, "{cipher}: {:?}", metrics.faults());
    }
}

/// Java updates its keys when it has sent so much, and asks for ours when it has received so much. The
/// whole amount with the first AEAD, less with the others. Under this policy a kernel that cannot replace
/// keys is not given those of TLS 1.3, though it is told to have all others; one that can carries it all.
#[test]
fn java_updates_keys_during_bulk_on_a_path_with_rekey() {
    const UPDATES: u64 = 8;
    if !have("java") {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--keyupdate userspace").start();
    for (nth, ([_, suite, _], part)) in (1..).zip(AEADS.into_iter().zip([1, 16, 16])) {
        let bytes = bulk_bytes() / part;
        let (files, before) = (scratch(), server.metrics());
        let offer = [format!("TLSv1.3/{suite}")];
        let transfer = java(server.addr, files.path(), bytes, Some(bytes / UPDATES), &offer).remove(0);
        assert_eq!(transfer.received, transfer.sent, "{suite}");
        let seen = backend.seen();
        assert_eq!((seen.sha256, seen.bytes, seen.end), (transfer.sent, bytes, Ok(())), "{suite}");
        let now = server.settled();
        let (updates, answers) = (received(&now) - received(&before), sent(&now) - sent(&before));
        // Java counts what it protects, which is a little more than the data.
        // One answer in front of our next data is for all that asked before (RFC 8446 §4.6.3).
        let is_answered = (1..=updates).contains(&answers);
        assert!(updates >= UPDATES && is_answered, "{suite}: {updates} KeyUpdates, {answers} answers");
        assert_eq!(now.faults().len(), 0, "{suite}: {:?}", now.faults());
        carried_where_it_can_follow(&server, "--keyupdate userspace", nth);
    }
    server.stop();
}

const TLS13_SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// With bytes on the way in both directions, and data behind each KeyUpdate in the same segment. No more of
/// them than the client would take in a row, 32: that many answers may come before the echo.
#[test]
fn keys_are_updated_during_bulk_on_a_path_with_rekey() {
    const BYTES: usize = 4 << 20;
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--keyupdate userspace").start();
    for (nth, suite) in (1..).zip(TLS13_SUITES) {
        let before = server.metrics();
        let mut peer = Peer::open(server.addr, &config(Version::Tls13, Some(suite), None));
        let (data, mut parts, mut updates) = (Noise::bytes(nth, BYTES), 0, 0);
        let back = peer.exchange_but(&data, &mut Rng::with_seed(nth), |tls| {
            parts += 1;
            if parts % 20 == 0 {
                tls.refresh_traffic_keys().expect("a TLS 1.3 connection");
                updates += 1;
            }
        });
        assert!(back == data, "{suite:?}: the echo differs");
        peer.close_notify();
        assert_eq!(peer.rest(), (Vec::new(), End::Clean), "{suite:?}");
        assert_eq!(backend.seen().bytes, BYTES as u64, "{suite:?}");
        let now = server.settled();
        assert!((10..=32).contains(&updates), "{suite:?}: {updates}");
        assert_eq!(received(&now) - received(&before), updates, "{suite:?}");
        // Each asks for an answer; one may do for those that came before it was sent (RFC 8446 §4.6.3).
        let answers = sent(&now) - sent(&before);
        assert!((1..=updates).contains(&answers), "{suite:?}: {answers} answers to {updates}");
        assert_eq!(now.faults().len(), 0, "{suite:?}: {:?}", now.faults());
        carried_where_it_can_follow(&server, "--keyupdate userspace", nth);
    }
    server.stop();
}

/// What came before the KeyUpdate reaches the backend or is cut by a reset, but never looks whole; the client
/// is told, though it goes on sending.
#[test]
fn key_update_during_bulk_is_followed_or_refused() {
    const BYTES: usize = 2 << 20;
    for suite in TLS13_SUITES {
        let backend = Backend::start(BackendBehavior::Sink);
        let server = TestServer::start(backend.addr);
        let before = server.metrics();
        let mut peer = Peer::open(server.addr, &config(Version::Tls13, Some(suite), None));
        let data = Noise::bytes(1, BYTES);
        peer.send(&data);
        peer.tls.refresh_traffic_keys().expect("a TLS 1.3 connection");
        if server.refuses_key_updates() {
            peer.seal(&data);
            let sent = peer.flush();
            let (heard, end) = peer.rest();
            assert!(sent.is_ok() && heard.is_empty(), "{suite:?}: {sent:?}, {heard:?}");
            assert!(matches!(&end, End::Alert(alert) if alert.contains("InternalError")), "{end:?}");
            assert_eq!(server.faulted(&before, 1), ["rekey_refused"], "{suite:?}");
            let seen = backend.seen();
            assert!(seen.bytes <= BYTES as u64, "{suite:?}: {seen:?}");
            assert_eq!(seen.end, Err(ErrorKind::ConnectionReset), "{suite:?}: {seen:?}");
        } else {
            peer.send(&data);
            peer.close_notify();
            let (digest, end) = peer.rest();
            assert_eq!(end, End::Clean, "{suite:?}");
            let whole = sha256_of([data.as_slice(), &data].concat().as_slice()).0;
            assert_eq!(String::from_utf8_lossy(&digest), whole, "{suite:?}");
        }
        server.settled();
        server.stop();
    }
}
