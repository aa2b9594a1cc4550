//! How a run ends otherwise than by its plan: by a signal, by a standard output that is gone, by answers that
//! are none.

#![expect(clippy::unwrap_used, reason = "a test stops at what must not fail")]

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;

use offramp_loadgen::backend::Backend;
use offramp_loadgen::identity::Identity;
use serde_json::Value;

mod engine;
mod ring;

const LOADGEN: &str = env!("CARGO_BIN_EXE_loadgen");
const INTERRUPTED: Option<i32> = Some(7);
const NO_STDOUT: Option<i32> = Some(8);

/// `loadgen COMMAND` on `target`, believing anybody.
fn loadgen(command: &str, target: SocketAddr) -> Command {
    let mut loadgen = Command::new(LOADGEN);
    loadgen.args([command, "--target", &target.to_string(), "--insecure", "-c", "2", "-t", "1"]);
    loadgen.args(["--warm-up", "0"]);
    loadgen
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits for a second of progress, signals, and gives what was said since, and how it ended.
fn interrupt(child: &mut Child, signal: &str) -> (String, ExitStatus) {
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut progress = String::new();
    while !progress.contains(" 1 s ") {
        assert!(errors.read_line(&mut progress).unwrap() > 0, "it ended by itself: {progress}");
    }
    let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    (rest, child.wait().unwrap())
}

fn report(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_signal_ends_the_count_and_the_files_are_whole() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let more: [(&str, &str, &[&str]); 2] =
        [("INT", "handshake", &["--request", "echo"]), ("TERM", "message", &[])];
    for (signal, command, arguments) in more {
        for name in ["run.json", "run.csv", "run.html"] {
            fs::write(path(name), "of an earlier run").unwrap();
        }
        let mut child = loadgen(command, engine.local_addr().unwrap())
            .args(["-d", "1h", "--json", path("run.json").to_str().unwrap()])
            .args(["--csv", path("run.csv").to_str().unwrap(), "--html", path("run.html").to_str().unwrap()])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (errors, status) = interrupt(&mut child, signal);
        assert_eq!(status.code(), INTERRUPTED, "{errors}");
        assert!(errors.contains("a signal ended the run after"), "{errors}");
        let run = &report(&path("run.json"))["runs"][0];
        assert_eq!(run["interrupted"], true);
        assert_eq!(
            (&run["connections"]["failed"], &run["data"]["messages_unanswered"]),
            (&0.into(), &0.into())
        );
        let counted =
            run["handshakes"]["count"].as_u64().unwrap() + run["data"]["messages"].as_u64().unwrap();
        let seconds = run["seconds"].as_f64().unwrap();
        assert!(counted > 0 && seconds > 0.0 && seconds < 3600.0, "{counted} in {seconds} s");
        assert!(fs::read_to_string(path("run.csv")).unwrap().lines().count() > 1);
        assert!(fs::read_to_string(path("run.html")).unwrap().trim_end().ends_with("</html>"));
        assert_eq!(directory.path().read_dir().unwrap().count(), 3, "nothing is left beside them");
    }
}

#[test]
fn killed_run_leaves_no_report_of_an_earlier_run() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("run.json");
    fs::write(&file, "of an earlier run").unwrap();
    let mut child = loadgen("handshake", engine.local_addr().unwrap())
        .args(["-d", "1h", "--json", file.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (_, status) = interrupt(&mut child, "KILL");
    assert_eq!(status.code(), None);
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
}

/// A run of a moment whose standard output goes there.
fn printing(target: SocketAddr, stdout: impl Into<Stdio>, arguments: &[&str]) -> Output {
    let mut command = loadgen("handshake", target);
    command.args(["-d", "200ms", "-q", "--request", "echo"]).args(arguments).stdout(stdout);
    command.stderr(Stdio::piped()).output().unwrap()
}

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// A pipe that nobody reads.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn full_or_closed_stdout_has_an_exit_code_not_a_panic() {
    let (backend, identity) = (Backend::start(1).unwrap(), Identity::generate().unwrap());
    let Some(engine) = engine::start(backend.address(), &identity, true) else { return };
    let target = engine.local_addr().unwrap();
    for json in [&[][..], &["--json"]] {
        let output = printing(target, full(), json);
        assert_eq!(output.status.code(), NO_STDOUT, "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("standard output: No space left on device"));
        let output = printing(target, unread(), json);
        assert_eq!(output.status.code(), NO_STDOUT, "{}", text(&output.stderr));
        assert!(!text(&output.stderr).contains("standard output"), "quietly: {}", text(&output.stderr));
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("run.json");
    let output = printing(target, full(), &["--json", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), NO_STDOUT);
    assert!(report(&file)["runs"][0]["handshakes"]["count"].as_u64().unwrap() > 0, "the file is written");
    // Standard error, too.
    let mut command = loadgen("handshake", target);
    let output = command.args(["-d", "1500ms"]).stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(output.code(), NO_STDOUT);
    // What is wrong with the run weighs more.
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    assert_eq!(printing(nobody, full(), &["--give-up", "3"]).status.code(), Some(3));
    // Other commands.
    let report = Command::new(LOADGEN).arg("report").args([&file, &file]).stdout(full()).output().unwrap();
    assert_eq!(report.status.code(), NO_STDOUT, "{}", text(&report.stderr));
    let backend = Command::new(LOADGEN).arg("backend").stdout(unread()).output().unwrap();
    assert_eq!(backend.status.code(), NO_STDOUT, "{}", text(&backend.stderr));
}

/// Answers every connection with these words, in clear.
fn answering(words: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process.
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            thread::spawn(move || {
                let _ = socket.read(&mut [0; 1024]);
                let _ = socket.write_all(words.as_bytes());
            });
        }
    });
    address
}

#[test]
fn http_status_other_than_2xx_or_3xx_is_a_failure() {
    let identity = Identity::generate().unwrap();
    for (words, status, failure) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", Some("204"), None),
        ("HTTP/1.0 302 Found\r\n\r\n", Some("302"), None),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", Some("503"), Some("× http status 503")),
        ("SSH-2.0-OpenSSH_9.2p1\r\n", None, Some("× not an HTTP answer")),
    ] {
        let Some(engine) = engine::start(answering(words), &identity, true) else { return };
        let output = loadgen("handshake", engine.local_addr().unwrap())
            .args(["-d", "300ms", "-q", "--request", "http", "--give-up", "5", "--json"])
            .output()
            .unwrap();
        let (errors, report) = (text(&output.stderr), serde_json::from_slice(&output.stdout));
        let report: Value = report.unwrap();
        let run = &report["runs"][0];
        assert_eq!(output.status.code(), Some(if failure.is_some() { 3 } else { 0 }), "{errors}");
        assert!(failure.is_none_or(|failure| errors.contains(failure)), "{errors}");
        let seen: Vec<_> = run["http_statuses"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(seen, Vec::from_iter(status), "{run}");
    }
}

#[test]
fn without_io_uring_the_demo_says_what_forbids_it() {
    let inject = ["-f", "-qq", "-o", "/dev/null", "-e", "inject=io_uring_setup:error=EPERM"];
    let can = Command::new("strace").args(inject).arg("true").output();
    if !can.is_ok_and(|output| output.status.success()) {
        let refused = std::env::var("OFFRAMP_SKIPS_ARE_FAILURES").is_ok_and(|value| value == "1");
        assert!(!refused, "SKIP: strace cannot trace here (and OFFRAMP_SKIPS_ARE_FAILURES=1)");
        eprintln!("SKIP: strace cannot trace here; try: apt-get install strace");
        return;
    }
    for arguments in
        [&["demo", "--seconds", "2"][..], &["handshake", "--target", "127.0.0.1:9", "--insecure"]]
    {
        let output = Command::new("strace").args(inject).arg(LOADGEN).args(arguments).output().unwrap();
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains("kernel.io_uring_disabled=0") && errors.contains("seccomp"), "{errors}");
    }
}
