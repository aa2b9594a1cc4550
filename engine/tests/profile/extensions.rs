//! What the hello carries beside suites: the extensions of RFC 6066, renegotiation_info, tickets and early
//! data, and hellos that are not well-formed.

use offramp_proto::alert::HANDSHAKE_FAILURE;
use std::io::Write;
use std::net::Shutdown;

use crate::hello::{
    Accepted, Answer, ECDSA_SECP256R1_SHA256, Hello, SECP256R1, TLS12, TLS13, X25519_GROUP, extension,
    listen, records, refusal, say, vector,
};
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::peer::{BOTH, Peer, dial, plain};
use offramp_testing::server::{Setup, TestServer};

const DECODE_ERROR: u8 = 50;
const MISSING_EXTENSION: u8 = 109;
const UNRECOGNIZED_NAME: u8 = 112;

const RECORD: usize = 1 << 14;

fn server() -> (TestServer, Backend) {
    let backend = Backend::start(BackendBehavior::Echo);
    (TestServer::start(backend.addr), backend)
}

fn accepted(server: &TestServer, hello: &Hello) -> Accepted {
    match say(server.addr, &hello.records(RECORD)) {
        Answer::Accepted(accepted) => accepted,
        other => panic!("{other:?} to {hello:x?}"),
    }
}

/// server_name of RFC 6066 §3, with one host_name.
fn server_name(name: &[u8]) -> Vec<u8> {
    vector::<2>(&[&[0][..], &vector::<2>(name)].concat())
}

#[test]
fn each_extension_of_rfc_6066_alone_is_no_obstacle() {
    let (server, _backend) = server();
    let sha1_of_a_ca = [&[1][..], &[7; 20]].concat();
    let cases = [
        ("server_name", extension::SERVER_NAME, server_name(b"offramp.test"), true),
        ("max_fragment_length", extension::MAX_FRAGMENT_LENGTH, vec![1], false),
        ("client_certificate_url", extension::CLIENT_CERTIFICATE_URL, vec![], false),
        ("trusted_ca_keys", extension::TRUSTED_CA_KEYS, vector::<2>(&sha1_of_a_ca), false),
        ("truncated_hmac", extension::TRUNCATED_HMAC, vec![], false),
        ("status_request", extension::STATUS_REQUEST, vec![1, 0, 0, 0, 0], false),
    ];
    for (what, kind, body, echoed) in cases {
        let answer = accepted(&server, &Hello::tls12().with(kind, &body));
        let expected = echoed.then(Vec::new);
        assert_eq!(answer.extensions.get(&kind), expected.as_ref(), "{what}");
        // In TLS 1.3 the answers are encrypted, and only what concerns the key exchange may stand here.
        let answer = accepted(&server, &Hello::tls13().with(kind, &body));
        let kinds: Vec<u16> = answer.extensions.into_keys().collect();
        assert_eq!(kinds, [extension::SUPPORTED_VERSIONS, extension::KEY_SHARE], "{what}");
    }
    server.settled();
    server.stop();
}

#[test]
fn tls_1_2_without_extended_master_secret_is_refused() {
    let (server, _backend) = server();
    let hello = Hello::tls12().without(extension::EXTENDED_MASTER_SECRET);
    let refusal = refusal(&server, &hello.records(RECORD));
    assert_eq!(refusal, (Some(HANDSHAKE_FAILURE), "no_extended_master_secret".to_owned()));
    let with = accepted(&server, &Hello::tls12());
    assert!(with.extensions.contains_key(&extension::EXTENDED_MASTER_SECRET));
    // TLS 1.3 has it built in.
    let tls13 = Hello::tls13().without(extension::EXTENDED_MASTER_SECRET);
    assert_eq!(accepted(&server, &tls13).version, TLS13);
    server.settled();
    server.stop();
}

#[test]
fn secure_renegotiation_answers_extension_and_scsv() {
    let (server, _backend) = server();
    let mut signal = Hello::tls12();
    signal.suites.push(0x00ff);
    let empty = Hello::tls12().with(extension::RENEGOTIATION_INFO, &[0]);
    let both = signal.clone().with(extension::RENEGOTIATION_INFO, &[0]);
    for hello in [signal, empty, both] {
        let answer = accepted(&server, &hello);
        assert_eq!(answer.extensions.get(&extension::RENEGOTIATION_INFO), Some(&vec![0]), "{hello:x?}");
    }
    let neither = accepted(&server, &Hello::tls12());
    assert_eq!(neither.extensions.get(&extension::RENEGOTIATION_INFO), None, "unasked it must not be");
    let tls13 = accepted(&server, &Hello::tls13().with(extension::RENEGOTIATION_INFO, &[0]));
    assert_eq!((tls13.version, tls13.extensions.get(&extension::RENEGOTIATION_INFO)), (TLS13, None));
    server.settled();
    server.stop();
}

#[test]
fn renegotiation_claim_in_first_hello_is_refused() {
    let (server, _backend) = server();
    let verify_data = vector::<1>(&[9; 12]);
    for hello in [Hello::tls12(), Hello::tls13()] {
        let hello = hello.with(extension::RENEGOTIATION_INFO, &verify_data);
        for hello in [hello.clone(), hello.with(extension::PADDING, &[0; 9])] {
            // Whole, and cut in records of every kind of size.
            for most in [RECORD, 100, 7, 1] {
                let refusal = refusal(&server, &hello.records(most));
                let expected = (Some(HANDSHAKE_FAILURE), "renegotiation_info".to_owned());
                assert_eq!(refusal, expected, "records of {most}: {hello:x?}");
            }
        }
    }
    server.settled();
    server.stop();
}

#[test]
fn renegotiation_claim_after_hello_retry_is_refused() {
    let (server, _backend) = server();
    let first = Hello::tls13().with(extension::KEY_SHARE, &[0, 0]);
    let second = Hello::tls13().share(SECP256R1);
    for (verify_data, refused) in [(vec![], false), (vec![9; 12], true)] {
        let before = server.settled();
        let mut tcp = dial(server.addr);
        tcp.write_all(&first.clone().groups(&[SECP256R1]).records(RECORD)).unwrap();
        assert!(matches!(listen(&mut tcp), Answer::Retry));
        // As RFC 8446 §4.1.2 has it, but for the extension in question.
        let mut second = second.clone();
        if refused {
            second = second.with(extension::RENEGOTIATION_INFO, &vector::<1>(&verify_data));
        }
        let change_cipher_spec = [20, 3, 3, 0, 1, 1];
        tcp.write_all(&[&change_cipher_spec[..], &second.records(RECORD)].concat()).unwrap();
        match listen(&mut tcp) {
            Answer::Alert(HANDSHAKE_FAILURE) if refused => {
                assert_eq!(server.faulted(&before, 1), ["renegotiation_info"]);
            }
            Answer::Accepted(accepted) if !refused => assert_eq!(accepted.group, SECP256R1),
            other => panic!("{other:?} to {second:x?}"),
        }
    }
    server.settled();
    server.stop();
}

#[test]
fn foreign_ticket_gets_full_handshake_and_new_ticket() {
    let (server, _backend) = server();
    let ticket = extension::SESSION_TICKET;
    assert_eq!(accepted(&server, &Hello::tls12()).extensions.get(&ticket), None);
    for body in [&[][..], &[7; 200], &[0; 1]] {
        let answer = accepted(&server, &Hello::tls12().with(ticket, body));
        // The answer is a whole flight with a key exchange, so the handshake is a full one.
        assert_eq!((answer.group, answer.extensions.get(&ticket)), (X25519_GROUP, Some(&vec![])), "{body:?}");
    }
    server.settled();
    server.stop();
}

/// pre_shared_key (RFC 8446 §4.2.11) with a ticket that nobody has made.
fn foreign_psk() -> Vec<u8> {
    let identity = [&vector::<2>(&[7; 150])[..], &[0; 4]].concat();
    [vector::<2>(&identity), vector::<2>(&vector::<1>(&[7; 32]))].concat()
}

#[test]
fn foreign_psk_and_early_data_cause_a_full_handshake() {
    let (server, _backend) = server();
    for hello in [
        Hello::tls13().with(extension::PRE_SHARED_KEY, &foreign_psk()),
        // psk_ke, without a key exchange, alone.
        Hello::tls13()
            .with(extension::PSK_KEY_EXCHANGE_MODES, &[1, 0])
            .with(extension::PRE_SHARED_KEY, &foreign_psk()),
        Hello::tls13().with(extension::EARLY_DATA, &[]).with(extension::PRE_SHARED_KEY, &foreign_psk()),
    ] {
        let answer = accepted(&server, &hello);
        assert_eq!((answer.version, answer.extensions.get(&extension::PRE_SHARED_KEY)), (TLS13, None));
    }
    server.settled();
    server.stop();
}

#[test]
fn signature_algorithms_cert_is_no_obstacle() {
    let (server, _backend) = server();
    // RSA alone in certificates, ECDSA alone in the handshake: a server may send what it has (RFC 8446
    // §4.4.2.2).
    for hello in [Hello::tls12(), Hello::tls13()] {
        let hello = hello
            .schemes(&[ECDSA_SECP256R1_SHA256])
            .with(extension::SIGNATURE_ALGORITHMS_CERT, &[0, 2, 4, 1]);
        assert!(accepted(&server, &hello).suite != 0);
    }
    server.settled();
    server.stop();
}

#[test]
fn tls_1_3_without_mandatory_extension_is_refused() {
    let (server, _backend) = server();
    let no_modes = Hello::tls13()
        .without(extension::PSK_KEY_EXCHANGE_MODES)
        .with(extension::PRE_SHARED_KEY, &foreign_psk());
    let cases = [
        ("key_share", Hello::tls13().without(extension::KEY_SHARE), "missing_extension"),
        ("supported_groups", Hello::tls13().without(extension::SUPPORTED_GROUPS), "missing_extension"),
        (
            "signature_algorithms",
            Hello::tls13().without(extension::SIGNATURE_ALGORITHMS),
            "missing_extension",
        ),
        ("psk_key_exchange_modes", no_modes, "handshake_unexpected"),
    ];
    for (what, hello, fault) in cases {
        let refusal = refusal(&server, &hello.records(RECORD));
        assert_eq!(refusal, (Some(MISSING_EXTENSION), fault.to_owned()), "without {what}");
    }
    server.settled();
    server.stop();
}

#[test]
fn invalid_host_name_is_handled_as_unknown_name() {
    let long = [b'a'; 254];
    for policy in ["first", "refuse"] {
        let backend = Backend::start(BackendBehavior::Echo);
        let server = Setup::new(backend.addr).flags(&format!("--unknown-name {policy}")).start();
        let unknown = Some((UNRECOGNIZED_NAME, "unknown_name"));
        let by_policy = unknown.filter(|_| policy == "refuse");
        let cases = [
            (&b"offramp.test"[..], None),
            (b"unknown.test", by_policy),
            (b"127.0.0.1", by_policy),
            (b"2001:db8::1", by_policy),
            // rustls takes none of these.
            (b"off\0ramp.test", unknown),
            (b"offramp.test\0", unknown),
            (b"offramp.test:443", unknown),
            (b"\xff\xfe", unknown),
            (b"192.0.2.256", unknown),
            (&long, unknown),
            // It has at least one byte (RFC 6066 §3).
            (b"", Some((DECODE_ERROR, "handshake_malformed"))),
        ];
        names_are_answered(&server, &cases);
        still_serves(&server);
        server.settled();
        server.stop();
    }
}

/// A name, and the alert and the fault that it meets, if it is refused.
type NameCase<'a> = (&'a [u8], Option<(u8, &'a str)>);

fn names_are_answered(server: &TestServer, cases: &[NameCase<'_>]) {
    for &(name, refused) in cases {
        for hello in [Hello::tls12(), Hello::tls13()] {
            let hello = hello.with(extension::SERVER_NAME, &server_name(name));
            match refused {
                None => assert!(accepted(server, &hello).suite != 0, "{name:?}"),
                Some((alert, fault)) => {
                    let expected = (Some(alert), fault.to_owned());
                    assert_eq!(refusal(server, &hello.records(RECORD)), expected, "{name:?}");
                }
            }
        }
    }
}

#[test]
fn hello_beyond_64_kib_is_refused_with_decode_error() {
    let (server, _backend) = server();
    let padded = |bytes: usize| {
        let short = Hello::tls12().with(extension::PADDING, &[]);
        let padding = bytes - (short.message().len() - 4);
        short.with(extension::PADDING, &vec![0; padding])
    };
    for bytes in [2_000, 20_000, 65_535] {
        let hello = padded(bytes);
        assert_eq!(hello.message().len() - 4, bytes);
        assert_eq!(accepted(&server, &hello).version, TLS12, "{bytes}");
    }
    let many = (0..10_000).fold(Hello::tls12(), |mut hello, kind| {
        hello.extensions.push((0x4000 + kind, Vec::new()));
        hello
    });
    assert_eq!(accepted(&server, &many).version, TLS12, "ten thousand extensions that nobody knows");
    server.settled();
    let too_long = refusal(&server, &padded(65_535 + 4).records(RECORD));
    assert_eq!(too_long, (Some(DECODE_ERROR), "handshake_malformed".to_owned()));
    // So many records that their headers alone fill the buffer.
    let crumbs = refusal(&server, &padded(60_000).records(1));
    assert_eq!(crumbs, (Some(DECODE_ERROR), "handshake_too_long".to_owned()));
    let claims_16_mib = refusal(&server, &records(&[1, 0xff, 0xff, 0xff, 3, 3], RECORD));
    assert_eq!(claims_16_mib, (Some(DECODE_ERROR), "handshake_malformed".to_owned()));
    still_serves(&server);
    server.settled();
    server.stop();
}

#[test]
fn hello_with_wrong_lengths_gets_decode_error() {
    let (server, _backend) = server();
    for hello in [Hello::tls12(), Hello::tls13()] {
        let whole = hello.message();
        // Cut anywhere, and its header says so: every inner length is then wrong, or there is nothing at all.
        for cut in 0..whole.len() - 4 {
            let body = &whole[4..4 + cut];
            let message = [&[1][..], &vector::<3>(body)].concat();
            let (alert, fault) = refusal(&server, &records(&message, RECORD));
            // Right behind the compression methods, extensions may be missing altogether.
            let bare = fault == "nothing_in_common" && alert == Some(HANDSHAKE_FAILURE);
            let bare = bare && cut == 2 + 32 + 1 + 2 + 2 * hello.suites.len() + 2;
            let malformed = fault == "handshake_malformed" && alert == Some(DECODE_ERROR);
            assert!(bare || malformed, "cut at {cut}: {alert:?} {fault}");
        }
    }
    server.settled();
    server.stop();
}

#[test]
fn hello_cut_by_fin_is_closed_with_a_named_fault() {
    let (server, _backend) = server();
    let whole = Hello::tls13().records(60);
    for cut in 1..whole.len() {
        let before = server.metrics();
        let mut tcp = dial(server.addr);
        tcp.write_all(&whole[..cut]).unwrap();
        tcp.shutdown(Shutdown::Write).unwrap();
        assert!(matches!(listen(&mut tcp), Answer::Closed), "cut at {cut}");
        let fault = server.faulted(&before, 1);
        assert!(["closed_in_handshake", "closed_before_hello"].contains(&&*fault[0]), "{cut}: {fault:?}");
    }
    still_serves(&server);
    server.settled();
    server.stop();
}

fn still_serves(server: &TestServer) {
    for version in BOTH {
        Peer::open(server.addr, &plain(version)).ping(b"unmoved");
    }
}
