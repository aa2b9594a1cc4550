//! PROXY headers: what the backend learns of the client, and what a balancer in front says.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::NAME;
use offramp_testing::peer::{BOTH, End, Peer, Version, dial, end_of_dial, plain};
use offramp_testing::server::Setup;
use offramp_testing::tools::PATIENCE;

/// The first line of what the backend says: the header that it got, in hexadecimal.
pub(crate) fn header(peer: &mut Peer) -> Vec<u8> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.extend(peer.receive(1));
    }
    let digits = std::str::from_utf8(line.trim_ascii_end()).expect("hexadecimal").to_owned();
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("two digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn addresses(peer: &Peer) -> (SocketAddr, SocketAddr) {
    (peer.tcp.local_addr().expect("connected"), peer.tcp.peer_addr().expect("connected"))
}

#[test]
fn proxy_header_v1_names_the_client() {
    let backend = Backend::start(BackendBehavior::TakesProxy);
    let server = Setup::new(backend.addr).flags("--send-proxy v1").start();
    for version in BOTH {
        let mut peer = Peer::open(server.addr, &plain(version));
        let (client, local) = addresses(&peer);
        let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", client.port(), local.port());
        assert_eq!(String::from_utf8(header(&mut peer)).expect("text"), expected);
        peer.ping(b"and what follows is untouched");
    }
    server.stop();
}

#[test]
fn proxy_header_v2_tells_what_was_negotiated() {
    let backend = Backend::start(BackendBehavior::TakesProxy);
    let tlvs = "--proxy-tlvs alpn,authority,ssl,unique-id,crc32c";
    let server = Setup::new(backend.addr).flags(&format!("--send-proxy v2 {tlvs} --alpn msrp")).start();
    for (version, name, suites) in
        [(Version::Tls12, "TLSv1.2", "ECDHE-"), (Version::Tls13, "TLSv1.3", "TLS_")]
    {
        let mut config = (*plain(version)).clone();
        config.alpn_protocols = vec![b"msrp".to_vec()];
        let mut peer = Peer::open(server.addr, &config.into());
        let (client, _) = addresses(&peer);
        let header = header(&mut peer);
        assert_eq!(header[24..26], client.port().to_be_bytes(), "the client's port");
        let has = |text: &str| header.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(has(NAME) && has("msrp") && has(name) && has(suites), "{}", header.escape_ascii());
        peer.ping(b"and what follows is untouched");
    }
    server.stop();
}

/// What a balancer says is passed on, in front of TLS and of plain bytes.
#[test]
fn proxy_header_of_a_trusted_balancer_is_forwarded() {
    let backend = Backend::start(BackendBehavior::TakesProxy);
    let server = Setup::new(backend.addr).flags("--send-proxy v1 --accept-proxy 127.0.0.0/8").start();
    let said = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n";
    for cut in [1, 6, 20, said.len()] {
        let mut peer = Peer::dial(server.addr, &plain(Version::Tls13), NAME);
        peer.tcp.write_all(&said[..cut]).expect("sent");
        peer.tcp.write_all(&said[cut..]).expect("sent");
        peer.handshake().expect("TLS follows");
        assert_eq!(header(&mut peer), said, "cut at {cut}");
        peer.ping(b"there and back");
    }
    server.stop();
    let plain_server = Setup::new(backend.addr)
        .identities(&[])
        .flags("--mode plain --send-proxy v1 --accept-proxy 127.0.0.1")
        .start();
    let mut tcp = dial(plain_server.addr);
    tcp.write_all(&[said, &b"with the first bytes\n"[..]].concat()).expect("sent");
    let mut lines = BufReader::new(tcp);
    let mut line = || {
        let mut line = String::new();
        lines.read_line(&mut line).expect("a line");
        line
    };
    assert_eq!(line().len(), 2 * said.len() + 1);
    assert_eq!(line(), "with the first bytes\n");
    drop(lines);
    plain_server.stop();
}

#[test]
fn proxy_header_that_is_none_is_a_named_fault() {
    let backend = Backend::start(BackendBehavior::Echo);
    let flags = "--accept-proxy 127.0.0.0/8 --handshake-timeout 5s";
    let server = Setup::new(backend.addr).flags(flags).start();
    for (sent, fault) in [
        (&b"\x16\x03\x01\x02\x00\x01"[..], "proxy_header_missing"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 99999 443\r\n", "proxy_header_malformed"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", "proxy_header_malformed"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00", "proxy_header_timeout"),
    ] {
        let before = server.metrics();
        let mut tcp = dial(server.addr);
        tcp.write_all(sent).expect("sent");
        assert_eq!(server.faulted(&before, 1), [fault], "{}", sent.escape_ascii());
    }
    server.stop();
}

#[test]
fn proxy_header_of_anybody_else_is_not_even_read() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--accept-proxy 192.0.2.0/24").start();
    let before = server.metrics();
    let (bytes, end) = end_of_dial(server.addr, b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n");
    assert_eq!((bytes.len(), end), (0, End::Reset));
    assert_eq!(server.faulted(&before, 1), ["proxy_untrusted"]);
    server.stop();
}

/// TLS follows the header to a backend with TLS too.
#[test]
fn proxy_header_precedes_tls_to_the_backend() {
    let backend = Backend::start(BackendBehavior::TakesProxy);
    let flags = "--mode reencrypt --server-name offramp.test --server-ca";
    let dir = offramp_testing::tools::scratch();
    let trust = offramp_testing::peer::trust_file(dir.path());
    let server = Setup::new(backend.addr)
        .flags(&format!("{flags} {trust} --send-proxy v1 --handshake-timeout 5s"))
        .start();
    let before = server.metrics();
    // The backend answers the header with a line, which is no TLS.
    let mut peer = Peer::open(server.addr, &plain(Version::Tls13));
    assert!(matches!(peer.rest().1, End::Alert(_)));
    assert_eq!(server.faulted(&before, 1).len(), 1);
    let seen = backend.seen();
    assert!(seen.bytes > 100, "the header and a hello: {seen:?}");
    drop(TcpStream::connect_timeout(&server.addr, PATIENCE));
    server.stop();
}
