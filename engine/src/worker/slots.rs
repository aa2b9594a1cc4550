//! The connections of a worker, by slot.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use slab::Slab;

use super::about::{About, Timeline};
use super::leg_socket::LegSocket;
use super::owner::SlotId;
use super::phase::Phase;
use super::route::Route;
use super::target::Target;
use crate::conn::Conn;
use crate::conn::event::Leg;
use crate::limit::SourceKey;
use crate::pool::ConnectionCount;

/// One connection and its sockets.
pub(super) struct Slot {
    pub(super) conn: Conn,
    /// Where it comes from and goes to.
    pub(super) route: Arc<Route>,
    /// Counted among those whose handshake is not complete.
    is_unfinished: bool,
    /// Tells this tenant of the slot from those before.
    serial: u32,
    near: LegSocket,
    pub(super) far: LegSocket,
    /// The earliest time at which a timer for it is set.
    pub(super) timer: Option<Instant>,
    /// Who was accepted, where the accepted leg is closed before the connection is over.
    pub(super) client: Option<Box<SocketAddr>>,
    /// What is known of it, where somebody wants to know.
    pub(super) about: Option<Box<About>>,
    /// The endpoint.
    pub(super) target: Target,
    /// How far it has come.
    pub(super) phase: Phase,
    /// Where it comes from, if that is counted.
    pub(super) source: Option<SourceKey>,
}

impl Slot {
    /// Its course, if the log wants it.
    pub(super) fn timeline(&mut self) -> Option<&mut Timeline> {
        self.about.as_mut()?.timeline.as_deref_mut()
    }

    pub(super) fn leg(&mut self, leg: Leg) -> &mut LegSocket {
        match leg {
            Leg::Near => &mut self.near,
            Leg::Far => &mut self.far,
        }
    }
}

/// All of them.
pub(super) struct Slots {
    slots: Slab<Slot>,
    next_serial: u32,
    unfinished: usize,
    /// Those whose handshake is not complete, and when they were accepted, oldest first; among them some that
    /// are complete or gone by now.
    by_age: VecDeque<(SlotId, Instant)>,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self { slots: Slab::new(), next_serial: 0, unfinished: 0, by_age: VecDeque::new() }
    }

    /// `socket` is the leg that was accepted.
    pub(super) fn insert(&mut self, conn: Conn, route: Arc<Route>, socket: OwnedFd, now: Instant) -> SlotId {
        let serial = self.next_serial;
        self.next_serial = serial.wrapping_add(1);
        let is_plain = |leg| conn.policy().security(leg).tls().is_none();
        let [near, far] = Leg::BOTH.map(|leg| LegSocket::new(is_plain(leg)));
        let mut slot = Slot {
            conn,
            route,
            is_unfinished: true,
            serial,
            near,
            far,
            timer: None,
            client: None,
            about: None,
            target: Target::default(),
            phase: Phase::begin(now),
            source: None,
        };
        slot.leg(Leg::Near).open(socket);
        let index = u32::try_from(self.slots.insert(slot)).expect("the connection cap is far below 2^32");
        let id = SlotId { index, serial };
        self.unfinished += 1;
        self.by_age.push_back((id, now));
        id
    }

    /// The handshake is complete.
    pub(super) fn finished(&mut self, id: SlotId) {
        let Some(slot) = self.get(id) else { return };
        if !std::mem::take(&mut slot.is_unfinished) {
            return;
        }
        self.unfinished -= 1;
        // At least half of the entries go, so that each entry is looked at twice on average.
        if self.by_age.len() > 2 * self.unfinished + STALE_MAX {
            let slots = &self.slots;
            self.by_age.retain(|(id, _)| is_unfinished(slots, *id));
        }
    }

    /// How many handshakes are not complete.
    pub(super) fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// The one of them that was accepted first, and when.
    pub(super) fn oldest_unfinished(&mut self) -> Option<(SlotId, Instant)> {
        while let Some((id, at)) = self.by_age.front().copied() {
            if is_unfinished(&self.slots, id) {
                return Some((id, at));
            }
            self.by_age.pop_front();
        }
        None
    }

    /// The same among the connections of a service.
    pub(super) fn oldest_unfinished_of(&self, service: &Arc<ConnectionCount>) -> Option<(SlotId, Instant)> {
        let is_one = |id: &SlotId| {
            let slot = self.slots.get(id.index as usize);
            let is_of = |slot: &&Slot| Arc::ptr_eq(&slot.route.connections, service);
            is_unfinished(&self.slots, *id) && slot.filter(is_of).is_some()
        };
        self.by_age.iter().find(|(id, _)| is_one(id)).copied()
    }

    /// The connections with bytes that have waited since `latest` or before, to be sent or for the rest of a
    /// message; those first whose bytes have waited longest.
    pub(super) fn holders(&self, latest: Instant) -> Vec<SlotId> {
        let of_relays = self.slots.iter().filter_map(|(index, slot)| {
            let Slot { near, far, conn, serial, .. } = slot;
            let since = [near.sending_since(), far.sending_since(), conn.record_since()];
            let since = since.into_iter().flatten().min()?;
            Some((since, SlotId { index: u32::try_from(index).ok()?, serial: *serial }))
        });
        let keeps_front = |id: &SlotId| {
            let slot = self.slots.get(id.index as usize);
            slot.is_some_and(|slot| slot.conn.keeps_front_of_handshake())
        };
        let of_handshakes = self.by_age.iter().filter(|(id, _)| is_unfinished(&self.slots, *id));
        let of_handshakes =
            of_handshakes.filter(|(id, _)| keeps_front(id)).map(|(id, accepted)| (*accepted, *id));
        let mut all: Vec<_> = of_relays.chain(of_handshakes).filter(|(since, _)| *since <= latest).collect();
        all.sort_unstable_by_key(|(since, _)| *since);
        all.into_iter().map(|(_, id)| id).collect()
    }

    /// The tenant, unless it has left.
    pub(super) fn get(&mut self, id: SlotId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index as usize).filter(|slot| slot.serial == id.serial)
    }

    pub(super) fn remove(&mut self, id: SlotId) -> Option<Slot> {
        self.finished(id);
        self.get(id)?;
        self.slots.try_remove(id.index as usize)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// All slots in use have a lower index.
    pub(super) fn end(&self) -> u32 {
        u32::try_from(self.slots.capacity()).unwrap_or(u32::MAX)
    }

    /// Whoever has the slot now, and its serial number.
    pub(super) fn at(&mut self, index: u32) -> Option<(u32, &mut Slot)> {
        self.slots.get_mut(index as usize).map(|slot| (slot.serial, slot))
    }

    pub(super) fn ids(&self) -> Vec<SlotId> {
        self.slots.iter().map(|(index, slot)| SlotId { index: index as u32, serial: slot.serial }).collect()
    }
}

/// Entries of `by_age` that may be stale, in addition to one per handshake that is not complete.
const STALE_MAX: usize = 64;

fn is_unfinished(slots: &Slab<Slot>, id: SlotId) -> bool {
    slots.get(id.index as usize).is_some_and(|slot| slot.serial == id.serial && slot.is_unfinished)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fixtures::{policy, route};
    use super::*;

    fn conn() -> Conn {
        Conn::new(policy())
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn slots_unfinished_are_counted_and_known_by_age() {
        let socket = || std::os::unix::net::UnixStream::pair().expect("a pair").0.into();
        let (mut slots, begin) = (Slots::new(), Instant::now());
        let insert = |slots: &mut Slots, nth: u64| {
            slots.insert(conn(), route(), socket(), begin + Duration::from_secs(nth))
        };
        let [first, second, third] = [0, 1, 2].map(|nth| insert(&mut slots, nth));
        assert_eq!((slots.unfinished(), slots.oldest_unfinished()), (3, Some((first, begin))));
        slots.finished(first);
        slots.finished(first);
        assert!(slots.remove(second).is_some());
        assert_eq!(slots.unfinished(), 1);
        assert_eq!(slots.oldest_unfinished().map(|(id, _)| id), Some(third));
        for nth in 3..1000 {
            let id = insert(&mut slots, nth);
            slots.finished(id);
            assert!(slots.remove(id).is_some());
        }
        assert!(slots.by_age.len() <= 2 * slots.unfinished() + STALE_MAX, "{}", slots.by_age.len());
        assert_eq!((slots.unfinished(), slots.len()), (1, 2));
    }

    /// A look for the oldest handshake of a listener does not walk all connections of the worker.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn slots_complete_leave_the_list_by_age() {
        let socket = || std::os::unix::net::UnixStream::pair().expect("a pair").0.into();
        let (mut slots, now) = (Slots::new(), Instant::now());
        let ids: Vec<_> = (0..300).map(|_| slots.insert(conn(), route(), socket(), now)).collect();
        let (last, others) = ids.split_last().expect("300");
        others.iter().for_each(|id| slots.finished(*id));
        assert!(slots.by_age.len() <= 2 + STALE_MAX, "{}", slots.by_age.len());
        assert_eq!((slots.len(), slots.oldest_unfinished()), (300, Some((*last, now))));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn a_tenant_that_left_is_not_found_in_its_slot() {
        let socket = || std::os::unix::net::UnixStream::pair().expect("a pair").0.into();
        let (mut slots, now) = (Slots::new(), Instant::now());
        let first = slots.insert(conn(), route(), socket(), now);
        assert!(slots.remove(first).is_some());
        let second = slots.insert(conn(), route(), socket(), now);
        assert_eq!(first.index, second.index);
        assert!(slots.get(first).is_none() && slots.remove(first).is_none());
        assert!(slots.get(second).is_some());
    }
}
