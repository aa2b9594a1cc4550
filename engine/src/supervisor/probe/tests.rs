use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use offramp_testing::identity::{Identity, NAME};
use offramp_testing::peer::Version;
use offramp_testing::tls_server;
use rustls::{HandshakeKind, ServerConnection, StreamOwned};

use super::*;
use crate::config::limits::{HEALTH_ANSWER_BYTES_MAX, TICK};
use crate::config::{HealthSend, Originate, PeerRules, PostQuantum, TrustAnchor, UnknownName};
use crate::supervisor::pools::now;
use crate::tls::{Settings, Tickets, TlsPolicy, TlsRole};

const PATIENCE: Duration = Duration::from_secs(60);
const HEADER: &[u8] = b"PROXY UNKNOWN\r\n";

/// An endpoint that does this with its only connection.
fn endpoint<T: Send + 'static>(
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    (address, thread::spawn(move || serve(listener.accept().expect("a probe").0)))
}

fn plain(send: &[u8], expect: &[u8]) -> Check {
    Check { send: HealthSend(send.to_vec()), expect: expect.to_vec(), ..Check::default() }
}

fn job(serial: u64, address: SocketAddr, check: Check) -> Job {
    Job { serial, address: Address::Tcp(address), check: Arc::new(check) }
}

/// All outcomes, in the order in which they come; returns when the last connection is closed.
fn run(jobs: Vec<Job>) -> Vec<(u64, Result<(), String>)> {
    let mut probes = Probes::default();
    let mut outcomes: Vec<_> = jobs.into_iter().filter_map(|job| probes.begin(job, now())).collect();
    while !probes.is_empty() {
        outcomes.extend(probes.wait(PATIENCE, now));
    }
    outcomes.into_iter().map(|it| (it.serial, it.result.expect("this host lacks nothing"))).collect()
}

fn probe(address: SocketAddr, check: Check) -> Result<(), String> {
    let outcomes = run(vec![job(1, address, check)]);
    let [(1, result)] = <[_; 1]>::try_from(outcomes).expect("one outcome") else { panic!("another's") };
    result
}

fn read_to_end(mut socket: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).expect("an orderly end");
    bytes
}

#[test]
fn probe_with_the_right_answer_is_good() {
    let (address, served) = endpoint(|mut socket| {
        socket.read_exact(&mut [0; HEADER.len() + 6]).expect("header and text");
        socket.write_all(b"ok: +PO").expect("sent");
        thread::yield_now();
        socket.write_all(b"NG\r\n").expect("sent");
        read_to_end(socket)
    });
    let check = Check { header: HEADER.to_vec(), ..plain(b"PING\r\n", b"+PONG") };
    assert_eq!(probe(address, check), Ok(()));
    assert!(served.join().expect("no panic").is_empty());
}

#[test]
fn probe_sends_the_header_before_anything_else() {
    let header_of = |check: Check| {
        let (address, served) = endpoint(|mut socket| {
            let mut bytes = [0; HEADER.len() + 1];
            let count = socket.read_exact(&mut bytes).map(|()| bytes.len());
            drop(socket.write_all(b"x"));
            (count.is_ok(), bytes)
        });
        let result = probe(address, Check { header: HEADER.to_vec(), ..check });
        (result.is_ok(), served.join().expect("no panic"))
    };
    let (_, (came, bytes)) = header_of(Check { tls: TlsPolicy::unjudged(None).ok(), ..Check::default() });
    assert!(came && bytes.starts_with(HEADER) && bytes.ends_with(&[22]), "a hello: {bytes:?}");
    let (is_good, (came, bytes)) = header_of(plain(b"P", b"x"));
    assert!(is_good && came && bytes.ends_with(b"\r\nP"));
    let (address, served) = endpoint(|mut socket| socket.read(&mut [0]).map_err(|error| error.kind()));
    let only_connects = Check { header: HEADER.to_vec(), ..Check::default() };
    assert_eq!(probe(address, only_connects), Ok(()));
    assert_eq!(served.join().expect("no panic"), Err(io::ErrorKind::ConnectionReset), "and no byte");
}

#[test]
fn probe_with_a_wrong_answer_says_what_it_was() {
    let (address, _served) = endpoint(|mut socket| socket.write_all(b"-ERR\r\nno"));
    let problem = probe(address, plain(b"", b"+PONG")).expect_err("a wrong answer");
    assert!(problem.starts_with("its answer does not contain health_expect (it closed"), "{problem}");
    assert!(problem.ends_with(r#"it begins with "-ERR\r\nno""#), "{problem}");
    let (address, _served) = endpoint(drop);
    let problem = probe(address, plain(b"", b"x")).expect_err("no answer");
    assert!(problem.starts_with("no answer to the health check ("), "{problem}");
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port");
    assert_eq!(probe(closed, plain(b"", b"x")), Err("it does not answer (ECONNREFUSED)".to_owned()));
}

#[test]
fn probes_that_hang_end_and_hold_up_no_other() {
    let silent = endpoint(|socket| drop(read_to_end(socket)));
    let drip = endpoint(|mut socket| {
        let _ = socket.set_read_timeout(Some(TICK / 10));
        while socket.write_all(b".").is_ok() {
            let _ = socket.read(&mut [0; 64]);
        }
    });
    let flood = endpoint(|mut socket| while socket.write_all(&[b'.'; 4096]).is_ok() {});
    let hello = endpoint(|socket| drop(read_to_end(socket)));
    let good = endpoint(|mut socket| socket.write_all(b"ok").map(|()| read_to_end(socket)));
    let tls = Check { tls: TlsPolicy::unjudged(None).ok(), ..Check::default() };
    let outcomes = run(vec![
        job(1, silent.0, plain(b"a", b"ok")),
        job(2, drip.0, plain(b"", b"ok")),
        job(3, flood.0, plain(b"", b"ok")),
        job(4, hello.0, tls),
        job(5, good.0, plain(b"", b"ok")),
    ]);
    let problem = |serial| {
        let found = outcomes.iter().find(|(nth, _)| *nth == serial);
        found.and_then(|(_, result)| result.clone().err()).unwrap_or_default()
    };
    let order: Vec<u64> =
        outcomes.iter().map(|(serial, _)| *serial).filter(|it| [3, 5].contains(it)).collect();
    assert!(outcomes[..2].iter().all(|(serial, _)| order.contains(serial)), "{outcomes:?}");
    assert_eq!(problem(1), "no answer to the health check (after 2 s)");
    assert!(problem(2).contains(r#"(after 2 s): it begins with "..."#), "{}", problem(2));
    assert!(problem(3).contains(&format!("first {HEALTH_ANSWER_BYTES_MAX} bytes")), "{}", problem(3));
    assert_eq!(problem(4), "its TLS handshake has failed: handshake_timeout (after 2 s)");
    assert_eq!(problem(5), "");
}

#[test]
fn probe_of_a_unix_socket_is_good() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("b.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let served = thread::spawn(move || {
        let mut socket = listener.accept().expect("a probe").0;
        socket.write_all(b"220 ready\r\n").expect("sent");
        read_to_end(socket)
    });
    let check = Arc::new(plain(b"QUIT\r\n", b"220 "));
    let outcomes = run(vec![Job { serial: 1, address: Address::Unix(path), check }]);
    assert_eq!((outcomes, &*served.join().expect("no panic")), (vec![(1, Ok(()))], &b"QUIT\r\n"[..]));
}

/// The policy of a far leg whose server has this name and the test's authority.
fn policy(directory: &std::path::Path, name: &str) -> TlsPolicy {
    let (authority, _) = Identity::ecdsa().write(directory);
    let server = Originate {
        server_name: name.to_owned(),
        forward_server_name: false,
        trust: TrustAnchor::Authorities(authority),
    };
    let settings = Settings {
        role: TlsRole::Client(&server),
        identities: &[],
        found: &[],
        unknown_name: UnknownName::First,
        alpn: &[],
        tickets: true,
        post_quantum: PostQuantum::default(),
        peers: &PeerRules::default(),
    };
    let tickets = Arc::new(Tickets::generate(1, 0).expect("keys"));
    TlsPolicy::load(settings, Some(&tickets)).expect("a policy")
}

/// Serves TLS: what it has heard, for which name, in which kind of handshake, and whether it ended in order.
fn tls(version: Version, answer: &'static [u8]) -> (SocketAddr, JoinHandle<Served>) {
    endpoint(move |socket| {
        let connection = ServerConnection::new(tls_server::config(version)).expect("a server");
        let mut stream = StreamOwned::new(connection, socket);
        let mut heard = Vec::new();
        let mut is_in_order = stream.write_all(answer).and_then(|()| stream.flush()).is_ok();
        is_in_order &= stream.read_to_end(&mut heard).is_ok();
        let name = stream.conn.server_name().map(str::to_owned);
        Served { heard, name, kind: stream.conn.handshake_kind(), is_in_order }
    })
}

#[derive(Debug)]
struct Served {
    heard: Vec<u8>,
    name: Option<String>,
    kind: Option<HandshakeKind>,
    is_in_order: bool,
}

#[test]
fn probe_by_tls_is_a_full_handshake_each_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let policy = policy(directory.path(), NAME);
    for version in [Version::Tls12, Version::Tls13] {
        for (send, expect) in [(&b""[..], &b""[..]), (b"PING\r\n", b"+PONG")] {
            let (address, served) = tls(version, b"+PONG\r\n");
            let tls = policy.without_sessions();
            assert_eq!(probe(address, Check { tls, ..plain(send, expect) }), Ok(()), "{version:?}");
            let served = served.join().expect("no panic");
            assert_eq!(served.kind, Some(HandshakeKind::Full), "{version:?}");
            assert!(served.is_in_order && served.heard == send, "{version:?}: {served:?}");
        }
    }
}

#[test]
fn probe_by_tls_judges_as_a_connection_does() {
    let directory = tempfile::tempdir().expect("a directory");
    for version in [Version::Tls12, Version::Tls13] {
        let (address, served) = tls(version, b"");
        let tls = policy(directory.path(), "other.test").without_sessions();
        let problem = probe(address, Check { tls, ..Check::default() }).expect_err("another's certificate");
        let start = "its TLS handshake has failed: peer_certificate_refused (";
        assert!(problem.starts_with(start), "{problem}");
        assert!(!served.join().expect("no panic").is_in_order);
        let (address, served) = self::tls(version, b"");
        let unjudged = TlsPolicy::unjudged(Some("shop.example")).ok();
        assert_eq!(probe(address, Check { tls: unjudged, ..Check::default() }), Ok(()));
        assert_eq!(served.join().expect("no panic").name.as_deref(), Some("shop.example"));
    }
}

#[test]
fn probe_by_tls_of_something_else_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let policy = policy(directory.path(), NAME);
    for (answer, expected) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], "handshake_malformed"),
        (&[21, 3, 3, 0, 2, 2, 40], "alert_in_handshake (handshake_failure)"),
        (b"", "closed_in_handshake (it closed the connection)"),
    ] {
        let (address, _served) = endpoint(move |mut socket| {
            let _ = socket.read(&mut [0; 4096]);
            socket.write_all(answer)
        });
        let problem = probe(address, Check { tls: policy.without_sessions(), ..Check::default() });
        let problem = problem.expect_err("no TLS");
        let start = format!("its TLS handshake has failed: {expected}");
        assert!(problem.starts_with(&start), "{problem}");
    }
}

#[test]
fn probe_of_a_wrong_answer_by_tls_is_refused() {
    let (address, _served) = tls(Version::Tls13, b"-ERR");
    let check = Check { tls: TlsPolicy::unjudged(None).ok(), ..plain(b"", b"+PONG") };
    let problem = probe(address, check).expect_err("a wrong answer");
    assert!(problem.ends_with("(after 2 s): it begins with \"-ERR\""), "{problem}");
}
