//! The Debian package, in a Debian 12 machine with systemd: installed, started, reloaded, upgraded, removed
//! and purged; lintian; the SBOM.
//!
//! `engine/package/build.sh` must have built the package. Each test reports what it lacks and fails, because
//! it runs only when asked for (`--ignored`).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod lists;
mod machine;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use machine::{Conversation, Machine, target};
use offramp_testing::metrics::ask_socket;
use offramp_testing::tools::{bulk_scratch, eventually, text};
use tempfile::TempDir;

/// The package, the version before it, and its programs, which run on this host too.
struct Packages {
    files: TempDir,
    new: PathBuf,
}

impl Packages {
    /// The version before has the same programs, a lower version, and another configuration file.
    fn find() -> Self {
        let (new, files) = (package(), bulk_scratch());
        let tree = files.path().join("tree");
        run(Command::new("dpkg-deb").arg("-R").arg(&new).arg(&tree));
        let change = |path: &str, change: &dyn Fn(&str) -> String| {
            let path = tree.join(path);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, change(&text)).unwrap();
        };
        change("DEBIAN/control", &|text| {
            let version = text.lines().find(|line| line.starts_with("Version: ")).unwrap();
            text.replace(version, "Version: 0.0.1-1")
        });
        change("etc/offramp/offramp.toml", &|text| format!("# The version before.\n{text}"));
        run(Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Znone", "-b"])
            .arg(&tree)
            .arg(files.path().join("before.deb")));
        Self { files, new }
    }

    fn before(&self) -> PathBuf {
        self.files.path().join("before.deb")
    }

    fn program(&self, name: &str) -> PathBuf {
        self.files.path().join("tree/usr/bin").join(name)
    }

    /// loadgen's backend, in the network of the machine; of the tree, so that it outlives the package.
    fn backend(&self, machine: &Machine, listen: &str) -> Running {
        let mut command = machine.in_network(&self.program("loadgen"));
        let child = command.args(["backend", "--listen", listen]).stdout(Stdio::null()).spawn().unwrap();
        let port = listen.rsplit(':').next().unwrap();
        eventually("the backend listens", || {
            machine
                .run(&format!("openssl s_client -connect 127.0.0.1:{port} </dev/null 2>&1"))
                .text
                .contains("CONNECTED")
        });
        Running(child)
    }
}

/// Ended with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn package() -> PathBuf {
    let directory = target().join("debian");
    let mut found: Vec<_> = fs::read_dir(&directory).into_iter().flatten().flatten().collect();
    found.retain(|entry| entry.path().extension().is_some_and(|extension| extension == "deb"));
    found.sort_by_key(|entry| entry.metadata().unwrap().modified().unwrap());
    let Some(newest) = found.last() else {
        panic!("no package in {}: run engine/package/build.sh", directory.display())
    };
    let version = concat!("_", env!("CARGO_PKG_VERSION"), "-");
    let is_ours = newest.file_name().to_string_lossy().contains(version);
    assert!(is_ours, "{:?} is of another version: run engine/package/build.sh", newest.path());
    newest.path()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = text(&output);
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// A client that checks the certificate that the package made.
fn client(machine: &Machine) -> Conversation {
    let mut conversation = Conversation::start(machine.command(
        "exec timeout 900 openssl s_client -quiet -connect 127.0.0.1:8443 -servername localhost \
         -verify_return_error -verify_hostname localhost -CAfile /etc/offramp/chain.pem",
    ));
    // The backend's word for an echo is the first byte.
    assert_eq!(conversation.ask("echo"), "echo", "{}", machine.journal());
    conversation
}

fn edit(machine: &Machine, from: &str, to: &str) {
    let path = machine.path("/etc/offramp/offramp.toml");
    let content = fs::read_to_string(&path).unwrap();
    assert!(content.contains(from), "{from} is not in {content}");
    fs::write(&path, content.replacen(from, to, 1)).unwrap();
}

#[test]
#[ignore = "boots a machine: engine/package/build.sh before"]
fn package_lives_from_install_to_purge() {
    let (packages, machine) = (Packages::find(), Machine::boot());
    let before = machine.files();
    let said = machine.install(&packages.before());
    assert!(said.contains("made a self-signed certificate"), "{said}");
    let modes = machine.must("stat --format='%U %a' /etc/offramp/key.pem /etc/offramp/chain.pem");
    assert_eq!(modes, "root 600\nroot 644");
    assert!(machine.is_active(), "{said}\n{}", machine.journal());
    assert!(machine.journal().contains("confined: landlock"), "{}", machine.journal());
    assert_eq!(machine.must("systemctl is-enabled offramp"), "enabled");
    assert!(!machine.run("systemctl is-enabled --quiet offramp-ticket-key-agent").good);
    assert!(machine.read("/etc/group").contains("\nofframp-keys:"));
    let _backend = packages.backend(&machine, "127.0.0.1:8080");
    let mut held = client(&machine);

    edit(&machine, "listen = \"127.0.0.1:8443\"", "listen = [\"127.0.0.1:8443\", \"127.0.0.1:8444\"]");
    machine.must("systemctl reload offramp");
    eventually("the new listener accepts", || {
        machine.run("openssl s_client -connect 127.0.0.1:8444 </dev/null 2>&1").text.contains("BEGIN CERT")
    });
    upgrade_is_noticed_by_nobody(&packages, &machine, &mut held);
    assert!(machine.read("/etc/offramp/offramp.toml").contains("127.0.0.1:8444"), "the edited file stays");
    drop(held);

    let key = machine.read("/etc/offramp/key.pem");
    let last = machine.main_pid();
    machine.must("dpkg -r offramp 2>&1");
    assert!(!machine.is_active());
    assert_eq!(machine.program_of(last), "", "the process has ended");
    assert!(machine.read("/etc/offramp/offramp.toml").contains("127.0.0.1:8444"));
    assert_eq!(machine.read("/etc/offramp/key.pem"), key);

    machine.must("dpkg -P offramp 2>&1");
    let after = machine.files();
    let left: Vec<_> = after.difference(&before).collect();
    assert!(left.is_empty(), "{left:?}");
    let lost: Vec<_> = before.difference(&after).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

/// New connections all the time, and one that is held.
fn upgrade_is_noticed_by_nobody(packages: &Packages, machine: &Machine, held: &mut Conversation) {
    let old = machine.main_pid();
    let trust = machine.path("/etc/offramp/chain.pem");
    let mut load = machine.in_network(&packages.program("loadgen"));
    load.args(["handshake", "--target", "127.0.0.1:8443", "--sni", "localhost", "--request", "echo"]);
    load.args(["--tls", "1.2,1.3", "--rate", "100", "--warm-up", "1s", "--duration", "12s", "--json"]);
    let load = load.arg("--ca").arg(trust).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the load has begun", || held.ask("before") == "before" && connections(machine) > 50);

    let said = machine.install(&packages.new);
    assert!(said.contains(&format!("has taken over; this one, {old}, drains")), "{said}");
    eventually("systemd follows", || machine.main_pid() != old);
    let new = machine.main_pid();
    assert_eq!(machine.program_of(new), "/usr/bin/offramp", "of the new package");
    assert_eq!(machine.program_of(old), "/usr/bin/offramp (deleted)", "it drains");
    assert_eq!(held.ask("behind the upgrade"), "behind the upgrade");
    client(machine);

    let output = load.wait_with_output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}\n{}", machine.journal());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let run = &report["runs"][0];
    assert_eq!(run["failures"], serde_json::json!({}), "{said}");
    assert!(run["connections"]["done"].as_u64() > Some(500), "{}", run["connections"]);
}

/// Accepted since the process began.
fn connections(machine: &Machine) -> u64 {
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = ask_socket(&machine.live("/run/offramp/admin.sock"), request).unwrap();
    let lines = answer.lines().filter(|line| line.starts_with("offramp_connections_accepted_total"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
#[ignore = "boots a machine: engine/package/build.sh before"]
fn taken_port_fails_no_installation() {
    let (packages, machine) = (Packages::find(), Machine::boot());
    let taken = packages.backend(&machine, "127.0.0.1:8443");
    let said = machine.install(&packages.new);
    assert!(!machine.is_active());
    for part in ["the service does not run", "127.0.0.1:8443", "edit /etc/offramp/offramp.toml, then: "] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    drop(taken);
    machine.must("systemctl reset-failed offramp; systemctl restart offramp");
    let _backend = packages.backend(&machine, "127.0.0.1:8080");
    client(&machine);
}

#[test]
#[ignore = "boots a machine: engine/package/build.sh before"]
fn broken_configuration_keeps_the_old_process() {
    let (packages, machine) = (Packages::find(), Machine::boot());
    machine.install(&packages.before());
    let (_backend, old) = (packages.backend(&machine, "127.0.0.1:8080"), machine.main_pid());
    let mut held = client(&machine);
    edit(&machine, "listen = ", "lisen = ");
    let said = machine.install(&packages.new);
    for part in ["was not upgraded", "lisen", &format!("process {old} goes on")] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(machine.main_pid(), old);
    assert_eq!(held.ask("as before"), "as before");
    client(&machine);

    edit(&machine, "lisen = ", "listen = ");
    machine.must("offramp upgrade --config /etc/offramp/offramp.toml");
    eventually("systemd follows", || machine.main_pid() != old);

    // Without the admin socket the same is asked by a signal.
    edit(&machine, "admin_socket = ", "# admin_socket = ");
    machine.must("systemctl restart offramp");
    let third = machine.main_pid();
    let said = machine.install(&packages.new);
    assert_ne!(machine.main_pid(), third, "{said}");
    client(&machine);
    edit(&machine, "listen = ", "lisen = ");
    let (fourth, said) = (machine.main_pid(), machine.install(&packages.new));
    assert_eq!(machine.main_pid(), fourth, "{said}");
    assert!(said.contains("the upgrade failed") && said.contains("lisen"), "{said}");
}

/// An agent that has no keys waits for etcd as long as it takes; dpkg does not wait with it.
#[test]
#[ignore = "boots a machine: engine/package/build.sh before"]
fn agent_without_etcd_holds_up_no_upgrade() {
    let (packages, machine) = (Packages::find(), Machine::boot());
    machine.install(&packages.before());
    // Nobody listens on the port of discard.
    let options = "ETCD=http://127.0.0.1:9\nOPTIONS=\n";
    fs::write(machine.path("/etc/offramp/ticket-key-agent.env"), options).unwrap();
    fs::write(machine.path("/etc/offramp/ticket-key.kek"), [7; 32]).unwrap();
    machine.must("chmod 600 /etc/offramp/ticket-key.kek");
    machine.must("systemctl start --no-block offramp-ticket-key-agent");
    let agent = |property: &str| {
        machine.must(&format!("systemctl show --value --property={property} offramp-ticket-key-agent"))
    };
    eventually("it waits for etcd", || agent("ActiveState") == "activating" && agent("MainPID") != "0");
    let old = agent("MainPID");
    machine.install(&packages.new);
    eventually("it was restarted", || {
        agent("ActiveState") == "activating" && !["0", &old].contains(&agent("MainPID").as_str())
    });
    // A service that does not run yet waits for the agent, and is not waited for.
    machine.must("systemctl stop offramp");
    let said = machine.install(&packages.new);
    assert!(said.contains("starts when offramp-ticket-key-agent.service has ticket keys"), "{said}");
    machine.must("systemctl stop offramp-ticket-key-agent");
    eventually("the service starts behind the agent", || machine.is_active());
}

/// What an administrator put in the place of the package's own is left by a purge.
#[test]
#[ignore = "boots a machine: engine/package/build.sh before"]
fn purge_leaves_keys_that_are_not_its_own() {
    let (packages, machine) = (Packages::find(), Machine::boot());
    machine.install(&packages.new);
    fs::write(machine.path("/etc/offramp/key.pem"), "another\n").unwrap();
    let said = machine.must("dpkg -P offramp 2>&1");
    assert!(said.contains("/etc/offramp has files that the package did not make"), "{said}");
    assert_eq!(
        machine.must("ls /etc/offramp"),
        "chain.pem\nkey.pem",
        "its own certificate may be for that key"
    );
    let said = machine.install(&packages.new);
    assert_eq!(machine.read("/etc/offramp/key.pem"), "another\n");
    assert!(!machine.is_active() && said.contains("the service does not run"), "{said}");
}
