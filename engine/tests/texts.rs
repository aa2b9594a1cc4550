//! The texts that operators and their scripts read: help, refusals, the ready line, the metrics. Each is held
//! against a snapshot in `snapshots/`. After an intended change, `INSTA_UPDATE=always cargo test --workspace
//! --test texts` writes the snapshots again, to be read in the diff.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use insta::assert_snapshot;
use offramp_testing::backend::{Backend, BackendBehavior};
use offramp_testing::identity::Identity;
use offramp_testing::server::Setup;

fn offramp(directory: &Path, words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_offramp"));
    command.current_dir(directory).args(words.split_whitespace()).output().expect("it runs")
}

/// A directory with a certificate and its key.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    Identity::ecdsa().write(directory.path());
    directory
}

fn help(words: &str) -> String {
    let output = offramp(Path::new("."), words);
    assert!(output.status.success(), "{words}: {output:?}");
    String::from_utf8(output.stdout).expect("help is text")
}

#[test]
fn help_of_each_command() {
    for command in ["", "serve", "check", "upgrade", "ticket-key", "conformance", "probe"] {
        let name = format!("help {command}");
        assert_snapshot!(name.trim().replace(' ', "_"), help(&format!("{command} --help")));
    }
}

/// A configuration that is good, for one line in front of it to spoil.
const GOOD: &str = "listen = \"127.0.0.1:0\"\nbackend = \"127.0.0.1:1\"\n\
                    [[identity]]\ncertificate = \"ecdsa.crt\"\nkey = \"ecdsa.key\"\n";

#[test]
fn refusals_of_a_configuration() {
    let directory = directory();
    let mut text = String::new();
    for first in [
        "",
        "worker = 2",
        "workers = \"two\"",
        "workers = 0",
        "alpn = \"msrp\"",
        "listen = ",
        "timeouts = 5",
        "identity = \"server.crt\"",
        "max_connections = 5000000",
        "mode = \"originate\"",
        "mode = \"originate\"\nserver_name = \"gateway.example\"",
        "mode = \"reencrypt\"\nserver_name = \"a.test\"\nserver_ca = \"a.pem\"\nclient_auth = \"require\"",
        "mode = \"plain\"",
        "mode = \"tls\"",
        "server_ca = \"ca.pem\"",
        "client_auth = \"require\"",
        "client_ca = \"ca.pem\"",
        "client_ca = \"ca.pem\"\nclient_auth = \"require\"",
        "fingerprints = [\"sha-1 AB\"]\nclient_auth = \"require\"",
        "offload = \"sometimes\"",
        "record_limit = 1",
        "session_lifetime = \"8\"",
        "ticket_keys = \"\"",
        "ticket_keys = \"ticket.keys\"",
        "socket_mode = \"0660\"",
        "accept_proxy = [\"unix:\"]",
        "user = \"no-such-user\"",
        "user = \"root\"",
        "group = \"root\"",
        "confine = \"yes\"",
    ] {
        fs::write(directory.path().join("offramp.toml"), format!("{first}\n{GOOD}")).expect("it is ours");
        let output = offramp(directory.path(), "check --config offramp.toml");
        let said = [output.stdout, output.stderr].concat();
        let first = first.replace('\n', "\n> ");
        writeln!(text, "> {first}\n{}", String::from_utf8(said).expect("text")).expect("a string takes all");
    }
    assert_snapshot!(text);
}

#[test]
fn refusals_of_a_command_line() {
    let directory = directory();
    let mut text = String::new();
    for words in [
        "serve",
        "serve --listen here --backend 127.0.0.1:1",
        "serve --listen 127.0.0.1:0 --backend unix:",
        "serve --listen 127.0.0.1:0 --backend 127.0.0.1:1",
        "serve --listen 127.0.0.1:0 --backend 127.0.0.1:1 --cert ecdsa.crt",
        "serve --listen 127.0.0.1:0 --backend 127.0.0.1:1 --cert none.crt --key ecdsa.key",
        "serve --listen 127.0.0.1:0 --backend 127.0.0.1:1 --cert ecdsa.key --key ecdsa.crt",
        "serve --listen unix: --backend 127.0.0.1:1",
        "serve --listen unix:s --backend 127.0.0.1:1 --mode plain --socket-mode rw-rw----",
        "serve --listen unix:s --backend 127.0.0.1:1 --mode plain --socket-owner no-such-user:root",
        "serve --listen unix:@s --backend 127.0.0.1:1 --mode plain --socket-owner root",
        "serve --listen unix:s --backend 127.0.0.1:1 --mode plain --accept-proxy 10.0.0.0/8",
        "serve --listen unix:s,127.0.0.1:0 --backend 127.0.0.1:1 --mode plain --accept-proxy unix:",
        "serve --listen unix:s --backend 127.0.0.1:1 --offload always --cert ecdsa.crt --key ecdsa.key",
        "serve --listen unix:ecdsa.crt --backend 127.0.0.1:1 --mode plain --workers 1 --max-connections 9",
        "serve --listen unix:none/s --backend 127.0.0.1:1 --mode plain --workers 1 --max-connections 9",
        "serve --no-such-flag",
        "check",
        "check --config none.toml",
    ] {
        let few = if words.contains("ecdsa.key") { " --max-connections 9" } else { "" };
        let output = offramp(directory.path(), &format!("{words}{few}"));
        assert!(output.stdout.is_empty(), "{words}: {output:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        writeln!(text, "> {words}\n{}: {said}", output.status).expect("a string takes all");
    }
    assert_snapshot!(text);
}

/// The ready line and the metrics of a server that has done nothing, without what depends on the host.
#[test]
fn ready_line_and_metrics() {
    let backend = Backend::start(BackendBehavior::Echo);
    let server = Setup::new(backend.addr).flags("--offload never").start();
    let ready = server.ready.replace(&server.addr.to_string(), "LISTEN");
    let ready = ready
        .replace(&server.admin().to_string(), "ADMIN")
        .replace(server.admin_socket().to_str().expect("UTF-8"), "SOCKET")
        .replace(&backend.addr.to_string(), "BACKEND");
    assert_snapshot!("ready_line", ready);
    let raw = server.metrics().raw;
    let raw = raw.replace(&server.addr.to_string(), "LISTEN").replace(&backend.addr.to_string(), "BACKEND");
    let raw = raw.replace(env!("CARGO_PKG_VERSION"), "VERSION");
    let (_, exposition) = raw.split_once("\r\n\r\n").expect("a header and a body");
    // Linux counts these if it has kernel TLS.
    let lines = exposition.lines().filter(|line| !line.contains("offramp_host_tls"));
    let lines: Vec<_> = lines.map(without_value).collect();
    assert_snapshot!("metrics", lines.join("\n"));
    server.stop();
}

/// A line of the exposition without its value, the directory of a certificate and the id of a ticket key.
fn without_value(line: &str) -> String {
    let series =
        if line.starts_with('#') { line } else { line.rsplit_once(' ').map_or(line, |(series, _)| series) };
    match (series.find('/'), series.rfind('/')) {
        (Some(from), Some(to)) if series.contains("certificate=") => {
            format!("{}{}", &series[..from], &series[to + 1..])
        }
        _ if series.contains("key=\"") => {
            let (name, rest) = series.split_once("key=\"").expect("it has one");
            format!("{name}key=\"KEY{}", rest.trim_start_matches(|c: char| c.is_ascii_hexdigit()))
        }
        _ => series.to_owned(),
    }
}
