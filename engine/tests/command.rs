//! The `offramp` command from outside: what it says and how it exits, short of serving.
#![expect(clippy::unwrap_used, reason = "clippy takes only the test functions themselves for tests")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use tempfile::TempDir;

/// A directory with a certificate and its key.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        fs::write(directory.path().join("server.crt"), made.cert.pem()).unwrap();
        let key = directory.path().join("server.key");
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Checks a file with this text.
    fn check(&self, text: &str) -> (Output, PathBuf) {
        let path = self.path("offramp.toml");
        fs::write(&path, text).unwrap();
        (offramp().arg("check").arg("--config").arg(&path).output().unwrap(), path)
    }

    /// `offramp serve` with an identity and a backend.
    fn serve(&self) -> Command {
        let mut command = offramp();
        command.args(["serve", "--backend", "127.0.0.1:1", "--workers", "1", "--max-connections", "16"]);
        command.arg("--cert").arg(self.path("server.crt")).arg("--key").arg(self.path("server.key"));
        command
    }
}

fn offramp() -> Command {
    let mut command = Command::cargo_bin("offramp").unwrap();
    command.timeout(std::time::Duration::from_secs(60));
    command
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// The refusal on stderr, which must be the only thing that is said, and the exit code.
fn refusal(output: &Output) -> (i32, &str) {
    assert_eq!(stdout(output), "", "nothing on stdout when refusing");
    (output.status.code().unwrap(), std::str::from_utf8(&output.stderr).unwrap())
}

const GOOD: &str = "listen = \"127.0.0.1:0\"\nbackend = \"127.0.0.1:1\"\n\
                    [[identity]]\ncertificate = \"server.crt\"\nkey = \"server.key\"\n";

#[test]
fn check_says_one_line_about_a_good_file() {
    let place = Place::new();
    let (output, path) = place.check(GOOD);
    assert_eq!(stdout(&output), format!("offramp check: {} is good: 1 identity\n", path.display()));
    assert!(output.status.success());
}

#[test]
fn check_names_file_line_key_value_and_allowed_range() {
    let place = Place::new();
    let (output, path) = place.check(&format!("workers = 0\n{GOOD}"));
    let (code, text) = refusal(&output);
    let expected = format!(
        "offramp: {}:1: workers = \"0\" is refused: allowed is a whole number from 1 to 1024\n",
        path.display()
    );
    assert_eq!((code, text), (1, expected.as_str()));
}

#[test]
fn check_refuses_an_unknown_key_and_lists_known_keys() {
    let place = Place::new();
    let (output, path) = place.check(&format!("worker = 2\n{GOOD}"));
    let (code, text) = refusal(&output);
    assert_eq!(code, 1);
    let start = format!("offramp: {}:1: unknown key worker: allowed here are listen", path.display());
    assert!(text.starts_with(&start) && text.contains(" workers,"), "{text}");
}

#[test]
fn check_refuses_a_file_that_is_not_there() {
    let output = offramp().args(["check", "--config", "/nowhere/offramp.toml"]).output().unwrap();
    let (code, text) = refusal(&output);
    assert_eq!(code, 1);
    assert!(text.starts_with("offramp: /nowhere/offramp.toml: cannot be read: No such file"), "{text}");
}

#[test]
fn serve_refuses_unequal_numbers_of_certs_and_keys() {
    let place = Place::new();
    let mut command = place.serve();
    let output = command.args(["--listen", "127.0.0.1:0", "--cert", "other.crt"]).output().unwrap();
    let (code, text) = refusal(&output);
    assert_eq!(code, 1);
    assert!(text.starts_with("offramp: 2 certificate(s) (--cert) but 1 key(s) (--key)"), "{text}");
}

#[test]
fn serve_refuses_a_bad_flag_beside_a_good_file() {
    let place = Place::new();
    let path = place.path("offramp.toml");
    fs::write(&path, GOOD).unwrap();
    let mut command = offramp();
    command.arg("serve").arg("--config").arg(&path).args(["--idle-timeout", "forever"]);
    let output = command.output().unwrap();
    let (code, text) = refusal(&output);
    assert_eq!(code, 1);
    let start =
        "offramp: --idle-timeout: timeouts.idle = \"forever\" is refused: allowed is a whole number with";
    assert!(text.starts_with(start), "{text}");
}

#[test]
fn serve_needs_to_be_told_where_to_listen() {
    let output = Place::new().serve().output().unwrap();
    let (code, text) = refusal(&output);
    assert_eq!(code, 1);
    assert!(text.starts_with("offramp: listen is missing: give --listen"), "{text}");
}

#[test]
fn a_command_line_that_makes_no_sense_is_exit_code_2() {
    assert_eq!(offramp().args(["serve", "--no-such-flag"]).output().unwrap().status.code(), Some(2));
    assert_eq!(offramp().output().unwrap().status.code(), Some(2));
}

#[test]
fn serve_refuses_a_port_in_use_and_names_a_command() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let place = Place::new();
    let output =
        place.serve().args(["--offload", "never", "--listen", &address.to_string()]).output().unwrap();
    let (code, text) = refusal(&output);
    assert_eq!(code, 1);
    let port = address.port();
    assert!(text.starts_with(&format!("offramp: --listen: listen: {address} is in use")), "{text}");
    assert!(text.contains(&format!("ss -ltnp 'sport = :{port}'")), "{text}");
}

#[test]
fn serve_refuses_offload_always_without_kernel_tls() {
    // Where the kernel can, the port in use is what stops the start.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place::new();
    let address = taken.local_addr().unwrap().to_string();
    let output = place.serve().args(["--listen", &address, "--offload", "always"]).output().unwrap();
    let (code, text) = refusal(&output);
    assert_eq!(code, 1);
    let found = offramp::sys::probe::ktls();
    if found.tx_reason.is_none() && found.rx_reason.is_none() {
        assert!(text.contains("is in use"), "{text}");
        return;
    }
    assert!(text.starts_with("offramp: --offload: offload = always, but the kernel cannot carry "), "{text}");
    assert!(text.contains("try: ") && text.contains("--offload auto"), "{text}");
}

#[test]
fn probe_tells_a_person_and_a_program_the_same() {
    let table = offramp().arg("probe").output().unwrap();
    assert!(table.status.success());
    let table = stdout(&table);
    let json = offramp().args(["probe", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(table.starts_with(&format!("kernel {}\n", json["kernel"].as_str().unwrap())), "{table}");
    let checks = json["checks"].as_array().unwrap();
    assert!(checks.len() > 25, "{checks:?}");
    for check in checks {
        let name = check["name"].as_str().unwrap();
        assert!(table.lines().any(|line| line.trim_start().starts_with(name)), "{name} is not in:\n{table}");
        assert!(["ok", "degraded", "missing", "untried"].contains(&check["verdict"].as_str().unwrap()));
    }
}

#[test]
fn a_full_stdout_is_exit_code_1_and_no_panic() {
    let place = Place::new();
    let config = place.path("offramp.toml");
    fs::write(&config, GOOD).unwrap();
    let keys = place.path("ticket.keys");
    assert!(offramp().args(["ticket-key", "new"]).arg(&keys).output().unwrap().status.success());
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for words in [
        vec!["check", "--config", config.to_str().unwrap()],
        vec!["probe"],
        vec!["probe", "--json"],
        vec!["conformance"],
        vec!["conformance", "--json"],
        vec!["ticket-key", "show-ids", keys.to_str().unwrap()],
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_offramp"));
        let output = command.args(&words).stdout(full()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {errors}");
        assert_eq!(errors, "offramp: standard output: No space left on device (os error 28)\n", "{words:?}");
        // Neither takes anything, as with `> log 2>&1` on a full disk.
        let status = command.stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(1), "{words:?}");
        // A reader that is gone is no failure.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).stderr(std::process::Stdio::piped()).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
    }
}

#[test]
fn the_example_is_a_whole_configuration() {
    let place = Place::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("offramp.example.toml");
    let (output, path) = place.check(&fs::read_to_string(example).unwrap());
    assert_eq!(stdout(&output), format!("offramp check: {} is good: 1 identity\n", path.display()));
}

/// As git runs the programs of its commands: the one beside itself, or the one in PATH.
#[test]
fn ticket_key_agent_runs_or_is_reported_missing() {
    let place = Place::new();
    let copy = place.path("offramp");
    fs::copy(env!("CARGO_BIN_EXE_offramp"), &copy).unwrap();
    let run = |path: &Path| {
        let mut command = std::process::Command::new(&copy);
        command.env("PATH", path).args(["--log-level", "debug", "ticket-key", "agent"]);
        command.args(["--file", "x", "--help"]).output().unwrap()
    };
    let none = place.path("none");
    fs::create_dir(&none).unwrap();
    let output = run(&none);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("offramp-ticket-key-agent is not installed"), "{errors}");
    for directory in [none.clone(), place.directory.path().to_owned()] {
        let agent = directory.join("offramp-ticket-key-agent");
        fs::write(&agent, "#!/bin/sh\necho \"$0 $*\"\nexit 7\n").unwrap();
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
        let output = run(&none);
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        assert_eq!(stdout(&output), format!("{} --log-level debug --file x --help\n", agent.display()));
    }
}
