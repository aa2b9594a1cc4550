//! What every scenario needs and no stage owns: bounded patience, scratch directories, other programs, honest
//! skips.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

/// How long anything may take before it counts as hung. Only a guard: no scenario measures time with it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls until `probe` gives a value; `None` when patience ends.
pub fn patiently<T>(mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() > end {
            return None;
        }
        pause();
    }
}

/// Polls until `probe` holds.
pub fn eventually(what: &str, mut probe: impl FnMut() -> bool) {
    assert!(patiently(|| probe().then_some(())).is_some(), "not within {PATIENCE:?}: {what}");
}

/// Between two looks at another process.
pub fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

/// A directory of this scenario's own, removed with the value.
pub fn scratch() -> tempfile::TempDir {
    let parent = std::env::var_os("OFFRAMP_SCRATCH").map_or_else(bulk_parent, PathBuf::from);
    tempfile::Builder::new().prefix("wire-").tempdir_in(parent).expect("a scratch directory can be made")
}

/// The same for files too large for a guest's memory.
pub fn bulk_scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("bulk-").tempdir_in(bulk_parent()).expect("a bulk directory can be made")
}

/// Where cargo puts what it builds for a profile, such as `target/debug`: this test lies in `deps` below it.
pub fn profile_directory() -> PathBuf {
    let test = std::env::current_exe().expect("this test is a file");
    test.ancestors().nth(2).expect("in deps").to_owned()
}

fn bulk_parent() -> PathBuf {
    let parent = profile_directory().with_file_name("tmp");
    std::fs::create_dir_all(&parent).expect("cargo's directory for test files can be made");
    parent
}

/// Says that a scenario cannot run here; never silently. Written past libtest's capture, so that it is always
/// seen.
pub fn skip(reason: &str) {
    let refused = std::env::var("OFFRAMP_SKIPS_ARE_FAILURES").is_ok_and(|value| value == "1");
    assert!(!refused, "SKIP: {reason} (and OFFRAMP_SKIPS_ARE_FAILURES=1)");
    let _ = writeln!(std::io::stderr(), "SKIP: {reason}");
}

/// Whether a program can be started; says the skip if not.
pub fn have(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        let package = match program {
            "gnutls-cli" => "gnutls-bin",
            "java" => "openjdk-17-jdk-headless",
            "groff" => "groff-base",
            "man" => "man-db",
            same => same,
        };
        skip(&format!("{program} is not installed: apt-get install {package}"));
    }
    found.is_ok()
}

/// Whether this is the guest kernel of `tests/kernel`, which nobody else uses.
pub fn in_guest() -> bool {
    std::env::var_os("OFFRAMP_GUEST").is_some()
}

pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status().expect("kill runs");
    assert!(status.success(), "kill -s {name} {pid}: {status}");
}

/// As many descriptors as the hard limit allows, for this process and the servers that it starts.
pub fn raise_descriptor_limit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let limits = std::fs::read_to_string("/proc/self/limits").expect("/proc is mounted");
        let line =
            limits.lines().find(|line| line.starts_with("Max open files")).expect("the limit is listed");
        let hard = line.split_whitespace().nth(4).expect("the hard limit is the fifth word").to_owned();
        let pid = std::process::id().to_string();
        let status =
            Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={hard}:{hard}")]).status();
        if !status.is_ok_and(|status| status.success()) {
            let _ = writeln!(std::io::stderr(), "note: the limit of open files stays as it is: {line}");
        }
    });
}

pub fn text(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    format!("{}\n--- stdout\n{out}\n--- stderr\n{}", output.status, String::from_utf8_lossy(&output.stderr))
}

/// Whether a process has ended; one that nobody has reaped has.
pub fn has_ended(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.is_empty() || status.lines().any(|line| line.starts_with("State:") && line.contains('Z'))
}
