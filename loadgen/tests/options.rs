//! What is offered and from where: suites, groups, names, certificates, sources; and the host's limits.

#![expect(clippy::unwrap_used, reason = "a test stops at what must not fail")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use offramp_loadgen::backend::Backend;
use offramp_loadgen::identity::{Identity, SERVER_NAME};
use serde_json::Value;

mod engine;
mod peers;
mod ring;

const LOADGEN: &str = env!("CARGO_BIN_EXE_loadgen");

/// Runs `loadgen handshake` for a moment, believing anybody; its exit code, its run, and its complaints.
fn handshake(target: SocketAddr, arguments: &[&str]) -> (i32, Value, String) {
    let output = Command::new(LOADGEN)
        .args(["handshake", "--target", &target.to_string(), "--insecure", "--json", "-t", "1"])
        .args(["-d", "500ms", "--warm-up", "0"])
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code().unwrap(), report["runs"][0].clone(), errors)
}

/// Who connected, and with what ClientHello.
type Seen = Arc<Mutex<Vec<(SocketAddr, Vec<u8>)>>>;

/// A relay to `target` that remembers who came.
fn watching(target: SocketAddr) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let remembered = Arc::clone(&seen);
    // Ends with the test's process.
    thread::spawn(move || {
        while let Ok((mut client, from)) = listener.accept() {
            let mut hello = vec![0; 4096];
            let count = client.read(&mut hello).unwrap_or(0);
            hello.truncate(count);
            let mut server = TcpStream::connect(target).unwrap();
            server.write_all(&hello).unwrap();
            remembered.lock().unwrap().push((from, hello));
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    to.shutdown(Shutdown::Write)
                });
            }
        }
    });
    (address, seen)
}

#[test]
fn suites_and_groups_are_those_that_were_asked_for() {
    let identity = Identity::generate().unwrap();
    if !ring::is_there() {
        return;
    }
    let Some(peer) = peers::openssl(&identity, &["-groups", "P-384"]) else { return };
    for (version, suite) in
        [("1.2", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"), ("1.3", "TLS_CHACHA20_POLY1305_SHA256")]
    {
        let arguments = ["--tls", version, "--suites", suite, "--groups", "P-384,P-256", "--request", "http"];
        let (code, run, errors) = handshake(peer.address, &arguments);
        assert_eq!(code, 0, "{errors}");
        let handshakes = &run["handshakes"];
        let name = suite.replace("TLS_CHACHA", "TLS13_CHACHA");
        assert_eq!(handshakes["suites"], serde_json::json!({ name: handshakes["count"] }));
        assert_eq!(handshakes["hello_retry"], 0, "the group's share was in the first hello");
    }
    // X25519 is not what this server takes.
    let (code, _, errors) = handshake(peer.address, &["--groups", "x25519", "--give-up", "3", "-c", "1"]);
    assert_eq!(code, 3, "{errors}");
    assert!(errors.contains("alert handshake_failure"), "{errors}");
}

#[test]
fn names_take_turns_and_so_do_sources() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let (target, seen) = watching(engine.local_addr().unwrap());
    let names = format!("{SERVER_NAME},second.test");
    let sources = "127.0.0.1,127.0.0.2";
    // One connection at a time: their order is that of their starts.
    let arguments = ["-c", "1", "--sni", &names, "--source", sources, "--request", "echo"];
    let (code, _, errors) = handshake(target, &arguments);
    assert_eq!(code, 0, "{errors}");
    let seen = seen.lock().unwrap();
    assert!(seen.len() >= 4, "{}", seen.len());
    for (number, (from, hello)) in seen.iter().enumerate() {
        let asks = |name: &str| hello.windows(name.len()).any(|bytes| bytes == name.as_bytes());
        let (name, other, source) = match number % 2 {
            0 => (SERVER_NAME, "second.test", [127, 0, 0, 1]),
            _ => ("second.test", SERVER_NAME, [127, 0, 0, 2]),
        };
        assert!(asks(name) && !asks(other), "connection {number} asks for {name}");
        assert_eq!(from.ip(), Ipv4Addr::from(source), "connection {number}");
    }
}

#[test]
fn a_client_s_certificate_comes_from_its_file() {
    let (identity, client) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    if !ring::is_there() {
        return;
    }
    let file = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    let (certificate, key) = (file(client.certificate_file()), file(client.key_file()));
    // Nobody else's is accepted.
    let only = ["-Verify", "1", "-verify_return_error", "-CAfile", &certificate];
    let Some(peer) = peers::openssl(&identity, &only) else { return };
    for version in ["1.2", "1.3"] {
        let arguments = ["--tls", version, "--client-cert", &certificate, "--client-key", &key];
        let (code, _, errors) = handshake(peer.address, &arguments);
        assert_eq!(code, 0, "{version}: {errors}");
        let (code, _, errors) = handshake(peer.address, &["--tls", version, "--client-certs", "1"]);
        assert_eq!(code, 3, "{version}: {errors}");
        assert!(errors.contains("× alert "), "{version}: {errors}");
    }
    let (code, _, errors) = handshake(peer.address, &["--client-cert", &certificate]);
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("has its --client-key"), "{errors}");
}

#[test]
fn a_limit_on_descriptors_is_said_before_it_is_met() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let command =
        format!("ulimit -n 100; exec {LOADGEN} handshake --target {nobody} --insecure -c 1000 -t 1");
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let (needs, has) = (1000 + 4 + 32, 100);
    assert!(errors.contains(&format!("need {needs} descriptors")), "{errors}");
    assert!(errors.contains(&format!("may have {has}: ulimit -Hn {needs}")), "{errors}");
}

/// A file that is no file, or that would lose a certificate or a key, is named before anything connects.
#[test]
fn files_that_cannot_be_used_are_named() {
    let identity = Identity::generate().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let certificate = std::fs::read_to_string(identity.certificate_file()).unwrap();
    let key = std::fs::read_to_string(identity.key_file()).unwrap();
    let glued = write("glued.pem", &format!("{}{certificate}", certificate.trim_end()));
    let encrypted = write("encrypted.pem", &key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"));
    let (certificate, key) = (write("c.pem", &certificate), write("k.pem", &key));
    let stranger = Identity::generate().unwrap();
    let other = write("other.pem", &std::fs::read_to_string(stranger.key_file()).unwrap());
    for (arguments, part) in [
        (&["--ca", &*glued][..], "glued.pem: line "),
        (&["--ca", "/dev/zero"], "/dev/zero: it is a device, and only a regular file is read"),
        (&["--ca", &key], "k.pem: has no certificate"),
        (&["--ca", &certificate, "--client-cert", &certificate, "--client-key", &encrypted], "is encrypted"),
        (&["--ca", &certificate, "--client-cert", &glued, "--client-key", &key], "glued.pem: line "),
        (&["--ca", &certificate, "--client-cert", &certificate, "--client-key", &other], "other.pem: "),
    ] {
        let target = ["handshake", "--target", "127.0.0.1:1", "--sni", SERVER_NAME];
        let output = Command::new(LOADGEN).args(target).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(part), "{arguments:?}: no {part:?} in: {said}");
    }
}
