//! Certificates and keys (TS 33.310 clause 6.1.1, TS 33.210 clause 6.2): what the configuration takes, and
//! what it refuses by clause. OpenSSL makes them, for rcgen makes no bad ones.

use std::path::Path;
use std::process::{Command, Output};

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::NAME;
use offramp_testing::peer::{s_client, trust_file};
use offramp_testing::rng::sha256_of;
use offramp_testing::server::Setup;
use offramp_testing::tools::{have, scratch, text};

fn openssl(directory: &Path, words: &str) {
    let mut command = Command::new("openssl");
    let output = command.current_dir(directory).args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "openssl {words}: {}", text(&output));
}

/// `offramp check` of a file with the identity `it.crt` and `it.key`.
fn check(directory: &Path) -> Output {
    let file = directory.join("offramp.toml");
    let identity = "[[identity]]\ncertificate = \"it.crt\"\nkey = \"it.key\"\n";
    std::fs::write(&file, format!("listen = \"127.0.0.1:0\"\nbackend = \"127.0.0.1:1\"\n{identity}"))
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_offramp"));
    command.args(["check", "--config"]).arg(file).output().unwrap()
}

const SELF_SIGNED: &str = "req -x509 -nodes -subj /CN=it -keyout it.key -out it.crt";

#[test]
fn rsa_from_2048_bits_and_p256_p384_are_accepted() {
    if !have("openssl") {
        return;
    }
    let directory = scratch();
    for key in [
        "-newkey rsa:2048 -sha256",
        "-newkey rsa:3072 -sha384",
        "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -sha256",
        "-newkey ec -pkeyopt ec_paramgen_curve:P-384 -sha384",
        "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -sha512",
    ] {
        openssl(directory.path(), &format!("{SELF_SIGNED} {key}"));
        let output = check(directory.path());
        assert!(output.status.success(), "{key}: {}", text(&output));
    }
}

#[test]
fn forbidden_key_or_signature_is_refused_by_clause() {
    if !have("openssl") {
        return;
    }
    let directory = scratch();
    let cases = [
        ("-newkey rsa:1024 -sha256", "RSA key of 1024 bits"),
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-521 -sha256", "elliptic-curve key on curve 1.3.132.0.35"),
        ("-newkey ec -pkeyopt ec_paramgen_curve:secp224r1 -sha256", "curve 1.3.132.0.33"),
        ("-newkey ed25519", "key of algorithm 1.3.101.112"),
        ("-newkey rsa:2048 -sha1", "certificate signed by SHA-1 with RSA"),
        ("-newkey rsa:2048 -md5", "certificate signed by MD5 with RSA"),
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-256 -sha1", "certificate signed by ECDSA with SHA-1"),
    ];
    for (key, what) in cases {
        openssl(directory.path(), &format!("{SELF_SIGNED} {key}"));
        assert_refused(
            &check(directory.path()),
            &[what, "the 3GPP profile allows", "TS 33.310 clause 6.1.1"],
        );
    }
}

#[test]
fn a_certificate_of_version_1_is_refused_by_clause() {
    if !have("openssl") {
        return;
    }
    let directory = scratch();
    let request = "req -nodes -subj /CN=it -newkey rsa:2048 -keyout it.key -out it.csr";
    openssl(directory.path(), request);
    openssl(directory.path(), "x509 -req -in it.csr -signkey it.key -out it.crt");
    let output = check(directory.path());
    assert_refused(&output, &["X.509 certificate of version 1", "TS 33.310 clause 6.1.1"]);
}

/// Whoever vouches for them: an authority, whose signature must be one of the profile, or a fingerprint, with
/// which the key alone counts.
#[test]
fn client_cert_outside_profile_gets_bad_certificate() {
    if !have("openssl") {
        return;
    }
    let (backend, directory) = (Backend::start(BackendBehavior::Echo), scratch());
    let (files, trust) = (directory.path(), trust_file(directory.path()));
    std::fs::write(files.join("v3"), "extendedKeyUsage=clientAuth").unwrap();
    openssl(files, "req -x509 -nodes -subj /CN=ca -newkey rsa:2048 -keyout ca.key -out ca.crt");
    for (key, hash, by_authority, by_fingerprint) in [
        ("rsa:2048", "-sha256", true, true),
        ("rsa:2048", "-sha1", false, true),
        ("rsa:2048", "-md5", false, true),
        ("rsa:1024", "-sha256", false, false),
    ] {
        openssl(files, &format!("req -nodes -subj /CN=it -newkey {key} -keyout it.key -out it.csr"));
        let sign = "x509 -req -in it.csr -CA ca.crt -CAkey ca.key -extfile v3 -out it.crt";
        openssl(files, &format!("{sign} {hash}"));
        openssl(files, "x509 -in it.crt -outform DER -out it.der");
        let told = fingerprint(&std::fs::read(files.join("it.der")).unwrap());
        for (trust_anchor, holds) in [("client_ca = \"ca.crt\"", by_authority), (&told, by_fingerprint)] {
            let file = files.join("offramp.toml");
            std::fs::write(&file, format!("client_auth = \"require\"\n{trust_anchor}\n")).unwrap();
            let server = Setup::new(backend.addr).flags(&format!("--config {}", file.display())).start();
            for version in ["-tls1_2", "-tls1_3"] {
                let (certificate, key) = (files.join("it.crt"), files.join("it.key"));
                let shown = format!("-cert {} -key {}", certificate.display(), key.display());
                let words = format!("{version} -cipher ALL:@SECLEVEL=0 -servername {NAME} {shown}");
                let before = server.settled();
                let (output, echoed) = s_client(server.addr, &trust, &words, Some("there and back"));
                let what = format!("{key:?} {hash} {version} {trust_anchor}: {}", text(&output));
                assert_eq!(echoed, holds, "{what}");
                if !holds {
                    assert!(text(&output).contains("alert bad certificate"), "{what}");
                    assert_eq!(server.faulted(&before, 1), ["peer_certificate_refused"], "{what}");
                }
            }
            server.settled();
            server.stop();
        }
    }
}

/// The line of the configuration with the fingerprint of a certificate in DER.
pub(crate) fn fingerprint(der: &[u8]) -> String {
    let digest = sha256_of(der).0;
    let bytes: Vec<&str> = (0..32).map(|at| &digest[2 * at..2 * at + 2]).collect();
    format!("fingerprints = [\"sha-256 {}\"]", bytes.join(":"))
}

fn assert_refused(output: &Output, parts: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [&["it.crt"], parts].concat() {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
}
