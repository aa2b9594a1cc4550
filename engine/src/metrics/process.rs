//! What is counted of the process: whether its workers turn, and what became of its log.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::{Gauge, Metrics, write_counter};

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

    /// The level of one worker; 0 of one that does not exist.
    #[must_use]
    pub fn level_of(&self, worker: usize, gauge: Gauge) -> u64 {
        self.workers.get(worker).map_or(0, |it| it.gauges[gauge as usize].load(Ordering::Relaxed))
    }

    /// Lines of the log that were lost.
    #[must_use]
    pub fn log_lines_dropped(&self) -> u64 {
        self.log.lines_dropped()
    }

    /// Writes to the log that failed.
    #[must_use]
    pub fn log_write_errors(&self) -> u64 {
        self.log.write_errors()
    }

    /// How many turns a worker has begun; 0 of one that does not exist.
    #[must_use]
    pub fn turns(&self, worker: usize) -> u64 {
        self.workers.get(worker).map_or(0, |worker| worker.turns.load(Ordering::Relaxed))
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
        let help =
            "Seconds since the worker's event loop last ran, as seen each second; 0 or 1 unless it is stuck";
        let name = "offramp_worker_stalled_seconds";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (worker, seconds) in self.stalled().enumerate() {
            metric.encode_family(&[("worker", worker)])?.encode_gauge(&seconds)?;
        }
        for (name, help, count) in [
            ("offramp_log_lines_dropped", "Lines of the log that were lost", self.log.lines_dropped()),
            ("offramp_log_write_errors", "Writes to the log that failed", self.log.write_errors()),
        ] {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            write_counter(&mut metric, &[], count)?;
        }
        Ok(())
    }
}
