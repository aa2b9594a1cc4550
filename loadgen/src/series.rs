//! What happened second by second.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::tally::{Latency, coarse_latency};

/// One second of one thread, or of all.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Connections that began.
    pub started: u64,
    /// Handshakes that were done.
    pub handshakes: u64,
    /// Of these, were to be resumed, and were not.
    pub not_resumed: u64,
    /// Connections that ended as they should.
    pub done: u64,
    /// Connections that failed.
    pub failed: u64,
    /// Messages that were answered.
    pub messages: u64,
    /// Verified bytes at the client.
    pub down: u64,
    /// Verified bytes at the other side.
    pub up: u64,
    /// Connections that were open when the second ended.
    pub open: u64,
    /// CPU time of the client threads, in nanoseconds.
    pub cpu_ns: u64,
    /// The latency that the plan is about, in µs, to two significant figures.
    pub latency: Latency,
}

impl Default for Interval {
    fn default() -> Self {
        Self {
            started: 0,
            handshakes: 0,
            not_resumed: 0,
            done: 0,
            failed: 0,
            messages: 0,
            down: 0,
            up: 0,
            open: 0,
            cpu_ns: 0,
            latency: coarse_latency(),
        }
    }
}

impl Interval {
    fn add(&mut self, other: &Self) {
        self.started += other.started;
        self.handshakes += other.handshakes;
        self.not_resumed += other.not_resumed;
        self.done += other.done;
        self.failed += other.failed;
        self.messages += other.messages;
        self.down += other.down;
        self.up += other.up;
        self.open += other.open;
        self.cpu_ns += other.cpu_ns;
        self.latency.add(&other.latency).expect("it grows as far as is asked for");
    }
}

/// The seconds of a run, on all threads together. Each thread locks it once a second.
#[derive(Debug, Default)]
pub struct Series {
    seconds: Mutex<BTreeMap<u64, Interval>>,
}

impl Series {
    /// Adds what one thread saw in a second, counted from the start of the run.
    pub fn add(&self, second: u64, interval: &Interval) {
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        seconds.entry(second).or_default().add(interval);
    }

    /// A second as far as it was told.
    #[must_use]
    pub fn second(&self, second: u64) -> Option<Interval> {
        self.seconds.lock().unwrap_or_else(PoisonError::into_inner).get(&second).cloned()
    }

    /// All seconds, in order.
    #[must_use]
    pub fn into_seconds(self) -> BTreeMap<u64, Interval> {
        self.seconds.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up_second_by_second() {
        let series = Series::default();
        let mut interval = Interval { started: 2, cpu_ns: 5, ..Interval::default() };
        interval.latency.record(7).unwrap();
        series.add(3, &interval);
        series.add(3, &interval);
        series.add(4, &interval);
        assert!(series.second(2).is_none());
        let third = series.second(3).unwrap();
        assert_eq!((third.started, third.cpu_ns, third.latency.len()), (4, 10, 2));
        assert_eq!(series.into_seconds().len(), 2);
    }
}
