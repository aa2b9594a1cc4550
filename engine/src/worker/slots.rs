//! The connections of a worker, by slot; and the tokens that name one of their operations to the ring.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use slab::Slab;

use super::mailbox::{Route, ServiceId};
use super::sealing::{Look, Sealing};
use crate::conn::Conn;
use crate::conn::event::Leg;
use crate::sys::ring::{Ring, Started, Token};
use crate::sys::socket::{self, Address};

/// What an operation on the ring was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Accept,
    Mailbox,
    Connect(Leg),
    Receive(Leg),
    ReceiveRecord(Leg),
    Send(Leg),
}

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
    far: LegSocket,
    /// The earliest time at which a timer for it is set.
    pub(super) timer: Option<Instant>,
    /// Who was accepted, where the accepted leg is closed before the connection is over.
    pub(super) client: Option<Box<SocketAddr>>,
}

/// The socket of a leg.
#[derive(Default)]
pub(super) struct LegSocket {
    socket: Option<OwnedFd>,
    /// The receive that is under way.
    receiving: Option<Started>,
    /// The send, or the connect.
    sending: Option<Started>,
    /// The last receive left nothing to read.
    pub(super) drained: bool,
    /// The kernel opens its records: what it says of more to read means nothing (Linux 6.1 to 6.12).
    pub(super) hintless: bool,
    /// It was found that no record comes next, and told.
    pub(super) unreadable: bool,
    /// Most bytes of the receive that is under way, or was last; none if it is of a handshake.
    pub(super) max: Option<usize>,
    /// When to look again whether what was sent is with TCP, or acknowledged.
    pub(super) look: Option<Look>,
    /// It has no TLS.
    pub(super) is_plain: bool,
    /// What was given to the socket.
    pub(super) sealing: Sealing,
    /// The record type of the record that is being sent, if one is.
    pub(super) record_type: Option<u8>,
    /// The port that it is being connected to; 0 for none.
    port: u16,
}

impl LegSocket {
    /// The socket, unless the leg is closed.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Takes the socket away, and cancels what is under way on it: the leg is closed.
    pub(super) fn close(&mut self, ring: &mut Ring) -> Option<OwnedFd> {
        for operation in [self.receiving.take(), self.sending.take()].into_iter().flatten() {
            ring.cancel(operation);
        }
        self.socket.take()
    }

    /// An operation was started.
    pub(super) fn started(&mut self, purpose: Purpose, operation: Started) {
        *self.under_way(purpose) = Some(operation);
    }

    /// It is complete.
    pub(super) fn finished(&mut self, purpose: Purpose) {
        *self.under_way(purpose) = None;
    }

    fn under_way(&mut self, purpose: Purpose) -> &mut Option<Started> {
        match purpose {
            Purpose::Receive(_) | Purpose::ReceiveRecord(_) => &mut self.receiving,
            _ => &mut self.sending,
        }
    }

    /// Opens the leg.
    pub(super) fn open(&mut self, socket: OwnedFd) {
        self.socket = Some(socket);
    }

    /// Opens the leg, which is to be connected to `address`.
    pub(super) fn dial(&mut self, socket: OwnedFd, address: &Address) {
        self.open(socket);
        self.port = address.port().unwrap_or(0);
    }

    /// Whether the connect that has succeeded reached its own socket: nobody listens there. Then its close is
    /// a reset, which leaves no TIME_WAIT on a port that the backend wants.
    pub(super) fn reached_itself(&self) -> bool {
        let itself = |socket: &BorrowedFd<'_>| socket::is_self_connected(*socket, self.port);
        let Some(socket) = self.socket().filter(itself) else { return false };
        // It is a socket, which is all that could fail here.
        let _ = socket::abort_on_close(socket);
        true
    }
}

impl Slot {
    pub(super) fn line(&mut self, leg: Leg) -> &mut LegSocket {
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

/// Names a tenant of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlotId {
    index: u32,
    serial: u32,
}

impl SlotId {
    /// Of the token of an accept: for which service.
    pub(super) fn service(self) -> ServiceId {
        ServiceId(self.serial)
    }
}

impl Slots {
    pub(super) fn new() -> Self {
        Self { slots: Slab::new(), next_serial: 0, unfinished: 0, by_age: VecDeque::new() }
    }

    /// `socket` is the leg that was accepted.
    pub(super) fn insert(&mut self, conn: Conn, route: Arc<Route>, socket: OwnedFd, now: Instant) -> SlotId {
        let serial = self.next_serial;
        self.next_serial = serial.wrapping_add(1);
        let line = |leg| LegSocket {
            is_plain: conn.policy().security(leg).terms().is_none(),
            ..LegSocket::default()
        };
        let (near, far) = (line(Leg::Near), line(Leg::Far));
        let mut slot =
            Slot { conn, route, is_unfinished: true, serial, near, far, timer: None, client: None };
        slot.line(Leg::Near).open(socket);
        let index = u32::try_from(self.slots.insert(slot)).expect("the connection cap is far below 2^32");
        let id = SlotId { index, serial };
        self.unfinished += 1;
        self.by_age.push_back((id, now));
        if self.by_age.len() > 2 * self.slots.len() + STALE_MAX {
            let slots = &self.slots;
            self.by_age.retain(|(id, _)| is_unfinished(slots, *id));
        }
        id
    }

    /// The handshake is complete.
    pub(super) fn finished(&mut self, id: SlotId) {
        let Some(slot) = self.get(id) else { return };
        let was_unfinished = std::mem::take(&mut slot.is_unfinished);
        self.unfinished -= usize::from(was_unfinished);
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

    pub(super) fn ids(&self) -> Vec<SlotId> {
        self.slots.iter().map(|(index, slot)| SlotId { index: index as u32, serial: slot.serial }).collect()
    }
}

/// Entries of `by_age` that may be stale, beside as many as there are slots.
const STALE_MAX: usize = 64;

fn is_unfinished(slots: &Slab<Slot>, id: SlotId) -> bool {
    slots.get(id.index as usize).is_some_and(|slot| slot.serial == id.serial && slot.is_unfinished)
}

const PURPOSE_BITS: u32 = 4;
const INDEX_BITS: u32 = 28;

/// Purpose in the low 4 bits, then 28 bits of slot index, then the serial.
pub(super) fn token(purpose: Purpose, id: SlotId) -> Token {
    let purpose = match purpose {
        Purpose::Accept => 0,
        Purpose::Mailbox => 1,
        Purpose::Connect(Leg::Near) => 2,
        Purpose::Connect(Leg::Far) => 8,
        Purpose::Receive(Leg::Near) => 3,
        Purpose::Receive(Leg::Far) => 4,
        Purpose::Send(Leg::Near) => 5,
        Purpose::Send(Leg::Far) => 6,
        Purpose::ReceiveRecord(Leg::Near) => 7,
        Purpose::ReceiveRecord(Leg::Far) => 9,
    };
    purpose | u64::from(id.index) << PURPOSE_BITS | u64::from(id.serial) << (PURPOSE_BITS + INDEX_BITS)
}

/// The token of an operation of the worker itself.
pub(super) fn own_token(purpose: Purpose) -> Token {
    token(purpose, SlotId { index: 0, serial: 0 })
}

/// The token of an accept for a service.
pub(super) fn accept_token(service: ServiceId) -> Token {
    token(Purpose::Accept, SlotId { index: 0, serial: service.0 })
}

/// What [`token`] was made of.
pub(super) fn read_token(token: Token) -> Option<(Purpose, SlotId)> {
    let purpose = match token & ((1 << PURPOSE_BITS) - 1) {
        0 => Purpose::Accept,
        1 => Purpose::Mailbox,
        2 => Purpose::Connect(Leg::Near),
        8 => Purpose::Connect(Leg::Far),
        3 => Purpose::Receive(Leg::Near),
        4 => Purpose::Receive(Leg::Far),
        5 => Purpose::Send(Leg::Near),
        6 => Purpose::Send(Leg::Far),
        7 => Purpose::ReceiveRecord(Leg::Near),
        9 => Purpose::ReceiveRecord(Leg::Far),
        _ => return None,
    };
    let index = (token >> PURPOSE_BITS) as u32 & ((1 << INDEX_BITS) - 1);
    Some((purpose, SlotId { index, serial: (token >> (PURPOSE_BITS + INDEX_BITS)) as u32 }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fixtures::{policy, route};
    use super::*;

    fn conn() -> Conn {
        Conn::new(policy(), 1)
    }

    #[test]
    fn a_token_says_what_it_was_made_of() {
        let id = SlotId { index: (1 << INDEX_BITS) - 1, serial: u32::MAX - 5 };
        for purpose in [
            Purpose::Accept,
            Purpose::Mailbox,
            Purpose::Connect(Leg::Far),
            Purpose::Connect(Leg::Near),
            Purpose::Receive(Leg::Near),
            Purpose::Receive(Leg::Far),
            Purpose::ReceiveRecord(Leg::Near),
            Purpose::ReceiveRecord(Leg::Far),
            Purpose::Send(Leg::Near),
            Purpose::Send(Leg::Far),
        ] {
            assert_eq!(read_token(token(purpose, id)), Some((purpose, id)));
        }
        assert_eq!(read_token(15), None);
        let service = ServiceId(u32::MAX);
        let read = read_token(accept_token(service)).map(|(purpose, id)| (purpose, id.service()));
        assert_eq!(read, Some((Purpose::Accept, service)));
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
        assert!(slots.by_age.len() <= 2 * slots.len() + STALE_MAX + 1, "{} of the dead", slots.by_age.len());
        assert_eq!((slots.unfinished(), slots.len()), (1, 2));
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
