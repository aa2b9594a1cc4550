//! Whether all that the kernel has sealed is with TCP, and whether all that was sent is acknowledged.
//!
//! Kernel TLS says that it has sent a record when it has sealed it. Where TCP had no room, the record waits
//! in a list of its own, which FIN overtakes and a close throws away, and of which nothing tells. But TCP
//! tells how many bytes it was given, the kernel how many records it has sealed, and we know what we gave it.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::apply::{Executor, Result};
use super::slots::SlotId;
use crate::conn::event::{Event, Leg};
use crate::sys::ktls::{self, Material};
use crate::sys::tcp;
use offramp_proto::Direction;

/// Until the second look; each further one waits twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The longest that a pause gets.
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// What was given to the socket of a TLS leg, and what the kernel adds to it.
#[derive(Default)]
pub(super) struct Sealing {
    /// Bytes that the socket has taken: sealed ones before the kernel had a key, plain ones since.
    taken: u64,
    /// Bytes that the kernel has added under keys before the present one.
    added: u64,
    key: Option<Key>,
}

/// The kernel's present key.
#[derive(Clone, Copy)]
struct Key {
    bytes_a_record: u64,
    first: u64,
}

/// A look that has found something waiting, and the next one.
pub(super) struct Look {
    pub(super) at: Instant,
    pause: Duration,
    given: u64,
    awaits: Awaits,
}

#[derive(Clone, Copy)]
enum Awaits {
    Flushed,
    Settled,
}

impl Sealing {
    /// The socket has taken so many bytes.
    pub(super) fn took(&mut self, count: usize) {
        self.taken += count as u64;
    }

    /// What the kernel has added under its present key, before another replaces it.
    pub(super) fn added_under_key(&self, socket: BorrowedFd<'_>) -> u64 {
        let Some(key) = self.key else { return 0 };
        let sequence = ktls::sequence(socket, Direction::Tx).unwrap_or(key.first);
        sequence.saturating_sub(key.first) * key.bytes_a_record
    }

    /// The kernel seals with these keys from here on, and has added so many bytes under those before.
    pub(super) fn begin(&mut self, material: &Material<'_>, added: u64) {
        self.added += added;
        let bytes_a_record = material.cipher.bytes_a_record();
        self.key = Some(Key { bytes_a_record, first: material.sequence });
    }

    /// How many bytes TCP was given, if something is still to be; `None` if not, or if that cannot be told.
    fn waiting(&self, socket: BorrowedFd<'_>, last: Option<&Look>) -> Option<u64> {
        self.key?;
        let tcp = tcp::sending(socket).ok()?;
        let all = self.taken + self.added + self.added_under_key(socket);
        // With nothing left to send and nothing come since the last look, there was nothing to come.
        let has_settled = tcp.is_done && last.is_some_and(|last| last.given == tcp.given);
        (tcp.given < all && !has_settled).then_some(tcp.given)
    }
}

impl Executor<'_> {
    /// `Flushed` at once, or a look later.
    pub(super) fn flush(&mut self, id: SlotId, leg: Leg) -> Result {
        let Some(slot) = self.slots.get(id) else { return Result::Started };
        let line = slot.line(leg);
        let last = line.look.take();
        let waiting = line.socket().and_then(|socket| line.sealing.waiting(socket, last.as_ref()));
        let Some(given) = waiting else { return Result::Event(Event::Flushed { leg }) };
        self.look_later(id, leg, last, given, Awaits::Flushed)
    }

    /// `Settled` at once, or a look later. The socket of a leg with TLS has settled too if nothing unread
    /// lies in it: its close is no reset then, and what was sent is delivered after it. A socket that is not
    /// TCP's has settled: what it has taken lies with the other end, and no close takes it back (unix(7)).
    pub(super) fn settle(&mut self, id: SlotId, leg: Leg) -> Result {
        let Some(slot) = self.slots.get(id) else { return Result::Started };
        let line = slot.line(leg);
        let last = line.look.take();
        let has_unread = |socket| tcp::unread_bytes(socket).map_or(true, |bytes| bytes > 0);
        let sending = match line.socket() {
            Some(socket) if line.is_plain || has_unread(socket) => tcp::sending(socket).ok(),
            _ => None,
        };
        match sending {
            Some(sending) if !sending.is_done => {
                self.look_later(id, leg, last, sending.given, Awaits::Settled)
            }
            _ => Result::Event(Event::Settled { leg }),
        }
    }

    fn look_later(&mut self, id: SlotId, leg: Leg, last: Option<Look>, given: u64, awaits: Awaits) -> Result {
        let Some(slot) = self.slots.get(id) else { return Result::Started };
        let pause = last.map_or(FIRST_PAUSE, |last| (last.pause * 2).min(LONGEST_PAUSE));
        let at = self.now + pause;
        slot.line(leg).look = Some(Look { at, pause, given, awaits });
        self.timers.set(at, id);
        Result::Started
    }

    /// The look that is due.
    pub(super) fn look_again(&mut self, id: SlotId, leg: Leg) -> Result {
        let look = self.slots.get(id).and_then(|slot| slot.line(leg).look.as_ref().map(|look| look.awaits));
        match look {
            Some(Awaits::Flushed) => self.flush(id, leg),
            Some(Awaits::Settled) => self.settle(id, leg),
            None => Result::Started,
        }
    }
}
