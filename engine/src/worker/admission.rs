//! Who gets a slot: as many connections as the cap allows, of which unfinished handshakes have a share. While
//! there is no slot for a newcomer, a handshake has less time, and the oldest one ends for it.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Worker;
use super::about::{About, ConnectionId};
use super::faults::{Circumstances, Kind};
use super::listener::SINGLES;
use super::mailbox::ServiceId;
use super::owner::Owner;
use crate::conn::Conn;
use crate::conn::event::Event;
use crate::metrics::Counter;
use crate::sys::ring::Outcome;

/// Connections taken in one turn: each has only a receive to be started.
const TURN_ACCEPTS: usize = 256;
/// With more handshakes waiting than that, connections are accepted by few: a whole backlog in one wait, each
/// with a receive, would hold up the bytes of established connections.
const FLOOD: usize = 16;
/// How long accepting goes on by few after that.
const FLOOD_REST: Duration = Duration::from_millis(100);
/// The part of `timeouts.handshake` that a handshake has while a newcomer finds no slot.
const EVICTION_SHARE: u32 = 4;

impl Worker {
    /// Gives a slot to each connection that was accepted, while there is one.
    pub(super) fn admit(&mut self) {
        for _ in 0..TURN_ACCEPTS {
            if self.room() == 0 && !self.draining && !self.evict_oldest() {
                break;
            }
            let Some(completion) = self.ring.next_accept() else { break };
            if let Owner::Accept(service) = completion.user_data {
                self.accepted(service, completion.outcome);
            }
        }
        if !self.draining {
            self.accept();
        }
    }

    fn accepted(&mut self, service: ServiceId, outcome: Outcome) {
        let Some(served) = self.services.get_mut(&service) else { return };
        let is_closed = served.listener.is_closed();
        match outcome {
            Outcome::Accepted { socket, more } => {
                if !more {
                    served.listener.finished();
                }
                if !self.draining {
                    self.counters.add(Counter::Accepted, 1);
                    let route = Arc::clone(&served.route);
                    let conn = Conn::new(Arc::clone(&served.policy));
                    let about = route.wants_about().then(|| {
                        self.next_connection += 1;
                        let id = ConnectionId { worker: self.name, serial: self.next_connection };
                        Box::new(About::of(socket.as_fd(), id))
                    });
                    let id = self.slots.insert(conn, route, socket, self.now);
                    if let Some(slot) = self.slots.get(id) {
                        slot.about = about;
                    }
                    self.step(id, Event::Opened);
                }
            }
            Outcome::Failed { errno, .. } => {
                served.listener.finished();
                if let Some(hint) = served.listener.failed(errno, self.now, &mut self.ring) {
                    let failed = || served.circumstances_of_accept(errno, hint);
                    self.faults.take(Kind::AcceptFailed, self.now, failed);
                }
            }
            _ => {}
        }
        if is_closed {
            self.forget(service);
        }
    }

    /// Accepts or pauses by what room is left. What was accepted and waits for a slot takes of it, so that no
    /// more descriptors are open than the cap allows for, and one a listener.
    fn accept(&mut self) {
        let waiting = self.ring.accepts_waiting();
        let free = self.room().saturating_sub(waiting);
        let has_evictable = waiting == 0 && self.next_eviction().is_some_and(|at| at <= self.now);
        let most = if self.is_flooded() { SINGLES } else { free };
        let room = free.min(most).max(usize::from(has_evictable));
        let share = room.div_ceil(self.services.len().max(1));
        let is_short = std::mem::take(&mut self.is_short);
        for served in self.services.values_mut() {
            if is_short {
                served.listener.rest(self.now, &mut self.ring);
            } else if room > 0 {
                served.listener.accept(share, self.now, &mut self.ring);
            } else {
                served.listener.pause(&mut self.ring);
            }
        }
        if free == 0 && !self.is_full {
            self.counters.add(Counter::AcceptPaused, 1);
            self.faults.take(Kind::Full, self.now, Circumstances::default);
        }
        self.is_full = free == 0;
    }

    /// Whether handshakes come faster than they can be done, or did a moment ago.
    fn is_flooded(&mut self) -> bool {
        if self.ring.handshakes_waiting() + self.parked_handshakes.len() > FLOOD {
            self.flooded_until = Some(self.now + FLOOD_REST);
        }
        self.flooded_until.is_some_and(|until| self.now < until)
    }

    /// How many more connections there are slots for. Unfinished handshakes have three quarters of the slots.
    fn room(&self) -> usize {
        let share = self.max_connections - self.max_connections / 4;
        let of_all = self.max_connections.saturating_sub(self.slots.len());
        of_all.min(share.saturating_sub(self.slots.unfinished()))
    }

    /// When the oldest handshake may be ended for a newcomer, if there is no other slot for one.
    pub(super) fn next_eviction(&mut self) -> Option<Instant> {
        if self.room() > 0 || self.draining {
            return None;
        }
        let (id, began) = self.slots.oldest_unfinished()?;
        let time = self.slots.get(id)?.conn.policy().timeouts.handshake;
        Some(began + time / EVICTION_SHARE)
    }

    /// Ends the oldest handshake if its time is over. Returns whether it did.
    fn evict_oldest(&mut self) -> bool {
        if self.next_eviction().is_none_or(|at| at > self.now) {
            return false;
        }
        let Some((id, _)) = self.slots.oldest_unfinished() else { return false };
        self.counters.add(Counter::HandshakesEvicted, 1);
        self.step(id, Event::Expired);
        // What it has still to send does not keep the slot.
        self.room() > 0
    }
}
