//! The binary with the scenarios: the one that cargo built beside this one, if it is newer than all that it
//! is made of.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use offramp_guest::Job;

/// Programs that the scenarios start, and their files: what a guest with a root of its own must be given. One
/// that is not here is skipped by the scenario in the guest, which says so.
const PEERS: [&str; 10] = [
    "/usr/bin/openssl",
    "/usr/lib/ssl",
    "/etc/ssl/openssl.cnf",
    "/usr/bin/curl",
    "/usr/sbin/nginx",
    "/usr/bin/gnutls-cli",
    "/usr/bin/timeout",
    "/usr/bin/kill",
    "/usr/bin/prlimit",
    "/usr/bin/cat",
];

/// The scenarios that libtest's words choose, one after the other.
pub(crate) fn job(binary: &Path, words: &[&str], bulk_bytes: u64, rekeys: bool, limit: Duration) -> Job {
    let mut command = vec![binary.to_str().expect("paths are UTF-8").to_owned()];
    command.extend(words.iter().map(|word| (*word).to_owned()));
    // Ignored are those that need such a kernel.
    command.extend(["--include-ignored", "--test-threads=1"].map(str::to_owned));
    let mut environment: Vec<(String, String)> =
        [("OFFRAMP_GUEST", "1"), ("OFFRAMP_TEST_OFFLOAD", "always"), ("RUST_BACKTRACE", "0")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    environment.push(("OFFRAMP_BULK_BYTES".to_owned(), bulk_bytes.to_string()));
    environment.push(("OFFRAMP_GUEST_REKEYS".to_owned(), u8::from(rekeys).to_string()));
    for name in ["OFFRAMP_BIN", "OFFRAMP_SKIPS_ARE_FAILURES"] {
        environment.extend(std::env::var(name).ok().map(|value| (name.to_owned(), value)));
    }
    let server = std::env::var_os("OFFRAMP_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_offramp").into());
    let peers = PEERS.iter().map(PathBuf::from).filter(|path| path.exists());
    Job {
        command,
        directory: env!("CARGO_MANIFEST_DIR").into(),
        environment,
        scratch: "OFFRAMP_SCRATCH",
        files: peers.chain([server.into()]).collect(),
        limit,
    }
}

/// The current `wire` test binary, built now if need be.
pub(crate) fn binary() -> PathBuf {
    let deps = std::env::current_exe().expect("this test is a file");
    let deps = deps.parent().expect("in a directory").to_owned();
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made_of = ["src", "proto", "ring", "core", "sim", "testing", "tests/wire"]
        .map(|part| newest(&package.join(part), &|_| true));
    let made_of = made_of.into_iter().flatten().max().map(|(time, _)| time).expect("there are sources");
    if let Some((built, binary)) = newest(&deps, &is_wire)
        && built > made_of
    {
        return binary;
    }
    build(&deps);
    newest(&deps, &is_wire).map(|(_, binary)| binary).expect("cargo built it beside this test")
}

/// How many scenarios these words choose.
pub(crate) fn count(binary: &Path, words: &[&str]) -> usize {
    let output =
        Command::new(binary).args(words).arg("--list").output().expect("the scenarios can be listed");
    assert!(output.status.success(), "{} --list: {}", binary.display(), output.status);
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.ends_with(": test")).count()
}

/// Cargo has given back its lock on target/ while tests run.
fn build(deps: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--no-run", "--package", "offramp", "--test", "wire"]);
    if deps.parent().is_some_and(|profile| profile.ends_with("release")) {
        command.arg("--release");
    }
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// `wire-` and a hash, no extension.
fn is_wire(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.strip_prefix("wire-").is_some_and(|hash| hash.chars().all(|c| c.is_ascii_hexdigit()))
}

/// The newest file below a directory that is wanted.
fn newest(directory: &Path, wanted: &dyn Fn(&Path) -> bool) -> Option<(SystemTime, PathBuf)> {
    let entries = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    let each = entries.filter_map(|path| {
        if path.is_dir() {
            return newest(&path, wanted);
        }
        let time = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok()?;
        wanted(&path).then_some((time, path))
    });
    each.max()
}
