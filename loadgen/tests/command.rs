//! The commands as one starts them, against OpenSSL, nginx and an engine.

#![expect(clippy::unwrap_used, reason = "a test stops at what must not fail")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use assert_cmd::Command;
use offramp_loadgen::backend::Backend;
use offramp_loadgen::identity::{Identity, SERVER_NAME};
use offramp_loadgen::trust;
use serde_json::Value;

mod engine;
mod nginx;
mod peers;
mod ring;

/// What a command said.
struct Said {
    code: i32,
    report: Value,
    errors: String,
}

/// Runs a command for half a second on `target`, unless told otherwise, trusting `identity`, with its report
/// as JSON.
fn run(command: &str, target: SocketAddr, identity: &Identity, arguments: &[&str]) -> Said {
    let ca = identity.certificate_file();
    let usual = [("-d", "500ms"), ("-c", "4"), ("-t", "1"), ("--warm-up", "200ms"), ("--sni", SERVER_NAME)];
    let usual = usual.into_iter().filter(|(name, _)| !arguments.contains(name));
    let output = Command::cargo_bin("loadgen")
        .unwrap()
        .args([command, "--target", &target.to_string(), "--ca", ca.to_str().unwrap(), "--json"])
        .args(usual.flat_map(|(name, value)| [name, value]))
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    Said { code: output.status.code().unwrap(), report, errors }
}

fn count(run: &Value, what: &str) -> u64 {
    run["handshakes"][what].as_u64().unwrap()
}

#[test]
fn openssl_full_resumed_and_retry_are_distinguished() {
    let identity = Identity::generate().unwrap();
    if !ring::is_there() {
        return;
    }
    let Some(peer) = peers::openssl(&identity, &[]) else { return };
    for version in ["1.2", "1.3"] {
        for (share, kind) in [("0", "full"), ("1", "resumed")] {
            let arguments = ["--tls", version, "--resume", share, "--request", "http"];
            let said = run("handshake", peer.address, &identity, &arguments);
            let run = &said.report["runs"][0];
            assert_eq!(said.code, 0, "{}", said.errors);
            assert!(count(run, "count") > 0);
            assert_eq!(
                (count(run, kind), count(run, "as_asked")),
                (count(run, "count"), count(run, "count"))
            );
        }
    }
    drop(peer);
    let Some(peer) = peers::openssl(&identity, &["-groups", "P-384"]) else { return };
    let said = run("handshake", peer.address, &identity, &["--request", "http"]);
    let run = &said.report["runs"][0];
    assert_eq!((said.code, count(run, "hello_retry")), (0, count(run, "count")), "{}", said.errors);
}

#[test]
fn a_mix_on_nginx_is_as_asked_and_every_part_is_timed() {
    let identity = Identity::generate().unwrap();
    if !ring::is_there() {
        return;
    }
    let Some(peer) = nginx::start(&identity, None) else { return };
    // An open loop does not wait for the first tickets, so they need time on a slow machine.
    let mix = ["--tls", "1.2,1.3", "--resume", "0.5", "--request", "http", "--rate", "50..200"];
    let said = run("handshake", peer.address, &identity, &[&mix[..], &["--warm-up", "2s"]].concat());
    assert_eq!(said.code, 0, "{}", said.errors);
    let run = &said.report["runs"][0];
    for what in ["full", "resumed", "tls12", "tls13"] {
        assert!(count(run, what) > 0, "{what}: {run}");
    }
    for part in ["connect", "handshake", "first_byte", "ready", "total", "late_start"] {
        let latency = &run["latency_us"][part];
        assert!(latency["count"].as_u64().unwrap() > 0, "{part}");
        assert!(latency["p50"].as_u64() <= latency["p99_99"].as_u64(), "{part}");
    }
    // A peer that is waited for, in contrast to one that answers our end with a reset.
    let said = self::run("handshake", peer.address, &identity, &[]);
    assert!(said.report["runs"][0]["latency_us"]["close"]["count"].as_u64().unwrap() > 0);
}

#[test]
fn tickets_resume_only_on_hosts_that_share_the_key() {
    let identity = Identity::generate().unwrap();
    if !ring::is_there() || !peers::has("nginx") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let keys = [1, 1, 2].map(|value| nginx::ticket_key(directory.path(), value));
    let [first, same, other] = keys.map(|key| nginx::start(&identity, Some(&key)).unwrap());
    for version in ["1.2", "1.3"] {
        for (then, code) in [(&same, 0), (&other, 4)] {
            let then = then.address.to_string();
            let arguments = ["--tls", version, "--resume", "1", "--request", "http", "--then-target", &then];
            let said = run("handshake", first.address, &identity, &arguments);
            let run = &said.report["runs"][1];
            assert_eq!(said.code, code, "{version}: {}", said.errors);
            let offered = count(run, "foreign_tickets_offered");
            assert!(offered > 0, "{version}: {run}");
            let expected = if code == 0 { offered } else { 0 };
            assert_eq!(count(run, "foreign_tickets_resumed"), expected, "{version}");
        }
    }
}

#[test]
fn certificates_are_asked_for_shown_and_checked() {
    let identity = Identity::generate().unwrap();
    if !ring::is_there() {
        return;
    }
    let Some(peer) = peers::openssl(&identity, &["-Verify", "1"]) else { return };
    for version in ["1.2", "1.3"] {
        let none = run("handshake", peer.address, &identity, &["--tls", version, "--request", "http"]);
        assert_eq!(none.code, 3, "{}", none.errors);
        assert!(none.errors.contains("× alert ") || none.errors.contains("× closed"), "{}", none.errors);
        let arguments = ["--tls", version, "--request", "http", "--client-certs", "3"];
        let said = run("handshake", peer.address, &identity, &arguments);
        assert_eq!(said.code, 0, "{}", said.errors);
    }
    // A TLS 1.3 client is done before the server judges its certificate, and so ends the connection first.
    let none = run("handshake", peer.address, &identity, &["--tls", "1.3", "--request", "none"]);
    assert_eq!(none.code, 3, "{}", none.errors);
    assert!(none.errors.contains("× alert certificate_required"), "{}", none.errors);
    // None of them was a success in between.
    let arguments = ["--tls", "1.3", "--give-up", "20", "-d", "60s"];
    let none = run("handshake", peer.address, &identity, &arguments);
    assert!(none.errors.contains("broken off: too many connections fail: 20 in a row"), "{}", none.errors);
    drop(peer);
    let Some(peer) = peers::openssl(&identity, &[]) else { return };
    let right = trust::fingerprint(&identity.certificate).map(|byte| format!("{byte:02x}")).concat();
    let wrong = "ab".repeat(32);
    for (fingerprint, code, said) in [(&right, 0, ""), (&wrong, 3, "certificate: its fingerprint is")] {
        let target = peer.address.to_string();
        let output = Command::cargo_bin("loadgen")
            .unwrap()
            .args(["handshake", "--target", &target, "--fingerprint", fingerprint, "-d", "300ms"])
            .args(["--warm-up", "0", "-c", "2", "-t", "1"])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(errors.contains(said), "{errors}");
    }
}

#[test]
fn server_without_resumption_fails_unless_allowed() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, false) else { return };
    let arguments = ["--resume", "1", "--request", "echo", "--tls", "1.2,1.3", "--allow-full"];
    let said = run("handshake", engine.local_addr().unwrap(), &identity, &arguments[..6]);
    assert_eq!(said.code, 4, "{}", said.errors);
    assert!(said.errors.contains("NOT AS ASKED"), "{}", said.errors);
    // Long enough for a line of progress.
    let arguments = [&arguments[..], &["-d", "1500ms"]].concat();
    let said = run("handshake", engine.local_addr().unwrap(), &identity, &arguments);
    assert_eq!(said.code, 0, "{}", said.errors);
    assert!(said.errors.contains("  NOT RESUMED "), "{}", said.errors);
    let told = |second: &Value| second["not_resumed"].as_u64().unwrap() > 0;
    assert!(said.report["runs"][0]["series"].as_array().unwrap().iter().any(told));
}

#[test]
fn engine_relays_verified_transfers_and_messages() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let kinds: [(&str, &[&str]); 6] = [
        ("transfer", &["--direction", "up"]),
        ("transfer", &["--direction", "down"]),
        ("transfer", &["--direction", "both", "--tls", "1.2"]),
        ("message", &["--request-size", "10", "--answer-size", "100k"]),
        ("message", &["--every", "50ms", "--rst"]),
        ("message", &["--msrp", "--every", "50ms"]),
    ];
    for (command, arguments) in kinds {
        let said = run(command, engine.local_addr().unwrap(), &identity, arguments);
        assert_eq!(said.code, 0, "{arguments:?}: {}", said.errors);
        let run = &said.report["runs"][0];
        let data = &run["data"];
        assert!(data["up_bytes"].as_u64().unwrap() + data["down_bytes"].as_u64().unwrap() > 0, "{data}");
        if command == "message" {
            assert_eq!(data["messages"], run["latency_us"]["message"]["count"], "{arguments:?}");
            assert!(data["messages"].as_u64().unwrap() > 0, "{arguments:?}");
        }
    }
    let wrong =
        run("transfer", engine.local_addr().unwrap(), &identity, &["--direction", "both", "--give-up", "0"]);
    assert_eq!(wrong.code, 2, "{}", wrong.errors);
}

#[test]
fn changed_bytes_have_their_own_exit_code() {
    let identity = Identity::generate().unwrap();
    // An echo is no sink, and its answer to a message is not the pattern.
    let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = echo.local_addr().unwrap();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for socket in echo.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &socket, &mut &socket));
        }
    });
    let Some(engine) = engine::start(address, &identity, true) else { return };
    for (command, code) in [("message", 5), ("transfer", 5)] {
        let said = run(command, engine.local_addr().unwrap(), &identity, &["--give-up", "3"]);
        assert_eq!(said.code, code, "{}", said.errors);
        assert!(said.errors.contains("LOST OR CHANGED BYTES"), "{}", said.errors);
    }
    // Where an echo is what is asked for, any will do.
    let said = run("transfer", engine.local_addr().unwrap(), &identity, &["--direction", "both"]);
    assert_eq!(said.code, 0, "{}", said.errors);
}

#[test]
fn csv_lines_have_times_and_html_is_self_contained() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (csv, html, json) = (path("a.csv"), path("a.html"), path("a.json"));
    let arguments = ["--request", "echo", "--csv", &csv, "--html", &html, "--json", &json, "-d", "1500ms"];
    let said = run_for_files(engine.local_addr().unwrap(), &identity, &arguments);
    assert_eq!(said, 0);
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap();
    let (csv, html) = (read(&csv), read(&html));
    let cells: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert!(cells.len() >= 2 && cells.iter().all(|line| line.len() == cells[0].len()), "{csv}");
    assert!(cells[1..].windows(2).all(|pair| pair[0][1] < pair[1][1]), "time goes on: {csv}");
    assert!(cells[1][0].ends_with('Z'), "{csv}");
    assert!(html.matches("<svg").count() >= 3, "plots of distribution, tail and rate");
    let outside = html.replace("http://www.w3.org/2000/svg", "");
    assert!(!outside.contains("http://") && !outside.contains("https://") && !outside.contains("src="));
    let output = Command::cargo_bin("loadgen").unwrap().args(["report", &json, &json]).output().unwrap();
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && table.contains("handshakes/s") && table.contains("1.00"), "{table}");
}

/// As [`run`], but with what the arguments say about JSON.
fn run_for_files(target: SocketAddr, identity: &Identity, arguments: &[&str]) -> i32 {
    let ca = identity.certificate_file();
    let output = Command::cargo_bin("loadgen")
        .unwrap()
        .args(["handshake", "--target", &target.to_string(), "--sni", SERVER_NAME])
        .args(["--ca", ca.to_str().unwrap(), "--warm-up", "0"])
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("own CPU"), "a line a second: {errors}");
    output.status.code().unwrap()
}

/// As one makes them with OpenSSL: an authority that is a server's own certificate, version 1, a short key.
#[test]
fn certificates_of_plain_openssl_are_accepted() {
    if !ring::is_there() || !peers::has("openssl") {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let openssl = |words: &str| {
        let mut command = std::process::Command::new("openssl");
        let output = command.args(words.split(' ')).current_dir(files.path()).output().unwrap();
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let path = |name: &str| files.path().join(name).display().to_string();
    let name = format!("-subj /CN={SERVER_NAME} -nodes");
    let own = format!("req -x509 {name} -addext subjectAltName=DNS:{SERVER_NAME} -newkey");
    openssl(&format!("{own} ec -pkeyopt ec_paramgen_curve:P-256 -keyout ca.key -out ca.crt"));
    openssl(&format!("{own} rsa:1024 -keyout short.key -out short.crt"));
    openssl(&format!("req -new {name} -newkey rsa:2048 -keyout v1.key -out v1.csr"));
    openssl("x509 -req -in v1.csr -signkey v1.key -out v1.crt");
    let identity = Identity::generate().unwrap();
    for (server, trust, code) in [
        ("ca", vec!["--ca".to_owned(), path("ca.crt")], 0),
        ("ca", vec!["--ca".to_owned(), path("short.crt")], 3),
        ("ca", vec!["--ca".to_owned(), path("ca.crt"), "--sni".to_owned(), "other.test".to_owned()], 3),
        ("ca", vec!["--insecure".to_owned()], 0),
        ("v1", vec!["--insecure".to_owned()], 0),
        ("short", vec!["--insecure".to_owned()], 0),
    ] {
        let (certificate, key) = (path(&format!("{server}.crt")), path(&format!("{server}.key")));
        let words = ["-cert", &certificate, "-key", &key, "-cipher", "ALL:@SECLEVEL=0"];
        let peer = peers::openssl(&identity, &words).unwrap();
        for version in ["1.2", "1.3"] {
            let target = peer.address.to_string();
            let sni =
                if trust.iter().any(|word| word == "--sni") { None } else { Some(["--sni", SERVER_NAME]) };
            let mut command = Command::cargo_bin("loadgen").unwrap();
            command.args(["handshake", "--target", &target, "--tls", version, "-d", "200ms", "-c", "1"]);
            command.args(["-t", "1", "--warm-up", "0", "--give-up", "2"]).args(sni.into_iter().flatten());
            let output = command.args(&trust).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{server} {trust:?} {version}: {said}");
        }
    }
}

#[test]
fn find_max_reports_a_rate_or_that_there_is_none() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let search = |p99: &str, rate: &str| {
        let arguments = ["--find-max", "--p99", p99, "--rate", rate, "--request", "echo"];
        run("handshake", engine.local_addr().unwrap(), &identity, &arguments)
    };
    let none = search("1us", "20");
    assert_eq!(none.code, 6, "{}", none.errors);
    assert!(none.errors.contains("no rate keeps p99 within"), "{}", none.errors);
    let steps = none.report["search"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["refused"].is_string()), "{steps:?}");
    // More than any machine needs, so that what ends it is the number of connections at once.
    let found = search("5s", "50");
    assert_eq!(found.code, 0, "{}", found.errors);
    assert!(found.errors.contains("highest sustained rate: "), "{}", found.errors);
    let steps = found.report["search"].as_array().unwrap();
    let (sustained, refused): (Vec<_>, Vec<_>) = steps.iter().partition(|step| step["refused"].is_null());
    assert!(!sustained.is_empty() && !refused.is_empty(), "{steps:?}");
    assert_eq!(found.report["runs"].as_array().unwrap().len(), 1, "the best one");
}

#[test]
fn what_cannot_be_done_is_said_with_what_to_do() {
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().to_string();
    let load = |command, arguments: &[&'static str]| -> Vec<String> {
        let target = [command, "--target", &nobody, "--insecure"];
        target.iter().chain(arguments).map(|word| (*word).to_owned()).collect()
    };
    let cases: [(&[&str], i32, &str); 8] = [
        (&["handshake", "--target", "localhost"], 2, "HOST:PORT"),
        (&["handshake", "--target", &nobody], 1, "--insecure"),
        (&["handshake", "--target", &nobody, "--insecure", "--rate", "fast"], 2, "100..20000"),
        (&["handshake", "--target", &nobody, "--insecure", "--find-max"], 2, "--p99"),
        (&["handshake", "--target", &nobody, "--insecure", "--suites", "RC4"], 1, "TLS_AES_128_GCM_SHA256"),
        (&["handshake", "--target", &nobody, "--insecure", "--rst", "--resume", "1"], 1, "--request echo"),
        (&["handshake", "--target", &nobody, "--insecure", "--source", "192.0.2.1"], 1, "ip address"),
        (&["report", "/nonexistent", "/nonexistent"], 1, "/nonexistent"),
    ];
    let more = [
        (load("message", &["--every", "0"]), 1, "--every"),
        (load("message", &["--msrp", "--every", "0"]), 1, "--every"),
        (load("message", &["--request-size", "0", "--answer-size", "0"]), 1, "--answer-size"),
        (load("handshake", &["--csv", "/nonexistent/a.csv"]), 1, "/nonexistent/a.csv: cannot be written"),
        (load("handshake", &["--html", "/nonexistent/a.html"]), 1, "/nonexistent/a.html: cannot be written"),
        (load("handshake", &["--json", "/nonexistent/a.json"]), 1, "/nonexistent/a.json: cannot be written"),
        (load("handshake", &["--find-max", "--p99", "1s", "--rate", "1..2"]), 1, "no ramp"),
        (
            load("handshake", &["--find-max", "--p99", "1s", "--then-target", "localhost:1"]),
            2,
            "--then-target",
        ),
    ];
    let cases =
        cases.map(|(words, code, hint)| (words.iter().map(|word| (*word).to_owned()).collect(), code, hint));
    for (arguments, code, hint) in cases.into_iter().chain(more) {
        let arguments: Vec<String> = arguments;
        let output = Command::cargo_bin("loadgen").unwrap().args(&arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(!errors.contains("× refused"), "said before anything is tried: {errors}");
        assert!(errors.contains(hint), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_connection_that_fails_has_its_reason_named() {
    if !ring::is_there() {
        return;
    }
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    // The kernel completes connections that nobody accepts.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let closing = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let closes = closing.local_addr().unwrap();
    // Ends with the test's process.
    std::thread::spawn(move || closing.incoming().flatten().for_each(drop));
    let named = [
        (nobody, "× refused"),
        (silent.local_addr().unwrap(), "× timeout (handshake)"),
        (closes, "(handshake)"),
    ];
    for (target, name) in named {
        let output = Command::cargo_bin("loadgen")
            .unwrap()
            .args(["handshake", "--target", &target.to_string(), "--insecure", "--give-up", "3"])
            .args(["--timeout", "200ms", "-t", "1", "-c", "2"])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{errors}");
        assert!(errors.contains(name) && errors.contains("broken off"), "{name}: {errors}");
    }
}

#[test]
fn self_connect_is_a_failure_with_its_name() {
    const DEAD: u16 = 40_032;
    if !ring::is_there() {
        return;
    }
    let identity = Identity::generate().unwrap();
    let ca = identity.certificate_file();
    // In a network namespace of its own the kernel has one local port to choose, which is the target's.
    let script = format!(
        "ip link set lo up && echo {DEAD} {DEAD} >/proc/sys/net/ipv4/ip_local_port_range && \
         exec \"$0\" \"$@\""
    );
    let namespace = |ways: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(ways).args(["sh", "-c", &script]);
        command
    };
    let ways = [&["--net"][..], &["--user", "--map-root-user", "--net"]];
    let works =
        |ways: &&&[&str]| namespace(ways).arg("true").output().is_ok_and(|done| done.status.success());
    let Some(ways) = ways.iter().find(works) else {
        // No program has that name, so that this is a skip.
        peers::has("usable unshare --net");
        return;
    };
    let output = namespace(ways)
        .arg(assert_cmd::cargo::cargo_bin("loadgen"))
        .args(["handshake", "--target", &format!("127.0.0.1:{DEAD}"), "--ca", ca.to_str().unwrap(), "-q"])
        .args(["--sni", SERVER_NAME, "-c", "1", "-t", "1", "-d", "1s", "--warm-up", "0", "--give-up", "3"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains("connected to itself: nobody listens on the target's port"), "{errors}");
}
