//! Stage 2: every version, suite, group and certificate that is offered, none of the others, and two thousand
//! at once.

use std::sync::atomic::{AtomicBool, Ordering};

use rustls::{CipherSuite, NamedGroup};

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::{Identity, NAME};
use offramp_testing::peer::{BOTH, End, Peer, Version, config, plain, s_client, trust_file};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{have, in_guest, scratch, text};

pub(crate) const SUITES: [(Version, CipherSuite); 9] = [
    (Version::Tls12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    (Version::Tls12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    (Version::Tls12, CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    (Version::Tls12, CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    (Version::Tls12, CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    (Version::Tls12, CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    (Version::Tls13, CipherSuite::TLS13_AES_128_GCM_SHA256),
    (Version::Tls13, CipherSuite::TLS13_AES_256_GCM_SHA384),
    (Version::Tls13, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
];
const GROUPS: [NamedGroup; 3] = [NamedGroup::X25519, NamedGroup::secp256r1, NamedGroup::secp384r1];

#[test]
fn every_suite_and_every_group_carries_data() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    for (version, suite) in SUITES {
        for group in GROUPS {
            let mut peer = Peer::open(server.addr, &config(version, Some(suite), Some(group)));
            assert_eq!(peer.tls.negotiated_cipher_suite().map(|suite| suite.suite()), Some(suite));
            assert_eq!(peer.tls.negotiated_key_exchange_group().map(|group| group.name()), Some(group));
            // Past the first record in both directions, so that a wrong sequence number shows.
            for _ in 0..3 {
                peer.ping(format!("{suite:?} {group:?}").as_bytes());
            }
            peer.close_notify();
            assert_eq!(peer.rest(), (Vec::new(), End::Clean), "{suite:?} {group:?}");
        }
    }
    let metrics = server.settled();
    assert_eq!(metrics.handshakes("full"), 27, "{}", metrics.raw);
    assert_eq!(metrics.sum("offramp_handshakes_total", &[("version", "1.2"), ("kind", "full")]), 18);
    assert_eq!(metrics.faults().len(), 0, "faults: {:?}", metrics.faults());
    server.stop();
}

#[test]
fn tls_1_0_tls_1_1_and_non_aead_suites_get_an_alert() {
    if !have("openssl") {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let (files, before) = (scratch(), server.metrics());
    let trust = trust_file(files.path());
    let attempts = [
        "-tls1 -cipher ALL:@SECLEVEL=0",
        "-tls1_1 -cipher ALL:@SECLEVEL=0",
        "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384",
        "-tls1_2 -cipher AES128-GCM-SHA256:AES256-GCM-SHA384",
        "-tls1_2 -cipher DHE-RSA-AES128-GCM-SHA256",
    ];
    for attempt in attempts {
        let (output, echoed) = s_client(server.addr, &trust, attempt, Some("not to be heard"));
        assert!(!echoed && !output.status.success(), "{attempt} got through: {}", text(&output));
        // Said by the server: a client that refuses its own arguments would also fail.
        assert!(text(&output).contains("alert"), "{attempt}: no alert from the server: {}", text(&output));
    }
    server.faulted(&before, attempts.len() as u64);
    Peer::open(server.addr, &plain(Version::Tls12)).ping(b"unmoved");
    server.settled();
    server.stop();
}

#[test]
fn the_certificate_fits_what_the_client_can_verify() {
    if !have("openssl") {
        return;
    }
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).identities(&[Identity::ecdsa(), Identity::rsa()]).start();
    let files = scratch();
    let trust = trust_file(files.path());
    let cases = [
        ("-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256", "rsa", "RSA"),
        ("-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256", "ecdsa", "ECDSA"),
        ("-tls1_2 -sigalgs rsa_pkcs1_sha256:rsa_pss_rsae_sha256", "rsa", "RSA"),
        ("-tls1_3 -sigalgs rsa_pss_rsae_sha256", "rsa", "RSA-PSS"),
        ("-tls1_3 -sigalgs ecdsa_secp256r1_sha256", "ecdsa", "ECDSA"),
    ];
    for (words, common_name, signature) in cases {
        let (output, echoed) =
            s_client(server.addr, &trust, &format!("{words} -servername {NAME}"), Some("hello"));
        let said = text(&output);
        assert!(echoed, "{words}: {said}");
        assert!(
            said.contains(&format!("CN = {common_name}\n")),
            "{words}: not the {common_name} certificate: {said}"
        );
        assert!(said.contains(&format!("Peer signature type: {signature}")), "{words}: {said}");
    }
    server.settled();
    server.stop();
}

#[test]
fn certificate_is_chosen_by_server_name() {
    let backend = Backend::start(BackendBehavior::Echo);
    let identities = [Identity::ecdsa(), Identity::one(), Identity::two()];
    let server = Setup::new(backend.addr).identities(&identities).start();
    for version in BOTH {
        let names = [("one.test", Identity::one()), ("two.test", Identity::two()), (NAME, Identity::ecdsa())];
        for (name, identity) in names {
            let mut peer = Peer::dial(server.addr, &plain(version), name);
            peer.handshake().unwrap_or_else(|error| panic!("{version:?} {name}: {error}"));
            let shown = peer.tls.peer_certificates().and_then(|chain| chain.first());
            assert!(shown == Some(&identity.der), "{version:?}: not the certificate of {name}");
            peer.ping(name.as_bytes());
        }
    }
    server.settled();
    server.stop();
}

#[test]
fn two_thousand_connections_at_once() {
    const THREADS: usize = 8;
    const EACH: u64 = 250;
    let count = THREADS as u64 * EACH;
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--handshake-timeout 5m --connect-timeout 5m").start();
    let before = server.metrics();
    let open = in_parallel((0..THREADS).collect(), |thread| {
        let client = config(BOTH[thread % 2], None, Some(NamedGroup::X25519));
        (0..EACH).map(|_| Peer::open(server.addr, &client)).collect::<Vec<_>>()
    });
    assert_eq!(server.metrics().open(), count, "all are held at once");
    let echoed = in_parallel(open, |mut peers| {
        for (index, peer) in peers.iter_mut().enumerate() {
            peer.ping(&[u8::try_from(index % 251).expect("below 251")]);
        }
        peers
    });
    assert_eq!(server.metrics().open(), count, "all are still held");
    in_parallel(echoed, |peers| {
        for mut peer in peers {
            peer.close_notify();
            assert_eq!(peer.rest(), (Vec::new(), End::Clean));
        }
    });
    let metrics = server.settled();
    assert_eq!(metrics.accepted() - before.accepted(), count);
    assert_eq!(metrics.handshakes("full") + metrics.handshakes("resumed"), count);
    assert_eq!(metrics.faults().len(), 0, "faults: {:?}", metrics.faults());
    assert!(metrics.buffers_lent() <= before.buffers_lent(), "buffers: {}", metrics.raw);
    if in_guest() {
        assert_eq!(metrics.offload("tx", "kernel"), count, "{}", metrics.raw);
        assert_eq!(metrics.offload("rx", "kernel"), count, "{}", metrics.raw);
    }
    server.stop();
}

/// A thread for each; a panic in one is this scenario's.
fn in_parallel<T: Send, R: Send>(inputs: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = inputs.into_iter().map(|input| scope.spawn(move || work(input))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread's scenario holds")).collect()
    })
}

/// Signatures with RSA take a worker long: what is established goes on between them.
#[test]
fn handshake_burst_does_not_stop_other_connections() {
    const BURST: usize = 200;
    // The talker waits for the clients of the burst and for all that this machine does besides, as well as
    // for the server: any one try that goes well shows what the server does. Who is stopped never does well.
    const TRIES: usize = 20;
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).identities(&[Identity::rsa()]).start();
    let mut talker = Peer::open(server.addr, &plain(Version::Tls13));
    talker.ping(b"before");
    // In a guest there is one CPU for all of them: there it is enough that everybody is served.
    let enough = if in_guest() { 0 } else { BURST / 10 };
    let mut seen = Vec::new();
    while seen.len() < TRIES && seen.last().is_none_or(|&round_trips| round_trips < enough) {
        seen.push(round_trips_beside(BURST, &mut talker, &server));
    }
    assert!(seen.last() >= Some(&enough), "round trips beside {BURST} handshakes, in turn: {seen:?}");
    drop(talker);
    server.stop();
}

/// How often the talker is answered while so many clients at once are served.
fn round_trips_beside(burst: usize, talker: &mut Peer, server: &TestServer) -> usize {
    let mut burst: Vec<_> =
        (0..burst).map(|_| Peer::dial(server.addr, &plain(Version::Tls13), NAME)).collect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let talking = scope.spawn(|| {
            let mut round_trips = 0;
            while !is_over.load(Ordering::Relaxed) {
                talker.ping(b"meanwhile");
                round_trips += 1;
            }
            round_trips
        });
        for peer in &mut burst {
            peer.flush().expect("a hello fits into the socket");
        }
        for peer in &mut burst {
            peer.handshake().expect("everybody is served");
        }
        is_over.store(true, Ordering::Relaxed);
        talking.join().expect("the talker was answered each time")
    })
}
