//! Faults in the log: each kind at most once in ten seconds, with how many there were, so that no peer fills
//! the disk.

use std::time::{Duration, Instant};

use crate::conn::fault::{Fault, Level, alert};

const QUIET: Duration = Duration::from_secs(10);

/// What was logged when, by fault.
pub(super) struct FaultLog {
    worker: usize,
    kinds: Vec<Kind>,
}

#[derive(Clone, Default)]
struct Kind {
    logged: Option<Instant>,
    unlogged: u64,
}

impl FaultLog {
    pub(super) fn new(worker: usize) -> Self {
        Self { worker, kinds: vec![Kind::default(); Fault::ALL.len()] }
    }

    /// `heard` is the description of the peer's alert, where that is the fault.
    pub(super) fn take(&mut self, fault: Fault, heard: Option<u8>, now: Instant) {
        if let Some(count) = self.due(fault, now) {
            let (label, worker) = (fault.label(), self.worker);
            let alert = heard.map(|number| format!(": {} ({number})", alert::name(number)));
            let alert = alert.unwrap_or_default();
            match fault.level() {
                Level::Debug => tracing::debug!(worker, count, "fault {label}{alert}"),
                Level::Info => tracing::info!(worker, count, "fault {label}{alert}"),
                Level::Warn => tracing::warn!(worker, count, "fault {label}{alert}"),
            }
        }
    }

    /// How many a line now would stand for; `None` if it is too early for one.
    fn due(&mut self, fault: Fault, now: Instant) -> Option<u64> {
        let kind = self.kinds.get_mut(fault.index())?;
        kind.unlogged += 1;
        if kind.logged.is_some_and(|at| now.saturating_duration_since(at) < QUIET) {
            return None;
        }
        kind.logged = Some(now);
        Some(std::mem::take(&mut kind.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn a_flood_is_a_line_in_ten_seconds_with_its_count() {
        let start = Instant::now();
        let mut log = FaultLog::new(0);
        assert_eq!(log.due(Fault::NotTls, start), Some(1));
        for _ in 0..999 {
            assert_eq!(log.due(Fault::NotTls, start + QUIET / 2), None);
        }
        assert_eq!(log.due(Fault::BadRecord, start), Some(1), "another kind has its own line");
        assert_eq!(log.due(Fault::NotTls, start + QUIET), Some(1000));
    }
}
