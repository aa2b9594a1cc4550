//! What is counted of the process: whether its workers turn, what became of its log, and what it uses of the
//! machine.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};

use super::Metrics;
use super::counters::Gauge;
use super::{encode, families};
use crate::sys::socket;

/// Ticks per second of what the kernel reports to programs (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes that are read of a file; they have less.
const FILE_BYTES: usize = 4096;

/// Files of /proc about this process, opened at the start: later they might be out of reach.
#[derive(Debug)]
pub(super) struct ProcessFiles {
    status: Option<File>,
    stat: Option<File>,
    limits: Option<File>,
}

impl ProcessFiles {
    /// What there is of them.
    pub(super) fn open() -> Self {
        let open = |name: &str| File::open(format!("/proc/self/{name}")).ok();
        Self { status: open("status"), stat: open("stat"), limits: open("limits") }
    }

    fn resident_bytes(&self) -> Option<u64> {
        let text = read(self.status.as_ref()?)?;
        let kib: u64 = field(&text, "VmRSS:", 0)?.parse().ok()?;
        Some(kib * 1024)
    }

    fn cpu_seconds(&self) -> Option<f64> {
        let text = read(self.stat.as_ref()?)?;
        // Behind the name of the program, which may have spaces, are the fields from the third on.
        let (_, rest) = text.rsplit_once(')')?;
        let ticks: f64 =
            rest.split_whitespace().skip(11).take(2).filter_map(|it| it.parse::<f64>().ok()).sum();
        Some(ticks / TICKS_PER_SECOND)
    }

    fn most_descriptors(&self) -> Option<u64> {
        field(&read(self.limits.as_ref()?)?, "Max open files", 0)?.parse().ok()
    }
}

fn read(file: &File) -> Option<String> {
    let mut bytes = [0; FILE_BYTES];
    let count = file.read_at(&mut bytes, 0).ok()?;
    Some(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

/// The nth word behind `name` in its line.
fn field<'a>(text: &'a str, name: &str, nth: usize) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().nth(nth))
}

/// What was lost of the log. Written by any thread, and only where a line is lost.
#[derive(Debug, Default)]
pub struct LogCounters {
    dropped: AtomicU64,
    failed: AtomicU64,
}

impl LogCounters {
    /// A line was lost.
    pub fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// A write failed.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Lines that were lost since the start.
    #[must_use]
    pub fn lines_dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Writes that failed since the start.
    #[must_use]
    pub fn write_errors(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

impl Metrics {
    /// With what is counted of the log.
    #[must_use]
    pub fn with_log(self, log: Arc<LogCounters>) -> Self {
        Self { log, ..self }
    }

    /// Worker threads.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// How many turns a worker has begun; 0 of one that does not exist.
    #[must_use]
    pub fn turns(&self, worker: usize) -> u64 {
        self.workers.get(worker).map_or(0, |worker| worker.turns())
    }

    /// For how many seconds each worker has not turned; 0 or 1 for one that works or waits for work.
    pub fn stalled(&self) -> impl Iterator<Item = u64> {
        self.stalled.iter().map(|seconds| seconds.load(Ordering::Relaxed))
    }

    /// Sets that. Only the thread that watches the workers may call this.
    pub fn set_stalled(&self, worker: usize, seconds: u64) {
        if let Some(stalled) = self.stalled.get(worker) {
            stalled.store(seconds, Ordering::Relaxed);
        }
    }

    pub(super) fn encode_process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encode::begin(encoder, &families::WORKER_CONNECTIONS)?;
        for (worker, counters) in self.workers.iter().enumerate() {
            metric.encode_family(&[("worker", worker)])?.encode_gauge(&counters.level(Gauge::Connections))?;
        }
        let mut metric = encode::begin(encoder, &families::WORKER_STALLED)?;
        for (worker, seconds) in self.stalled().enumerate() {
            metric.encode_family(&[("worker", worker)])?.encode_gauge(&seconds)?;
        }
        for (family, count) in [
            (&families::LOG_LINES_DROPPED, self.log.lines_dropped()),
            (&families::LOG_WRITE_ERRORS, self.log.write_errors()),
        ] {
            encode::counter(&mut encode::begin(encoder, family)?, &[], count)?;
        }
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        encode::begin(encoder, &families::BUILD_INFO)?.encode_family(&version)?.encode_gauge(&1_u64)?;
        for (family, level) in [
            (&families::RESIDENT_MEMORY, self.process.resident_bytes()),
            (&families::OPEN_FDS, socket::open_descriptors().ok()),
            (&families::MAX_FDS, self.process.most_descriptors()),
            (&families::START_TIME, Some(self.registry.began())),
        ] {
            level.map_or(Ok(()), |level| encode::gauge(encoder, family, level))?;
        }
        if let Some(seconds) = self.process.cpu_seconds() {
            let mut metric = encode::begin(encoder, &families::CPU_TIME)?;
            metric.encode_counter::<NoLabelSet, _, f64>(&seconds, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_files_have_what_is_exposed() {
        let files = ProcessFiles::open();
        assert!(files.resident_bytes().is_some_and(|bytes| bytes > 4096));
        assert!(files.cpu_seconds().is_some_and(|seconds| seconds >= 0.0));
        assert!(files.most_descriptors().is_some_and(|most| most > 0));
    }
}
