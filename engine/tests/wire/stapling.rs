//! OCSP responses as OpenSSL's responder makes them: which are stapled, and until when.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::{Identity, NAME};
use offramp_testing::peer::s_client;
use offramp_testing::server::{Setup, TestServer, refused};
use offramp_testing::tools::{eventually, have, scratch, text};

/// An OCSPResponse whose status is unauthorized and which has nothing else (RFC 6960 §4.2.1).
const UNAUTHORIZED: [u8; 5] = [0x30, 3, 0x0a, 1, 6];

fn openssl(directory: &Path, words: &str) {
    let output = Command::new("openssl").args(words.split_whitespace()).current_dir(directory).output();
    let output = output.expect("openssl runs");
    assert!(output.status.success(), "{words}: {}", text(&output));
}

/// An authority in `ca.crt`, a certificate of its in `it.crt`, another in `other.crt`, and the index of both.
fn directory() -> tempfile::TempDir {
    let files = scratch();
    let at = files.path();
    let key = "-nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256";
    openssl(at, &format!("req -x509 {key} -subj /CN=ca -keyout ca.key -out ca.crt"));
    std::fs::write(at.join("san"), format!("subjectAltName=DNS:{NAME}")).expect("written");
    let mut index = String::new();
    for (name, serial) in [("it", "1001"), ("other", "1002")] {
        openssl(at, &format!("req -new {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        let sign = format!("x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -extfile san -set_serial");
        openssl(at, &format!("{sign} 0x{serial} -days 30 -out {name}.crt"));
        index += &format!("V\t360101000000Z\t\t{serial}\tunknown\t/CN={name}\n");
    }
    std::fs::write(at.join("index.txt"), index).expect("written");
    files
}

/// A response for a certificate, signed by the authority; it stands in `response.der` at once.
fn answer(directory: &Path, certificate: &str, validity: &str) {
    openssl(directory, &format!("ocsp -issuer ca.crt -cert {certificate}.crt -reqout request.der -no_nonce"));
    let responder = "ocsp -index index.txt -CA ca.crt -rsigner ca.crt -rkey ca.key -reqin request.der";
    openssl(directory, &format!("{responder} {validity} -respout new.der"));
    std::fs::rename(directory.join("new.der"), directory.join("response.der")).expect("renamed");
}

fn configured(directory: &Path) -> PathBuf {
    let path = directory.join("offramp.toml");
    let text = "[[identity]]\ncertificate = \"it.crt\"\nkey = \"it.key\"\nocsp = \"response.der\"\n";
    std::fs::write(&path, text).expect("the file can be written");
    path
}

fn start(backend: &Backend, directory: &Path) -> TestServer {
    let flags = format!("--config {}", configured(directory).display());
    Setup::new(backend.addr).identities(&[]).flags(&flags).start()
}

/// Whether a client that asks gets a response, in both versions alike.
fn is_stapled(server: &TestServer, directory: &Path) -> bool {
    let trust = directory.join("ca.crt").display().to_string();
    let [one, other] = ["-tls1_2", "-tls1_3"].map(|version| {
        let words = format!("{version} -servername {NAME} -status");
        let (output, echoed) = s_client(server.addr, &trust, &words, Some("hello"));
        let said = text(&output);
        assert!(echoed, "{said}");
        let is_stapled = said.contains("Cert Status: good");
        assert_eq!(!is_stapled, said.contains("OCSP response: no response sent"), "{said}");
        is_stapled
    });
    assert_eq!(one, other);
    one
}

#[test]
fn an_ocsp_response_is_stapled_for_clients_that_ask() {
    if !have("openssl") {
        return;
    }
    let (backend, files) = (Backend::start(BackendBehavior::Echo), directory());
    answer(files.path(), "it", "-ndays 7");
    let server = start(&backend, files.path());
    assert!(is_stapled(&server, files.path()));
    assert!(!server.stderr().contains("response.der"), "{}", server.stderr());
    let trust = files.path().join("ca.crt").display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let (unasked, echoed) =
            s_client(server.addr, &trust, &format!("{version} -servername {NAME}"), Some("hello"));
        assert!(echoed && !text(&unasked).contains("Cert Status"), "{}", text(&unasked));
    }
    server.stop();
}

#[test]
fn reload_replaces_the_ocsp_response_unless_it_is_bad() {
    const IN_FORCE: &str = "timeouts in force";
    if !have("openssl") {
        return;
    }
    let (backend, files) = (Backend::start(BackendBehavior::Echo), directory());
    let response = files.path().join("response.der");
    std::fs::write(&response, UNAUTHORIZED).expect("the file can be written");
    let server = start(&backend, files.path());
    assert!(
        server.stderr().contains("response.der: is not stapled: the responder refused"),
        "{}",
        server.stderr()
    );
    assert!(!is_stapled(&server, files.path()));
    answer(files.path(), "it", "-ndays 7");
    server.reload(IN_FORCE);
    assert!(is_stapled(&server, files.path()));
    std::fs::write(&response, b"no response").expect("the file can be written");
    server.reload("response.der: not an OCSP response in DER");
    assert!(is_stapled(&server, files.path()), "the one in force stays");
    for (certificate, validity, why) in [
        ("other", "-ndays 7", "is not stapled: it is for another certificate"),
        ("it", "", "is not stapled: it does not say until when"),
    ] {
        answer(files.path(), certificate, validity);
        server.reload(why);
        server.reload(IN_FORCE);
        assert!(!is_stapled(&server, files.path()), "{why}");
    }
    server.stop();
}

#[test]
fn an_ocsp_response_that_runs_out_is_stapled_no_more() {
    if !have("openssl") {
        return;
    }
    let (backend, files) = (Backend::start(BackendBehavior::Echo), directory());
    answer(files.path(), "it", "-nmin 1");
    let unix_now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs();
    let end = unix_now() + 10;
    // OpenSSL counts in minutes; nobody here verifies the signature.
    let output = Command::new("date").args(["-u", "-d", &format!("@{end}"), "+%Y%m%d%H%M%SZ"]).output();
    let next_update = output.expect("date runs").stdout;
    let response = files.path().join("response.der");
    let mut der = std::fs::read(&response).expect("it was written");
    // producedAt, thisUpdate, nextUpdate: each a GeneralizedTime of 15 bytes.
    let times: Vec<_> = der.windows(2).enumerate().filter(|(_, bytes)| *bytes == [0x18, 15]).collect();
    let at = times[2].0 + 2;
    der[at..at + 15].copy_from_slice(&next_update[..15]);
    std::fs::write(&response, der).expect("the file can be written");
    let server = start(&backend, files.path());
    assert!(is_stapled(&server, files.path()));
    eventually("the response runs out", || unix_now() > end);
    assert!(!is_stapled(&server, files.path()));
    let warning = "response.der: is not stapled: it is not current";
    eventually("it is said without a reload", || server.stderr().contains(warning));
    assert_eq!(server.stderr().matches(warning).count(), 1, "and once");
    server.reload(warning);
    server.stop();
}

#[test]
fn an_ocsp_response_that_is_none_is_refused() {
    for bytes in [&UNAUTHORIZED[..4], &[&UNAUTHORIZED[..], &[0]].concat(), b"-----BEGIN", &[]] {
        let files = scratch();
        let identity = Identity::ecdsa();
        std::fs::write(files.path().join("it.crt"), &identity.certificate).expect("written");
        std::fs::write(files.path().join("it.key"), &identity.key).expect("written");
        std::fs::write(files.path().join("response.der"), bytes).expect("written");
        let words = ["--listen", "127.0.0.1:0", "--backend", "127.0.0.1:9", "--config"];
        let mut arguments = words.map(str::to_owned).to_vec();
        arguments.push(configured(files.path()).display().to_string());
        let refusal = refused(&arguments);
        assert!(refusal.stderr.contains("response.der: not an OCSP response in DER"), "{refusal:?}");
    }
}
