//! What `/proc` says about a process and its descendants, and ending them.

use std::fs;
use std::io;
use std::process::Command;
use std::time::Duration;

/// Length of the clock ticks in `/proc/PID/stat`, in nanoseconds: USER_HZ is 100 on every Linux that we run
/// on.
const TICK_NS: u64 = 10_000_000;
/// By how much the ticks may exceed the exact run time before we conclude that a thread ended and took its
/// run time along: two ticks of rounding for each of the two readings.
const TICK_SLACK_NS: u64 = 4 * TICK_NS;

/// CPU time that a process and its descendants have used, user and system together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTime {
    /// Sum of `/proc/PID/task/*/schedstat`: exact, but without the threads that have ended.
    runtime_ns: u64,
    /// Sum of utime and stime in `/proc/PID/stat`: in steps of 10 ms, with the threads that have ended.
    ticks_ns: u64,
}

impl CpuTime {
    /// Reads the CPU time of `root` and all of its descendants.
    ///
    /// # Errors
    /// `root` is gone, or `/proc` cannot be read.
    pub fn read(root: u32) -> io::Result<Self> {
        let mut total = Self { runtime_ns: 0, ticks_ns: 0 };
        for pid in tree(root)? {
            total.ticks_ns += Stat::read(pid)?.cpu_ticks * TICK_NS;
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                // A thread may end between the listing and the reading.
                let Ok(line) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
                total.runtime_ns += parse_runtime(&line).ok_or_else(|| unexpected("schedstat", &line))?;
            }
        }
        Ok(total)
    }

    /// What was used since `earlier`: by the exact count, unless a thread ended in between; then by the
    /// ticks.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let runtime_ns = self.runtime_ns.saturating_sub(earlier.runtime_ns);
        let ticks_ns = self.ticks_ns.saturating_sub(earlier.ticks_ns);
        Duration::from_nanos(if ticks_ns > runtime_ns + TICK_SLACK_NS { ticks_ns } else { runtime_ns })
    }
}

/// Resident memory of `root` and its descendants, in KiB. Memory that they share is counted in each.
///
/// # Errors
/// `root` is gone, or `/proc` cannot be read.
pub fn resident_kib(root: u32) -> io::Result<u64> {
    let mut total = 0;
    for pid in tree(root)? {
        // Not `status`: its VmRSS lags by up to 64 pages per CPU.
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        total += parse_resident(&rollup).ok_or_else(|| unexpected("smaps_rollup", &rollup))?;
    }
    Ok(total)
}

/// `root` and all of its descendants, parents first.
///
/// # Errors
/// `/proc` cannot be read, or `root` is gone.
pub fn tree(root: u32) -> io::Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end between the listing and the reading.
        if let Ok(stat) = Stat::read(pid) {
            parents.push((pid, stat.parent));
        }
    }
    if !parents.iter().any(|(pid, _)| *pid == root) {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("process {root} is gone")));
    }
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    Ok(found)
}

/// CPU time of those children of this process that have ended and were waited for, with theirs: in steps of
/// 10 ms (cutime and cstime, proc(5)).
///
/// # Errors
/// `/proc` cannot be read.
pub fn ended_children() -> io::Result<Duration> {
    let line = fs::read_to_string("/proc/self/stat")?;
    let stat = Stat::parse(&line).ok_or_else(|| unexpected("stat", &line))?;
    Ok(Duration::from_nanos(stat.children_ticks * TICK_NS))
}

/// Sends `signal` (a name as kill(1) knows it) to one process. Whether it was still there does not matter.
pub fn signal(pid: u32, signal: &str) {
    let _ = Command::new("kill").arg("-s").arg(signal).arg(pid.to_string()).output();
}

/// What we need of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    cpu_ticks: u64,
    children_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> io::Result<Self> {
        let line = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&line).ok_or_else(|| unexpected("stat", &line))
    }

    /// The command name, in brackets, may itself hold spaces and brackets: fields are counted from the last
    /// one.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(')')?;
        // The first field behind the name is number 3 of proc(5), the state.
        let field = |number: usize| rest.split_ascii_whitespace().nth(number - 3);
        let ticks = |number| field(number).and_then(|text| text.parse::<u64>().ok());
        Some(Self {
            parent: field(4)?.parse().ok()?,
            cpu_ticks: ticks(14)? + ticks(15)?,
            children_ticks: ticks(16)? + ticks(17)?,
        })
    }
}

/// The first of the three figures of `schedstat`: nanoseconds on a CPU.
fn parse_runtime(line: &str) -> Option<u64> {
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn parse_resident(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn unexpected(file: &str, content: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected content in /proc {file}: {content:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_name_holds() {
        let line = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 0 0 0 11 22 5 6 20 0 1 0 100 0 0";
        assert_eq!(Stat::parse(line), Some(Stat { parent: 7, cpu_ticks: 33, children_ticks: 11 }));
        assert_eq!(Stat::parse("42 (short) S 7 42"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn run_time_and_memory_are_read_or_refused() {
        assert_eq!(parse_runtime("606641454 1596930 134\n"), Some(606_641_454));
        assert_eq!(parse_runtime("\n"), None);
        assert_eq!(parse_resident("0-1 ---p [rollup]\nRss:    1628 kB\nPss: 4 kB\n"), Some(1628));
        assert_eq!(parse_resident("Pss: 4 kB\n"), None);
    }

    #[test]
    fn a_thread_that_ended_is_seen_through_the_ticks() {
        let zero = CpuTime { runtime_ns: 0, ticks_ns: 0 };
        let exact = CpuTime { runtime_ns: 100_000_000, ticks_ns: 110_000_000 };
        assert_eq!(exact.since(zero), Duration::from_millis(100));
        let lost = CpuTime { runtime_ns: 100_000_000, ticks_ns: 500_000_000 };
        assert_eq!(lost.since(zero), Duration::from_millis(500));
    }

    #[test]
    fn usage_is_read_and_a_missing_process_is_not_found() {
        let me = std::process::id();
        assert!(tree(me).unwrap().starts_with(&[me]));
        assert!(CpuTime::read(me).unwrap().runtime_ns > 0);
        assert!(resident_kib(me).unwrap() > 0);
        assert_eq!(CpuTime::read(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
