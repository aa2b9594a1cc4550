//! The last stage: each leg ends separately. A leg with TLS: what came whole and authentic from the other
//! side, the last record, FIN, a while for the peer to read it. A plain leg: the same delivery, then FIN or
//! RST. Then the report.

use std::time::Instant;

use super::RECEIVE_BYTES;
use super::action::{Action, Outbox, Report};
use super::busy::Busy;
use super::event::{Event, Leg, Operation};
use super::fault::Fault;
use super::record_path::{Delivery, Ended, Flush, LastRecord, LegEnd, PlainEnd, TlsEnd};
use crate::buf::Buf;
use crate::config::Timeouts;
use crate::tls::record::RecordType;

/// Bytes of the peer that are thrown away, at the most, so that our FIN is not overtaken by a reset.
pub(super) const MAX_LINGER_BYTES: usize = 256 * 1024;

/// What a record counts for at the least, so that empty ones end too.
pub(super) const MIN_RECORD_BYTES: usize = 22;

/// An ending in progress.
#[derive(Debug)]
pub(super) struct Shutdown {
    fault: Option<Fault>,
    culprit: Option<Leg>,
    heard: Option<u8>,
    near: Ending,
    far: Ending,
}

/// A leg that ends.
#[derive(Debug)]
enum Ending {
    /// It is closed, or is to be with the connection.
    Over,
    Plain {
        phase: PlainPhase,
        until: Instant,
    },
    Tls(TlsEnding),
}

#[derive(Debug)]
struct TlsEnding {
    phase: Phase,
    flush: Flush,
    /// Behind both ends, and not behind a fault.
    is_orderly: bool,
    /// The peer sends no more.
    peer_ended: bool,
    /// What it sends may lie in the socket and not be received.
    is_deaf: bool,
    lingered_bytes: usize,
    until: Instant,
}

#[derive(Debug)]
enum Phase {
    /// This, and then the farewell, wait for what is being sent.
    Waiting(Option<Buf>, LastRecord),
    /// The farewell is being sent.
    Saying,
    /// FIN waits for what the kernel has sealed.
    Flushing,
    /// FIN was sent; the peer may still read and send.
    Lingering,
    /// FIN was sent, and of an orderly end all is to be acknowledged: the close will be a reset.
    Settling,
}

#[derive(Debug)]
enum PlainPhase {
    /// Being sent, with what follows.
    Sending(Option<Buf>),
    /// All is sent and not all acknowledged: a reset now would throw it away.
    Settling,
}

impl Shutdown {
    /// Begins to end both legs; what is said to a peer is said as soon as its leg is free to.
    pub(super) fn begin(ended: Ended, now: Instant, timeouts: Timeouts, out: &mut Outbox) -> Self {
        let Ended { fault, culprit, heard, near, far } = ended;
        let begin = |leg, end, out: &mut Outbox| Ending::begin(leg, end, fault, now, timeouts, out);
        // A plain leg that is reset goes first: it has nothing to wait for.
        let (near, far) = match (near, far) {
            (near @ LegEnd::Tls(_), far) => {
                if matches!(far, LegEnd::Closed) {
                    // It does not stay open while the near peer reads why.
                    out.push(Action::Release { leg: Leg::Far, reset: false });
                }
                let far = begin(Leg::Far, far, out);
                (begin(Leg::Near, near, out), far)
            }
            (near, far) => (begin(Leg::Near, near, out), begin(Leg::Far, far, out)),
        };
        Self { fault, culprit, heard, near, far }
    }

    /// When a leg has had its time.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [&self.near, &self.far].into_iter().filter_map(Ending::until).min()
    }

    pub(super) fn on(&mut self, event: Event, now: Instant, out: &mut Outbox) {
        match event {
            Event::Expired => {
                for (leg, ending) in [(Leg::Near, &mut self.near), (Leg::Far, &mut self.far)] {
                    if ending.until().is_some_and(|until| until <= now) {
                        ending.give_up(leg, out);
                    }
                }
            }
            Event::Drain { until } => {
                [&mut self.near, &mut self.far].into_iter().for_each(|it| it.cap(until))
            }
            event => match event.leg() {
                Some(Leg::Near) => self.near.on(Leg::Near, event, out),
                Some(Leg::Far) => self.far.on(Leg::Far, event, out),
                None => {}
            },
        }
    }

    /// Resets both legs, whatever they have still to send: what they hold is wanted back now. An end that was
    /// in order until then is none.
    pub(super) fn abandon(&mut self, fault: Fault, out: &mut Outbox) {
        self.fault.get_or_insert(fault);
        self.near.close(Leg::Near, true, out);
        self.far.close(Leg::Far, true, out);
    }

    /// Goes as far as it can; the report, once both legs are over.
    pub(super) fn advance(&mut self, busy: Busy, out: &mut Outbox) -> Option<Report> {
        self.near.advance(Leg::Near, busy, out);
        self.far.advance(Leg::Far, busy, out);
        // The leg that is over is closed at once where the other takes longer.
        matches!((&self.near, &self.far), (Ending::Over, Ending::Over)).then_some(Report {
            fault: self.fault,
            culprit: self.culprit,
            heard: self.heard,
            evidence: None,
        })
    }
}

impl Ending {
    fn begin(
        leg: Leg,
        end: LegEnd,
        fault: Option<Fault>,
        now: Instant,
        timeouts: Timeouts,
        out: &mut Outbox,
    ) -> Self {
        let Timeouts { linger, drain, .. } = timeouts;
        match end {
            LegEnd::Closed => Self::Over,
            LegEnd::Plain(PlainEnd::DeliverThenReset(Delivery { sending: true, held })) => {
                Self::Plain { phase: PlainPhase::Sending(held), until: now + drain }
            }
            LegEnd::Plain(PlainEnd::DeliverThenReset(Delivery { held, .. })) => {
                Self::Plain { phase: deliver(leg, held, out), until: now + drain }
            }
            LegEnd::Plain(end) => {
                if fault.is_some() {
                    out.push(Action::Release { leg, reset: matches!(end, PlainEnd::Reset) });
                }
                Self::Over
            }
            LegEnd::Tls(TlsEnd { delivery, farewell, flush, is_deaf }) => {
                let takes_long = is_deaf || delivery.is_some();
                Self::Tls(TlsEnding {
                    phase: Phase::Waiting(delivery, farewell),
                    flush,
                    is_orderly: fault.is_none(),
                    peer_ended: false,
                    is_deaf,
                    lingered_bytes: 0,
                    until: now + if takes_long { drain } else { linger },
                })
            }
        }
    }

    fn until(&self) -> Option<Instant> {
        match self {
            Self::Over => None,
            Self::Plain { until, .. } | Self::Tls(TlsEnding { until, .. }) => Some(*until),
        }
    }

    fn cap(&mut self, latest: Instant) {
        match self {
            Self::Over => {}
            Self::Plain { until, .. } | Self::Tls(TlsEnding { until, .. }) => *until = latest.min(*until),
        }
    }

    fn on(&mut self, leg: Leg, event: Event, out: &mut Outbox) {
        match self {
            Self::Over => give_back(event, out),
            Self::Plain { phase, .. } => match event {
                Event::Sent { buf, .. } => {
                    out.bufs.give(buf);
                    if let PlainPhase::Sending(held) = phase {
                        *phase = deliver(leg, held.take(), out);
                    }
                }
                Event::Settled { .. } | Event::Failed { .. } => self.give_up(leg, out),
                other => give_back(other, out),
            },
            Self::Tls(ending) => {
                if ending.on(leg, event, out) {
                    self.give_up(leg, out);
                }
            }
        }
    }

    fn advance(&mut self, leg: Leg, busy: Busy, out: &mut Outbox) {
        if let Self::Tls(ending) = self
            && ending.advance(leg, busy, out)
        {
            self.give_up(leg, out);
        }
    }

    /// The leg is closed: with a reset, if it is a plain one whose peer has not got everything.
    fn give_up(&mut self, leg: Leg, out: &mut Outbox) {
        let is_plain = matches!(self, Self::Plain { .. });
        self.close(leg, is_plain, out);
    }

    /// The leg is closed, unless it is over.
    fn close(&mut self, leg: Leg, reset: bool, out: &mut Outbox) {
        let (first, second) = match std::mem::replace(self, Self::Over) {
            Self::Over => return,
            Self::Plain { phase: PlainPhase::Sending(held), .. } => (held, None),
            Self::Tls(TlsEnding { phase: Phase::Waiting(delivery, last), .. }) => match last {
                LastRecord::Bytes(buf, _) | LastRecord::Record(buf) => (delivery, Some(buf)),
                LastRecord::Silent | LastRecord::Said => (delivery, None),
            },
            Self::Plain { .. } | Self::Tls(_) => (None, None),
        };
        [first, second].into_iter().flatten().for_each(|buf| out.bufs.give(buf));
        out.push(Action::Release { leg, reset });
    }
}

impl TlsEnding {
    /// Whether the leg is over.
    fn on(&mut self, leg: Leg, event: Event, out: &mut Outbox) -> bool {
        match event {
            Event::Received { buf, count, .. } => {
                out.bufs.give(buf);
                self.lingered_bytes += count;
                self.peer_ended |= count == 0;
            }
            Event::Record { record_type, buf, .. } => {
                self.lingered_bytes += MIN_RECORD_BYTES + buf.len();
                out.bufs.give(buf);
                self.peer_ended |= record_type.is_none();
            }
            Event::Flushed { .. } => self.flush = Flush::Needless,
            Event::Unreadable { .. } => self.is_deaf = true,
            // It says so of each receive, also behind a KeyUpdate, which nobody follows here; the peer is to
            // have read why before the socket is closed over what lies in it.
            Event::Failed {
                operation: Operation::Receive,
                errno: libc::EBADMSG | libc::EMSGSIZE | libc::EINVAL | libc::EKEYEXPIRED,
                ..
            } => self.is_deaf = true,
            // The kernel opens what comes, and what comes is a record that is not data.
            Event::Failed { operation: Operation::Receive, errno: libc::EIO, .. } => {
                let buf = out.bufs.take();
                out.push(Action::ReceiveRecord { leg, buf });
            }
            Event::Settled { .. } | Event::Failed { .. } => return true,
            other => give_back(other, out),
        }
        false
    }

    /// Whether the leg is over.
    fn advance(&mut self, leg: Leg, busy: Busy, out: &mut Outbox) -> bool {
        match &mut self.phase {
            Phase::Settling => return false,
            Phase::Waiting(None, LastRecord::Silent) => return true,
            Phase::Waiting(..) | Phase::Saying if busy.is_sending(leg) => return false,
            Phase::Waiting(delivery @ Some(_), _) => {
                if let Some(buf) = delivery.take() {
                    out.push(Action::Send { leg, buf });
                }
                return false;
            }
            Phase::Waiting(None, LastRecord::Said) => self.finish(leg, out),
            Phase::Waiting(None, farewell) => {
                match std::mem::replace(farewell, LastRecord::Silent) {
                    LastRecord::Bytes(buf, _) if buf.is_empty() => {
                        out.bufs.give(buf);
                        return true;
                    }
                    LastRecord::Bytes(buf, description) => {
                        out.alerts.sent(leg, description);
                        out.push(Action::Send { leg, buf });
                    }
                    LastRecord::Record(buf) => {
                        buf.filled().get(1).into_iter().for_each(|it| out.alerts.sent(leg, *it));
                        let record_type = RecordType::Alert.number();
                        out.push(Action::SendRecord { leg, record_type, buf });
                    }
                    LastRecord::Silent | LastRecord::Said => {}
                }
                self.phase = Phase::Saying;
                return false;
            }
            Phase::Saying | Phase::Flushing => self.finish(leg, out),
            Phase::Lingering => {}
        }
        self.linger(leg, busy, out)
    }

    /// Whether the leg is over.
    fn linger(&mut self, leg: Leg, busy: Busy, out: &mut Outbox) -> bool {
        let has_ended = self.peer_ended || self.lingered_bytes > MAX_LINGER_BYTES;
        let is_lingering = matches!(self.phase, Phase::Lingering);
        if has_ended && is_lingering {
            return true;
        }
        if self.is_deaf && self.is_orderly && is_lingering {
            self.phase = Phase::Settling;
            out.push(Action::Settle { leg });
            return false;
        }
        if !busy.is_receiving(leg) && !has_ended && !self.is_deaf {
            out.push(Action::Receive { leg, max: RECEIVE_BYTES });
        }
        false
    }

    fn finish(&mut self, leg: Leg, out: &mut Outbox) {
        match self.flush {
            Flush::Needless => {
                out.push(Action::ShutdownWrite { leg });
                self.phase = Phase::Lingering;
                return;
            }
            Flush::Due => out.push(Action::Flush { leg }),
            Flush::Asked => {}
        }
        (self.flush, self.phase) = (Flush::Asked, Phase::Flushing);
    }
}

/// The next of what a plain leg is to get.
fn deliver(leg: Leg, held: Option<Buf>, out: &mut Outbox) -> PlainPhase {
    match held {
        Some(buf) => {
            out.push(Action::Send { leg, buf });
            PlainPhase::Sending(None)
        }
        None => {
            out.push(Action::Settle { leg });
            PlainPhase::Settling
        }
    }
}

/// Nobody is left whom it could be told.
pub(super) fn give_back(event: Event, out: &mut Outbox) {
    if let Event::Received { buf, .. }
    | Event::Sent { buf, .. }
    | Event::Record { buf, .. }
    | Event::Connected { preamble: Some(buf) } = event
    {
        out.bufs.give(buf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A close over what the kernel holds is a reset, which throws away what the peer has not read.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the end")]
    fn leg_that_ends_stays_open_behind_a_key_update() {
        let leg = Leg::Near;
        for phase in [Phase::Saying, Phase::Flushing, Phase::Lingering] {
            let mut ending = TlsEnding {
                phase,
                flush: Flush::Needless,
                is_orderly: false,
                peer_ended: false,
                is_deaf: false,
                lingered_bytes: 0,
                until: Instant::now(),
            };
            let mut out = Outbox::new(1, ending.until);
            let refused = Event::Failed { leg, operation: Operation::Receive, errno: libc::EKEYEXPIRED };
            let is_over = ending.on(leg, refused, &mut out) || ending.advance(leg, Busy::default(), &mut out);
            assert!(!is_over, "{:?}", ending.phase);
            let receives = out.drain().any(|action| matches!(action, Action::Receive { .. }));
            assert!(!receives, "the next receive fails too: {:?}", ending.phase);
        }
    }
}
