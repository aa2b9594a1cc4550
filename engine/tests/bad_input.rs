//! Files that are not what they should be, given to `offramp check` and `offramp serve`: each is refused by
//! name, with the line where there is one, and with what is allowed; and no output shows a secret.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A directory with an identity and a file of ticket keys, in which the command runs.
struct Place {
    directory: TempDir,
}

const GOOD: &str = "listen = \"127.0.0.1:0\"\nbackend = \"127.0.0.1:1\"\nworkers = 1\nmax_connections = 16\n\
                    offload = \"never\"\n";
/// Where the next line stands.
const NEXT: usize = 6;
const IDENTITY: &str = "[[identity]]\ncertificate = \"server.crt\"\nkey = \"server.key\"\n";

impl Place {
    fn new() -> Self {
        let place = Self { directory: TempDir::new().unwrap() };
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        place.write("server.crt", made.cert.pem());
        place.write_keys("server.key", made.signing_key.serialize_pem());
        place.run(&["ticket-key", "new", "ticket.keys"]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// With the mode that a file of keys must have.
    fn write_keys(&self, name: &str, content: impl AsRef<[u8]>) {
        self.write(name, content);
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_offramp"));
        command.current_dir(self.directory.path());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command().args(words).output().unwrap()
    }

    /// `check` and `serve` with these lines behind the good ones: what both say on refusing.
    fn refusals(&self, lines: &str) -> [String; 2] {
        self.write("offramp.toml", format!("{GOOD}{lines}"));
        [["check", "--config", "offramp.toml"], ["serve", "--config", "offramp.toml"]].map(|words| {
            // One that is not refused serves for ever.
            let mut command = assert_cmd::Command::from_std(self.command());
            let output = command.args(words).timeout(std::time::Duration::from_secs(60)).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{words:?} with {lines}: {said}");
            assert!(output.stdout.is_empty(), "{words:?} with {lines}: nothing on stdout when refusing");
            said
        })
    }

    /// The command for a user without privileges, who is another one where this is root; that user's
    /// directory is `unprivileged`.
    fn unprivileged(&self) -> (PathBuf, Option<u32>) {
        let nobody = 65_534;
        let directory = self.path("unprivileged");
        fs::create_dir(&directory).unwrap();
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            return (env!("CARGO_BIN_EXE_offramp").into(), None);
        }
        std::os::unix::fs::chown(&directory, Some(nobody), Some(nobody)).unwrap();
        fs::set_permissions(self.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Where cargo builds, nobody may have no access. Copied by another process: one of ours that is
        // started by a test beside this would hold the copy open for writing, and it could not be run.
        let mut copy = Command::new("cp");
        copy.arg(env!("CARGO_BIN_EXE_offramp")).arg(self.path("offramp"));
        assert!(copy.status().unwrap().success());
        (self.path("offramp"), Some(nobody))
    }

    fn assert_refused(&self, lines: &str, parts: &[&str]) {
        for said in self.refusals(lines) {
            for part in parts {
                assert!(said.contains(part), "no {part:?} in: {said}");
            }
        }
    }
}

/// The words of a key file that nobody may see.
fn secrets(file: &str) -> Vec<String> {
    let keys = file.lines().filter(|line| line.starts_with("key "));
    let secrets: Vec<String> = keys.filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect();
    assert!(secrets.iter().all(|secret| secret.len() == 96), "{} secrets", secrets.len());
    secrets
}

/// Not even a part of one.
fn assert_shows_none(said: &str, secrets: &[String]) {
    for secret in secrets {
        let part = (0..=secret.len() - 16).map(|at| &secret[at..at + 16]).find(|part| said.contains(*part));
        assert!(part.is_none(), "a secret is shown: {said}");
    }
}

#[test]
fn bad_ticket_key_file_error_has_line_but_no_secret() {
    let place = Place::new();
    let good = place.read("ticket.keys");
    let key = good.lines().find(|line| line.starts_with("key ")).unwrap().to_owned();
    let lines = good.lines().count();
    fs::create_dir(place.path("directory")).unwrap();
    fs::set_permissions(place.path("directory"), fs::Permissions::from_mode(0o700)).unwrap();
    place.write("loose", &good);
    fs::set_permissions(place.path("loose"), fs::Permissions::from_mode(0o644)).unwrap();
    place.write_keys("large", "#".repeat(65_537));
    place.write_keys("binary", b"key \xff\xfe");
    place.write_keys("empty", "# none\n");
    let last = format!("malformed:{}: ", lines + 1);
    let words: Vec<&str> = key.split(' ').collect();
    let [_, name, from, until, secret] = words[..] else { panic!("five words: {key}") };
    let many = (1..=33).map(|nth| format!("key {nth:032x} {from} {until} {nth:032x}{nth:064x}\n"));
    place.write_keys("many", many.collect::<String>());
    let mut cases = vec![
        ("missing", None, "missing: cannot be read: No such file"),
        (
            "loose",
            None,
            "loose: its mode is 0644, and others than its owner must have no access; try: chmod 600",
        ),
        ("directory", None, "directory: is no regular file; make one with: offramp ticket-key new FILE"),
        ("large", None, "large: cannot be read: it is longer than 65536 bytes"),
        ("binary", None, "binary: cannot be read: it is not text"),
        ("empty", None, "empty: 0 keys; allowed is 1 to 32"),
        ("many", None, "many: 33 keys; allowed is 1 to 32"),
    ];
    cases.extend([
        ("malformed", Some(key.replace("key ", "kay ")), "not the word `key` and four more"),
        ("malformed", Some(format!("{key} {secret}")), "not the word `key` and four more"),
        ("malformed", Some(key.replace(name, &name[1..])), "its name is not 32 hexadecimal digits"),
        ("malformed", Some(key.replace(from, "yesterday")), "FROM is no time"),
        ("malformed", Some(key.replace(until, "2026-13-40")), "UNTIL is no time"),
        ("malformed", Some(key.replace(until, from)), "UNTIL is not later than FROM"),
        ("malformed", Some(key.replace(secret, &secret[2..])), "its secret is not 96 hexadecimal digits"),
        ("malformed", Some(key.replace(secret, &format!("{}xy", &secret[2..]))), "is not 96 hexadecimal"),
        ("malformed", Some(key.replace(secret, &"7".repeat(96))), "its secret is one byte over and over"),
        ("malformed", Some(key.clone()), "a key with this name or secret stands above"),
    ]);
    for (name, line, part) in cases {
        let is_a_line = line.is_some();
        if let Some(line) = line {
            place.write_keys(name, format!("{good}{line}\n"));
        }
        for said in place.refusals(&format!("ticket_keys = \"{name}\"\n{IDENTITY}")) {
            assert!(said.contains(part), "{name}: no {part:?} in: {said}");
            assert!(!is_a_line || said.contains(&last), "no {last:?} in: {said}");
            assert_shows_none(&said, &[secret.to_owned()]);
        }
    }
    // What was changed is what was wrong.
    place.write("offramp.toml", format!("{GOOD}ticket_keys = \"ticket.keys\"\n{IDENTITY}"));
    assert!(place.run(&["check", "--config", "offramp.toml"]).status.success());
}

#[test]
fn ticket_key_needs_no_privilege_and_shows_no_secret() {
    let place = Place::new();
    let (binary, nobody) = place.unprivileged();
    let directory = place.path("unprivileged");
    let run = |words: &[&str]| {
        let mut command = Command::new(&binary);
        command.current_dir(&directory).arg("ticket-key").args(words);
        if let Some(nobody) = nobody {
            command.uid(nobody).gid(nobody);
        }
        let output = command.output().unwrap();
        let said = [&output.stdout[..], &output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let file = directory.join("t.keys");
    let mut said = Vec::new();
    for (words, code) in [
        (&["new", "t.keys"][..], 0),
        (&["show-ids", "t.keys"], 0),
        (&["rotate", "t.keys"], 0),
        (&["rotate", "--start-in", "1h", "t.keys"], 0),
        (&["show-ids", "t.keys"], 0),
        (&["new", "t.keys"], 1),
        (&["rotate", "--start-in", "8000y", "t.keys"], 2),
    ] {
        let (status, text) = run(words);
        assert_eq!(status, Some(code), "{words:?}: {text}");
        said.push(text);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600, "after {words:?}");
    }
    let content = fs::read_to_string(&file).unwrap();
    let keys = secrets(&content);
    assert_eq!(keys.len(), 3, "one made, two added");
    said.iter().for_each(|text| assert_shows_none(text, &keys));
    // The names are what it is for.
    for line in content.lines().filter(|line| line.starts_with("key ")) {
        let name = line.split(' ').nth(1).unwrap();
        assert!(said[4].contains(name), "{name} is not in {}", said[4]);
    }
    // A mistake in the file is named by its line, and the line is not quoted.
    fs::write(&file, content.replace("key ", "key key ")).unwrap();
    for words in [&["show-ids", "t.keys"][..], &["rotate", "t.keys"]] {
        let (status, text) = run(words);
        assert_eq!(status, Some(1), "{words:?}: {text}");
        assert!(text.contains("t.keys:3: not the word `key`"), "{words:?}: {text}");
        assert_shows_none(&text, &keys);
    }
}

#[test]
fn a_unix_socket_that_may_not_be_made_is_refused() {
    let place = Place::new();
    let (binary, nobody) = place.unprivileged();
    let shut = place.path("shut");
    fs::create_dir(&shut).unwrap();
    fs::set_permissions(&shut, fs::Permissions::from_mode(0o555)).unwrap();
    for (path, flags, part) in [
        (
            "unprivileged/s",
            "--socket-owner root:root",
            "cannot be given socket_owner 0:0: EPERM; only root may",
        ),
        ("shut/s", "--socket-mode 0600", "this user may not write to the directory shut; try: ls -ld shut"),
    ] {
        let words = "serve --backend 127.0.0.1:1 --mode plain --workers 1 --max-connections 9";
        let mut command = Command::new(&binary);
        command.current_dir(place.directory.path()).args(words.split(' ')).args(flags.split(' '));
        command.args(["--listen", &format!("unix:{path}")]);
        if let Some(nobody) = nobody {
            command.uid(nobody).gid(nobody);
        }
        let mut command = assert_cmd::Command::from_std(command);
        let output = command.timeout(std::time::Duration::from_secs(60)).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let start = format!("offramp: --listen: listen: unix:{path} cannot be ");
        assert!(said.contains(&start) && said.contains(part), "no {part:?} in: {said}");
        assert!(!place.path(path).exists());
    }
}

/// The engine serves, with full handshakes: a warning, and no refusal.
#[test]
fn ticket_keys_without_a_sealing_key_are_warned_of() {
    let place = Place::new();
    let key = |name: &str, times: &str| {
        format!("key {} {times} {}\n", name.repeat(32), format!("{name}1b2").repeat(24))
    };
    let (over, to_come) = ("2001-01-01T00:00:00Z 2001-01-02T00:00:00Z", "9001-01-01T00:00:00Z");
    let cases = [
        (key("a", over), "all.keys: no key seals, and every handshake is a full one", "rotate all.keys"),
        (
            format!("{}{}", key("a", over), key("b", &format!("{to_come} 9001-01-02T00:00:00Z"))),
            "all.keys: no key seals from ",
            "until 9001-01-01T00:00:00Z",
        ),
    ];
    place.write("offramp.toml", format!("{GOOD}ticket_keys = \"all.keys\"\n{IDENTITY}"));
    for (content, what, more) in cases {
        place.write_keys("all.keys", &content);
        let output = place.run(&["check", "--config", "offramp.toml"]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && said.contains("offramp.toml is good"), "{said}");
        assert!(said.contains(&format!("warning: {what}")) && said.contains(more), "no {what:?} in: {said}");
        assert_shows_none(&said, &secrets(&content));
    }
    place.write("offramp.toml", format!("{GOOD}ticket_keys = \"ticket.keys\"\n{IDENTITY}"));
    let output = place.run(&["check", "--config", "offramp.toml"]);
    assert!(!String::from_utf8(output.stdout).unwrap().contains("warning"), "one that seals");
}

#[test]
fn weak_or_unknown_fingerprint_hash_is_refused() {
    let place = Place::new();
    let bytes = |count: usize| vec!["AB"; count].join(":");
    let allowed = "allowed is sha-256, sha-384 or sha-512";
    for bad in [
        format!("md5 {}", bytes(16)),
        format!("sha-1 {}", bytes(20)),
        format!("sha-224 {}", bytes(28)),
        format!("sha-3 {}", bytes(32)),
        format!("sha-256 {}", bytes(31)),
        format!("sha-256 {}", "AB".repeat(32)),
        "sha-256".to_owned(),
    ] {
        let line = NEXT + 1;
        for said in
            place.refusals(&format!("client_auth = \"require\"\nfingerprints = [\"{bad}\"]\n{IDENTITY}"))
        {
            let start = format!("offramp.toml:{line}: fingerprints = \"{bad}\" is refused: {allowed}");
            assert!(said.contains(&start), "no {start:?} in: {said}");
            assert!(said.contains("md5 and sha-1 are too weak"), "{said}");
        }
    }
}

#[test]
fn ca_bundle_may_have_text_but_no_broken_certificate() {
    let place = Place::new();
    let certificate = place.read("server.crt");
    let lines = format!("client_auth = \"require\"\nclient_ca = \"ca.pem\"\n{IDENTITY}");
    place.write("offramp.toml", format!("{GOOD}{lines}"));
    for good in [
        format!("rubbish\n{certificate}more of it\n\n# and\n{certificate}"),
        format!("{certificate}{}", place.read("server.key")),
    ] {
        place.write("ca.pem", good);
        let output = place.run(&["check", "--config", "offramp.toml"]);
        assert!(output.status.success(), "{output:?}");
    }
    let broken = certificate.replace("MII", "!!!");
    let no_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (bad, part) in [
        (format!("{certificate}{broken}{certificate}"), "ca.pem: cannot be read as PEM"),
        (format!("{certificate}{no_x509}"), "ca.pem: certificate 2 is no authority"),
        (place.read("server.key"), "ca.pem: has no certificate"),
        ("rubbish".to_owned(), "ca.pem: has no certificate"),
        (String::new(), "ca.pem: has no certificate"),
    ] {
        place.write("ca.pem", bad);
        place.assert_refused(&lines, &[part, "this file must have the PEM certificates of authorities"]);
    }
}

#[test]
fn check_warns_of_certificates_and_address_conflicts() {
    let place = Place::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let own = params.self_signed(&key).unwrap().pem();
    place.write("old.crt", format!("{own}{}", place.read("server.crt")));
    place.write_keys("old.key", key.serialize_pem());
    let listener =
        |address: &str| format!("[[listener]]\nlisten = \"{address}\"\nbackend = \"127.0.0.1:1\"\n");
    let lines = format!(
        "admin = \"127.0.0.1:8443\"\n[[identity]]\ncertificate = \"old.crt\"\nkey = \"old.key\"\n{}{}",
        listener("0.0.0.0:8443"),
        listener("0.0.0.0:8444")
    );
    place.write("offramp.toml", format!("{GOOD}{lines}"));
    let output = place.run(&["check", "--config", "offramp.toml"]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    for warning in [
        "offramp.toml:6: admin 127.0.0.1:8443 collides with listen 0.0.0.0:8443 (offramp.toml:11), and",
        "old.crt: has no subjectAltName",
        "old.crt: its extended key usage is without serverAuth",
        "old.crt: certificate 1 has expired: it was valid until Jan  1",
        "old.crt: certificate 2 (CN=rcgen self signed cert) has not issued the one in front of it",
    ] {
        let line = format!("warning: {warning}");
        assert_eq!(said.matches(&line).count(), 1, "{line} in:\n{said}");
    }
    assert_eq!(said.matches("warning: ").count(), 5, "{said}");
    place.write("offramp.toml", format!("{GOOD}{IDENTITY}"));
    let said = String::from_utf8(place.run(&["check", "--config", "offramp.toml"]).stdout).unwrap();
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn swapped_key_and_certificate_files_are_named() {
    let place = Place::new();
    let identity = |certificate: &str, key: &str| {
        format!("[[identity]]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n")
    };
    for (certificate, key, parts) in [
        ("server.key", "server.key", ["server.key: has no certificate", "BEGIN CERTIFICATE"]),
        ("server.crt", "server.crt", ["server.crt: has no private key", "BEGIN PRIVATE KEY"]),
        ("offramp.toml", "server.key", ["offramp.toml: has no certificate", "BEGIN CERTIFICATE"]),
    ] {
        place.assert_refused(&identity(certificate, key), &parts);
    }
    let key = place.read("server.key");
    let body: Vec<String> = key.lines().skip(1).map(str::to_owned).collect();
    for said in place.refusals(&identity("server.key", "server.key")) {
        assert!(!said.contains(&body[0]), "the key is shown: {said}");
    }
}

#[test]
fn client_role_needs_a_server_name_and_trust_anchor() {
    let place = Place::new();
    let line = |nth: usize| format!("offramp.toml:{}: ", NEXT + nth);
    let mode = "mode = \"originate\"\n";
    let (ca, name) = ("server_ca = \"server.crt\"\n", "server_name = \"localhost\"\n");
    let allowed = "a DNS name or an IP address";
    place.assert_refused(&format!("{mode}{ca}"), &["server_name is missing: give --server-name"]);
    place.assert_refused(
        &format!("{mode}{name}"),
        &["nothing says which certificate of the server to accept; give server_ca (--server-ca)"],
    );
    let empty = format!("{mode}{ca}server_name = \"\"\n");
    place.assert_refused(&empty, &[&line(2), "server_name = \"\" is refused", allowed]);
    place
        .assert_refused(&format!("{name}{IDENTITY}"), &[&line(0), allowed, "only with mode = \"originate\""]);
    for (written, shown) in [("a\\u0000b.test", "\"a\\0b.test\""), ("a b", "\"a b\""), ("a..b", "\"a..b\"")] {
        let lines = format!("{mode}{ca}server_name = \"{written}\"\n");
        for said in place.refusals(&lines) {
            let start = format!("{}server_name = {shown} is refused: allowed is {allowed}", line(2));
            assert!(said.contains(&start) && !said.contains("identity"), "no {start:?} in: {said}");
        }
    }
}

#[test]
fn health_checks_without_effect_are_refused() {
    let place = Place::new();
    let line = |nth: usize| format!("offramp.toml:{}: ", NEXT + nth);
    let unprobed = "is refused: allowed is nothing without health_check = \"tcp\" or \"tls\"";
    place.assert_refused(
        &format!("health_send = 'PING\\r\\n'\n{IDENTITY}"),
        &[&line(0), "health_send = \"…\"", unprobed],
    );
    place.assert_refused(
        &format!("health_check = \"off\"\nhealth_expect = \"+PONG\"\n{IDENTITY}"),
        &[&line(1), "health_expect = \"+PONG\"", unprobed],
    );
    for (text, mode) in [("", "terminate"), ("mode = \"plain\"\n", "plain")] {
        let identity = if text.is_empty() { IDENTITY } else { "" };
        let allowed = format!("with mode = \"{mode}\": its backends have no TLS");
        place.assert_refused(
            &format!("health_check = \"tls\"\n{text}{identity}"),
            &[&line(0), "health_check = \"tls\" is refused: allowed is off or tcp", &allowed],
        );
    }
    let check = "health_check = \"tcp\"\n";
    for bad in ["\"\"".to_owned(), "'\\q'".to_owned(), format!("\"{}\"", "x".repeat(1025))] {
        place.assert_refused(
            &format!("{check}health_expect = {bad}\n{IDENTITY}"),
            &[&line(1), "is refused: allowed is 1 to 1024 bytes, in which"],
        );
    }
    place.assert_refused(
        &format!("health_check = \"ssl\"\n{IDENTITY}"),
        &[&line(0), "health_check = \"ssl\" is refused: allowed is off, tcp or tls"],
    );
}

#[test]
fn proxy_tlvs_without_version_2_are_refused() {
    let place = Place::new();
    for (send_proxy, nth) in [("", 0), ("send_proxy = \"off\"\n", 1), ("send_proxy = \"v1\"\n", 1)] {
        place.assert_refused(
            &format!("{send_proxy}proxy_tlvs = [\"ssl\"]\n{IDENTITY}"),
            &[
                &format!("offramp.toml:{}: proxy_tlvs = \"ssl\" is refused", NEXT + nth),
                "allowed is nothing without send_proxy = \"v2\"",
            ],
        );
    }
}
