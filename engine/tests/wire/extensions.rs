//! Extensions that a listener is configured to negotiate: a stapled OCSP response, an application protocol.

use crate::backend::{Backend, Manner};
use crate::identity::{Identity, NAME};
use crate::lab::{Setup, refused};
use crate::peer::{s_client, trust_file};
use crate::tools::{have, scratch, text};

/// An OCSPResponse whose status is unauthorized and which has nothing else (RFC 6960 §4.2.1).
const UNAUTHORIZED: [u8; 5] = [0x30, 3, 0x0a, 1, 6];
/// The same with tryLater.
const TRY_LATER: [u8; 5] = [0x30, 3, 0x0a, 1, 3];

fn identity_with(ocsp: &[u8], files: &std::path::Path) -> std::path::PathBuf {
    let (certificate, key) = Identity::ecdsa().write(files);
    std::fs::write(files.join("response.der"), ocsp).expect("the file can be written");
    let path = files.join("offramp.toml");
    let text = format!(
        "[[identity]]\ncertificate = \"{}\"\nkey = \"{}\"\nocsp = \"response.der\"\n",
        certificate.display(),
        key.display()
    );
    std::fs::write(&path, text).expect("the file can be written");
    path
}

#[test]
fn an_ocsp_response_is_stapled_for_clients_that_ask() {
    if !have("openssl") {
        return;
    }
    let (backend, files) = (Backend::start(Manner::Echo), scratch());
    let path = identity_with(&UNAUTHORIZED, files.path());
    let flags = format!("--config {}", path.display());
    let lab = Setup::new(backend.addr).identities(&[]).flags(&flags).start();
    let trust = trust_file(files.path());
    for version in ["-tls1_2", "-tls1_3"] {
        let words = format!("{version} -servername {NAME}");
        let (asked, echoed) = s_client(lab.addr, &trust, &format!("{words} -status"), Some("hello"));
        assert!(echoed && text(&asked).contains("Response Status: unauthorized"), "{}", text(&asked));
        let (unasked, echoed) = s_client(lab.addr, &trust, &words, Some("hello"));
        assert!(echoed && !text(&unasked).contains("unauthorized"), "{}", text(&unasked));
    }
    lab.stop();
}

#[test]
fn an_ocsp_response_is_replaced_while_it_runs_and_a_bad_one_is_not_taken() {
    if !have("openssl") {
        return;
    }
    let (backend, files) = (Backend::start(Manner::Echo), scratch());
    let path = identity_with(&UNAUTHORIZED, files.path());
    let flags = format!("--config {}", path.display());
    let lab = Setup::new(backend.addr).identities(&[]).flags(&flags).start();
    let trust = trust_file(files.path());
    let stapled = |status: &str| {
        for version in ["-tls1_2", "-tls1_3"] {
            let words = format!("{version} -servername {NAME} -status");
            let (output, echoed) = s_client(lab.addr, &trust, &words, Some("hello"));
            let said = text(&output);
            assert!(echoed && said.contains(&format!("Response Status: {status}")), "not {status}: {said}");
        }
    };
    let response = files.path().join("response.der");
    stapled("unauthorized");
    std::fs::write(&response, TRY_LATER).expect("the file can be written");
    stapled("unauthorized");
    lab.reload("certificates, peers, tickets and offload in force");
    stapled("trylater");
    std::fs::write(&response, b"no response").expect("the file can be written");
    lab.reload("response.der: not an OCSP response in DER");
    stapled("trylater");
    lab.stop();
}

#[test]
fn an_ocsp_response_that_is_none_is_refused() {
    for bytes in [&UNAUTHORIZED[..4], &[&UNAUTHORIZED[..], &[0]].concat(), b"-----BEGIN", &[]] {
        let files = scratch();
        let path = identity_with(bytes, files.path());
        let words = ["--listen", "127.0.0.1:0", "--backend", "127.0.0.1:9", "--config"];
        let mut arguments = words.map(str::to_owned).to_vec();
        arguments.push(path.display().to_string());
        let refusal = refused(&arguments);
        assert!(refusal.stderr.contains("response.der: not an OCSP response in DER"), "{refusal:?}");
    }
}

#[test]
fn an_application_protocol_is_negotiated_or_the_client_refused() {
    if !have("openssl") {
        return;
    }
    let (backend, files) = (Backend::start(Manner::Echo), scratch());
    let lab = Setup::new(backend.addr).flags("--alpn msrp,cpim").start();
    let trust = trust_file(files.path());
    for version in ["-tls1_2", "-tls1_3"] {
        let words = |offers: &str| format!("{version} -servername {NAME} {offers}");
        for (offers, negotiated) in [
            ("-alpn h2,cpim,msrp", "ALPN protocol: msrp"),
            ("-alpn cpim", "ALPN protocol: cpim"),
            ("", "No ALPN negotiated"),
        ] {
            let (output, echoed) = s_client(lab.addr, &trust, &words(offers), Some("hello"));
            assert!(echoed && text(&output).contains(negotiated), "{offers}: {}", text(&output));
        }
        let before = lab.metrics();
        let (output, echoed) = s_client(lab.addr, &trust, &words("-alpn h2"), Some("hello"));
        assert!(!echoed && text(&output).contains("no application protocol"), "{}", text(&output));
        assert_eq!(lab.faulted(&before, 1), ["nothing_in_common"]);
    }
    lab.stop();
}

#[test]
fn a_name_that_nobody_has_is_refused_where_it_is_to_be() {
    if !have("openssl") {
        return;
    }
    let (backend, files) = (Backend::start(Manner::Echo), scratch());
    let trust = trust_file(files.path());
    for (policy, is_refused) in [("first", false), ("refuse", true)] {
        let lab = Setup::new(backend.addr).flags(&format!("--unknown-name {policy}")).start();
        for version in ["-tls1_2", "-tls1_3"] {
            let ask = |words: &str| s_client(lab.addr, &trust, &format!("{version} {words}"), Some("hello"));
            assert!(ask(&format!("-servername {NAME}")).1 && ask("-noservername").1, "{policy} {version}");
            let before = lab.metrics();
            let (output, echoed) = ask("-servername nobody.test");
            assert_eq!(echoed, !is_refused, "{policy} {version}: {}", text(&output));
            if is_refused {
                assert!(text(&output).contains("unrecognized name"), "{}", text(&output));
                assert_eq!(lab.faulted(&before, 1), ["unknown_name"]);
            }
        }
        lab.stop();
    }
}
