//! The last stage but one: two sides joined. Plaintext goes from each to the other, at its own pace.
//!
//! Each direction holds at most one buffer that was received and waits to be sent: back-pressure is that
//! nothing more is received meanwhile. The end of what a side sends is passed on behind its last byte:
//! close_notify becomes FIN, FIN becomes close_notify. Of TLS the relay knows nothing: that is `tls`.

mod plain;
mod side;
mod tls;

use std::time::Instant;

use super::RECEIVE_BYTES;
use super::action::{Action, Milestone, Outbox, RecordPath};
use super::event::{Event, Leg};
use super::fault::Fault;
use super::record_path::Ended;
use crate::buf::Buf;
use crate::tls::secrets::Direction;
pub(super) use plain::PlainSide;
pub(super) use side::Side;
pub(super) use tls::TlsSide;

/// The two sides joined.
#[derive(Debug)]
pub(super) struct Relay {
    near: Side,
    far: Side,
    /// Received from the far side, for the near one.
    to_near: Option<Buf>,
    /// Received from the near side, for the far one.
    to_far: Option<Buf>,
    /// The time is over, once so many answers to `CountUnread` have come.
    expires_after: Option<u8>,
}

/// How a connection ends, as far as it concerns a side.
#[derive(Clone, Copy, Debug)]
pub(in crate::conn) struct Ending {
    pub(in crate::conn) fault: Fault,
    /// The leg that the fault is of; none if it is of neither.
    pub(in crate::conn) culprit: Option<Leg>,
    /// Something was received and not passed on.
    pub(in crate::conn) is_cut: bool,
}

/// Why it ended otherwise than by both sides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) fault: Fault,
    /// The leg that the fault is of; none if it is of neither.
    pub(super) culprit: Option<Leg>,
}

impl Cut {
    fn of(leg: Leg, fault: Fault) -> Self {
        Self { fault, culprit: Some(leg) }
    }
}

impl Relay {
    pub(super) fn begin(mut near: Side, far: Side, out: &mut Outbox) -> Self {
        let to_far = match &mut near {
            Side::Plain(side) => side.take_first(),
            Side::Tls(_) => None,
        };
        out.count(Leg::Near, to_far.as_ref().map_or(0, Buf::len));
        Self { near, far, to_near: None, to_far, expires_after: None }
    }

    /// Begins with what has come behind the handshakes. Returns whether both sides have ended.
    pub(super) fn start(&mut self, out: &mut Outbox) -> Result<bool, Cut> {
        self.pump(Moved::Any, out)?;
        self.conclude()
    }

    /// Takes one event. Returns whether both sides have ended.
    pub(super) fn on(&mut self, event: Event, out: &mut Outbox) -> Result<bool, Cut> {
        let moved = self.take(event, out)?;
        self.pump(moved, out)?;
        self.conclude()
    }

    /// Whether both sides have ended, each in order.
    fn conclude(&self) -> Result<bool, Cut> {
        let Self { near, far, .. } = self;
        if near.is_winding_up() || far.is_winding_up() {
            self.wind_up()?;
        }
        if near.has_ended() && far.has_ended() { self.cut().map_or(Ok(true), Err) } else { Ok(false) }
    }

    /// A key is spent: the end, once all that was received is passed on.
    #[cold]
    fn wind_up(&self) -> Result<(), Cut> {
        if !self.has_passed_all_on() {
            return Ok(());
        }
        let culprit = if self.near.is_winding_up() { Leg::Near } else { Leg::Far };
        Err(Cut::of(culprit, Fault::RecordLimit))
    }

    /// What was not orderly, when both sides have ended. A plain leg that is broken says more than what it
    /// caused on the other.
    #[cold]
    fn cut(&self) -> Option<Cut> {
        let [first, second] = match (&self.near, &self.far) {
            (near @ Side::Tls(_), far @ Side::Plain(_)) => [far, near],
            (near, far) => [near, far],
        };
        first.cut().or_else(|| second.cut())
    }

    /// Returns what the event has set in motion.
    fn take(&mut self, event: Event, out: &mut Outbox) -> Result<Moved, Cut> {
        let neither = |fault| Cut { fault, culprit: None };
        let (leg, moved) = match &event {
            Event::Received { leg, .. } => (*leg, Moved::From(*leg)),
            Event::Sent { leg, .. } | Event::Moved { leg } => (*leg, Moved::To(*leg)),
            Event::Expired => return self.expire(out).map(|()| Moved::Any),
            Event::Drain { .. } => return Ok(Moved::Any),
            other => (other.leg().ok_or_else(|| neither(Fault::Internal))?, Moved::Any),
        };
        let (side, received) = match leg {
            Leg::Near => (&mut self.near, &mut self.to_far),
            Leg::Far => (&mut self.far, &mut self.to_near),
        };
        let is_answer = matches!(event, Event::Unread { .. });
        side.on(event, received, out).map_err(|fault| Cut::of(leg, fault))?;
        if let Some(left) = self.expires_after.as_mut().filter(|_| is_answer) {
            *left -= 1;
            if *left == 0 {
                return Err(neither(Fault::IdleTimeout));
            }
        }
        Ok(moved)
    }

    /// A record that has begun is late, or nothing has moved for the idle time. Where the front of a record
    /// may lie with the kernel, the streams end in order only if none does.
    fn expire(&mut self, out: &mut Outbox) -> Result<(), Cut> {
        let sides = [&self.near, &self.far];
        if let Some(side) =
            sides.into_iter().find(|side| side.record_until().is_some_and(|until| until <= out.now))
        {
            return Err(Cut { fault: Fault::RecordTimeout, culprit: Some(side.leg()) });
        }
        if let Some(side) = sides.into_iter().find(|side| side.has_lost_its_peer()) {
            return Err(Cut { fault: Fault::TlsPeerReset, culprit: Some(side.leg()) });
        }
        let mut asked = 0;
        for side in sides.into_iter().filter(|side| side.may_have_unread()) {
            asked += 1;
            out.push(Action::CountUnread { leg: side.leg() });
        }
        if asked == 0 {
            return Err(Cut { fault: Fault::IdleTimeout, culprit: None });
        }
        self.expires_after = Some(asked);
        Ok(())
    }

    /// Goes on with what an event has set in motion.
    fn pump(&mut self, moved: Moved, out: &mut Outbox) -> Result<(), Cut> {
        let Self { near, far, to_near, to_far, .. } = self;
        match moved {
            Moved::To(Leg::Far) => pass_on(near, far, to_far, out),
            Moved::To(Leg::Near) => pass_on(far, near, to_near, out),
            Moved::From(Leg::Near) => {
                pass_on(near, far, to_far, out)?;
                answer(near, far.is_at_end(), to_near, out)
            }
            Moved::From(Leg::Far) => {
                pass_on(far, near, to_near, out)?;
                answer(far, near.is_at_end(), to_far, out)
            }
            Moved::Any => {
                pass_on(near, far, to_far, out)?;
                pass_on(far, near, to_near, out)?;
                answer(far, near.is_at_end(), to_far, out)
            }
        }
    }

    fn has_passed_all_on(&self) -> bool {
        let is_held = self.to_near.is_some() || self.to_far.is_some();
        !is_held && !self.near.is_sending() && !self.far.is_sending()
    }

    /// A peer has reset the connection, and only what it sent before is left to be passed on.
    pub(super) fn has_lost_a_peer(&self) -> bool {
        self.near.has_lost_its_peer() || self.far.has_lost_its_peer()
    }

    /// When a record that a peer has begun is to be whole; not while nothing is received.
    pub(super) fn record_until(&self) -> Option<Instant> {
        [self.near.record_until(), self.far.record_until()].into_iter().flatten().min()
    }

    /// How the legs end behind a fault.
    pub(super) fn end(self, cut: Cut, out: &mut Outbox) -> Ended {
        let Cut { fault, culprit } = cut;
        // A plain leg is reset when a drain is over. Where there is none, the alerts say that it is a cut.
        let has_no_plain_leg = matches!((&self.near, &self.far), (Side::Tls(_), Side::Tls(_)));
        let is_cut = !self.has_passed_all_on()
            || self.near.has_half_a_record()
            || self.far.has_half_a_record()
            || fault.is_for_want_of_time() && has_no_plain_leg;
        let ending = Ending { fault, culprit, is_cut };
        let Self { near, far, to_near, to_far, .. } = self;
        let heard = near.heard().or_else(|| far.heard());
        let (near, far) = (near.end(ending, to_near, out), far.end(ending, to_far, out));
        Ended { fault: Some(fault), culprit, heard, near, far }
    }

    /// Both sides have ended.
    pub(super) fn end_in_order(self, out: &mut Outbox) -> Ended {
        let Self { near, far, to_near, to_far, .. } = self;
        [to_near, to_far].into_iter().flatten().for_each(|buf| out.bufs.give(buf));
        let (near, far) = (near.end_in_order(out), far.end_in_order(out));
        Ended { fault: None, culprit: None, heard: None, near, far }
    }
}

/// What an event has set in motion.
#[derive(Clone, Copy)]
enum Moved {
    /// What comes from this leg, and answers to it.
    From(Leg),
    /// What goes to this leg.
    To(Leg),
    Any,
}

/// What a peer has sent may want an answer beside application data.
fn answer(side: &mut Side, is_at_end: bool, held: &mut Option<Buf>, out: &mut Outbox) -> Result<(), Cut> {
    match side {
        Side::Tls(side) if side.owes_a_record() => {
            side.send_next(held, is_at_end, out).map_err(|fault| Cut::of(side.leg(), fault))
        }
        _ => Ok(()),
    }
}

/// From one side to the other, as far as it goes now.
fn pass_on(from: &mut Side, to: &mut Side, held: &mut Option<Buf>, out: &mut Outbox) -> Result<(), Cut> {
    while pass_on_next(from, to, held, out)? {}
    Ok(())
}

/// Sends and receives the next bytes. Returns whether it is to be called again. Not inlined: a second call is
/// rare, and the compiler would prepare for many.
#[inline(never)]
fn pass_on_next(
    from: &mut Side,
    to: &mut Side,
    held: &mut Option<Buf>,
    out: &mut Outbox,
) -> Result<bool, Cut> {
    to.send_next(held, from.is_at_end(), out).map_err(|fault| Cut::of(to.leg(), fault))?;
    if to.has_ended() {
        held.take().into_iter().for_each(|buf| out.bufs.give(buf));
    }
    let is_winding_up = from.is_winding_up() || to.is_winding_up();
    let may = held.is_none() && !to.has_ended() && !is_winding_up;
    from.receive_next(held, may, to.takes_bytes(), out).map_err(|fault| Cut::of(from.leg(), fault))
}

/// It is settled who carries the records of a direction.
fn note(leg: Leg, direction: Direction, path: RecordPath, out: &mut Outbox) {
    out.push(Action::Note(Milestone::RecordPath { leg, direction, path }));
}
