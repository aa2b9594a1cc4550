//! Post-quantum key exchange, which the operator may put beside the profile: off by default, it resumes, it
//! is asked for by HelloRetryRequest, and its long hello may come in any number of segments.

use std::sync::Arc;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::NAME;
use offramp_testing::peer::{End, Peer, Version, config, dial};
use offramp_testing::server::Setup;
use rustls::{ClientConfig, HandshakeKind, NamedGroup};

const HYBRID: NamedGroup = NamedGroup::X25519MLKEM768;

/// Offers these groups, with a share for the first.
fn offering(groups: &[NamedGroup]) -> Arc<ClientConfig> {
    let mut client = (*config(Version::Tls13, None, None)).clone();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let all = rustls::crypto::aws_lc_rs::ALL_KX_GROUPS;
    let find = |name: &NamedGroup| *all.iter().find(|group| group.name() == *name).expect("it is known");
    provider.kx_groups = groups.iter().map(find).collect();
    client = offramp_testing::peer::with_provider(&client, provider);
    Arc::new(client)
}

fn group(peer: &Peer) -> NamedGroup {
    peer.tls.negotiated_key_exchange_group().expect("the handshake is complete").name()
}

fn setup(backend: &Backend, post_quantum: &str) -> Setup {
    Setup::new(backend.addr).flags(&format!("--post-quantum {post_quantum} --connection-log 1000"))
}

#[test]
fn post_quantum_is_negotiated_as_the_operator_says() {
    let backend = Backend::start(BackendBehavior::Echo);
    for (wanted, is_on) in [("off", false), ("allow", true), ("prefer", true)] {
        let server = setup(&backend, wanted).start();
        // The client's order decides.
        for groups in [[HYBRID, NamedGroup::X25519], [NamedGroup::X25519, HYBRID]] {
            let mut peer = Peer::open(server.addr, &offering(&groups));
            peer.ping(b"there and back");
            let expected = if is_on { groups[0] } else { NamedGroup::X25519 };
            assert_eq!(group(&peer), expected, "{wanted} {groups:?}");
        }
        let mut only = Peer::dial(server.addr, &offering(&[HYBRID]), NAME);
        assert_eq!(only.handshake().is_ok(), is_on, "{wanted}");
        if is_on {
            only.ping(b"there and back");
            assert_eq!(group(&only), HYBRID);
        }
        drop(only);
        server.stop();
    }
}

#[test]
fn post_quantum_sessions_resume() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = setup(&backend, "prefer").start();
    let client = offering(&[HYBRID, NamedGroup::X25519]);
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
        let mut peer = Peer::open(server.addr, &client);
        peer.ping(b"brings the ticket");
        assert_eq!((peer.kind(), group(&peer)), (expected, HYBRID));
        peer.close_notify();
        assert_eq!(peer.rest().1, End::Clean);
    }
    server.stop();
}

/// The share is for a group that the server does not have: it asks for the hybrid one.
#[test]
fn post_quantum_is_asked_for_by_a_retry() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = setup(&backend, "allow").start();
    let client = offering(&[NamedGroup::MLKEM768, HYBRID]);
    let mut peer = Peer::open(server.addr, &client);
    peer.ping(b"behind the second hello");
    assert_eq!((peer.kind(), group(&peer)), (HandshakeKind::FullWithHelloRetryRequest, HYBRID));
    drop(peer);
    server.stop();
}

#[test]
fn post_quantum_hello_comes_in_any_segments() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = setup(&backend, "prefer").start();
    for cut in [1, 5, 100, 1000, 1200] {
        let mut peer = Peer::dial(server.addr, &offering(&[HYBRID]), NAME);
        let hello = peer.outgoing();
        assert!(hello.len() > 1200, "it is long");
        peer.tcp = dial(server.addr);
        for segment in [&hello[..cut], &hello[cut..]] {
            std::io::Write::write_all(&mut peer.tcp, segment).expect("sent");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        peer.handshake().expect("the hello is whole");
        peer.ping(b"there and back");
        peer.close_notify();
        assert_eq!(peer.rest().1, End::Clean);
    }
    let line = "tls=1.3,TLS_AES_256_GCM_SHA384,X25519MLKEM768,full";
    offramp_testing::tools::eventually("the log names it", || server.stderr().contains(line));
    server.stop();
}

/// In the client's role: first with "prefer", and with "allow" only for a server that asks for it.
#[test]
fn post_quantum_is_offered_to_servers() {
    let backend = Backend::start(BackendBehavior::Echo);
    let dir = offramp_testing::tools::scratch();
    let trust = offramp_testing::peer::trust_file(dir.path());
    for (ours, theirs, expected) in [
        ("prefer", "allow", "X25519MLKEM768"),
        ("allow", "allow", "X25519"),
        ("prefer", "off", "X25519"),
        ("off", "prefer", "X25519"),
    ] {
        let inner = setup(&backend, theirs).start();
        let flags = format!(
            "--mode reencrypt --server-name {NAME} --server-ca {trust} --post-quantum {ours} \
             --connection-log 9"
        );
        let outer = Setup::new(inner.addr).flags(&flags).start();
        let mut peer = Peer::open(outer.addr, &config(Version::Tls13, None, None));
        peer.ping(b"through both");
        peer.close_notify();
        assert_eq!(peer.rest().1, End::Clean);
        drop(peer);
        let has_line = || {
            outer.stderr().lines().any(|line| {
                line.split("backend_tls=")
                    .nth(1)
                    .is_some_and(|tls| tls.contains(&format!(",{expected},full")))
            })
        };
        offramp_testing::tools::eventually("the log names it", has_line);
        outer.stop();
        inner.stop();
    }
}
