//! Files as operators come to have them: glued together, with a byte order mark, with keys of the wrong kind,
//! owned by a group, changed by several processes at once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use offramp_testing::tools::skip;
use tempfile::TempDir;

/// A directory with a good identity, in which the commands run.
struct Place {
    directory: TempDir,
}

const GOOD: &str = "listen = \"127.0.0.1:0\"\nbackend = \"127.0.0.1:1\"\nworkers = 1\nmax_connections = 16\n";

impl Place {
    fn new() -> Self {
        let place = Self { directory: TempDir::new().unwrap() };
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        place.write("c.pem", &made.cert.pem());
        place.write("k.pem", &made.signing_key.serialize_pem());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn offramp(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_offramp"));
        command.current_dir(self.directory.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Whether `check` finds a configuration with these lines and this identity good, and what it says.
    fn check(&self, lines: &str, certificate: &str, key: &str) -> (bool, String) {
        let identity = format!("[[identity]]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n");
        self.write("o.toml", &format!("\u{feff}{GOOD}{lines}{identity}"));
        let output = self.offramp().args(["check", "--config", "o.toml"]).output().unwrap();
        (output.status.success(), said(&output))
    }

    fn refused(&self, lines: &str, certificate: &str, key: &str, parts: &[&str]) {
        let (good, said) = self.check(lines, certificate, key);
        assert!(!good && parts.iter().all(|part| said.contains(part)), "{certificate} {key} {lines}: {said}");
    }

    /// Runs OpenSSL with these words.
    fn openssl(&self, words: &str) {
        let words: Vec<&str> = words.split_whitespace().collect();
        let output =
            Command::new("openssl").current_dir(self.directory.path()).args(&words).output().unwrap();
        assert!(output.status.success(), "openssl {words:?}: {}", said(&output));
    }
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

fn have_openssl() -> bool {
    let found = Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_ok();
    if !found {
        skip("openssl is not installed: apt-get install openssl");
    }
    found
}

fn is_root() -> bool {
    let is_root = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap()) == 0;
    if !is_root {
        skip("only root may give a file to another user or group");
    }
    is_root
}

#[test]
fn files_glued_together_are_refused_by_every_reader() {
    let place = Place::new();
    let certificate = place.read("c.pem");
    place.write("glued.pem", &format!("{}{certificate}", certificate.trim_end()));
    place.write("both.pem", &format!("{}{}", certificate.trim_end(), place.read("k.pem")));
    let missing = "is a newline missing between two sections?";
    place.refused("", "glued.pem", "k.pem", &["glued.pem: ", missing]);
    place.refused("", "c.pem", "both.pem", &["both.pem: ", missing]);
    let client_ca = "client_auth = \"require\"\nclient_ca = \"glued.pem\"\n";
    place.refused(client_ca, "c.pem", "k.pem", &["glued.pem: ", missing]);
    let server_ca = "mode = \"originate\"\nserver_name = \"a.test\"\nserver_ca = \"glued.pem\"\n";
    place.refused(server_ca, "c.pem", "k.pem", &["glued.pem: ", missing]);
    // With a newline all is well, with both in one file too.
    place.write("both.pem", &format!("{certificate}{}", place.read("k.pem")));
    assert!(place.check("", "both.pem", "both.pem").0);
}

#[test]
fn files_with_a_byte_order_mark_are_accepted() {
    let place = Place::new();
    for name in ["c.pem", "k.pem"] {
        place.write(name, &format!("\u{feff}{}", place.read(name)));
    }
    let client_ca = "client_auth = \"require\"\nclient_ca = \"c.pem\"\n";
    let (good, said) = place.check(client_ca, "c.pem", "k.pem");
    assert!(good, "{said}");
}

#[test]
fn files_that_are_devices_are_refused_by_every_reader() {
    let place = Place::new();
    let device = "/dev/zero: cannot be read: it is a device";
    place.refused("", "/dev/zero", "k.pem", &[device]);
    place.refused("", "c.pem", "/dev/zero", &[device]);
    place.refused("client_auth = \"require\"\nclient_ca = \"/dev/zero\"\n", "c.pem", "k.pem", &[device]);
    place.refused("ticket_keys = \"/dev/zero\"\n", "c.pem", "k.pem", &["/dev/zero: is no regular file"]);
    let output = place.offramp().args(["check", "--config", "/dev/zero"]).output().unwrap();
    assert!(said(&output).contains(device), "{}", said(&output));
}

#[test]
fn files_with_keys_that_cannot_serve_say_what_to_do() {
    if !have_openssl() {
        return;
    }
    let place = Place::new();
    place.openssl("pkcs8 -topk8 -in k.pem -out encrypted.pem -passout pass:x");
    place.openssl("ec -in k.pem -out old.pem -aes128 -passout pass:x");
    place.openssl("dsaparam -genkey -noout -out dsa.pem 1024");
    place.openssl("genpkey -algorithm ed448 -out ed448.pem");
    place.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1 -out k1.pem");
    let decrypt = "openssl pkey -in FILE -out NEW";
    let make = "openssl genpkey -algorithm EC";
    for (key, parts) in [
        ("encrypted.pem", ["encrypted.pem: line 1: the private key is encrypted", decrypt]),
        ("old.pem", ["old.pem: line 1: the private key is encrypted", decrypt]),
        ("dsa.pem", ["DSA", make]),
        ("ed448.pem", ["key of algorithm 1.3.101.113 (Ed448)", make]),
        ("k1.pem", ["elliptic-curve key on curve 1.3.132.0.10 (secp256k1)", make]),
    ] {
        place.refused("", "c.pem", key, &parts);
    }
    let pair = |arguments: &str| {
        place.openssl(&format!("req -x509 -nodes -keyout x.key -out x.pem -subj /CN=x {arguments}"));
    };
    let ec = "-newkey ec -pkeyopt ec_paramgen_curve:";
    for (arguments, part) in [
        (format!("{ec}P-521"), "elliptic-curve key on curve 1.3.132.0.35 (P-521)"),
        (format!("{ec}P-256 -pkeyopt ec_param_enc:explicit"), "elliptic-curve key with explicit parameters"),
        ("-newkey ed25519".to_owned(), "key of algorithm 1.3.101.112 (Ed25519)"),
    ] {
        pair(&arguments);
        place.refused("", "x.pem", "x.key", &["x.pem: ", part, "TS 33.310 clause 6.1.1", make]);
    }
    place.openssl("x509 -in c.pem -trustout -out trusted.pem");
    let untrust = ["trusted.pem: ", "TRUSTED CERTIFICATE", "openssl x509 -in FILE -out NEW"];
    place.refused("", "trusted.pem", "k.pem", &untrust);
    let client_ca = "client_auth = \"require\"\nclient_ca = \"trusted.pem\"\n";
    place.refused(client_ca, "c.pem", "k.pem", &untrust);
}

/// Starts so many of one command at once, and says how each ended.
fn at_once(count: usize, command: impl Fn() -> Command) -> Vec<Output> {
    let started: Vec<Child> = (0..count).map(|_| command().spawn().unwrap()).collect();
    started.into_iter().map(|child| child.wait_with_output().unwrap()).collect()
}

#[test]
fn ticket_key_commands_at_once_lose_nothing() {
    const AT_ONCE: usize = 6;
    let place = Place::new();
    let ticket_key = |task: &'static str| {
        let mut command = place.offramp();
        command.args(["ticket-key", task, "t.keys"]);
        command
    };
    let made = at_once(AT_ONCE, || ticket_key("new"));
    assert_eq!(made.iter().filter(|output| output.status.success()).count(), 1, "one makes the file");
    for output in made.iter().filter(|output| !output.status.success()) {
        assert!(said(output).contains("there is one; to add a key: rotate"), "{}", said(output));
    }
    let name = |line: &str| line.split(' ').nth(1).map(str::to_owned);
    let keys =
        || place.read("t.keys").lines().filter(|line| line.starts_with("key ")).map(name).collect::<Vec<_>>();
    let shown = made.iter().find(|output| output.status.success()).map(said).unwrap();
    assert!(shown.contains(keys()[0].as_ref().unwrap()), "the file is that of the one that said so");
    for output in at_once(AT_ONCE, || ticket_key("rotate")) {
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(keys().len(), 1 + AT_ONCE, "each added its key");
    let names = fs::read_dir(place.directory.path()).unwrap();
    assert_eq!(names.count(), 3, "nothing is left beside the files");
}

/// systemd shows such a mode for a credential that a list of access gives to the service (`LoadCredential=`).
#[test]
fn credential_ticket_keys_may_belong_to_any_group() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    assert!(place.offramp().args(["ticket-key", "new", "t.keys"]).output().unwrap().status.success());
    chown(place.path("t.keys"), None, Some(4711)).unwrap();
    fs::set_permissions(place.path("t.keys"), fs::Permissions::from_mode(0o440)).unwrap();
    let show = |credentials: Option<&str>| {
        let mut command = place.offramp();
        if let Some(directory) = credentials {
            command.env("CREDENTIALS_DIRECTORY", directory);
        }
        let output = command.args(["ticket-key", "show-ids", "t.keys"]).output().unwrap();
        (output.status.success(), said(&output))
    };
    for elsewhere in [None, Some(""), Some("/nowhere"), Some("/usr")] {
        let (good, said) = show(elsewhere);
        assert!(!good && said.contains("its mode is 0440") && said.contains("fsGroup"), "{said}");
    }
    let (good, said) = show(place.directory.path().to_str());
    assert!(good, "{said}");
    fs::set_permissions(place.path("t.keys"), fs::Permissions::from_mode(0o444)).unwrap();
    assert!(!show(place.directory.path().to_str()).0, "everybody is too many there too");
}

/// Root checks what the user of the service is to have: that is no mistake of the file.
#[test]
fn check_warns_of_foreign_and_refuses_open_key_files() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    assert!(place.offramp().args(["ticket-key", "new", "t.keys"]).output().unwrap().status.success());
    let check = |owner: u32, group: u32, mode: u32| {
        chown(place.path("t.keys"), Some(owner), Some(group)).unwrap();
        fs::set_permissions(place.path("t.keys"), fs::Permissions::from_mode(mode)).unwrap();
        place.check("ticket_keys = \"t.keys\"\n", "c.pem", "k.pem")
    };
    let (good, said) = check(0, 0, 0o600);
    assert!(good && !said.contains("warning: ticket_keys"), "{said}");
    for (owner, group, mode) in [(4711, 0, 0o600), (0, 4711, 0o640), (0, 4711, 0o440)] {
        let (good, said) = check(owner, group, mode);
        assert!(good && said.contains("warning: ticket_keys"), "{owner}:{group} {mode:o}: {said}");
    }
    for mode in [0o644, 0o660] {
        let (good, said) = check(0, 4711, mode);
        assert!(!good && said.contains("others than its owner"), "{mode:o}: {said}");
    }
}
