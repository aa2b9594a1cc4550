//! What must not start, and that it says why: each message names the thing that is wrong.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use offramp::sys::affinity;

use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::Identity;
use offramp_testing::peer::{BOTH, Peer, plain};
use offramp_testing::server::{Refusal, Setup, TestServer, identity_flags, probed_rekey, refused};
use offramp_testing::tools::{eventually, have, in_guest, scratch, text};

const SOMEWHERE: [&str; 4] = ["--listen", "127.0.0.1:0", "--backend", "127.0.0.1:9"];

#[test]
fn a_certificate_without_a_key_is_refused() {
    let files = scratch();
    let (certificate, _) = Identity::ecdsa().write(files.path());
    let refusal = refuse_identity(&certificate, &certificate);
    says(&refusal, &["key", "ecdsa.crt"]);
}

#[test]
fn the_key_of_another_certificate_is_refused() {
    let files = scratch();
    let (certificate, _) = Identity::one().write(files.path());
    let (_, key) = Identity::two().write(files.path());
    says(&refuse_identity(&certificate, &key), &["key", "two.key"]);
}

#[test]
fn an_rsa_key_of_1024_bits_is_refused() {
    if !have("openssl") {
        return;
    }
    let files = scratch();
    let (certificate, key) = (files.path().join("short.crt"), files.path().join("short.key"));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:1024",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=offramp.test",
    ]);
    let output =
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate).output().expect("openssl runs");
    assert!(output.status.success(), "{}", text(&output));
    let refusal = refuse_identity(&certificate, &key);
    says(&refusal, &["RSA"]);
    assert!(refusal.stderr.contains("1024") || refusal.stderr.contains("2048"), "no size in {refusal:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let files = scratch();
    let (certificate, key) = Identity::ecdsa().write(files.path());
    let missing = files.path().join("missing.pem");
    says(&refuse_identity(&missing, &key), &["missing.pem"]);
    says(&refuse_identity(&certificate, &missing), &["missing.pem"]);
    // A directory: unreadable even for root.
    says(&refuse_identity(&certificate, files.path()), &[files.path().to_str().expect("UTF-8")]);
    let config = files.path().join("missing.toml");
    says(&refused(&words(&["--config", config.to_str().expect("UTF-8")])), &["missing.toml"]);
}

#[test]
fn an_unknown_configuration_key_is_refused() {
    let files = scratch();
    let config = files.path().join("offramp.toml");
    std::fs::write(&config, "lisen = \"127.0.0.1:0\"\n").expect("the file can be written");
    let mut arguments = words(&SOMEWHERE);
    arguments.extend(identity_flags(Identity::ecdsa(), files.path()));
    arguments.extend(words(&["--config", config.to_str().expect("UTF-8")]));
    says(&refused(&arguments), &["lisen", "offramp.toml"]);
}

#[test]
fn an_unknown_flag_is_refused() {
    let mut arguments = words(&SOMEWHERE);
    arguments.extend(words(&["--lisen", "127.0.0.1:0"]));
    says(&refused(&arguments), &["--lisen"]);
}

#[test]
fn a_port_in_use_is_refused_and_its_owner_undisturbed() {
    let owner = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = owner.local_addr().expect("a bound listener has an address").to_string();
    let files = scratch();
    let mut arguments = words(&["--listen", &taken, "--backend", "127.0.0.1:9"]);
    arguments.extend(identity_flags(Identity::ecdsa(), files.path()));
    says(&refused(&arguments), &[&taken, "in use"]);
}

#[test]
fn the_ready_line_is_true() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = TestServer::start(backend.addr);
    for part in [&format!("backend {}", backend.addr), "1 worker", "records tx:", "rx:"] {
        assert!(server.ready.contains(part), "no {part:?} in {:?}", server.ready);
    }
    for version in BOTH {
        Peer::open(server.addr, &plain(version)).ping(b"at once");
    }
    server.stop();
}

/// In a guest, of which `tests/kernel` knows it.
#[test]
fn the_probe_tells_whether_the_kernel_replaces_keys() {
    let known = std::env::var("OFFRAMP_GUEST_REKEYS").ok().map(|value| value == "1");
    assert_eq!(known.is_some(), in_guest(), "set in a guest, and nowhere else");
    if in_guest() {
        assert_eq!(probed_rekey(), known);
    }
}

fn refuse_identity(certificate: &Path, key: &Path) -> Refusal {
    let mut arguments = words(&SOMEWHERE);
    let path = |path: &Path| path.to_str().expect("scratch paths are UTF-8").to_owned();
    arguments.extend(["--cert".to_owned(), path(certificate), "--key".to_owned(), path(key)]);
    refused(&arguments)
}

/// A failure's exit code, and a message that a human can act on: it names these, and it is no crash.
fn says(refusal: &Refusal, parts: &[&str]) {
    assert!(refusal.status.code().is_some_and(|code| code != 0), "{refusal:?}");
    let lower = refusal.stderr.to_lowercase();
    for part in parts {
        assert!(lower.contains(&part.to_lowercase()), "the message does not name {part:?}: {refusal:?}");
    }
    assert!(!lower.contains("panicked"), "{refusal:?}");
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// The CPUs that each worker may run on, as the kernel lists them.
fn cpus_of_workers(server: &TestServer) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("the server runs");
    let read = |task: &std::fs::DirEntry, name: &str| {
        std::fs::read_to_string(task.path().join(name)).expect("a worker lasts as long as the server")
    };
    let workers = tasks.flatten().filter(|task| read(task, "comm").trim() == "offramp-0");
    let listed = workers.map(|task| {
        let status = read(&task, "status");
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.expect("the kernel lists them").trim().to_owned()
    });
    listed.collect()
}

#[test]
fn a_worker_stays_on_a_cpu_of_its_own_if_asked_to() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = |pin: &str| Setup::new(backend.addr).flags(&format!("--pin-workers {pin}")).start();
    let (pinned, free) = ([server("on"), server("incoming-cpu")], server("off"));
    let allowed = affinity::allowed().expect("the kernel tells");
    for server in &pinned {
        assert_eq!(cpus_of_workers(server), [allowed[0].to_string()]);
    }
    if allowed.len() > 1 {
        assert_ne!(cpus_of_workers(&free), [allowed[0].to_string()]);
    }
    pinned.into_iter().chain([free]).for_each(TestServer::stop);
}

#[test]
fn incoming_cpu_selects_the_worker_of_a_connection() {
    let allowed = affinity::allowed().expect("the kernel tells");
    let backend = Backend::start(BackendBehavior::Echo);
    for (worker, &cpu) in allowed.iter().take(2).enumerate() {
        let server = Setup::new(backend.addr).flags("--workers 2 --pin-workers incoming-cpu").start();
        let (before, addr) = (server.metrics(), server.addr);
        // On loopback the CPU that sends receives too.
        let arrive = move || {
            affinity::pin(cpu).expect("it is allowed");
            (0..16).for_each(|_| {
                let mut client = TcpStream::connect(addr).expect("it listens");
                client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it reads");
            });
        };
        thread::spawn(arrive).join().expect("the client has done all");
        assert_eq!(server.faulted(&before, 16), ["not_tls"]);
        let expected = if allowed.len() > 1 { "fault not_tls " } else { "fewer CPUs" };
        eventually("the log has it", || server.stderr().contains(expected));
        let log = server.stderr();
        let by = |worker: usize| log.contains(&format!("fault not_tls worker={worker} "));
        if allowed.len() > 1 {
            assert!(by(worker) && !by(1 - worker), "from CPU {cpu}: {log}");
        } else {
            assert!(log.contains("pin_workers: fewer CPUs for this process than 2 workers"), "{log}");
        }
        server.stop();
    }
}
