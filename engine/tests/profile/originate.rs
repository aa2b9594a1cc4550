//! The client's role: what it says to a server made by hand, and what it tells one that does not keep to the
//! profile.

use offramp_proto::alert::HANDSHAKE_FAILURE;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use crate::hello::{
    Answer, ECDHE_ECDSA_AES_128_GCM, ECDSA_SECP256R1_SHA256, Hello, RSA_PKCS1_SHA256, RSA_PSS_RSAE_SHA256,
    SECP256R1, SECP384R1, TLS12, TLS13, X25519_GROUP, extension, listen, records, vector,
};
use crate::server::{self, ALERT, DATA, HANDSHAKE, Keyed};
use offramp_testing::identity::{Identity, NAME};
use offramp_testing::peer::{BOTH, dial};
use offramp_testing::server::{Setup, TestServer};
use offramp_testing::tools::scratch;

const ILLEGAL_PARAMETER: u8 = 47;
const PROTOCOL_VERSION: u8 = 70;
const EMPTY_RENEGOTIATION_INFO_SCSV: u16 = 0x00ff;

/// The server's side, by hand; and a connection of ours for each that is asked for.
struct Bench {
    server: TcpListener,
    offramp: TestServer,
    _files: tempfile::TempDir,
}

impl Bench {
    fn start(lines: &str) -> Self {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let files = scratch();
        Identity::ecdsa().write(files.path());
        let path = files.path().join("offramp.toml");
        std::fs::write(&path, format!("mode = \"originate\"\nserver_ca = \"ecdsa.crt\"\n{lines}\n")).unwrap();
        let flags = format!("--config {}", path.display());
        let offramp = Setup::new(server.local_addr().unwrap()).identities(&[]).flags(&flags).start();
        Self { server, offramp, _files: files }
    }

    /// A hello, as it came, and the server's end of its connection.
    fn hello(&self) -> (Hello, TcpStream, TcpStream) {
        let plain = dial(self.offramp.addr);
        let (mut tls, _) = self.server.accept().unwrap();
        (Hello::parse(&record(&mut tls)), tls, plain)
    }

    /// A hello that is not answered.
    fn only_hello(&self) -> Hello {
        self.hello().0
    }

    /// Answers with this flight, in records of at most so much: the alert, and the fault that is counted.
    fn answer(&self, flight: &[u8], most: usize) -> (Option<u8>, String) {
        let before = self.offramp.settled();
        let (_, mut tls, plain) = self.hello();
        tls.write_all(&records(flight, most)).unwrap();
        let alert = listen(&mut tls).alert();
        // It waits until its last words are read.
        drop((tls, plain));
        (alert, self.offramp.faulted(&before, 1).join(" and "))
    }
}

/// The first record that comes.
fn record(tcp: &mut TcpStream) -> Vec<u8> {
    let mut header = [0; 5];
    tcp.read_exact(&mut header).unwrap();
    let mut payload = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    tcp.read_exact(&mut payload).unwrap();
    payload
}

/// Anything may be wrong with it.
struct ServerHello {
    version: u16,
    suite: u16,
    compression: u8,
    extensions: Vec<(u16, Vec<u8>)>,
}

impl ServerHello {
    /// As the profile has it, in TLS 1.2.
    fn tls12() -> Self {
        let extensions = vec![
            (extension::EXTENDED_MASTER_SECRET, Vec::new()),
            (extension::RENEGOTIATION_INFO, vector::<1>(&[])),
        ];
        Self { version: TLS12, suite: ECDHE_ECDSA_AES_128_GCM, compression: 0, extensions }
    }

    fn without(mut self, kind: u16) -> Self {
        self.extensions.retain(|(has, _)| *has != kind);
        self
    }

    fn with(self, kind: u16, body: &[u8]) -> Self {
        let mut changed = self.without(kind);
        changed.extensions.push((kind, body.to_vec()));
        changed
    }

    fn message(&self) -> Vec<u8> {
        let extensions = self.extensions.iter();
        let extensions =
            extensions.flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &vector::<2>(body)].concat());
        let body = [
            self.version.to_be_bytes().to_vec(),
            vec![0x5a; 32],
            vector::<1>(&[]),
            self.suite.to_be_bytes().to_vec(),
            vec![self.compression],
            vector::<2>(&extensions.collect::<Vec<u8>>()),
        ];
        [&[2][..], &vector::<3>(&body.concat())].concat()
    }
}

fn by_name() -> String {
    format!("server_name = \"{NAME}\"")
}

#[test]
fn the_hello_offers_the_profile_and_nothing_else() {
    let bench = Bench::start(&by_name());
    let hello = bench.only_hello();
    assert_eq!((hello.version, &hello.compressions[..]), (TLS12, &[0][..]));
    let mut suites = hello.suites.clone();
    suites.sort_unstable();
    let profile = [
        EMPTY_RENEGOTIATION_INFO_SCSV,
        0x1301,
        0x1302,
        0x1303,
        0xc02b,
        0xc02c,
        0xc02f,
        0xc030,
        0xcca8,
        0xcca9,
    ];
    assert_eq!(suites, profile, "the suites of the profile, and the signal of RFC 5746");
    let mut versions = hello.numbers(extension::SUPPORTED_VERSIONS, 1);
    versions.sort_unstable();
    assert_eq!(versions, [TLS12, TLS13]);
    let mut groups = hello.numbers(extension::SUPPORTED_GROUPS, 2);
    groups.sort_unstable();
    assert_eq!(groups, [SECP256R1, SECP384R1, X25519_GROUP]);
    assert_eq!(hello.extension(extension::EXTENDED_MASTER_SECRET), Some(&[][..]));
    let schemes = hello.numbers(extension::SIGNATURE_ALGORITHMS, 2);
    for shall in [ECDSA_SECP256R1_SHA256, 0x0503, RSA_PSS_RSAE_SHA256, RSA_PKCS1_SHA256] {
        assert!(schemes.contains(&shall), "no {shall:x} in {schemes:x?}");
    }
    // The first byte of an older scheme is its hash: 1 to 3 are MD5, SHA-1 and SHA-224.
    assert!(schemes.iter().all(|scheme| scheme >> 8 > 3), "{schemes:x?}");
    let name = vector::<2>(&[&[0][..], &vector::<2>(NAME.as_bytes())].concat());
    assert_eq!(hello.extension(extension::SERVER_NAME), Some(&name[..]));
    // OCSP, no responders, no extensions (RFC 6066 §8).
    assert_eq!(hello.extension(extension::STATUS_REQUEST), Some(&[1, 0, 0, 0, 0][..]));
    // psk_dhe_ke alone (B6).
    assert_eq!(hello.extension(extension::PSK_KEY_EXCHANGE_MODES), Some(&[1, 1][..]));
    assert_eq!(hello.extension(extension::SESSION_TICKET), Some(&[][..]), "RFC 5077 is offered");
    assert_eq!(hello.extension(extension::EARLY_DATA), None);
    assert_eq!(hello.extension(extension::ALPN), None);
    bench.offramp.settled();
    bench.offramp.stop();
}

#[test]
fn without_tickets_none_is_asked_for() {
    let bench = Bench::start(&format!("{}\ntickets = \"off\"", by_name()));
    let hello = bench.only_hello();
    assert_eq!(hello.extension(extension::SESSION_TICKET), None, "{hello:x?}");
    assert_eq!(hello.extension(extension::PRE_SHARED_KEY), None, "{hello:x?}");
    bench.offramp.settled();
    bench.offramp.stop();
}

#[test]
fn application_protocols_are_offered_as_configured() {
    let bench = Bench::start(&format!("{}\nalpn = [\"msrp\", \"cpim\"]", by_name()));
    let offered = vector::<2>(&[vector::<1>(b"msrp"), vector::<1>(b"cpim")].concat());
    assert_eq!(bench.only_hello().extension(extension::ALPN), Some(&offered[..]));
    // One that was not offered is nobody's to choose (RFC 7301 §3.2).
    let other = ServerHello::tls12().with(extension::ALPN, &vector::<2>(&vector::<1>(b"h2")));
    let refusal = bench.answer(&other.message(), 1 << 14);
    assert_eq!(refusal, (Some(ILLEGAL_PARAMETER), "handshake_unexpected".to_owned()));
    bench.offramp.settled();
    bench.offramp.stop();
}

/// "Literal IPv4 and IPv6 addresses are not permitted" in server_name (RFC 6066 §3).
#[test]
fn an_address_is_not_asked_for_by_name() {
    for address in ["127.0.0.1", "::1"] {
        let bench = Bench::start(&format!("server_name = \"{address}\""));
        let hello = bench.only_hello();
        assert_eq!(hello.extension(extension::SERVER_NAME), None, "{address}: {hello:x?}");
        bench.offramp.settled();
        bench.offramp.stop();
    }
}

#[test]
fn a_server_hello_outside_the_profile_is_refused() {
    let bench = Bench::start(&by_name());
    let hello = |version, suite| ServerHello { version, suite, ..ServerHello::tls12() };
    let no_ems = ServerHello::tls12().without(extension::EXTENDED_MASTER_SECRET);
    let compressed = ServerHello { compression: 1, ..ServerHello::tls12() };
    let version = "no_common_version";
    let unasked = "handshake_unexpected";
    let cases = [
        ("SSL 3", hello(0x0300, 0xc009), PROTOCOL_VERSION, version),
        ("TLS 1.0", hello(0x0301, 0xc009), PROTOCOL_VERSION, version),
        ("TLS 1.1", hello(0x0302, 0xc009), PROTOCOL_VERSION, version),
        ("no extended_master_secret", no_ems, HANDSHAKE_FAILURE, "no_extended_master_secret"),
        ("CBC", hello(TLS12, 0xc009), HANDSHAKE_FAILURE, unasked),
        ("static RSA", hello(TLS12, 0x009c), HANDSHAKE_FAILURE, unasked),
        ("DHE", hello(TLS12, 0x009e), HANDSHAKE_FAILURE, unasked),
        ("compression", compressed, ILLEGAL_PARAMETER, unasked),
    ];
    for (what, hello, alert, fault) in cases {
        for most in [1 << 14, 7] {
            let refusal = bench.answer(&hello.message(), most);
            assert_eq!(refusal, (Some(alert), fault.to_owned()), "{what}, records of {most}");
        }
    }
    bench.offramp.settled();
    bench.offramp.stop();
}

#[test]
fn client_aborts_when_a_server_claims_to_renegotiate() {
    let bench = Bench::start(&by_name());
    for (renegotiated_connection, most) in [(&[][..], 1 << 14), (&[9; 24], 1 << 14), (&[9; 24], 1)] {
        let before = bench.offramp.settled();
        let (hello, mut tls, plain) = bench.hello();
        assert!(hello.suites.contains(&EMPTY_RENEGOTIATION_INFO_SCSV), "{hello:x?}");
        let answer = vector::<1>(renegotiated_connection);
        let answer = ServerHello::tls12().with(extension::RENEGOTIATION_INFO, &answer);
        tls.write_all(&records(&answer.message(), most)).unwrap();
        if renegotiated_connection.is_empty() {
            // It is content, and waits for the rest of the flight, which does not come.
            drop(tls);
            assert_eq!(bench.offramp.faulted(&before, 1), ["closed_in_handshake"]);
        } else {
            assert!(matches!(listen(&mut tls), Answer::Alert(HANDSHAKE_FAILURE)));
            assert_eq!(bench.offramp.faulted(&before, 1), ["renegotiation_info"]);
        }
        drop(plain);
    }
    bench.offramp.settled();
    bench.offramp.stop();
}

/// "This message MAY be ignored by the client if it does not wish to renegotiate a session, or the client
/// may, if it wishes, respond with a no_renegotiation alert" (RFC 5246 §7.4.1.1).
#[test]
fn hello_request_gets_no_renegotiation_warning_once() {
    const HELLO_REQUEST: [u8; 4] = [0; 4];
    const NO_RENEGOTIATION: u8 = 100;
    const UNEXPECTED_MESSAGE: u8 = 10;
    let bench = Bench::start(&by_name());
    let before = bench.offramp.settled();
    let mut plain = dial(bench.offramp.addr);
    let mut server = Keyed::shake(bench.server.accept().unwrap().0);
    let mut there_and_back = |server: &mut Keyed, line: &[u8]| {
        plain.write_all(line).unwrap();
        assert_eq!(server.hear(), Some((DATA, line.to_vec())));
        server.say(DATA, line);
        let mut back = vec![0; line.len()];
        plain.read_exact(&mut back).unwrap();
        assert_eq!(back, line);
    };
    there_and_back(&mut server, b"before");
    server.say(HANDSHAKE, &HELLO_REQUEST);
    assert_eq!(server.hear(), Some((ALERT, vec![1, NO_RENEGOTIATION])), "a warning");
    there_and_back(&mut server, b"behind");
    // Asked again it is insisted on, and that ends it.
    server.say(HANDSHAKE, &HELLO_REQUEST);
    assert_eq!(server.hear(), Some((ALERT, vec![2, UNEXPECTED_MESSAGE])), "fatal");
    assert_eq!(server.hear(), None);
    drop((server, plain));
    assert_eq!(bench.offramp.faulted(&before, 1), ["renegotiation"]);
    let metrics = bench.offramp.settled();
    assert_eq!(metrics.sum("offramp_control_records_total", &[("type", "renegotiation")]), 2);
    bench.offramp.stop();
}

/// However records and segments are cut; the ticket of the stock ticketer alone is longer than a piece.
#[test]
fn a_ticket_in_pieces_is_kept_and_resumes() {
    const PIECE: usize = 32;
    const WHOLE: usize = 1 << 14;
    for version in BOTH {
        for (record, segment) in [(PIECE, WHOLE), (WHOLE, 3), (PIECE, 7)] {
            let bench = Bench::start(&by_name());
            let config = server::config(version, record);
            for expected in [(1, 0), (1, 1)] {
                let mut plain = dial(bench.offramp.addr);
                let tcp = bench.server.accept().unwrap().0;
                let config = Arc::clone(&config);
                let serving = std::thread::spawn(move || server::echo(&config, tcp, segment));
                plain.write_all(b"there and back").unwrap();
                plain.shutdown(Shutdown::Write).unwrap();
                let mut back = Vec::new();
                plain.read_to_end(&mut back).unwrap();
                assert_eq!(back, b"there and back", "{version:?}, {record}, {segment}");
                // What the sealing adds comes on top.
                let longest = server::lengths(&serving.join().unwrap()).into_iter().max().unwrap();
                assert!(record == WHOLE || longest < 2 * PIECE, "{version:?}: {longest} bytes in a record");
                let metrics = bench.offramp.settled();
                let counts = (metrics.handshakes("full"), metrics.handshakes("resumed"));
                assert_eq!(counts, expected, "{version:?}, {record}, {segment}: {}", metrics.raw);
                assert_eq!(metrics.faults().len(), 0, "{version:?}, {record}, {segment}: {}", metrics.raw);
            }
            bench.offramp.stop();
        }
    }
}
