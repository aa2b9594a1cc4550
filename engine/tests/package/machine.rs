//! A machine with Debian 12 and systemd as process 1: a root directory that mmdebstrap makes once, booted as
//! a container, with a network of its own that leads nowhere.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use offramp_testing::tools::{bulk_scratch, patiently, profile_directory, signal, text};
use tempfile::TempDir;

const SUITE: &str = "bookworm";
/// What the package depends on, and what boots it.
const INCLUDED: &str = "systemd-sysv,openssl,procps,dbus";
/// The calls of Landlock, which a container of systemd 252 does not have and a host has.
const ALLOWED: &str = "landlock_create_ruleset landlock_add_rule landlock_restrict_self";
/// What every machine changes by itself: logs, caches, the package manager's own records, machine identity.
const VOLATILE: [&str; 6] =
    ["/var/log/", "/var/cache/", "/var/lib/dpkg/", "/var/lib/systemd/", "/var/tmp/", "/tmp/"];

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    profile_directory().parent().unwrap().to_owned()
}

/// A booted machine; dropping it ends it.
pub(crate) struct Machine {
    files: TempDir,
    container: Child,
    /// Process 1 of the machine, by its number outside.
    leader: String,
    _alone: MutexGuard<'static, ()>,
}

/// One machine at a time: without systemd on this host they would share a control group.
static ALONE: Mutex<()> = Mutex::new(());

/// What a command inside said and how it ended.
pub(crate) struct Said {
    pub(crate) good: bool,
    pub(crate) text: String,
}

impl Machine {
    pub(crate) fn boot() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let files = bulk_scratch();
        // A directory below: all of the machine's users must be able to read its root.
        let root = files.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).unwrap();
        let unpacked = Command::new("tar").arg("-xf").arg(base()).arg("-C").arg(&root).status();
        assert!(unpacked.unwrap().success());
        let mut command = Command::new("systemd-nspawn");
        command.args(["--boot", "--quiet", "--register=no", "--private-network", "--link-journal=no"]);
        command.arg(format!("--system-call-filter={ALLOWED}"));
        if !Path::new("/run/systemd/system").exists() {
            // Nobody is there who could make a scope.
            command.arg("--keep-unit");
        }
        let console = fs::File::create(files.path().join("console")).unwrap();
        command.arg("--directory").arg(&root).stdin(Stdio::null());
        command.stdout(console.try_clone().unwrap()).stderr(console);
        let mut container = command.spawn().expect("systemd-nspawn: apt-get install systemd-container");
        let children = format!("/proc/{0}/task/{0}/children", container.id());
        let leader = patiently(|| {
            let ended = container.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", console_of(&files));
            let children = fs::read_to_string(&children).unwrap_or_default();
            children.split_whitespace().find(|pid| comm(pid) == "systemd").map(str::to_owned)
        });
        let Some(leader) = leader else { panic!("no process 1: {}", console_of(&files)) };
        let machine = Self { files, container, leader, _alone: alone };
        let is_up = |state: &str| state.starts_with("running") || state.starts_with("degraded");
        let state = || machine.run("systemctl is-system-running").text;
        if patiently(|| is_up(&state()).then_some(())).is_none() {
            panic!("not up, but {}: {}", state(), console_of(&machine.files));
        }
        machine
    }

    /// A command of the machine's shell, as root.
    pub(crate) fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]);
        command.args(["--root", "--wd", "/usr/bin/env", "-i", "HOME=/root", "LC_ALL=C.UTF-8"]);
        command.args(["DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.args(["/bin/sh", "-c", script]).stdin(Stdio::null());
        command
    }

    /// A program of this host, in the network of the machine.
    pub(crate) fn in_network(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.leader, "--net"]).arg(program).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, script: &str) -> Said {
        let output: Output = self.command(script).output().expect("nsenter, of util-linux");
        let all = [output.stdout, output.stderr].concat();
        Said { good: output.status.success(), text: String::from_utf8_lossy(&all).into_owned() }
    }

    /// What a command said that must not fail.
    pub(crate) fn must(&self, script: &str) -> String {
        let said = self.run(script);
        assert!(said.good, "{script}: {}\n{}", said.text, self.journal());
        said.text.trim_end().to_owned()
    }

    /// Installs a package, and returns what was said.
    pub(crate) fn install(&self, package: &Path) -> String {
        let name = package.file_name().unwrap().to_str().unwrap();
        fs::copy(package, self.path(&format!("/root/{name}"))).unwrap();
        // As apt does where nobody answers questions: a configuration file that was edited stays.
        let said = self.must(&format!("dpkg -i --force-confold /root/{name} 2>&1"));
        fs::remove_file(self.path(&format!("/root/{name}"))).unwrap();
        said
    }

    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.files.path().join("root").join(inside.trim_start_matches('/'))
    }

    /// The same through process 1, which sees /run too.
    pub(crate) fn live(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.leader))
    }

    pub(crate) fn read(&self, inside: &str) -> String {
        fs::read_to_string(self.path(inside)).unwrap_or_else(|error| panic!("{inside}: {error}"))
    }

    pub(crate) fn main_pid(&self) -> u32 {
        self.must("systemctl show --property=MainPID --value offramp").parse().unwrap()
    }

    pub(crate) fn is_active(&self) -> bool {
        self.run("systemctl is-active --quiet offramp").good
    }

    /// The file behind a process of the machine.
    pub(crate) fn program_of(&self, pid: u32) -> String {
        self.run(&format!("readlink /proc/{pid}/exe")).text.trim_end().to_owned()
    }

    /// All files and directories, but for what changes by itself.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        let found = self.must("find / -xdev -path /run -prune -o -print");
        let volatile = |path: &str| VOLATILE.iter().any(|start| path.starts_with(start));
        found.lines().filter(|path| !volatile(path)).map(str::to_owned).collect()
    }

    pub(crate) fn journal(&self) -> String {
        self.run("journalctl --unit=offramp --no-pager --output=cat --lines=40").text
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // systemd's signal for an end at once: SIGRTMIN+4 asks for an orderly power-off.
        let _ = Command::new("kill").args(["-s", "KILL", &self.leader]).status();
        if patiently(|| self.container.try_wait().ok().flatten()).is_none() {
            signal(self.container.id(), "KILL");
            let _ = self.container.wait();
        }
    }
}

/// A command inside that is asked and answers, line by line.
pub(crate) struct Conversation {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Conversation {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output) }
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn comm(pid: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

fn console_of(files: &TempDir) -> String {
    fs::read_to_string(files.path().join("console")).unwrap_or_default()
}

/// The root directory before its first start; made once, and fetched by apt's own configuration.
fn base() -> PathBuf {
    let path = target().join("package-lab").join(format!("{SUITE}.tar"));
    if !path.exists() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let unfinished = path.with_extension("unfinished.tar");
        let mut command = Command::new("mmdebstrap");
        command.args(["--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io"]);
        command.arg(format!("--include={INCLUDED}")).arg(SUITE).arg(&unfinished).args(sources());
        let output = command.output().expect("mmdebstrap: apt-get install mmdebstrap");
        assert!(output.status.success(), "mmdebstrap: {}", text(&output));
        fs::rename(&unfinished, &path).unwrap();
    }
    path
}

/// The files of apt's configuration that have the suite, so that packages come from where this host gets its
/// own; none on a host of another suite, which then asks where mmdebstrap asks.
fn sources() -> Vec<PathBuf> {
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut files: Vec<_> = parts.map(|entry| entry.path()).collect();
    files.push(PathBuf::from("/etc/apt/sources.list"));
    // As apt does: a file with another ending is switched off.
    files.retain(|file| file.extension().is_some_and(|end| end == "sources" || end == "list"));
    files.retain(|file| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let has = |word: &str| text.split_whitespace().any(|found| found == word);
        has(SUITE) && has("main")
    });
    files
}
