//! Stage 3: the hand-over. No nonce twice, no byte lost or doubled around it, and the records are really the
//! kernel's.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use rustls::{CipherSuite, ClientConfig, HandshakeKind};

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::capture::{Capture, distinct_nonces, records};
use offramp_testing::identity::NAME;
use offramp_testing::peer::{BOTH, End, Peer, Version, config, plain};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{eventually, in_guest, skip};

const PINGS: usize = 50;

#[test]
fn nonces_are_distinct_across_the_hand_over() {
    for suite in [
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ] {
        let backend = Backend::start(BackendBehavior::Echo);
        let server = TestServer::start(backend.addr);
        let capture = match Capture::start(server.addr.port()) {
            Ok(capture) => capture,
            Err(why) => return skip(&why),
        };
        let client = config(Version::Tls12, Some(suite), None);
        // The second connection is abbreviated: there our Finished comes first.
        let mut ports = Vec::new();
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut peer = Peer::open(server.addr, &client);
            assert_eq!(peer.kind(), kind);
            (0..PINGS).for_each(|ping| peer.ping(format!("record number {ping}").as_bytes()));
            peer.close_notify();
            assert_eq!(peer.rest(), (Vec::new(), End::Clean));
            ports.push(peer.tcp.local_addr().expect("connected").port());
        }
        let streams = capture.finish();
        for client_port in ports {
            for direction in [(server.addr.port(), client_port), (client_port, server.addr.port())] {
                let stream =
                    streams.get(&direction).unwrap_or_else(|| panic!("nothing captured of {direction:?}"));
                let stream = stream.as_ref().unwrap_or_else(|why| panic!("{direction:?}: {why}"));
                // Finished, each ping at least one record, close_notify.
                let checked = distinct_nonces(&records(stream), PINGS + 2);
                checked.unwrap_or_else(|why| {
                    panic!("{suite:?}, {direction:?} of server {}: {why}", server.addr)
                });
            }
        }
        server.settled();
        server.stop();
    }
}

/// The ways in which a client may send data in the same segment as its Finished: TLS 1.3, and TLS 1.2 if
/// resumed.
fn eager_clients(server: &TestServer) -> Vec<(&'static str, Arc<ClientConfig>, HandshakeKind)> {
    let resuming = |version| {
        let client = plain(version);
        let mut first = Peer::open(server.addr, &client);
        first.ping(b"for the ticket");
        first.close_notify();
        assert_eq!(first.rest().1, End::Clean);
        client
    };
    vec![
        ("1.3 full", plain(Version::Tls13), HandshakeKind::Full),
        ("1.3 resumed", resuming(Version::Tls13), HandshakeKind::Resumed),
        ("1.2 resumed", resuming(Version::Tls12), HandshakeKind::Resumed),
    ]
}

#[test]
fn first_data_may_share_a_segment_with_finished() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    for length in [1, 5, 1_000, 16_384, 40_000] {
        for (way, client, kind) in eager_clients(&server) {
            let mut peer = Peer::dial(server.addr, &client, NAME);
            peer.handshake_but_for_the_last_flight().unwrap_or_else(|error| panic!("{way}: {error}"));
            assert_eq!(peer.kind(), kind, "{way}");
            let data = offramp_testing::rng::Noise::bytes(length as u64, length);
            peer.seal(&data);
            let together = peer.outgoing();
            assert!(together.len() > length, "{way}: Finished and data go together");
            peer.tcp.write_all(&together).expect("the server reads");
            assert!(peer.receive(length) == data, "{way}, {length} bytes: not what was sent");
            peer.ping(b"and on it goes");
            peer.close_notify();
            assert_eq!(peer.rest(), (Vec::new(), End::Clean), "{way}: nothing comes twice");
        }
    }
    assert_eq!(server.settled().faults().len(), 0, "{:?}", server.metrics().faults());
    server.stop();
}

#[test]
fn half_a_record_after_finished_may_end_much_later() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let (first, second) =
        (offramp_testing::rng::Noise::bytes(1, 3_000), offramp_testing::rng::Noise::bytes(2, 2_000));
    // How many bytes of the last record are late: its tag's last, its tag, its body, parts of its header, all
    // of it.
    let record = second.len() + 22;
    for late in [1, 16, 1_000, record - 6, record - 5, record - 4, record - 1, record] {
        for (way, client, kind) in eager_clients(&server) {
            let handshakes = || server.metrics().handshakes("full") + server.metrics().handshakes("resumed");
            let before = handshakes();
            let mut peer = Peer::dial(server.addr, &client, NAME);
            peer.handshake_but_for_the_last_flight().unwrap_or_else(|error| panic!("{way}: {error}"));
            assert_eq!(peer.kind(), kind, "{way}");
            peer.seal(&first);
            peer.seal(&second);
            let all = peer.outgoing();
            let (now, later) = all.split_at(all.len() - late);
            peer.tcp.write_all(now).expect("the server reads");
            eventually("the handshake is counted: Finished and half a record were read", || {
                handshakes() > before
            });
            assert!(
                peer.receive(first.len()) == first,
                "{way}: the whole record goes on without the half one"
            );
            peer.tcp.write_all(later).expect("the server reads");
            assert!(peer.receive(second.len()) == second, "{way}, {late} bytes late: not what was sent");
            peer.close_notify();
            assert_eq!(peer.rest(), (Vec::new(), End::Clean), "{way}: nothing comes twice");
        }
    }
    assert_eq!(server.settled().faults().len(), 0, "{:?}", server.metrics().faults());
    server.stop();
}

/// Finished, data, close_notify and FIN in one segment: the protocol cannot be attached any more.
#[test]
fn fin_with_the_last_flight_stays_in_userspace() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let data = offramp_testing::rng::Noise::bytes(4, 2_000);
    for (way, client, kind) in eager_clients(&server) {
        let before = server.settled();
        let mut peer = Peer::dial(server.addr, &client, NAME);
        peer.handshake_but_for_the_last_flight().unwrap_or_else(|error| panic!("{way}: {error}"));
        assert_eq!(peer.kind(), kind, "{way}");
        peer.seal(&data);
        peer.tls.send_close_notify();
        let together = peer.outgoing();
        // Held back until FIN is behind it.
        let socket = socket2::SockRef::from(&peer.tcp);
        socket.set_tcp_cork(true).expect("a TCP option");
        peer.tcp.write_all(&together).expect("the server reads");
        peer.truncate();
        assert_eq!(peer.rest(), (data.clone(), End::Clean), "{way}");
        drop(peer);
        let after = server.settled();
        assert_eq!(after.faults().len(), 0, "{way}: {:?}", after.faults());
        if in_guest() {
            let refused = after.sum("offramp_offload_refusals_total", &[("error", "enotconn")])
                - before.sum("offramp_offload_refusals_total", &[("error", "enotconn")]);
            assert!(refused >= 1, "{way}: {}", after.raw);
        }
    }
    server.stop();
}

/// The kernel's own count of TLS sockets; `None` where it knows no TLS.
pub(crate) fn tls_stat() -> Option<BTreeMap<String, u64>> {
    let text = std::fs::read_to_string("/proc/net/tls_stat").ok()?;
    let line = |line: &str| {
        let (name, count) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), count.trim().parse().ok()?))
    };
    Some(text.lines().filter_map(line).collect())
}

#[test]
fn each_connection_is_carried_as_the_metrics_say() {
    const EACH: u64 = 5;
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    // What the engine tried at its start is behind us.
    let before = tls_stat();
    for version in BOTH {
        for _ in 0..EACH {
            let mut peer = Peer::open(server.addr, &plain(version));
            peer.ping(b"carried");
            peer.close_notify();
            assert_eq!(peer.rest(), (Vec::new(), End::Clean));
        }
    }
    let metrics = server.settled();
    for direction in ["tx", "rx"] {
        let carried = metrics.sum("offramp_offload_total", &[("direction", direction)]);
        assert_eq!(carried, 2 * EACH, "{direction}: each connection has one path: {}", metrics.raw);
    }
    if let (Some(before), Some(after)) = (&before, tls_stat()) {
        compare(before, &after, "TlsTxSw", metrics.offload("tx", "kernel"));
        compare(before, &after, "TlsRxSw", metrics.offload("rx", "kernel"));
    }
    if in_guest() {
        // This kernel has TLS and the servers are told to use it always: no connection may have gone without.
        assert_eq!(metrics.offload("tx", "kernel"), 2 * EACH, "{}", metrics.raw);
        assert_eq!(metrics.offload("rx", "kernel"), 2 * EACH, "{}", metrics.raw);
        eventually("the kernel's sockets are gone", || {
            let now = tls_stat().expect("it was there before");
            now.iter().all(|(name, count)| !name.starts_with("TlsCurr") || *count == 0)
        });
        let errors =
            |stat: Option<BTreeMap<_, _>>| stat.and_then(|stat| stat.get("TlsDecryptError").copied());
        assert_eq!(errors(tls_stat()), errors(before), "each record was opened");
    }
    server.stop();
}

/// In the guest the kernel's count is ours alone; elsewhere other scenarios add to it.
fn compare(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>, name: &str, metric: u64) {
    let grown = after[name] - before[name];
    assert!(grown >= metric, "{name} grew by {grown}, the metrics say {metric}");
    assert!(!in_guest() || grown == metric, "{name} grew by {grown}, the metrics say {metric}");
}

#[test]
fn never_means_userspace() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--offload never").start();
    for version in BOTH {
        let mut peer = Peer::open(server.addr, &plain(version));
        peer.ping(b"in userspace");
        peer.close_notify();
        assert_eq!(peer.rest(), (Vec::new(), End::Clean));
    }
    let metrics = server.settled();
    for direction in ["tx", "rx"] {
        assert_eq!(metrics.offload(direction, "userspace"), 2, "{}", metrics.raw);
        assert_eq!(metrics.offload(direction, "kernel"), 0, "{}", metrics.raw);
    }
    server.stop();
}

#[test]
fn always_does_not_start_where_the_kernel_cannot() {
    let backend = Backend::start(BackendBehavior::Echo);
    if tls_stat().is_some() {
        let server = Setup::new(backend.addr).flags("--offload always").start();
        assert!(server.ready.contains("tx: kernel"), "{}", server.ready);
        return server.stop();
    }
    let files = offramp_testing::tools::scratch();
    let mut arguments: Vec<String> =
        ["--listen", "127.0.0.1:0", "--backend", "127.0.0.1:9", "--offload", "always"]
            .map(str::to_owned)
            .to_vec();
    arguments.extend(offramp_testing::server::identity_flags(
        offramp_testing::identity::Identity::ecdsa(),
        files.path(),
    ));
    let refusal = offramp_testing::server::refused(&arguments);
    assert!(!refusal.status.success(), "{refusal:?}");
    assert!(refusal.stderr.contains("tls") || refusal.stderr.contains("TLS"), "it says why: {refusal:?}");
}
