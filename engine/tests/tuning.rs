//! The scripts that prepare a host, run on a copy of the few kernel files that they touch.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// What a host with Debian's defaults says, by key.
const DEFAULTS: [(&str, &str); 7] = [
    ("net.core.somaxconn", "4096\n"),
    ("net.ipv4.ip_local_port_range", "32768\t60999\n"),
    ("net.ipv4.tcp_tw_reuse", "2\n"),
    ("net.ipv4.tcp_notsent_lowat", "4294967295\n"),
    ("net.ipv4.tcp_slow_start_after_idle", "1\n"),
    ("kernel.io_uring_disabled", "2\n"),
    ("net.ipv4.tcp_available_ulp", "espintcp mptcp tls\n"),
];

/// A host of files.
struct Host {
    root: TempDir,
}

/// What a script said and how it ended.
struct Said {
    status: i32,
    out: String,
    err: String,
}

impl Host {
    fn new() -> Self {
        let host = Self { root: tempfile::tempdir().unwrap() };
        for (key, value) in DEFAULTS {
            host.set(key, value);
        }
        host
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    fn write(&self, relative: &str, content: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn read(&self, relative: &str) -> String {
        fs::read_to_string(self.path(relative)).unwrap().trim_end().to_owned()
    }

    fn set(&self, key: &str, value: &str) {
        self.write(&file_of(key), value);
    }

    fn get(&self, key: &str) -> String {
        self.read(&file_of(key))
    }

    fn run(&self, script: &str, arguments: &[&str]) -> Said {
        let output = Command::new("bash")
            .arg(tuning().join(script))
            .args(arguments)
            .env("OFFRAMP_PROC", self.path("proc"))
            .env("OFFRAMP_SYS", self.path("sys"))
            .env("OFFRAMP_ETC", self.path("etc"))
            .env("OFFRAMP_STATE", self.path("state"))
            .env("OFFRAMP_CPUS", "2")
            .output()
            .unwrap();
        Said {
            status: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn file_of(key: &str) -> String {
    format!("proc/sys/{}", key.replace('.', "/"))
}

fn tuning() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tuning")
}

/// The keys of the file that the scripts read.
fn knobs() -> Vec<String> {
    let conf = fs::read_to_string(tuning().join("sysctl.d/60-offramp.conf")).unwrap();
    let lines = conf.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.split_once('=')?.0.trim().to_owned())).collect()
}

#[test]
fn check_names_what_differs_and_changes_nothing() {
    let host = Host::new();
    let said = host.run("check.sh", &[]);
    assert_eq!(said.status, 1, "{}{}", said.out, said.err);
    assert!(said.out.contains("good     net.core.somaxconn = 4096"), "{}", said.out);
    assert!(said.out.contains("differs  kernel.io_uring_disabled = 2, wanted 0"), "{}", said.out);
    assert_eq!(said.out.matches("differs").count(), 6, "{}", said.out);
    for (key, value) in DEFAULTS {
        assert_eq!(host.get(key), value.trim_end());
    }
    assert!(!host.path("state").exists());
}

#[test]
fn what_is_applied_is_good_and_reverts_to_what_was() {
    let host = Host::new();
    let dry = host.run("apply.sh", &["--dry-run", "--boot"]);
    assert_eq!((dry.status, dry.out.matches("would").count()), (0, 7), "{}", dry.out);
    assert_eq!(host.get("net.ipv4.tcp_tw_reuse"), "2");

    for _ in 0..2 {
        let applied = host.run("apply.sh", &["--boot"]);
        assert_eq!(applied.status, 0, "{}{}", applied.out, applied.err);
        assert_eq!(host.run("check.sh", &[]).status, 0);
    }
    assert_eq!(host.get("net.ipv4.ip_local_port_range"), "15000 65000");
    let installed = host.read("etc/sysctl.d/60-offramp.conf");
    assert_eq!(installed, fs::read_to_string(tuning().join("sysctl.d/60-offramp.conf")).unwrap().trim_end());

    let reverted = host.run("revert.sh", &[]);
    assert_eq!(reverted.status, 0, "{}{}", reverted.out, reverted.err);
    for (key, value) in DEFAULTS {
        assert_eq!(host.get(key), value.trim_end().replace('\t', " "), "{key}");
    }
    assert!(!host.path("etc/sysctl.d/60-offramp.conf").exists());
    assert!(host.run("revert.sh", &[]).out.contains("nothing was applied"));
}

#[test]
fn better_values_and_later_changes_are_kept() {
    let host = Host::new();
    host.set("net.core.somaxconn", "65535\n");
    host.set("net.ipv4.ip_local_port_range", "1024\t65535\n");
    assert_eq!(host.run("apply.sh", &[]).status, 0);
    assert_eq!(host.get("net.core.somaxconn"), "65535");
    assert_eq!(host.get("net.ipv4.ip_local_port_range"), "1024\t65535");

    host.set("net.ipv4.tcp_notsent_lowat", "65536\n");
    let reverted = host.run("revert.sh", &[]);
    assert!(reverted.out.contains("tcp_notsent_lowat = 65536: changed since"), "{}", reverted.out);
    assert_eq!(host.get("net.ipv4.tcp_notsent_lowat"), "65536");
    assert_eq!(host.get("net.ipv4.tcp_tw_reuse"), "2");
}

#[test]
fn what_could_not_be_undone_is_not_done() {
    let host = Host::new();
    host.write("state", "a file where the directory should be");
    let said = host.run("apply.sh", &[]);
    assert_eq!(said.status, 1);
    assert!(said.err.contains("nothing is changed"), "{}", said.err);
    assert_eq!(host.get("net.ipv4.tcp_tw_reuse"), "2");
}

#[test]
fn a_knob_that_the_kernel_lacks_is_said_and_no_error() {
    let host = Host::new();
    fs::remove_file(host.path(&file_of("kernel.io_uring_disabled"))).unwrap();
    let said = host.run("apply.sh", &[]);
    assert_eq!(said.status, 0, "{}", said.err);
    assert!(said.out.contains("absent   kernel.io_uring_disabled"), "{}", said.out);
    assert_eq!(host.run("check.sh", &[]).status, 0);
}

#[test]
fn unknown_arguments_are_refused_with_what_there_is() {
    let host = Host::new();
    for (script, arguments) in [
        ("check.sh", &["--fix"][..]),
        ("apply.sh", &["--now"]),
        ("revert.sh", &["all"]),
        ("nic.sh", &[]),
        ("nic.sh", &["eth0", "--now"]),
    ] {
        let said = host.run(script, arguments);
        assert_eq!(said.status, 2, "{script} {arguments:?}");
        assert!(said.err.contains("usage: "), "{}", said.err);
    }
    host.write("sys/class/net/eth7/mtu", "1500\n");
    let said = host.run("nic.sh", &["eth0"]);
    assert_eq!(said.status, 2);
    assert!(said.err.contains("eth7"), "{}", said.err);
}

#[test]
fn each_queue_of_a_card_goes_to_a_cpu_and_back() {
    let host = Host::new();
    host.write(
        "proc/interrupts",
        "          CPU0 CPU1\n 40: 0 0 PCI-MSIX 0-edge eth0-TxRx-0\n 41: 0 0 PCI-MSIX 1-edge eth0-TxRx-1\n \
         42: 0 0 PCI-MSIX 2-edge eth0-TxRx-2\n 43: 0 0 PCI-MSIX 3-edge eth01-TxRx-0\n 44: 0 0 PCI-MSIX \
         4-edge eth0\n",
    );
    for irq in 40..45 {
        host.write(&format!("proc/irq/{irq}/smp_affinity"), "00000003\n");
    }
    for queue in 0..2 {
        host.write(&format!("sys/class/net/eth0/queues/tx-{queue}/xps_cpus"), "0\n");
    }
    let shown = host.run("nic.sh", &["eth0"]);
    assert_eq!((shown.status, shown.out.matches("would").count()), (0, 5), "{}{}", shown.out, shown.err);
    assert_eq!(host.read("proc/irq/40/smp_affinity"), "00000003");

    let applied = host.run("nic.sh", &["eth0", "--apply"]);
    assert_eq!(applied.status, 0, "{}{}", applied.out, applied.err);
    let masks: Vec<_> = (40..45).map(|irq| host.read(&format!("proc/irq/{irq}/smp_affinity"))).collect();
    assert_eq!(masks, ["1", "2", "1", "00000003", "00000003"]);
    assert_eq!(host.read("sys/class/net/eth0/queues/tx-1/xps_cpus"), "2");

    assert_eq!(host.run("revert.sh", &[]).status, 0);
    assert_eq!(host.read("proc/irq/41/smp_affinity"), "00000003");
    assert_eq!(host.read("sys/class/net/eth0/queues/tx-1/xps_cpus"), "0");
}

#[test]
fn each_knob_has_a_row_and_each_row_a_knob() {
    let readme = fs::read_to_string(tuning().join("README.md")).unwrap();
    let knobs = knobs();
    assert_eq!(knobs.len(), DEFAULTS.len() - 1, "{knobs:?}");
    for key in &knobs {
        assert!(readme.contains(&format!("\n| `{key}` | ")), "{key} has no row");
        assert!(DEFAULTS.iter().any(|(known, _)| known == key), "{key} is not on the host of files");
    }
}

/// Runs `systemd-analyze`; `None`, with the skip said, where there is none.
fn systemd_analyze(arguments: &[&str]) -> Option<Said> {
    let Ok(output) = Command::new("systemd-analyze").args(arguments).output() else {
        eprintln!("SKIP: systemd-analyze is not installed: apt-get install systemd");
        return None;
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Some(Said { status: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) })
}

/// Keys that systemd does not know or values that it does not take would be passed over when it runs.
#[test]
fn units_are_valid_and_have_a_low_exposure_score() {
    let directory = TempDir::new().unwrap();
    for name in ["offramp.service", "offramp-ticket-key-agent.service"] {
        let unit = directory.path().join(name);
        let text = fs::read_to_string(tuning().join(name)).unwrap();
        assert!(text.lines().any(|line| line == "Type=notify"), "{name}: both notify systemd");
        // The program must be there.
        fs::write(&unit, text.replace("/usr/bin/offramp", env!("CARGO_BIN_EXE_offramp"))).unwrap();
        let unit = unit.to_str().unwrap();
        let Some(said) = systemd_analyze(&["verify", "--man=no", unit]) else { return };
        let about_it: Vec<&str> = said.err.lines().filter(|line| line.contains("offramp")).collect();
        assert!(said.status == 0 && about_it.is_empty(), "{name}: {}{}", said.out, said.err);
        // Of 100; 18 with systemd 252.
        let Some(said) = systemd_analyze(&["security", "--offline=yes", "--threshold=25", unit]) else {
            return;
        };
        assert_eq!(said.status, 0, "{name}: {}{}", said.out, said.err);
    }
}

#[test]
fn unit_filter_allows_io_uring_and_forbids_core_dumps() {
    let text = fs::read_to_string(tuning().join("offramp.service")).unwrap();
    for line in ["SystemCallFilter=@system-service", "LimitCORE=0", "UMask=0077", "RestrictNamespaces=yes"] {
        assert!(text.lines().any(|it| it == line), "no {line:?}");
    }
    // Before systemd 254 it may not see the credentials.
    assert!(!text.lines().any(|line| line.starts_with("ExecStartPre=")));
    let Some(services) = systemd_analyze(&["syscall-filter", "@system-service"]) else { return };
    let Some(aio) = systemd_analyze(&["syscall-filter", "@aio"]) else { return };
    assert!(services.out.contains("@aio"), "{}", services.out);
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(aio.out.contains(call), "no {call} in: {}", aio.out);
    }
}
