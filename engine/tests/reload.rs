//! A hundred reloads under load: nobody notices. The load is that of `loadgen`, which plans its connections
//! ahead and verifies each byte.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

use std::net::SocketAddr;
use std::path::PathBuf;

use offramp_testing::identity::Identity;
use offramp_testing::loadgen::Loadgen;
use offramp_testing::peer::{End, Peer, Version, plain};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::{eventually, scratch};

const RELOADS: usize = 100;

/// The configuration number `nth`: what can change does, and a second listener comes and goes.
fn configuration(nth: usize, backends: [SocketAddr; 2], files: &[(PathBuf, PathBuf)]) -> String {
    let [one, two] = backends;
    // In this order always: a session of TLS 1.2 has a suite, and with it a kind of certificate.
    let [(certificate, key), (other_certificate, other_key)] = files else { panic!("two") };
    let pool = match nth % 3 {
        0 => format!("[\"{one}\", \"{two} weight=3\"]"),
        1 => format!("\"{two}\""),
        _ => format!("[\"localhost:{}\", \"{two} backup\"]", one.port()),
    };
    let balance = ["round-robin", "least-connections", "random-of-two", "hash-client"][nth % 4];
    let second = format!("[[listener]]\nlisten = \"127.0.0.1:0\"\nbackend = \"{two}\"\n");
    let second = if nth.is_multiple_of(5) { &*second } else { "" };
    format!(
        "balance = \"{balance}\"\n\
         [[identity]]\ncertificate = {certificate:?}\nkey = {key:?}\n\
         [[identity]]\ncertificate = {other_certificate:?}\nkey = {other_key:?}\n\
         [[pool]]\nname = \"p\"\nbackend = {pool}\nhealth_check = \"{}\"\n\
         [[listener]]\nlisten = \"127.0.0.1:0\"\nbackend = \"pool:p\"\n{second}\
         [timeouts]\nidle = \"{}m\"\n[limits]\nsource_connections = {}\n",
        ["off", "tcp"][nth % 2],
        30 + nth,
        1000 + nth,
    )
}

#[test]
fn a_hundred_reloads_under_load_fail_nobody() {
    if !Loadgen::is_built() {
        return;
    }
    let dir = scratch();
    let files: Vec<_> = [Identity::ecdsa(), Identity::rsa()].iter().map(|it| it.write(dir.path())).collect();
    let trust = PathBuf::from(offramp_testing::peer::trust_file(dir.path()));
    let ((_first, one), (_second, two)) = (Loadgen::backend(), Loadgen::backend());
    let file = dir.path().join("offramp.toml");
    let write = |nth| std::fs::write(&file, configuration(nth, [one, two], &files)).expect("a file");
    write(1);
    let server = Setup::from_file(&file).flags("--workers 2").start();
    let loads = [
        "handshake --tls 1.2,1.3 --resume 0 --request echo --rate 20 -c 200",
        "handshake --tls 1.2,1.3 --resume 1 --allow-full --request echo --rate 40 -c 200",
        "transfer --direction both -c 2",
    ];
    let loads = loads.map(|words| Loadgen::client(&server, &trust, words));
    for nth in 2..2 + RELOADS {
        let before = accepted(&server);
        eventually("connections come all the time", || accepted(&server) > before + 2);
        write(nth);
        server.reload("SIGHUP: listeners, pools, limits and timeouts in force");
    }
    loads.into_iter().for_each(|load| drop(load.report()));
    let faults = server.metrics().faults();
    // The test ends the load in the middle of its work.
    let others: Vec<_> = faults
        .iter()
        .filter(|(label, _)| {
            !matches!(
                label.as_str(),
                "truncated" | "tls_peer_reset" | "closed_in_handshake" | "closed_before_hello"
            )
        })
        .collect();
    assert!(others.is_empty(), "{faults:?}");
    server.stop();
}

fn accepted(server: &TestServer) -> u64 {
    server.metrics().accepted()
}

/// A listener that is removed accepts nobody, and what it had goes on.
#[test]
fn a_removed_listener_drains() {
    let dir = scratch();
    let files: Vec<_> = [Identity::ecdsa(), Identity::rsa()].iter().map(|it| it.write(dir.path())).collect();
    let backend = offramp_testing::backend::Backend::start(offramp_testing::backend::BackendBehavior::Echo);
    let file = dir.path().join("offramp.toml");
    let write = |nth| {
        let text = configuration(nth, [backend.addr; 2], &files).replace(" weight=3", " weight=2");
        // One backend twice is refused: the pool has one.
        let text = text.replace(
            &format!("[\"{0}\", \"{0} weight=2\"]", backend.addr),
            &format!("{:?}", backend.addr.to_string()),
        );
        std::fs::write(&file, text).expect("a file");
    };
    write(15);
    let server = Setup::from_file(&file).start();
    let second = server.ready.split("listening on ").nth(2).expect("two listeners");
    let second: SocketAddr = second.split(',').next().and_then(|addr| addr.parse().ok()).expect("an address");
    let mut peer = Peer::open(second, &plain(Version::Tls13));
    peer.ping(b"before");
    write(1);
    server.reload("no longer listening on");
    peer.ping(b"after");
    eventually("nobody listens there any more", || std::net::TcpStream::connect(second).is_err());
    peer.close_notify();
    assert_eq!(peer.rest().1, End::Clean);
    server.stop();
}
