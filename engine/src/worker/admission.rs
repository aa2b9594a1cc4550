//! Who gets a slot: as many connections as the cap allows, of which unfinished handshakes have a share. While
//! there is no slot for a newcomer, a handshake has less time, and the oldest one ends for it.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Worker;
use super::about::{About, ConnectionId, Timeline};
use super::apply::refused;
use super::faults::{Circumstances, Kind};
use super::listener::SINGLES;
use super::mailbox::ServiceId;
use super::owner::{Owner, SlotId};
use super::route::Route;
use super::served::Served;
use crate::conn::Conn;
use crate::conn::event::Event;
use crate::conn::fault::Fault;
use crate::metrics::{Counter, Pause};
use crate::sys::ring::Outcome;
use crate::sys::socket;

/// Connections taken in one turn: each has only a receive to be started.
const TURN_ACCEPTS: usize = 256;
/// With more handshakes waiting than that, connections are accepted by few: a whole backlog in one wait, each
/// with a receive, would hold up the bytes of established connections.
const FLOOD: usize = 16;
/// How long accepting goes on by few after that.
const FLOOD_REST: Duration = Duration::from_millis(100);
/// Between two looks for a handshake that has had its time, of a listener that may have no further
/// connection.
const HELD_LOOK: Duration = Duration::from_millis(100);
/// The part of `timeouts.handshake` that a handshake has while a newcomer finds no slot.
const EVICTION_SHARE: u32 = 4;

impl Worker {
    /// Gives a slot to each connection that was accepted, while there is one.
    pub(super) fn admit(&mut self) {
        for _ in 0..TURN_ACCEPTS {
            // Nobody ends for a newcomer before there is one.
            if self.ring.accepts_waiting() == 0 || self.room() == 0 && !self.draining && !self.evict_oldest()
            {
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

    /// Whether a connection that was accepted would get a slot.
    pub(super) fn may_admit(&mut self) -> bool {
        let now = self.now;
        self.ring.accepts_waiting() > 0
            && (self.room() > 0 || self.draining || self.next_eviction().is_some_and(|at| at <= now))
    }

    fn accepted(&mut self, service: ServiceId, outcome: Outcome) {
        let Some(served) = self.services.get_mut(&service) else { return };
        let Outcome::Accepted { socket, more } = outcome else { return };
        let is_closed = served.listener.is_closed();
        if !more {
            served.listener.finished();
        }
        match socket {
            Ok(socket) => self.take_in(service, socket),
            Err(errno) => {
                if let Some(hint) = served.listener.failed(errno, self.now, &mut self.ring) {
                    let failed = || served.circumstances_of_accept(errno, hint);
                    self.faults.take(Kind::AcceptFailed, self.now, failed);
                }
            }
        }
        if is_closed {
            self.forget(service);
        }
    }

    /// A connection was accepted: it gets a slot, unless where it comes from forbids it.
    fn take_in(&mut self, service: ServiceId, socket: OwnedFd) {
        let Some(served) = self.services.get(&service) else { return };
        let route = Arc::clone(&served.route);
        route.counters.add(Counter::Accepted, 1);
        let has_balancers = route.accept_proxy.is_on();
        let counts = self.limits.counts_sources() && !has_balancers;
        let is_followed = self.limits.logs_connections() || route.is_shown;
        let about = (counts || is_followed || route.wants_about()).then(|| {
            self.next_connection += 1;
            let id = ConnectionId { worker: self.name, serial: self.next_connection };
            let timeline = is_followed.then(|| Box::new(Timeline::begin(self.now)));
            Box::new(About { timeline, ..About::of(socket.as_fd(), id) })
        });
        let client = about.as_ref().and_then(|about| about.client);
        let source = match client {
            _ if has_balancers && !route.accept_proxy.believes(client.map(|client| client.ip())) => {
                Err(Fault::ProxyUntrusted)
            }
            Some(client) if counts => self.limits.enter(client.ip(), self.now).map(Some).map_err(refused),
            _ => Ok(None),
        };
        let source = match source {
            Ok(source) => source,
            Err(fault) => return self.turn_away(&route, client, socket, fault),
        };
        let conn = Conn::new(Arc::clone(&served.policy));
        self.evict_of(service);
        self.limits.accepted(self.now);
        route.connections.enter(self.index);
        route.counters.opened();
        let id = self.slots.insert(conn, route, socket, self.now);
        if let Some(slot) = self.slots.get(id) {
            (slot.about, slot.source) = (about, source);
        }
        self.step(id, Event::Opened);
        if self.draining {
            // Accepted when the listener was about to be closed.
            self.drain_one(id);
        }
    }

    /// Resets a connection that gets no slot: nothing of TLS is done for it.
    fn turn_away(&mut self, route: &Route, client: Option<SocketAddr>, socket: OwnedFd, fault: Fault) {
        route.counters.ended(Some(fault));
        let listener = || Some(route.listen.clone());
        let who = || Circumstances { client, listener: listener(), ..Circumstances::default() };
        self.faults.take(Kind::Fault(fault), self.now, who);
        // A Unix socket has no reset; its peer reads end of file.
        let _ = socket::abort_on_close(socket.as_fd());
        self.ring.close(socket);
    }

    /// Accepts or pauses by what room is left. What was accepted and waits for a slot takes of it, so that no
    /// more descriptors are open than the cap allows for, and one a listener.
    fn accept(&mut self) {
        let waiting = self.ring.accepts_waiting();
        let free = self.room().saturating_sub(waiting);
        let has_evictable = waiting == 0 && self.next_eviction().is_some_and(|at| at <= self.now);
        let (is_flooded, is_rated) = (self.is_flooded(), self.is_rated());
        let most = if is_flooded || is_rated { SINGLES } else { free };
        let room = free.min(most).max(usize::from(has_evictable));
        let share = room.div_ceil(self.services.len().max(1));
        let is_short = std::mem::take(&mut self.is_short);
        let reserve = self.max_connections / (2 * self.services.len().max(1));
        let left = |served: &Served| reserve.saturating_sub(served.route.connections.of(self.index) as usize);
        let reserved: usize = self.services.values().map(left).sum();
        for served in self.services.values_mut() {
            // The others keep what is reserved for them.
            let of_others = reserved - left(served);
            let share = if free == 0 { share } else { share.min(free.saturating_sub(of_others)) };
            let limit = self.limits.rules().listener_connections.map(|limit| limit.get());
            let below = limit.map(|limit| limit.saturating_sub(served.route.connections.sum()) as usize);
            let is_limited = below == Some(0);
            if is_limited && !served.is_limited {
                served.route.counters.add(Counter::ListenerLimits, 1);
            }
            served.is_limited = is_limited;
            let share = share.min(below.unwrap_or(usize::MAX));
            served.is_held = share == 0 && free > 0;
            let share = share.max(usize::from(served.is_held && served.has_evictable));
            if is_short {
                served.listener.rest(self.now, &mut self.ring);
            } else if share > 0 && self.rated_until.is_none() {
                served.listener.accept(share, self.now, &mut self.ring);
            } else {
                served.listener.pause(&mut self.ring);
            }
        }
        self.look_for_evictable();
        if free == 0 && !self.is_full {
            self.counters.pause(Pause::MaxConnections);
            self.faults.take(Kind::Full, self.now, Circumstances::default);
        }
        self.is_full = free == 0;
    }

    /// Of each listener that may have no further connection, whether a handshake has had its time.
    fn look_for_evictable(&mut self) {
        for served in self.services.values_mut().filter(|served| served.is_held) {
            if served.look_at <= self.now {
                served.look_at = self.now + HELD_LOOK;
                let oldest = self.slots.oldest_unfinished_of(&served.route.connections);
                let time = served.policy.timeouts.handshake / EVICTION_SHARE;
                served.has_evictable = oldest.is_some_and(|(_, began)| began + time <= self.now);
            }
        }
    }

    /// A listener that may have no further connection has one nevertheless: its oldest handshake ends for it.
    fn evict_of(&mut self, service: ServiceId) {
        let Some(served) = self.services.get_mut(&service).filter(|served| served.is_held) else { return };
        if !std::mem::take(&mut served.has_evictable) {
            return;
        }
        if let Some((id, _)) = self.slots.oldest_unfinished_of(&served.route.connections) {
            self.evict(id);
        }
    }

    /// Ends a handshake for a newcomer, or what is left of one that has failed.
    fn evict(&mut self, id: SlotId) {
        if let Some(slot) = self.slots.get(id) {
            slot.route.counters.add(Counter::HandshakesEvicted, 1);
        }
        self.step(id, Event::TurnedAway(Fault::HandshakeTimeout));
    }

    /// Whether new connections have a rate, and so are accepted by few; and until when none is.
    fn is_rated(&mut self) -> bool {
        let was_rated = self.rated_until.is_some();
        self.rated_until = self.limits.next_connection(self.now).map(|pause| self.now + pause);
        if self.rated_until.is_some() && !was_rated {
            self.counters.pause(Pause::ConnectionRate);
        }
        self.limits.rules().connection_rate.is_some()
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
        room(self.max_connections, self.slots.len(), self.slots.unfinished())
    }

    /// When the oldest handshake may be ended for a newcomer, if there is no other slot for one.
    pub(super) fn next_eviction(&mut self) -> Option<Instant> {
        // After `max_connections` was lowered one that ends may make no room: then none is ended.
        let (open, unfinished) = (self.slots.len(), self.slots.unfinished());
        let room_then = room(self.max_connections, open.saturating_sub(1), unfinished.saturating_sub(1));
        if self.room() > 0 || room_then == 0 || self.draining {
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
        self.evict(id);
        self.room() > 0
    }
}

/// For how many more connections there are slots, of `max` in all.
fn room(max: usize, open: usize, unfinished: usize) -> usize {
    let of_all = max.saturating_sub(open);
    of_all.min((max - max / 4).saturating_sub(unfinished))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_all_and_unfinished_leave() {
        assert_eq!((room(8, 0, 0), room(8, 8, 0), room(8, 6, 6), room(8, 5, 5)), (6, 0, 0, 1));
        assert_eq!(room(1, 0, 0), 1);
        // It was lowered below what there is.
        assert_eq!((room(4, 9, 2), room(4, 2, 9)), (0, 0));
    }
}
