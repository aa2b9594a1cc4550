//! The ceiling on the memory of buffers. Seven eighths of it are for all; from there on a connection that has
//! bytes on their way receives no more of them, and one that has none receives into the rest. So who reads is
//! served beside any number of peers that do not. Where some wait nevertheless, the connections end whose
//! bytes have waited longest.

use std::time::{Duration, Instant};

use super::Worker;
use super::owner::SlotId;
use crate::conn::event::{Event, Leg};
use crate::conn::fault::Fault;
use crate::metrics::Pause;

/// How long bytes may wait in any case before their connection ends for others.
const GRACE: Duration = Duration::from_secs(5);
/// How often connections end while receives wait for memory.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// One of so many whose time is over ends at a time, and at least one.
const SHARE: usize = 16;
/// The part of the ceiling that is kept for connections that hold nothing.
const RESERVE_SHARE: usize = 8;
/// Most receives that are started in one turn while memory is short.
const TURN_RECEIVES: usize = 32;
/// Most connections with bytes on their way that are looked at in one turn while memory is short.
const TURN_LOOKS: usize = 512;

impl Worker {
    /// Puts the worker's share of the ceiling in force.
    pub(super) fn set_memory_ceiling(&mut self) {
        let bytes = self.limits.rules().buffer_memory.map_or(usize::MAX, |bytes| bytes.get());
        self.memory_ceiling = bytes / self.workers;
        self.outbox.bufs.set_ceiling(self.memory_ceiling - self.memory_ceiling / RESERVE_SHARE);
    }

    /// A receive found no buffer: it waits for one. While memory is short, only one for which there are
    /// bytes.
    pub(super) fn park(&mut self, id: SlotId, leg: Leg) {
        if !self.outbox.bufs.is_full() {
            self.parked.push_back((id, leg));
            return;
        }
        let Some(slot) = self.slots.get(id) else { return };
        if !slot.leg(leg).poll_first(id, leg, &mut self.ring) {
            self.wait_for_memory(id, leg);
        }
    }

    fn wait_for_memory(&mut self, id: SlotId, leg: Leg) {
        if self.has_bytes_on_their_way(id) {
            self.held_back.push_back((id, leg));
        } else {
            self.parked.push_back((id, leg));
        }
    }

    /// Whether a receive that waits may be started now.
    pub(super) fn may_receive(&self) -> bool {
        match self.outbox.bufs.is_full() {
            false => !self.parked.is_empty() || !self.held_back.is_empty(),
            true => !self.parked.is_empty() && self.has_reserve(),
        }
    }

    /// When connections may be ended for those that wait for memory; none if nobody waits.
    pub(super) fn next_memory_look(&self) -> Option<Instant> {
        let at = self.memory_look_at.unwrap_or(self.now + LOOK_EVERY);
        self.is_short_of_memory().then_some(at)
    }

    /// Ends connections for those that wait for memory.
    pub(super) fn relieve_memory(&mut self) {
        if !self.is_short_of_memory() {
            self.memory_look_at = None;
            return;
        }
        match self.memory_look_at {
            Some(at) if at > self.now => return,
            Some(_) => {}
            None => self.counters.pause(Pause::BufferMemory),
        }
        self.memory_look_at = Some(self.now + LOOK_EVERY);
        let Some(latest) = self.now.checked_sub(GRACE) else { return };
        let holders = self.slots.holders(latest);
        for id in holders.iter().take(holders.len().div_ceil(SHARE)) {
            self.step(*id, Event::TurnedAway(Fault::BufferMemory));
        }
    }

    /// Starts receives that wait, of connections that hold nothing, into what is kept for those.
    pub(super) fn receive_into_reserve(&mut self) {
        for _ in 0..self.held_back.len().min(TURN_LOOKS) {
            let Some((id, leg)) = self.held_back.pop_front() else { break };
            // What it had on its way may have been sent since.
            self.wait_for_memory(id, leg);
        }
        for _ in 0..TURN_RECEIVES {
            if !self.has_reserve() {
                return;
            }
            let Some((id, leg)) = self.parked.pop_front() else { return };
            if let Some(slot) = self.slots.get(id) {
                let buf = self.outbox.bufs.take();
                if let Some(buf) = slot.leg(leg).receive_into(buf, id, leg, &mut self.ring) {
                    self.outbox.bufs.give(buf);
                }
            }
        }
    }

    /// Whether receives wait for memory.
    fn is_short_of_memory(&self) -> bool {
        self.outbox.bufs.is_full() && !(self.parked.is_empty() && self.held_back.is_empty())
    }

    fn has_reserve(&self) -> bool {
        self.outbox.bufs.held_bytes() < self.memory_ceiling
    }

    fn has_bytes_on_their_way(&mut self, id: SlotId) -> bool {
        let Some(slot) = self.slots.get(id) else { return false };
        Leg::BOTH.into_iter().any(|leg| slot.leg(leg).sending_since().is_some())
    }
}
