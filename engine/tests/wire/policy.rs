//! When the kernel carries the records, and what becomes of keys: each policy, on whatever kernel there is.

use rustls::{CipherSuite, NamedGroup};

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::{Identity, NAME};
use offramp_testing::metrics::Metrics;
use offramp_testing::peer::{BOTH, End, Peer, Version, config, plain};
use offramp_testing::rng::{Noise, Rng};
use offramp_testing::server::{Setup, TestServer, identity_flags};
use offramp_testing::tools::{eventually, in_guest, scratch};

const DIRECTIONS: [&str; 2] = ["tx", "rx"];

/// Where there is no kernel TLS, userspace carries what the kernel otherwise would.
fn kernels() -> &'static str {
    if in_guest() { "kernel" } else { "userspace" }
}

fn exchange(server: &TestServer, version: Version, bytes: usize) {
    let mut peer = Peer::open(server.addr, &plain(version));
    let data = Noise::bytes(7, bytes);
    assert!(peer.exchange(&data, &mut Rng::with_seed(7)) == data, "{version:?}: the echo differs");
    peer.close_notify();
    assert_eq!(peer.rest(), (Vec::new(), End::Clean), "{version:?}");
}

#[test]
fn after_bytes_hands_over_only_long_connections() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--offload after-bytes(20000)").start();
    for version in BOTH {
        exchange(&server, version, 5_000);
    }
    let short = server.settled();
    for direction in DIRECTIONS {
        assert_eq!(short.offload(direction, "userspace"), 2, "{}", short.raw);
    }
    for version in BOTH {
        exchange(&server, version, 400_000);
    }
    let long = server.settled();
    for direction in DIRECTIONS {
        let grown = long.offload(direction, kernels()) - short.offload(direction, kernels());
        assert_eq!(grown, 2, "{}", long.raw);
    }
    assert_eq!(long.faults().len(), 0, "{}", long.raw);
    server.stop();
}

#[test]
fn directions_can_be_kept_from_the_kernel_one_by_one() {
    let backend = Backend::start(BackendBehavior::Echo);
    for (only, other) in [("tx", "rx"), ("rx", "tx")] {
        let flags = format!("--offload-directions {only}");
        let server = Setup::new(backend.addr).flags(&flags).start();
        for version in BOTH {
            exchange(&server, version, 100_000);
        }
        let metrics = server.settled();
        assert_eq!(metrics.offload(only, kernels()), 2, "{}", metrics.raw);
        assert_eq!(metrics.offload(other, "userspace"), 2, "{}", metrics.raw);
        server.stop();
    }
}

/// Updates its keys between two pings, and again.
fn update_keys(peer: &mut Peer) {
    for _ in 0..2 {
        peer.tls.refresh_traffic_keys().expect("a TLS 1.3 connection");
        peer.ping(b"under the next key");
    }
}

#[test]
fn key_updates_are_followed_in_userspace_by_policy() {
    let backend = Backend::start(BackendBehavior::Echo);
    for flags in ["--offload never", "--keyupdate userspace"] {
        let server = Setup::new(backend.addr).flags(flags).start();
        for suite in [
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        ] {
            let mut peer = Peer::open(server.addr, &config(Version::Tls13, Some(suite), None));
            update_keys(&mut peer);
            peer.close_notify();
            assert_eq!(peer.rest(), (Vec::new(), End::Clean));
        }
        exchange(&server, Version::Tls12, 1000);
        let metrics = server.settled();
        assert_eq!(metrics.faults().len(), 0, "{}", metrics.raw);
        assert_eq!(metrics.sum("offramp_control_records_total", &[("type", "key_update")]), 6);
        for direction in DIRECTIONS {
            // Three connections of TLS 1.3, which the kernel has if it can follow, and one of TLS 1.2.
            let kernel = match (in_guest() && flags.contains("keyupdate"), server.refuses_key_updates()) {
                (true, true) => 1,
                (true, false) => 4,
                (false, _) => 0,
            };
            assert_eq!(metrics.offload(direction, "kernel"), kernel, "{}", metrics.raw);
            assert_eq!(metrics.offload(direction, "userspace"), 4 - kernel, "{}", metrics.raw);
        }
        server.stop();
    }
}

/// Kernels before 6.14 cannot, and this says what becomes of it.
#[test]
fn key_update_without_kernel_rekey_gets_an_alert() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let mut peer = Peer::open(server.addr, &plain(Version::Tls13));
    peer.ping(b"under the first key");
    let before = server.metrics();
    peer.tls.refresh_traffic_keys().expect("a TLS 1.3 connection");
    peer.send(b"under the next key");
    if server.refuses_key_updates() {
        assert_eq!(before.offload("rx", "kernel"), 1, "{}", before.raw);
        let (_, end) = peer.rest();
        assert!(matches!(&end, End::Alert(alert) if alert.contains("InternalError")), "{end:?}");
        assert_eq!(server.faulted(&before, 1), ["rekey_refused"]);
    } else {
        assert!(peer.receive(18) == b"under the next key");
        peer.close_notify();
        assert_eq!(peer.rest(), (Vec::new(), End::Clean));
    }
    server.settled();
    server.stop();
}

#[test]
fn spent_key_is_replaced_or_ends_the_connection() {
    const LIMIT: u32 = 1024;
    let backend = Backend::start(BackendBehavior::Echo);
    for offload in ["--offload never", ""] {
        let server = Setup::new(backend.addr).flags(&format!("{offload} --record-limit 1024")).start();
        for version in BOTH {
            let before = server.metrics();
            let mut peer = Peer::open(server.addr, &config(version, None, Some(NamedGroup::X25519)));
            let mut pings = 0;
            while pings < 3 * LIMIT && peer.try_ping(&pings.to_be_bytes()) {
                pings += 1;
            }
            let has_next_key = version == Version::Tls13 && !server.refuses_key_updates();
            if has_next_key {
                assert_eq!(pings, 3 * LIMIT, "{offload} {version:?}");
                peer.close_notify();
                assert_eq!(peer.rest(), (Vec::new(), End::Clean));
                let sent = server.settled().sum("offramp_key_updates_sent_total", &[]);
                assert!(sent >= 3, "{offload} {version:?}: {sent} KeyUpdates");
            } else {
                assert!((LIMIT / 2..LIMIT).contains(&pings), "{offload} {version:?}: {pings} pings");
                let end = peer.rest().1;
                assert!(
                    matches!(&end, End::Alert(alert) if alert.contains("InternalError")),
                    "{offload} {version:?}: {end:?}"
                );
                assert_eq!(server.faulted(&before, 1), ["record_limit"], "{offload} {version:?}");
            }
        }
        server.stop();
    }
}

#[test]
fn the_kill_switch_holds_from_the_next_connection_on() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    let carried_by = |server: &TestServer, path: &str| {
        let before = server.settled();
        exchange(server, Version::Tls13, 1000);
        let after = server.settled();
        let grown = DIRECTIONS.map(|one| after.offload(one, path) - before.offload(one, path));
        assert_eq!(grown, [1, 1], "{path}: {}", after.raw);
        after.required("offramp_offload_allowed")
    };
    assert_eq!(carried_by(&server, kernels()), 1);
    let mut held = Peer::open(server.addr, &plain(Version::Tls12));
    held.ping(b"before");
    assert!(server.control("POST /offload/off").ends_with("off\n"));
    held.ping(b"what is carried stays carried");
    held.close_notify();
    assert_eq!(held.rest(), (Vec::new(), End::Clean));
    assert_eq!(carried_by(&server, "userspace"), 0);
    assert!(server.control("POST /offload/on").ends_with("on\n"));
    assert_eq!(carried_by(&server, kernels()), 1);
    server.stop();
}

#[test]
fn reload_changes_the_policy_unless_the_file_is_bad() {
    let backend = Backend::start(BackendBehavior::Echo);
    let files = scratch();
    let path = files.path().join("offramp.toml");
    let write = |text: &str| std::fs::write(&path, text).expect("the file can be written");
    write("offload = \"never\"\n");
    let server =
        Setup::new(backend.addr).flags(&format!("--config {}", path.display())).without_offload().start();
    assert!(server.ready.contains("tx: userspace (offload = never)"), "{}", server.ready);
    write("offload = \"sometimes\"\n");
    server.reload("offramp.toml:1: offload = \"sometimes\" is refused");
    assert!(server.stderr().contains("the configuration in force stays"));
    exchange(&server, Version::Tls13, 1000);
    assert_eq!(server.settled().offload("tx", "userspace"), 1);
    write("offload = \"after-bytes(1)\"\npin_workers = \"on\"\n");
    server.reload("not in force until an upgrade or a restart: pin_workers");
    let before = server.settled();
    let reloads = ["ok", "failed"].map(|result| before.sum("offramp_reloads_total", &[("result", result)]));
    assert_eq!(reloads, [1, 1]);
    exchange(&server, Version::Tls12, 100_000);
    let after = server.settled();
    assert_eq!(after.offload("tx", kernels()) - before.offload("tx", kernels()), 1, "{}", after.raw);
    server.stop();
}

#[test]
fn auto_offloads_only_tx_of_large_transfers() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--offload auto").start();
    for (bytes, tx) in [(5_000, "userspace"), (400_000, kernels())] {
        for version in BOTH {
            let before = server.settled();
            exchange(&server, version, bytes);
            let after = server.settled();
            assert_eq!(after.offload("tx", tx) - before.offload("tx", tx), 1, "{}", after.raw);
            let grown = after.offload("rx", "userspace") - before.offload("rx", "userspace");
            assert_eq!(grown, 1, "{}", after.raw);
        }
    }
    server.stop();
}

#[test]
fn listeners_have_separate_backends_and_certificates() {
    let (first, second) = (Backend::start(BackendBehavior::Echo), Backend::start(BackendBehavior::Echo));
    let files = scratch();
    let flags = identity_flags(Identity::rsa(), files.path());
    let path = files.path().join("offramp.toml");
    let text = format!(
        "[[listener]]\nlisten = \"127.0.0.1:0\"\nbackend = \"{}\"\noffload = \"never\"\n\
         [[listener.identity]]\ncertificate = \"{}\"\nkey = \"{}\"\n",
        second.addr, flags[1], flags[3]
    );
    std::fs::write(&path, text).expect("the file can be written");
    let server = Setup::new(first.addr)
        .identities(&[Identity::ecdsa()])
        .flags(&format!("--config {} --workers 2", path.display()))
        .start();
    let (_, other) = server.ready.rsplit_once("listening on ").expect("the ready line names both");
    let other = other.split(',').next().and_then(|text| text.parse().ok()).expect("an address");
    let ecdsa = config(Version::Tls12, Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256), None);
    let rsa = config(Version::Tls12, Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256), None);
    for (at, good, bad, backend) in [(server.addr, &ecdsa, &rsa, &first), (other, &rsa, &ecdsa, &second)] {
        let mut peer = Peer::open(at, good);
        peer.ping(b"here");
        peer.close_notify();
        assert_eq!(peer.rest(), (Vec::new(), End::Clean));
        assert_eq!(backend.seen().bytes, 4, "its own backend got it");
        let refused = Peer::dial(at, bad, NAME).handshake();
        assert!(refused.is_err(), "{at} has no such certificate");
    }
    let metrics: Metrics = server.settled();
    assert_eq!(metrics.handshakes("full"), 2, "{}", metrics.raw);
    server.stop();
}

#[test]
fn reload_of_listeners_keeps_their_connections() {
    let backends = [Backend::start(BackendBehavior::Echo), Backend::start(BackendBehavior::Echo)];
    let files = scratch();
    let flags = identity_flags(Identity::rsa(), files.path());
    let path = files.path().join("offramp.toml");
    let write = |backend: Option<&Backend>| {
        let text = backend.map_or_else(String::new, |backend| {
            format!(
                "[[listener]]\nlisten = \"127.0.0.1:0\"\nbackend = \"{}\"\n\
                 [[listener.identity]]\ncertificate = \"{}\"\nkey = \"{}\"\n",
                backend.addr, flags[1], flags[3]
            )
        });
        std::fs::write(&path, text).expect("the file can be written");
    };
    write(None);
    let flags = format!("--workers 2 --config {}", path.display());
    let server = Setup::new(backends[0].addr).flags(&flags).start();
    let mut old = Peer::open(server.addr, &plain(Version::Tls13));
    write(Some(&backends[0]));
    server.reload("timeouts in force");
    let log = server.stderr();
    let (_, added) = log.rsplit_once("listening on ").expect("the log says where");
    let added = added.split(',').next().and_then(|text| text.parse().ok()).expect("an address");
    let mut first = Peer::open(added, &plain(Version::Tls13));
    first.ping(b"here");
    write(Some(&backends[1]));
    server.reload("timeouts in force");
    let mut second = Peer::open(added, &plain(Version::Tls12));
    second.ping(b"there");
    write(None);
    server.reload("no longer listening on");
    eventually("nobody listens there", || std::net::TcpStream::connect(added).is_err());
    for peer in [&mut old, &mut first, &mut second] {
        peer.ping(b"still");
    }
    second.close_notify();
    assert_eq!(second.rest(), (Vec::new(), End::Clean));
    assert_eq!(backends[1].seen().bytes, "therestill".len() as u64, "the new backend");
    assert!(!server.stderr().contains("restart"), "{}", server.stderr());
    drop((old, first));
    server.stop();
}
