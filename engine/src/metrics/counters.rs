//! What a worker counts that is of no listener and no pool.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a worker stopped accepting or receiving for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Accepting: the connection cap was reached.
    MaxConnections,
    /// Accepting: `limits.connection_rate`.
    ConnectionRate,
    /// Receiving: `limits.buffer_memory`.
    BufferMemory,
}

const PAUSES: usize = Pause::BufferMemory as usize + 1;

/// What is set rather than added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gauge {
    /// Slots in use.
    Connections,
    /// Connections whose handshake is not complete.
    Unfinished,
    /// Buffers lent out of the free list and not returned.
    BuffersLent,
    /// Bytes of all buffers in use, those included that wait in the ring for what is received.
    BufferBytes,
    /// Ring operations in flight.
    OperationsInFlight,
    /// 1 while no slot is free.
    Full,
}

const GAUGES: usize = Gauge::Full as usize + 1;

/// One worker's counters: written by that worker alone (relaxed load + store, no locked instruction), read by
/// anyone.
///
/// Aligned to two cache lines: no two workers' counters share one, nor a pair that is fetched together.
#[derive(Default)]
#[repr(align(128))]
pub struct Counters {
    pauses: [AtomicU64; PAUSES],
    gauges: [AtomicU64; GAUGES],
    turns: AtomicU64,
}

impl Counters {
    /// The heartbeat, once a turn. Only the worker that the counters belong to may call this.
    pub fn turn(&self) {
        bump(&self.turns, 1);
    }

    /// How many turns the worker has begun.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Counts a pause. Only the worker that the counters belong to may call this.
    pub fn pause(&self, pause: Pause) {
        bump(&self.pauses[pause as usize], 1);
    }

    /// How often the worker paused for this reason.
    #[must_use]
    pub fn pauses(&self, pause: Pause) -> u64 {
        self.pauses[pause as usize].load(Ordering::Relaxed)
    }

    /// Sets. Only the worker that the counters belong to may call this. Whoever sees the value sees all that
    /// was counted before.
    pub fn set(&self, gauge: Gauge, value: u64) {
        self.gauges[gauge as usize].store(value, Ordering::Release);
    }

    /// What was set last.
    #[must_use]
    pub fn level(&self, gauge: Gauge) -> u64 {
        self.gauges[gauge as usize].load(Ordering::Acquire)
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").field("pauses", &self.pauses).field("gauges", &self.gauges).finish()
    }
}

/// One writer: what it loads is what it stored.
pub(super) fn bump(slot: &AtomicU64, count: u64) {
    slot.store(slot.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_no_cache_line() {
        assert_eq!((align_of::<Counters>(), size_of::<Counters>() % 128), (128, 0));
    }
}
