//! What is counted of a pool: one [`PoolCounters`] per worker and pool.

use std::sync::atomic::{AtomicU64, Ordering};

use super::counters::bump;
use super::histogram::{Histogram, SHORT};

/// What is counted of the connections to the endpoints of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolCounter {
    /// Connects that were begun.
    Attempts,
    /// Those of them that were not the first one of their connection.
    Retries,
    /// Attempts that failed: the connect, or the TLS handshake with the endpoint.
    Failures,
}

const COUNTERS: usize = PoolCounter::Failures as usize + 1;

/// One worker's counters of a pool: written by that worker alone, read by anyone.
#[derive(Debug)]
#[repr(align(128))]
pub struct PoolCounters {
    counters: [AtomicU64; COUNTERS],
    /// From the start of an attempt until the endpoint is connected.
    pub connect: Histogram,
}

impl Default for PoolCounters {
    fn default() -> Self {
        Self { counters: Default::default(), connect: Histogram::new(&SHORT) }
    }
}

impl PoolCounters {
    /// Counts one. Only the worker that the counters belong to may call this.
    pub fn add(&self, counter: PoolCounter) {
        bump(&self.counters[counter as usize], 1);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self, counter: PoolCounter) -> u64 {
        self.counters[counter as usize].load(Ordering::Relaxed)
    }
}
