//! Limits: what happens where clients want more than they may have, and who does not notice.

use std::io::Write;
use std::time::Duration;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::{Identity, NAME};
use offramp_testing::peer::{BOTH, End, Peer, Version, config, dial, end_of_dial, plain};
use offramp_testing::server::Setup;
use offramp_testing::tools::{eventually, scratch};
use rustls::HandshakeKind;

#[test]
fn source_with_too_many_connections_is_refused() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--source-connections 2").start();
    let client = plain(Version::Tls13);
    let mut held: Vec<Peer> = (0..2).map(|_| Peer::open(server.addr, &client)).collect();
    let before = server.metrics();
    assert_eq!(end_of_dial(server.addr, b"").1, End::Reset);
    assert_eq!(server.faulted(&before, 1), ["source_connections"]);
    held.iter_mut().for_each(|peer| peer.ping(b"these go on"));
    let mut gone = held.remove(0);
    gone.close_notify();
    assert_eq!(gone.rest().1, End::Clean);
    drop(gone);
    eventually("its place is free", || {
        let mut peer = Peer::dial(server.addr, &client, NAME);
        peer.handshake().is_ok() && peer.try_ping(b"the place is free")
    });
    drop(held);
    server.stop();
}

#[test]
fn source_that_connects_too_fast_is_refused() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--source-rate 1").start();
    let before = server.metrics();
    (0..20).for_each(|_| drop(end_of_dial(server.addr, b"no TLS\r\n")));
    server.faulted(&before, 20);
    let faults = server.metrics().faults();
    let [refused, served] = ["source_rate", "not_tls"].map(|label| faults.get(label).copied().unwrap_or(0));
    assert!(served >= 1 && refused >= 1 && served + refused == 20, "{faults:?}");
    server.stop();
}

/// A connection that was accepted and finds no slot waits, and nobody polls for one.
#[test]
fn connection_that_waits_for_a_slot_costs_no_time() {
    let (backend, dir) = (Backend::start(BackendBehavior::Echo), scratch());
    let (certificate, key) = Identity::ecdsa().write(dir.path());
    let listener = format!("[[listener]]\nlisten = \"127.0.0.1:0\"\nbackend = \"{}\"\n", backend.addr);
    let text = format!(
        "max_connections = 3\n[[identity]]\ncertificate = {certificate:?}\nkey = {key:?}\n\
         {listener}{listener}[timeouts]\nhandshake = \"300s\"\n"
    );
    let file = dir.path().join("offramp.toml");
    std::fs::write(&file, text).expect("a file");
    let server = Setup::from_file(&file).start();
    let other = server.ready.split("listening on ").nth(2).expect("two listeners");
    let other = other.split(',').next().expect("an address").parse().expect("an address");
    let client = plain(Version::Tls13);
    let mut held: Vec<_> = (0..3).map(|_| Peer::open(server.addr, &client)).collect();
    held.iter_mut().for_each(|peer| peer.ping(b"established"));
    let mut waiting = [server.addr, other].map(|addr| Peer::dial(addr, &client, NAME));
    // Both listeners accept for the slot of this one: one of the two gets it.
    drop(held.pop());
    eventually("one more is served", || server.metrics().accepted() == 4);
    let load = server.load(Duration::from_secs(1));
    assert!(load < 0.3, "{load} threads did not wait");
    held.clear();
    for peer in &mut waiting {
        peer.handshake().expect("its turn comes");
        peer.ping(b"served");
    }
    drop(waiting);
    server.stop();
}

/// While no full handshake may be begun, those with a ticket pass.
#[test]
fn full_handshakes_are_limited_and_resumed_ones_pass() {
    let backend = Backend::start(BackendBehavior::Echo);
    for version in BOTH {
        let server = Setup::new(backend.addr).flags("--full-handshake-rate 1").start();
        let session = config(version, None, None);
        let mut first = Peer::open(server.addr, &session);
        first.ping(b"takes the only one of this second");
        let before = server.metrics();
        let mut refused = 0;
        for _ in 0..20 {
            let mut other = Peer::dial(server.addr, &plain(version), NAME);
            refused += u64::from(other.handshake().is_err() || !other.try_ping(b"?"));
            let mut again = Peer::open(server.addr, &session);
            again.ping(b"a ticket");
            assert_eq!(again.kind(), HandshakeKind::Resumed, "{version:?}");
            again.close_notify();
            assert_eq!(again.rest().1, End::Clean, "{version:?}");
        }
        assert!(refused > 0, "{version:?}");
        server.faulted(&before, refused);
        assert_eq!(server.metrics().faults().get("full_handshake_limit"), Some(&refused), "{version:?}");
        drop(first);
        server.stop();
    }
}

#[test]
fn connection_rate_slows_and_loses_nobody() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--connection-rate 20").start();
    let client = plain(Version::Tls13);
    let mut all: Vec<Peer> = (0..60).map(|_| Peer::dial(server.addr, &client, NAME)).collect();
    let begin = std::time::Instant::now();
    for peer in &mut all {
        peer.handshake().expect("its turn comes");
        peer.ping(b"late, and served");
    }
    // The burst of 20, and up to 16 whose accept was under way, are at once; the others come one by one.
    assert!(begin.elapsed() > Duration::from_secs(1), "{:?}", begin.elapsed());
    let raw = server.metrics().raw;
    let line =
        raw.lines().find(|line| line.contains("offramp_limit_pauses_total{limit=\"connection_rate\"}"));
    assert!(line.is_some_and(|line| !line.ends_with(" 0")), "{raw}");
    drop(all);
    assert_eq!(server.settled().faults().get("full_handshake_limit"), None);
    server.stop();
}

/// Silent clients of one listener leave the other its share, and a limit keeps them in the backlog.
#[test]
fn listener_at_its_limit_starves_no_other() {
    let (backend, dir) = (Backend::start(BackendBehavior::Echo), scratch());
    let (certificate, key) = Identity::ecdsa().write(dir.path());
    for limits in ["", "[limits]\nlistener_connections = 8\n"] {
        let text = format!(
            "max_connections = 32\n[[identity]]\ncertificate = {certificate:?}\nkey = {key:?}\n\
             [[listener]]\nlisten = \"127.0.0.1:0\"\nbackend = \"{0}\"\nmode = \"plain\"\n\
             [[listener]]\nlisten = \"127.0.0.1:0\"\nbackend = \"{0}\"\n{limits}",
            backend.addr
        );
        let file = dir.path().join("offramp.toml");
        std::fs::write(&file, text).expect("a file");
        let server = Setup::from_file(&file).start();
        let other = server.ready.split("listening on ").nth(2).expect("two listeners");
        let other = other.split(',').next().expect("an address").parse().expect("an address");
        // Open, silent, and for ever: no eviction ends them.
        let _silent: Vec<_> = (0..40).map(|_| dial(server.addr)).collect();
        let most = if limits.is_empty() { 24 } else { 8 };
        eventually("they are open", || server.metrics().open() >= most.min(24));
        std::thread::sleep(Duration::from_millis(50));
        assert!(server.metrics().open() <= most, "{limits}: {}", server.metrics().open());
        for _ in 0..4 {
            Peer::open(other, &plain(Version::Tls13)).ping(b"not starved");
        }
        server.terminate();
    }
}

/// Silent clients of a listener at its limit do not keep its own clients out for long.
#[test]
fn listener_at_its_limit_evicts_silent_handshakes() {
    let (backend, dir) = (Backend::start(BackendBehavior::Echo), scratch());
    let (certificate, key) = Identity::ecdsa().write(dir.path());
    for second in ["", "[[listener]]\nlisten = \"127.0.0.1:0\"\n"] {
        let limits = if second.is_empty() { "[limits]\nlistener_connections = 8\n" } else { "" };
        let second = if second.is_empty() {
            String::new()
        } else {
            format!("{second}backend = \"{}\"\n", backend.addr)
        };
        let text = format!(
            "max_connections = 32\n[[identity]]\ncertificate = {certificate:?}\nkey = {key:?}\n\
             [[listener]]\nlisten = \"127.0.0.1:0\"\nbackend = \"{}\"\n{second}\
             [timeouts]\nhandshake = \"40s\"\n{limits}",
            backend.addr
        );
        let file = dir.path().join("offramp.toml");
        std::fs::write(&file, text).expect("a file");
        let server = Setup::from_file(&file).start();
        let silent: Vec<_> = (0..24).map(|_| dial(server.addr)).collect();
        let before = std::time::Instant::now();
        // Behind the silent ones in the backlog; each of them ends after ten seconds, not after forty.
        let mut peer = Peer::dial(server.addr, &plain(Version::Tls13), NAME);
        peer.handshake().expect("its turn comes");
        peer.ping(b"served");
        let evicted = server.metrics().required("offramp_handshakes_evicted_total");
        assert!(evicted > 0, "{second} after {:?}", before.elapsed());
        drop((silent, peer));
        server.terminate();
    }
}

/// Who lingers behind the alert for a bad hello is ended for a newcomer, as who sends nothing is: the limit
/// of the listener holds.
#[test]
fn listener_limit_holds_against_lingering_clients() {
    let backend = Backend::start(BackendBehavior::Echo);
    let flags = "--listener-connections 4 --handshake-timeout 4s --linger-timeout 30s";
    let server = Setup::new(backend.addr).flags(flags).start();
    let held: Vec<_> = (0..3).map(|_| Peer::open(server.addr, &plain(Version::Tls13))).collect();
    let mut lingering = dial(server.addr);
    // A message that no client begins with.
    lingering.write_all(&[22, 3, 1, 0, 4, 2, 0, 0, 0]).expect("it is sent");
    eventually("the alert", || lingering.peek(&mut [0]).is_ok_and(|count| count > 0));
    let newcomers: Vec<_> = (0..10).map(|_| dial(server.addr)).collect();
    eventually("three of them are in turn", || {
        let metrics = server.metrics();
        assert!(metrics.open() <= 4, "{}", metrics.open());
        metrics.required("offramp_handshakes_evicted_total") >= 3
    });
    drop((lingering, newcomers, held));
    server.stop();
}

/// A connection that is refused at accept ends nobody's handshake.
#[test]
fn source_over_its_limit_evicts_nobody() {
    let backend = Backend::start(BackendBehavior::Echo);
    let flags = "--listener-connections 2 --source-connections 2 --handshake-timeout 40s";
    let server = Setup::new(backend.addr).flags(flags).start();
    let silent: Vec<_> = (0..2).map(|_| dial(server.addr)).collect();
    eventually("the listener is full", || server.metrics().open() == 2);
    // It is accepted when a handshake has had a quarter of its time.
    assert_eq!(end_of_dial(server.addr, b"").1, End::Reset);
    let metrics = server.metrics();
    assert_eq!((metrics.open(), metrics.required("offramp_handshakes_evicted_total")), (2, 0));
    drop(silent);
    server.stop();
}

/// There is nothing to be done until the connections end.
#[test]
fn drain_of_a_full_listener_takes_no_cpu() {
    let backend = Backend::start(BackendBehavior::Echo);
    let flags = "--listener-connections 2 --drain-timeout 10m";
    let server = Setup::new(backend.addr).flags(flags).start();
    let held: Vec<_> = (0..2).map(|_| Peer::open(server.addr, &plain(Version::Tls13))).collect();
    let waiting = dial(server.addr);
    eventually("it is at its limit", || {
        let limit = [("limit", "listener_connections")];
        server.metrics().sum("offramp_limit_pauses_total", &limit) > 0
    });
    server.terminate();
    eventually("it drains", || std::net::TcpStream::connect(server.addr).is_err());
    // Past the next look for a handshake that could be ended.
    std::thread::sleep(Duration::from_millis(300));
    let load = server.load(Duration::from_secs(1));
    assert!(load < 0.3, "{load} threads did not wait");
    drop((held, waiting));
    server.stop();
}

#[test]
fn lifetime_ends_a_connection_whatever_it_does() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--lifetime 1s").start();
    let before = server.metrics();
    let mut peer = Peer::open(server.addr, &plain(Version::Tls13));
    let mut pings = 0;
    while peer.try_ping(b"busy all the time") {
        pings += 1;
    }
    assert!(pings > 0);
    assert_eq!(server.faulted(&before, 1), ["lifetime_over"]);
    server.stop();
}

#[test]
fn limits_change_at_a_reload_and_what_is_open_counts() {
    let (backend, dir) = (Backend::start(BackendBehavior::Echo), scratch());
    let (certificate, key) = Identity::ecdsa().write(dir.path());
    let file = dir.path().join("offramp.toml");
    let write = |limit: u32| {
        let text = format!(
            "listen = \"127.0.0.1:0\"\nbackend = \"{}\"\n[[identity]]\ncertificate = {certificate:?}\n\
             key = {key:?}\n[limits]\nsource_connections = {limit}\n",
            backend.addr
        );
        std::fs::write(&file, text).expect("a file");
    };
    write(10);
    let server = Setup::from_file(&file).start();
    let client = plain(Version::Tls13);
    let mut held: Vec<Peer> = (0..3).map(|_| Peer::open(server.addr, &client)).collect();
    write(3);
    server.reload("SIGHUP: listeners");
    let before = server.metrics();
    assert_eq!(end_of_dial(server.addr, b"").1, End::Reset);
    assert_eq!(server.faulted(&before, 1), ["source_connections"]);
    held.iter_mut().for_each(|peer| peer.ping(b"what is open goes on"));
    drop(held);
    server.stop();
}

#[test]
fn connection_log_has_a_line_for_each_connection() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--connection-log 100 --alpn msrp").start();
    let mut client = (*plain(Version::Tls13)).clone();
    client.alpn_protocols = vec![b"msrp".to_vec()];
    let mut peer = Peer::open(server.addr, &client.into());
    let from = peer.tcp.local_addr().expect("connected");
    peer.ping(&[1; 1000]);
    peer.close_notify();
    assert_eq!(peer.rest().1, End::Clean);
    end_of_dial(server.addr, b"GET / HTTP/1.1\r\n\r\n");
    eventually("both have a line", || server.stderr().matches(" connection worker=0 ").count() == 2);
    let log = server.stderr();
    let line = log.lines().find(|line| line.contains(&format!("client={from}"))).expect("its line");
    for field in [
        &format!("listener={}", server.addr),
        "sni=\"offramp.test\"",
        "alpn=\"msrp\"",
        "tls=1.3,TLS_",
        ",full",
        &format!("backend={}", backend.addr),
        "bytes_from_client=1000",
        "bytes_from_backend=1000",
        "handshake_ms=",
        "connect_ms=",
        "total_ms=",
        "tx=",
        "rx=",
    ] {
        assert!(line.contains(field), "no {field} in {line}");
    }
    assert!(log.contains("fault=\"not_tls\""), "{log}");
    server.stop();
}
