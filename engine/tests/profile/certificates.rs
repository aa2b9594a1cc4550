//! Certificates and keys (TS 33.310 clause 6.1.1, TS 33.210 clause 6.2): what the configuration takes, and
//! what it refuses by clause. OpenSSL makes them, for rcgen makes no bad ones.

use std::path::Path;
use std::process::{Command, Output};

use crate::tools::{have, scratch, text};

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
fn rsa_from_2048_bits_and_ecdsa_on_p256_and_p384_are_taken() {
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
fn keys_and_signatures_that_the_profile_forbids_are_refused_by_clause() {
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

fn assert_refused(output: &Output, parts: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [&["it.crt"], parts].concat() {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
}
