//! Deadlines of connections, lazily: a deadline that moves away, as an idle one does with every byte, costs
//! nothing.
//!
//! One timer, seldom two, is set for a tenant, for the earliest deadline that was known; when it fires,
//! the connection is asked for its deadline of then, and if that has moved, the timer is set again.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::owner::SlotId;

/// All timers of a worker.
#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, SlotId)>>,
}

impl Timers {
    /// Sets a timer.
    pub(super) fn set(&mut self, at: Instant, id: SlotId) {
        self.heap.push(Reverse((at, id)));
    }

    /// How long until the first one fires; `None` if none is set.
    pub(super) fn patience(&self, now: Instant) -> Option<Duration> {
        self.heap.peek().map(|Reverse((at, _))| at.saturating_duration_since(now))
    }

    /// The next one that has fired by `now`.
    pub(super) fn fired(&mut self, now: Instant) -> Option<SlotId> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, id))| id)
    }
}
