//! Whether all that the kernel has sealed is with TCP, and whether all that was sent is acknowledged.
//!
//! Kernel TLS says that it has sent a record when it has sealed it. Where TCP had no room, the record waits
//! in a list of its own, which FIN overtakes and a close throws away, and of which nothing tells. But TCP
//! tells how many bytes it was given, the kernel how many records it has sealed, and we know what we gave it.

use std::time::Duration;

use super::apply::{Applied, Executor};
use super::owner::SlotId;
use super::sealing::{Awaits, Look};
use crate::conn::event::{Event, Leg};
use crate::sys::tcp;

/// Until the second look; each further one waits twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The longest that a pause gets.
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

impl Executor<'_> {
    /// `Flushed` at once, or a look later.
    pub(super) fn flush(&mut self, id: SlotId, leg: Leg) -> Applied {
        let Some(slot) = self.slots.get(id) else { return Applied::Started };
        let leg_socket = slot.leg(leg);
        let last = leg_socket.look.take();
        let waiting =
            leg_socket.socket().and_then(|socket| leg_socket.sealing.waiting(socket, last.as_ref()));
        let Some(given) = waiting else { return Applied::Event(Event::Flushed { leg }) };
        self.look_later(id, leg, last, given, Awaits::Flushed)
    }

    /// `Settled` at once, or a look later. The socket of a leg with TLS has settled too if nothing unread
    /// lies in it: its close is no reset then, and what was sent is delivered after it. A socket that is not
    /// TCP's has settled: what it has taken lies with the other end, and no close takes it back (unix(7)).
    pub(super) fn settle(&mut self, id: SlotId, leg: Leg) -> Applied {
        let Some(slot) = self.slots.get(id) else { return Applied::Started };
        let leg_socket = slot.leg(leg);
        let last = leg_socket.look.take();
        let has_unread = |socket| tcp::unread_bytes(socket).map_or(true, |bytes| bytes > 0);
        let sending = match leg_socket.socket() {
            Some(socket) if leg_socket.is_plain || has_unread(socket) => tcp::sending(socket).ok(),
            _ => None,
        };
        match sending {
            Some(sending) if !sending.is_done => {
                self.look_later(id, leg, last, sending.given, Awaits::Settled)
            }
            _ => Applied::Event(Event::Settled { leg }),
        }
    }

    fn look_later(
        &mut self,
        id: SlotId,
        leg: Leg,
        last: Option<Look>,
        given: u64,
        awaits: Awaits,
    ) -> Applied {
        let Some(slot) = self.slots.get(id) else { return Applied::Started };
        let pause = last.map_or(FIRST_PAUSE, |last| (last.pause * 2).min(LONGEST_PAUSE));
        let at = self.now + pause;
        slot.leg(leg).look = Some(Look { at, pause, given, awaits });
        self.timers.set(at, id);
        Applied::Started
    }

    /// The look that is due.
    pub(super) fn look_again(&mut self, id: SlotId, leg: Leg) -> Applied {
        let look = self.slots.get(id).and_then(|slot| slot.leg(leg).look.as_ref().map(|look| look.awaits));
        match look {
            Some(Awaits::Flushed) => self.flush(id, leg),
            Some(Awaits::Settled) => self.settle(id, leg),
            None => Applied::Started,
        }
    }
}
