//! The engine that is soaked, its files, and its backends.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use offramp_loadgen::identity::{Identity, SERVER_NAME};
use tempfile::TempDir;

use super::processes::{Backend, Loadgen, Pool, output};
use super::verdict::{End, Rest};
use super::{POLL, Plan, until};
use crate::process;

/// The size of the file system that the log is on, if it has one.
const LOG_DISK: &str = "size=1m";
/// How long the engine may take to start, to reload, and to end when nothing is open.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a client of the admin address waits.
const ANSWER: Duration = Duration::from_secs(10);
const WORKERS: usize = 2;
/// Options of every client: it counts failures, and goes on.
const ALL_CLIENTS: &str = "-t 1 --warm-up 0s --json --quiet --pin off --give-up 1000000 --allow-failures 1";
/// What the log has of each reload that changed something.
const RELOADED: &str = "SIGHUP: ";
/// A log of more bytes is begun again, as logrotate's copytruncate does it.
const LOG_BYTES_MAX: u64 = 256 << 10;
/// Lines of the log that an error shows.
const LAST_LINES: usize = 15;

/// What is run.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) offramp: PathBuf,
    pub(super) loadgen: PathBuf,
}

/// All of it. The engine is killed when this is dropped.
#[derive(Debug)]
pub(super) struct World {
    pub(super) programs: Programs,
    /// The process that was started first; its children are those that took over.
    first: Child,
    /// Of the one that serves.
    pid: u32,
    /// Those that have handed over and drain.
    retired: Vec<u32>,
    listeners: [SocketAddr; 2],
    admin: SocketAddr,
    identity: Identity,
    steady: Backend,
    /// The backends that fail.
    pub(super) fickle: [Backend; 3],
    /// Descriptors at rest, once it is known.
    descriptors: Option<u64>,
    /// Faults at the last rest.
    faults: BTreeMap<String, u64>,
    log_disk: Option<Mounted>,
    directory: TempDir,
}

impl World {
    pub(super) fn start(plan: &Plan) -> Result<Self> {
        let programs = Programs { offramp: plan.offramp.clone(), loadgen: plan.loadgen.clone() };
        let (directory, identity) = (tempfile::tempdir()?, Identity::generate()?);
        let log_disk = plan.may_mount.then(|| Mounted::at(&directory.path().join("log"))).transpose()?;
        if log_disk.is_none() {
            fs::create_dir(directory.path().join("log"))?;
        }
        let keys = directory.path().join("ticket-keys");
        output(Command::new(&programs.offramp).args(["ticket-key", "new"]).arg(&keys))?;
        let backend = || Backend::start(&programs.loadgen);
        let (steady, fickle) = (backend()?, [backend()?, backend()?, backend()?]);
        let log = File::options().append(true).create(true).open(directory.path().join("log/engine"))?;
        let file = directory.path().join("offramp.toml");
        fs::write(&file, configuration(0, "", &identity, &keys, &steady, &fickle))?;
        let ready = File::create(directory.path().join("ready"))?;
        let mut command = Command::new(&programs.offramp);
        command.args(["serve", "--config"]).arg(&file).stdin(Stdio::null()).stdout(ready).stderr(log);
        let first =
            command.spawn().with_context(|| format!("{} could not start", programs.offramp.display()))?;
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut world = Self {
            programs,
            pid: first.id(),
            first,
            retired: Vec::new(),
            listeners: [unknown; 2],
            admin: unknown,
            identity,
            steady,
            fickle,
            descriptors: None,
            faults: BTreeMap::new(),
            log_disk,
            directory,
        };
        world.find_addresses()?;
        Ok(world)
    }

    fn find_addresses(&mut self) -> Result<()> {
        let file = self.directory.path().join("ready");
        let line = until(PATIENCE, "the ready line", || {
            let text = fs::read_to_string(&file).ok()?;
            text.ends_with('\n').then_some(text)
        });
        let line = line.with_context(|| self.last_words())?;
        let after = |mark: &str, nth: usize| {
            let rest = line.split(mark).nth(nth)?;
            rest.split([',', ';', ' ', '\n']).next()?.trim().parse::<SocketAddr>().ok()
        };
        let address = |mark, nth| after(mark, nth).with_context(|| format!("no address {nth} in {line:?}"));
        self.listeners = [address("listening on ", 1)?, address("listening on ", 2)?];
        self.admin = address("admin on ", 1)?;
        Ok(())
    }

    /// Whether the log is on a file system of its own, which can be filled.
    pub(super) fn has_log_disk(&self) -> bool {
        self.log_disk.is_some()
    }

    /// A client of one of the engine's listeners.
    pub(super) fn client(&self, pool: Pool, words: &str, length: Duration) -> Result<Loadgen> {
        let (target, trust) = (self.listener(pool).to_string(), self.trust());
        let seconds = format!("{}s", length.as_secs());
        let words = words.split_whitespace().chain(ALL_CLIENTS.split(' '));
        let more = ["--target", &target, "--ca", &trust, "--sni", SERVER_NAME, "-d", &seconds];
        let all: Vec<String> = words.chain(more).map(str::to_owned).collect();
        Loadgen::start(&self.programs.loadgen, &all)
    }

    fn listener(&self, pool: Pool) -> SocketAddr {
        self.listeners[usize::from(pool == Pool::Fickle)]
    }

    /// The file with the certificate that clients trust.
    fn trust(&self) -> String {
        self.identity.certificate_file().display().to_string()
    }

    pub(super) fn ticket_keys(&self) -> PathBuf {
        self.directory.path().join("ticket-keys")
    }

    pub(super) fn log_directory(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The end of the log.
    pub(super) fn last_words(&self) -> String {
        let text = fs::read(self.log_directory().join("engine")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<_> = text.lines().rev().take(LAST_LINES).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Another configuration, with `limits` in its table of that name; returns once it is in force.
    pub(super) fn reload(&mut self, nth: usize, limits: &str) -> Result<()> {
        let keys = self.ticket_keys();
        let text = configuration(nth, limits, &self.identity, &keys, &self.steady, &self.fickle);
        // In one step: the engine reads whole files only.
        let (file, next) = (self.directory.path().join("offramp.toml"), self.directory.path().join("next"));
        fs::write(&next, text)?;
        fs::rename(&next, &file)?;
        let before = self.reloads_logged();
        self.signal_reload();
        until(PATIENCE, "a reload", || (self.reloads_logged() > before).then_some(()))
    }

    fn reloads_logged(&self) -> usize {
        let text = fs::read(self.log_directory().join("engine")).unwrap_or_default();
        String::from_utf8_lossy(&text).matches(RELOADED).count()
    }

    pub(super) fn signal_reload(&self) {
        process::signal(self.pid(), "HUP");
    }

    /// Has a new process of the program take over, and goes on with that.
    pub(super) fn upgrade(&mut self) -> Result<()> {
        let file = self.directory.path().join("offramp.toml");
        let said = output(Command::new(&self.programs.offramp).args(["upgrade", "--config"]).arg(file))?;
        let pid = said.split_whitespace().nth(1).and_then(|pid| pid.parse().ok());
        let pid = pid.with_context(|| format!("no process number in what the upgrade says: {said:?}"))?;
        self.retired.push(std::mem::replace(&mut self.pid, pid));
        // The new process has its own counters, and descriptors of its own number.
        (self.descriptors, self.faults) = (None, BTreeMap::new());
        Ok(())
    }

    pub(super) fn start_backend_again(&mut self) -> Result<()> {
        let loadgen = self.programs.loadgen.clone();
        self.fickle[0].start_again(&loadgen)
    }

    fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether a process is there, and more than the rest of one that nobody has waited for.
    fn runs(pid: u32) -> bool {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains("Z (zombie)"))
    }

    /// Descriptors that the engine has open.
    pub(super) fn descriptors(&self) -> Result<u64> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count() as u64)
    }

    /// The soft limit on them.
    pub(super) fn descriptor_limit(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/limits", self.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
        let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        soft.with_context(|| format!("no limit on open files in {text:?}"))
    }

    pub(super) fn limit_descriptors(&self, limit: u64) -> Result<()> {
        // The hard limit stays.
        let limit = format!("--nofile={limit}:");
        output(Command::new("prlimit").args(["--pid", &self.pid().to_string(), &limit])).map(drop)
    }

    /// Waits until nothing is open any more, or `patience` is over, and reports what is left.
    pub(super) fn rest(&mut self, patience: Duration) -> Result<Rest> {
        let mut last = self.look()?;
        let expected = self.descriptors;
        let is_quiet = |rest: &Rest| {
            rest.connections == 0
                && rest.buffers_lent == 0
                && rest.processes == 0
                && expected.is_none_or(|descriptors| rest.descriptors <= descriptors)
        };
        let mut left = patience;
        while !is_quiet(&last) && !left.is_zero() {
            std::thread::park_timeout(POLL);
            left = left.saturating_sub(POLL);
            last = self.look()?;
        }
        let faults = last.faults.clone();
        last.faults.retain(|fault, count| {
            *count -= self.faults.get(fault).copied().unwrap_or_default().min(*count);
            *count > 0
        });
        self.faults = faults;
        last.descriptors_leaked = expected.map_or(0, |expected| last.descriptors.saturating_sub(expected));
        self.descriptors.get_or_insert(last.descriptors);
        let log = File::options().append(true).open(self.log_directory().join("engine"))?;
        if log.metadata()?.len() > LOG_BYTES_MAX {
            log.set_len(0)?;
        }
        Ok(last)
    }

    fn look(&mut self) -> Result<Rest> {
        // So that one that has ended is no zombie any more.
        self.first.try_wait()?;
        ensure!(Self::runs(self.pid), "the engine, process {}, has ended", self.pid);
        self.retired.retain(|pid| Self::runs(*pid));
        let metrics = self.metrics()?;
        Ok(Rest {
            connections: metrics.sum("offramp_connections_open"),
            buffers_lent: metrics.sum("offramp_buffers_lent"),
            descriptors: self.descriptors()?,
            descriptors_leaked: 0,
            processes: self.retired.len() as u64,
            resident_kib: process::resident_kib(self.pid())?,
            faults: metrics.by_label("offramp_faults_total", "fault"),
        })
    }

    fn metrics(&self) -> Result<Samples> {
        let mut tcp = TcpStream::connect_timeout(&self.admin, ANSWER)?;
        tcp.set_read_timeout(Some(ANSWER))?;
        tcp.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        tcp.read_to_string(&mut text)?;
        ensure!(text.starts_with("HTTP/1.1 200 "), "the admin address answers {text:?}");
        Ok(Samples(text))
    }

    /// SIGTERM with nothing open.
    pub(super) fn stop(mut self) -> Result<End> {
        process::signal(self.pid, "TERM");
        if self.pid == self.first.id() {
            let status = until(PATIENCE, "the end of the engine", || self.first.try_wait().ok().flatten());
            let status = status.with_context(|| self.last_words())?;
            return Ok(End { is_orderly: status.success(), status: status.to_string() });
        }
        // It is no child of ours: how it ended is not known, but that it did.
        until(PATIENCE, "the end of the engine", || (!Self::runs(self.pid)).then_some(()))
            .with_context(|| self.last_words())?;
        Ok(End { is_orderly: true, status: "ended when it was asked to".to_owned() })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.first.kill();
        let _ = self.first.wait();
        for pid in self.retired.iter().chain([&self.pid]).filter(|pid| **pid != self.first.id()) {
            process::signal(*pid, "KILL");
        }
    }
}

/// The metrics of one moment.
struct Samples(String);

impl Samples {
    /// Of all samples of this name, summed by the value of a label.
    fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for line in self.0.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')) {
            let Some((labels, value)) = line.rsplit_once("} ") else { continue };
            let is_it = |pair: &str| {
                pair.strip_prefix(label)?.strip_prefix("=\"")?.split('"').next().map(str::to_owned)
            };
            if let (Some(label), Ok(value)) = (labels.split(',').find_map(is_it), value.parse::<f64>()) {
                *sums.entry(label).or_default() += value as u64;
            }
        }
        sums
    }

    /// Of all samples of this name; one that is not there is 0.
    fn sum(&self, name: &str) -> u64 {
        let value = |line: &str| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        };
        self.0.lines().filter_map(value).sum::<f64>() as u64
    }
}

/// A small file system for the log, in the mount namespace of this process.
#[derive(Debug)]
struct Mounted(PathBuf);

impl Mounted {
    fn at(directory: &Path) -> Result<Self> {
        fs::create_dir(directory)?;
        output(Command::new("mount").args(["-t", "tmpfs", "-o", LOG_DISK, "soak"]).arg(directory))?;
        Ok(Self(directory.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: the log of the engine may still be open. The namespace ends with this process anyway.
        let _ = output(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

/// What can change at a reload does, by its number.
fn configuration(
    nth: usize,
    limits: &str,
    identity: &Identity,
    keys: &Path,
    steady: &Backend,
    fickle: &[Backend; 3],
) -> String {
    let [one, two, three] = fickle.each_ref().map(|backend| backend.address);
    let balance = ["round-robin", "least-connections", "random-of-two", "hash-client"][nth % 4];
    format!(
        "admin = \"127.0.0.1:0\"\nadmin_socket = \"admin.sock\"\nworkers = {WORKERS}\n\
         balance = \"{balance}\"\nticket_keys = {keys:?}\n\
         [[identity]]\ncertificate = {:?}\nkey = {:?}\n\
         [[pool]]\nname = \"steady\"\nbackend = \"{}\"\n\
         [[pool]]\nname = \"fickle\"\nbackend = [\"{one}\", \"{two} weight=2\", \"{three}\"]\n\
         health_check = \"tcp\"\n\
         [[listener]]\nlisten = \"127.0.0.1:0\"\nbackend = \"pool:steady\"\n\
         [[listener]]\nlisten = \"127.0.0.2:0\"\nbackend = \"pool:fickle\"\n\
         [timeouts]\nidle = \"{}m\"\n[limits]\nsource_connections = {}\n{limits}\n",
        identity.certificate_file(),
        identity.key_file(),
        steady.address,
        30 + nth,
        100_000 + nth,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_name_are_summed_and_others_are_not() {
        let text = "x_total 1\nx_total{a=\"b c\"} 2\nx_total_more 9\n# x_total 7\n";
        assert_eq!(Samples(text.to_owned()).sum("x_total"), 3);
        assert_eq!(Samples(text.to_owned()).sum("y"), 0);
        let text = "f{l=\"a\",fault=\"one\"} 1\nf{fault=\"one\"} 2\nf{fault=\"two\"} 0\n";
        let sums = Samples(text.to_owned()).by_label("f", "fault");
        assert_eq!(sums, [("one".to_owned(), 3), ("two".to_owned(), 0)].into());
    }
}
