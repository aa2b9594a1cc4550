//! TLS on both legs, and on neither: the same path as with TLS on one.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener};

use rustls::CipherSuite;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::foreign::Typed;
use offramp_testing::identity::{Identity, NAME};
use offramp_testing::peer::{End, Peer, Version, dial, drain, plain, trust_file};
use offramp_testing::rng::{Noise, Rng, sha256_of};
use offramp_testing::server::{Setup, TestServer, refused};
use offramp_testing::tls_server::{self, Talk};
use offramp_testing::tools::{in_guest, scratch};

const SUITES: [(Version, CipherSuite); 3] = [
    (Version::Tls12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    (Version::Tls13, CipherSuite::TLS13_AES_128_GCM_SHA256),
    (Version::Tls13, CipherSuite::TLS13_AES_256_GCM_SHA384),
];

/// TLS in, TLS out to `server`, which has to be called `name`.
fn reencrypting(server: SocketAddr, name: &str) -> (TestServer, tempfile::TempDir) {
    reencrypting_with(server, name, "")
}

/// The same, with more of the command line.
fn reencrypting_with(server: SocketAddr, name: &str, more: &str) -> (TestServer, tempfile::TempDir) {
    let files = scratch();
    Identity::ecdsa().write(files.path());
    let authority = files.path().join("ecdsa.crt");
    let flags = format!("--mode reencrypt --server-name {name} --server-ca {} {more}", authority.display());
    (Setup::new(server).identities(&[Identity::ecdsa()]).flags(&flags).start(), files)
}

#[test]
fn reencrypt_carries_bulk_in_every_pair_of_versions() {
    const BYTES: u64 = 3 << 20;
    for near in [Version::Tls12, Version::Tls13] {
        for (far, suite) in SUITES {
            let (offramp, _files) = reencrypting(tls_server::echo(far, suite, 2), NAME);
            for nth in 0..2 {
                let (mut peer, data) =
                    (Peer::open(offramp.addr, &plain(near)), Noise::bytes(nth, BYTES as usize));
                let back = peer.exchange(&data, &mut Rng::with_seed(nth));
                assert!(back == data, "{near:?} {suite:?}: other bytes came back");
                peer.close_notify();
                assert_eq!(peer.rest(), (Vec::new(), End::Clean), "{near:?} {suite:?}");
            }
            let metrics = offramp.settled();
            assert_eq!(metrics.faults().len(), 0, "{}", metrics.raw);
            // Two with clients, and two with the server, of which the second is resumed.
            let counts = (metrics.handshakes("full"), metrics.handshakes("resumed"));
            assert_eq!(counts, (3, 1), "{}", metrics.raw);
            if in_guest() {
                let kernel = (metrics.offload("tx", "kernel"), metrics.offload("rx", "kernel"));
                assert_eq!(kernel, (4, 4), "both legs are the kernel's: {}", metrics.raw);
            }
            offramp.stop();
        }
    }
}

#[test]
fn reencrypt_passes_the_end_of_each_direction_on() {
    let (version, suite) = SUITES[1];
    let (server, heard) = tls_server::start(version, suite, 1, Talk::AnswerAfterEnd);
    let (offramp, _files) = reencrypting(server, NAME);
    let mut peer = Peer::open(offramp.addr, &plain(Version::Tls12));
    peer.send(b"a question");
    peer.close_notify();
    let (answer, end) = peer.rest();
    assert_eq!((&*answer, end), (offramp_testing::backend::LATE_ANSWER, End::Clean));
    let (digest, count) = heard.recv().expect("the server tells").expect("close_notify came");
    assert_eq!((digest, count), sha256_of(&b"a question"[..]));
    assert_eq!(offramp.settled().faults().len(), 0);
    offramp.stop();
}

#[test]
fn reencrypt_alerts_the_client_if_the_server_fails() {
    let (version, suite) = SUITES[1];
    for (name, fault) in [("other.test", "peer_certificate_refused"), (NAME, "backend_refused")] {
        let server = match fault {
            "backend_refused" => {
                TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port")
            }
            _ => tls_server::echo(version, suite, 1),
        };
        let (offramp, _files) = reencrypting(server, name);
        let before = offramp.metrics();
        let mut peer = Peer::open(offramp.addr, &plain(Version::Tls13));
        let (bytes, end) = peer.rest();
        let is_told = matches!(&end, End::Alert(alert) if alert.contains("InternalError"));
        assert!(bytes.is_empty() && is_told, "{fault}: {end:?}");
        assert_eq!(offramp.faulted(&before, 1), [fault]);
        offramp.stop();
    }
}

/// A server is asked for the name that the client has asked for, must have it, and is resumed by it.
#[test]
fn reencrypt_forwards_the_name_of_the_client() {
    for version in [Version::Tls12, Version::Tls13] {
        let files = scratch();
        let (certificate, key) = Identity::two().write(files.path());
        let words = format!(
            "{} -rev -servername two.test -cert2 {} -key2 {}",
            if version == Version::Tls12 { "-tls1_2" } else { "-tls1_3" },
            certificate.display(),
            key.display(),
        );
        let (_server, server) = Typed::openssl_server(files.path(), &words);
        let flags = format!(
            "--mode reencrypt --server-name {NAME} --forward-server-name on --server-ca {} --workers 1",
            trust_file(files.path())
        );
        let identities = [Identity::ecdsa(), Identity::one(), Identity::two()];
        let offramp = Setup::new(server).identities(&identities).flags(&flags).start();
        let dial = |name: &str| Peer::dial(offramp.addr, &plain(version), name);
        let is_served = |name: &str| {
            let mut peer = dial(name);
            peer.handshake().unwrap_or_else(|error| panic!("{name}: {error}"));
            peer.send(b"abc\n");
            assert_eq!(peer.receive(4), b"cba\n", "{version:?} {name}");
            peer.close_notify();
        };
        [NAME, "two.test", NAME, "two.test"].into_iter().for_each(is_served);
        assert_eq!(offramp.settled().handshakes("resumed"), 2, "{version:?}: one session per name");
        let before = offramp.settled();
        // The alert may overtake the end of the handshake.
        let _ = dial("one.test").handshake();
        assert_eq!(offramp.faulted(&before, 1), ["peer_certificate_refused"], "{version:?}");
        // Without a name of the client it is server_name; the sessions of other names have stayed.
        [NAME, "two.test", "127.0.0.1"].into_iter().for_each(is_served);
        let metrics = offramp.settled();
        let counts = (metrics.handshakes("full"), metrics.handshakes("resumed"));
        assert_eq!(counts, (8 + 2, 5), "{version:?}: {}", metrics.raw);
        offramp.stop();
    }
}

/// A stream that is cut on one leg does not look whole on the other.
#[test]
fn reencrypt_delivers_data_and_relays_truncation() {
    let backend = Backend::start(BackendBehavior::Sink);
    let terminating = Setup::new(backend.addr).identities(&[Identity::ecdsa()]).start();
    let (offramp, _files) = reencrypting(terminating.addr, NAME);
    let (before, theirs) = (offramp.metrics(), terminating.metrics());
    let mut peer = Peer::open(offramp.addr, &plain(Version::Tls13));
    let data = Noise::bytes(5, 200_000);
    peer.send(&data);
    peer.truncate();
    let seen = backend.seen();
    assert_eq!((seen.sha256, seen.bytes), sha256_of(&data[..]));
    assert_eq!(seen.end, Err(std::io::ErrorKind::ConnectionReset));
    assert_eq!(offramp.faulted(&before, 1), ["truncated"]);
    assert_eq!(terminating.faulted(&theirs, 1), ["alert_received"], "and not close_notify");
    offramp.stop();
    terminating.stop();
}

/// With a plain leg that is what its reset says.
#[test]
fn reencrypt_sends_no_close_notify_at_drain_timeout() {
    let (version, suite) = SUITES[1];
    let (server, heard) = tls_server::start(version, suite, 1, Talk::AnswerAfterEnd);
    let (mut offramp, _files) = reencrypting_with(server, NAME, "--drain-timeout 1s");
    let mut peer = Peer::open(offramp.addr, &plain(Version::Tls12));
    peer.send(b"half of a question");
    let metrics = || offramp.metrics().handshakes("full");
    offramp_testing::tools::eventually("both legs are secured", || metrics() == 2);
    offramp.terminate();
    offramp.await_exit();
    let (answer, end) = peer.rest();
    let is_cut = matches!(&end, End::Alert(alert) if alert.contains("InternalError"));
    assert!(answer.is_empty() && is_cut, "{end:?} after {answer:?}");
    assert_eq!(heard.recv().expect("the server tells"), Err(std::io::ErrorKind::InvalidData));
}

#[test]
fn plain_passes_bytes_and_ends_on_without_tls() {
    let backend = Backend::start(BackendBehavior::Echo);
    let offramp = Setup::new(backend.addr).identities(&[]).flags("--mode plain").start();
    let data = Noise::bytes(7, 3 << 20);
    let mut tcp = dial(offramp.addr);
    let mut writing = tcp.try_clone().expect("a second handle");
    let sent = data.clone();
    let writer = std::thread::spawn(move || {
        writing.write_all(&sent).expect("all can be sent");
        writing.shutdown(Shutdown::Write).expect("connected");
    });
    let (back, end) = drain(&tcp);
    writer.join().expect("the writer ends");
    assert!(back == data && end == End::Truncated, "{} bytes, {end:?}", back.len());
    tcp.flush().expect("nothing is left");
    let metrics = offramp.settled();
    assert_eq!((metrics.faults().len(), metrics.handshakes("full")), (0, 0), "{}", metrics.raw);
    offramp.stop();
}

#[test]
fn contradictory_roles_are_named_by_their_key() {
    let with = |words: &str| {
        let fixed = "--listen 127.0.0.1:0 --backend 127.0.0.1:1 --admin 127.0.0.1:0";
        let words: Vec<String> = format!("{fixed} {words}").split(' ').map(str::to_owned).collect();
        refused(&words).stderr
    };
    for (words, parts) in [
        ("--mode plain --server-name a.test", ["--server-name: server_name = ", "originate"]),
        ("--mode plain --client-auth require --client-ca ca.pem", ["--client-auth: client_auth = ", "plain"]),
        ("--mode plain --cert c --key k", ["uses at most 0 identities", "1 are given"]),
        ("--mode plain --fingerprints x", ["--fingerprints: fingerprints = ", "there is no TLS"]),
        ("--mode reencrypt --cert c --key k", ["server_name is missing", "--server-name"]),
        ("--mode reencrypt --server-name a.test --cert c --key k", ["mode = \"reencrypt\"", "server_ca"]),
        ("--mode reencrypt --server-name a.test --server-ca c", ["there is no identity", "reencrypt"]),
        ("--mode both", ["--mode: mode = \"both\"", "terminate, originate, reencrypt, passthrough or plain"]),
    ] {
        let said = with(words);
        assert!(parts.iter().all(|part| said.contains(part)), "{words}: {said}");
    }
}
