//! Versions, suites, groups, signatures and compression (TS 33.210 clause 6.2): what is accepted, and with
//! which alert all else is refused.

use crate::hello::{
    Answer, ECDHE_ECDSA_AES_128_GCM, ECDHE_RSA_AES_128_GCM, ECDSA_SECP256R1_SHA256, Hello, RSA_PKCS1_SHA256,
    RSA_PSS_RSAE_SHA256, SECP256R1, SECP384R1, TLS12, TLS13, X25519_GROUP, extension, refusal, say,
};
use offramp_proto::alert::HANDSHAKE_FAILURE;
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::Identity;
use offramp_testing::server::{Setup, TestServer};

const ILLEGAL_PARAMETER: u8 = 47;
const PROTOCOL_VERSION: u8 = 70;

const RECORD: usize = 1 << 14;

/// A server with an ECDSA and an RSA identity.
fn server() -> (TestServer, Backend) {
    let backend = Backend::start(BackendBehavior::Echo);
    (TestServer::start(backend.addr), backend)
}

fn assert_refused(server: &TestServer, what: &str, hello: &Hello, alert: u8, fault: &str) {
    let refusal = refusal(server, &hello.records(RECORD));
    assert_eq!(refusal, (Some(alert), fault.to_owned()), "{what}: {hello:x?}");
}

/// In TLS 1.3 the alert about a signature comes behind the ServerHello and is encrypted: `clients` reads it.
fn assert_refused_encrypted(server: &TestServer, what: &str, hello: &Hello) {
    let refusal = refusal(server, &hello.records(RECORD));
    assert_eq!(refusal, (None, "nothing_in_common".to_owned()), "{what}: {hello:x?}");
}

#[test]
fn ssl_and_tls_before_1_2_get_protocol_version_alert() {
    let (server, _backend) = server();
    for version in [0x0200, 0x0300, 0x0301, 0x0302] {
        let old = Hello { version, ..Hello::tls12() };
        assert_refused(&server, "by its version", &old, PROTOCOL_VERSION, "no_common_version");
        // TLS 1.1 knows no signature_algorithms, and SSL no extension.
        let older = old.clone().without(extension::SIGNATURE_ALGORITHMS);
        assert_refused(&server, "as it was", &older, PROTOCOL_VERSION, "no_common_version");
        let bare = Hello { extensions: Vec::new(), ..old };
        assert_refused(&server, "bare", &bare, PROTOCOL_VERSION, "no_common_version");
        let listed = [&[2][..], &u16::to_be_bytes(version)].concat();
        let listed = Hello::tls12().with(extension::SUPPORTED_VERSIONS, &listed);
        assert_refused(&server, "by its list", &listed, PROTOCOL_VERSION, "no_common_version");
    }
    // DTLS 1.0 and 1.2 count downwards, and have records of their own.
    let datagrams = Hello::tls12().with(extension::SUPPORTED_VERSIONS, &[4, 0xfe, 0xff, 0xfe, 0xfd]);
    assert_refused(&server, "DTLS by its list", &datagrams, PROTOCOL_VERSION, "no_common_version");
    for minor in [0xff, 0xfd] {
        let before = server.metrics();
        let record = [&[22, 0xfe, minor, 0, 0, 0, 0, 0, 0, 0, 0, 0, 60][..], &[1; 60]].concat();
        assert!(matches!(say(server.addr, &record), Answer::Closed), "DTLS record {minor:x}");
        assert_eq!(server.faulted(&before, 1), ["not_tls"]);
    }
    // SSL 2 has a hello, and records, of its own. Other versions were once offered in them (RFC 5246 E.2),
    // and the answers are those of OpenSSL's server.
    for (version, alert, fault) in [
        ([0, 2], PROTOCOL_VERSION, "no_common_version"),
        ([3, 1], PROTOCOL_VERSION, "no_common_version"),
        ([3, 3], HANDSHAKE_FAILURE, "no_extended_master_secret"),
    ] {
        let suites = [0, 0xc0, 0x2b, 0, 0xc0, 0x2f, 0, 0, 0xff];
        let hello = [&[1, version[0], version[1], 0, 9, 0, 0, 0, 16][..], &suites, &[7; 16]].concat();
        let framed = [&[0x80, u8::try_from(hello.len()).expect("short")], &hello[..]].concat();
        let before = server.metrics();
        let answer = say(server.addr, &framed);
        assert!(matches!(answer, Answer::Alert(told) if told == alert), "{version:?}: {answer:?}");
        assert_eq!(server.faulted(&before, 1), [fault], "{version:?}");
    }
    server.settled();
    server.stop();
}

#[test]
fn tls_1_2_and_1_3_are_negotiated_highest_first() {
    let (server, _backend) = server();
    assert_eq!(say(server.addr, &Hello::tls12().records(RECORD)).accepted().version, TLS12);
    assert_eq!(say(server.addr, &Hello::tls13().records(RECORD)).accepted().version, TLS13);
    let both = Hello::tls13()
        .suites(&[ECDHE_ECDSA_AES_128_GCM, 0x1301])
        .with(extension::SUPPORTED_VERSIONS, &[6, 3, 2, 3, 3, 3, 4]);
    assert_eq!(say(server.addr, &both.records(RECORD)).accepted().version, TLS13);
    server.settled();
    server.stop();
}

#[test]
fn suites_without_aead_or_forward_secrecy_are_refused() {
    let (server, _backend) = server();
    let families: [(&str, &[u16]); 12] = [
        ("CBC", &[0xc009, 0xc00a, 0xc013, 0xc014, 0xc023, 0xc024, 0xc027, 0xc028]),
        ("RC4", &[0xc007, 0xc011, 0x0005, 0x0004]),
        ("3DES", &[0xc008, 0xc012, 0x000a]),
        ("static RSA", &[0x002f, 0x0035, 0x003c, 0x009c, 0x009d]),
        ("static ECDH", &[0xc02d, 0xc031]),
        ("DHE", &[0x009e, 0x009f, 0xccaa, 0x0033, 0x0067]),
        ("NULL", &[0xc006, 0xc010, 0x0001, 0x0002, 0x003b]),
        ("anonymous", &[0xc018, 0x00a6, 0x0018]),
        ("export", &[0x0003, 0x0006, 0x0008]),
        ("PSK", &[0x00a8, 0xd001, 0xccac]),
        ("CCM, which the profile does not list", &[0xc0ac, 0xc0ae, 0xc09c]),
        ("none but signals", &[0x00ff, 0x5600]),
    ];
    for (what, suites) in families {
        let hello = Hello::tls12().suites(suites);
        assert_refused(&server, what, &hello, HANDSHAKE_FAILURE, "nothing_in_common");
    }
    let families: [(&str, &[u16]); 3] =
        [("integrity only", &[0xc0b4, 0xc0b5]), ("CCM", &[0x1304, 0x1305]), ("TLS 1.2", &[0xc02b])];
    for (what, suites) in families {
        let hello = Hello::tls13().suites(suites);
        assert_refused(&server, what, &hello, HANDSHAKE_FAILURE, "nothing_in_common");
    }
    server.settled();
    server.stop();
}

#[test]
fn every_suite_of_the_profile_is_accepted_alone() {
    let (server, _backend) = server();
    for suite in [0xc02b, 0xc02c, 0xcca9, 0xc02f, 0xc030, 0xcca8] {
        let accepted = say(server.addr, &Hello::tls12().suites(&[suite]).records(RECORD)).accepted();
        assert_eq!((accepted.version, accepted.suite), (TLS12, suite), "{suite:x}");
    }
    for suite in [0x1301, 0x1302, 0x1303] {
        let accepted = say(server.addr, &Hello::tls13().suites(&[suite]).records(RECORD)).accepted();
        assert_eq!((accepted.version, accepted.suite), (TLS13, suite), "{suite:x}");
    }
    server.settled();
    server.stop();
}

#[test]
fn only_p256_p384_and_x25519_groups_are_accepted() {
    let (server, _backend) = server();
    for group in [SECP256R1, SECP384R1, X25519_GROUP] {
        for hello in [Hello::tls12().groups(&[group]), Hello::tls13().share(group)] {
            assert_eq!(say(server.addr, &hello.records(RECORD)).accepted().group, group, "{hello:x?}");
        }
        let shareless = Hello::tls13().groups(&[group]).with(extension::KEY_SHARE, &[0, 0]);
        assert!(matches!(say(server.addr, &shareless.records(RECORD)), Answer::Retry), "{group}");
    }
    server.settled();
    let others = [
        ("secp192r1", 19),
        ("secp224r1", 21),
        ("secp521r1", 25),
        ("x448", 30),
        ("ffdhe2048", 0x100),
        ("ffdhe3072", 0x101),
        ("X25519MLKEM768", 0x11ec),
        ("arbitrary_explicit_prime_curves", 0xff01),
    ];
    for (what, group) in others {
        for hello in [Hello::tls12().groups(&[group]), Hello::tls13().share(group)] {
            assert_refused(&server, what, &hello, HANDSHAKE_FAILURE, "nothing_in_common");
        }
    }
    server.settled();
    server.stop();
}

#[test]
fn sha_1_and_md5_signatures_get_handshake_failure() {
    let (server, _backend) = server();
    for (what, schemes) in [
        ("SHA-1", &[0x0201, 0x0203][..]),
        ("MD5", &[0x0101]),
        ("SHA-224", &[0x0301, 0x0303]),
        ("keys that we have not", &[0x0807, 0x0809, 0x0603]),
    ] {
        let hello = Hello::tls12().schemes(schemes);
        assert_refused(&server, what, &hello, HANDSHAKE_FAILURE, "nothing_in_common");
        assert_refused_encrypted(&server, what, &Hello::tls13().schemes(schemes));
    }
    // Silence means SHA-1 (RFC 5246 §7.4.1.4.1).
    let silent = Hello::tls12().without(extension::SIGNATURE_ALGORITHMS);
    assert_refused(&server, "no signature_algorithms", &silent, HANDSHAKE_FAILURE, "nothing_in_common");
    server.settled();
    server.stop();
}

#[test]
fn the_identity_is_chosen_by_signature_scheme() {
    let (server, _backend) = server();
    let cases = [
        (ECDSA_SECP256R1_SHA256, ECDHE_ECDSA_AES_128_GCM),
        (RSA_PSS_RSAE_SHA256, ECDHE_RSA_AES_128_GCM),
        (RSA_PKCS1_SHA256, ECDHE_RSA_AES_128_GCM),
    ];
    for (scheme, suite) in cases {
        let accepted = say(server.addr, &Hello::tls12().schemes(&[scheme]).records(RECORD)).accepted();
        assert_eq!((accepted.scheme, accepted.suite), (scheme, suite));
    }
    // In TLS 1.2 the groups bind the certificate's curve too (RFC 8422 §5.1.1), and ours is P-256.
    let accepted = say(server.addr, &Hello::tls12().groups(&[SECP384R1]).records(RECORD)).accepted();
    assert_eq!((accepted.group, accepted.suite), (SECP384R1, ECDHE_RSA_AES_128_GCM));
    // In TLS 1.3 the choice is encrypted: `clients` sees it. There PKCS #1 is for certificates alone.
    for scheme in [ECDSA_SECP256R1_SHA256, RSA_PSS_RSAE_SHA256] {
        let hello = Hello::tls13().schemes(&[scheme]);
        assert_eq!(say(server.addr, &hello.records(RECORD)).accepted().version, TLS13, "{scheme:x}");
    }
    assert_refused_encrypted(&server, "PKCS #1 alone", &Hello::tls13().schemes(&[RSA_PKCS1_SHA256]));
    server.settled();
    server.stop();
}

/// In TLS 1.3 the curve goes by the signature scheme, and with RSA there is none (RFC 8422 §5.1.1, RFC 8446
/// §4.2.7).
#[test]
fn tls_1_2_certificate_must_be_on_a_client_curve() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).identities(&[Identity::ecdsa()]).start();
    for groups in [&[X25519_GROUP][..], &[SECP384R1], &[X25519_GROUP, SECP384R1]] {
        let hello = Hello::tls12().groups(groups);
        assert_refused(&server, "P-256 is not offered", &hello, HANDSHAKE_FAILURE, "nothing_in_common");
        let hello = Hello::tls12().groups(&[groups, &[SECP256R1]].concat());
        let accepted = say(server.addr, &hello.records(RECORD)).accepted();
        assert_eq!((accepted.group, accepted.suite), (groups[0], ECDHE_ECDSA_AES_128_GCM), "{groups:?}");
    }
    for group in [X25519_GROUP, SECP384R1] {
        let accepted = say(server.addr, &Hello::tls13().share(group).records(RECORD)).accepted();
        assert_eq!((accepted.version, accepted.group), (TLS13, group));
    }
    server.settled();
    server.stop();
    let server = Setup::new(backend.addr).identities(&[Identity::rsa()]).start();
    let accepted = say(server.addr, &Hello::tls12().groups(&[X25519_GROUP]).records(RECORD)).accepted();
    assert_eq!((accepted.group, accepted.suite), (X25519_GROUP, ECDHE_RSA_AES_128_GCM));
    server.settled();
    server.stop();
}

#[test]
fn compression_is_null_and_nothing_else() {
    const DEFLATE: u8 = 1;
    let (server, _backend) = server();
    let hello = |compressions: &[u8], hello: Hello| Hello { compressions: compressions.to_vec(), ..hello };
    for compressions in [&[0][..], &[DEFLATE, 0], &[0, DEFLATE], &[64, DEFLATE, 0]] {
        let accepted = say(server.addr, &hello(compressions, Hello::tls12()).records(RECORD)).accepted();
        assert_eq!(accepted.compression, 0, "{compressions:?}");
    }
    server.settled();
    // TLS 1.3: "exactly one byte, set to zero", or illegal_parameter (RFC 8446 §4.1.2).
    for (compressions, hello_of) in
        [(&[DEFLATE][..], Hello::tls12()), (&[DEFLATE], Hello::tls13()), (&[DEFLATE, 0], Hello::tls13())]
    {
        let hello = hello(compressions, hello_of);
        let (alert, fault) = refusal(&server, &hello.records(RECORD));
        assert_eq!(alert, Some(ILLEGAL_PARAMETER), "{hello:x?}");
        assert!(["nothing_in_common", "handshake_unexpected"].contains(&fault.as_str()), "{fault}");
    }
    server.settled();
    server.stop();
}
