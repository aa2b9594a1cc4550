//! Stage 5: each leg ends separately. The TLS leg: the last record, FIN, a while for the peer to read it. The
//! plain leg: what came whole and authentic is delivered, then FIN or RST. Then the report.

use super::action::{Action, Outbox, Report};
use super::carrier::{Delivery, Ended, Farewell, Flush, PlainEnd};
use super::event::{Event, Leg, Operation};
use super::fault::Fault;
use super::{Busy, Next, RECEIVE_BYTES};
use crate::buf::Buf;
use crate::tls::record::RecordType;

/// Bytes of the peer that are thrown away, at the most, so that our FIN is not overtaken by a reset.
pub(super) const MAX_LINGER_BYTES: usize = 256 * 1024;

/// What a record counts for at the least, so that empty ones end too.
pub(super) const MIN_RECORD_BYTES: usize = 22;

/// An ending in progress.
#[derive(Debug)]
pub(super) struct Shutdown {
    fault: Option<Fault>,
    heard: Option<u8>,
    phase: Phase,
    plain: PlainPhase,
    flush: Flush,
    /// The peer sends no more.
    peer_ended: bool,
    /// What it sends may lie in the socket and not be received.
    is_deaf: bool,
    lingered_bytes: usize,
}

#[derive(Debug)]
enum Phase {
    /// The farewell waits for what is being sent on the TLS leg.
    Waiting(Farewell),
    /// The farewell is being sent.
    Saying,
    /// FIN waits for what the kernel has sealed.
    Flushing,
    /// FIN was sent; the peer may still read and send.
    Lingering,
    /// FIN was sent, and of an orderly end all is to be acknowledged: the close will be a reset.
    Settling,
    /// The TLS leg is closed, or is to be with the connection.
    Over,
}

#[derive(Debug)]
enum PlainPhase {
    /// Being sent, with what follows.
    Sending(Option<Buf>),
    /// All is sent and not all acknowledged: a reset now would throw it away.
    Settling,
    /// It is closed, or is to be with the connection.
    Over,
}

impl Shutdown {
    /// Begins to end both legs; the farewell is said as soon as the TLS leg is free to.
    pub(super) fn begin(ended: Ended, busy: Busy, out: &mut Outbox) -> (Self, Next<Report>) {
        let Ended { fault, farewell, heard, flush, plain, is_deaf } = ended;
        let plain = match plain {
            PlainEnd::DeliverThenReset(Delivery { sending: true, held }) => PlainPhase::Sending(held),
            PlainEnd::DeliverThenReset(Delivery { held, .. }) => deliver(held, out),
            PlainEnd::InOrder | PlainEnd::Reset => {
                if fault.is_some() {
                    let reset = matches!(plain, PlainEnd::Reset);
                    out.push(Action::Release { leg: Leg::Plain, reset });
                }
                PlainPhase::Over
            }
        };
        let phase = Phase::Waiting(farewell);
        let mut this =
            Self { fault, heard, phase, plain, flush, peer_ended: false, is_deaf, lingered_bytes: 0 };
        let next = this.advance(busy, out);
        (this, next)
    }

    /// Whether the plain leg still has something to get.
    pub(super) fn delivers(&self) -> bool {
        !matches!(self.plain, PlainPhase::Over)
    }

    /// `is_late`: the time for the plain leg is over, too.
    pub(super) fn on(&mut self, event: Event, is_late: bool, busy: Busy, out: &mut Outbox) -> Next<Report> {
        match event {
            Event::Received { leg: Leg::Tls, buf, count, .. } => {
                out.bufs.give(buf);
                self.lingered_bytes += count;
                self.peer_ended |= count == 0;
            }
            Event::Record { record_type, buf } => {
                self.lingered_bytes += MIN_RECORD_BYTES + buf.len();
                out.bufs.give(buf);
                self.peer_ended |= record_type.is_none();
            }
            Event::Sent { leg: Leg::Plain, buf } => {
                out.bufs.give(buf);
                if let PlainPhase::Sending(held) = &mut self.plain {
                    self.plain = deliver(held.take(), out);
                }
            }
            // Nobody is left whom it could be told.
            Event::Received { leg: Leg::Plain, buf, .. } | Event::Sent { leg: Leg::Tls, buf } => {
                out.bufs.give(buf);
            }
            Event::Settled { leg: Leg::Plain } | Event::Failed { leg: Leg::Plain, .. } => {
                self.reset_plain(out);
            }
            Event::Flushed => self.flush = Flush::Needless,
            Event::Unreadable { .. } => self.is_deaf = true,
            // It says so of each receive; the peer is to have read why before the socket is closed over what
            // lies in it.
            Event::Failed {
                leg: Leg::Tls,
                operation: Operation::Receive,
                errno: libc::EBADMSG | libc::EMSGSIZE | libc::EINVAL,
            } => self.is_deaf = true,
            // The kernel opens what comes, and what comes is a record that is not data.
            Event::Failed { leg: Leg::Tls, operation: Operation::Receive, errno: libc::EIO } => {
                let buf = out.bufs.take();
                out.push(Action::ReceiveRecord { buf });
                return Next::Stay;
            }
            Event::Expired => {
                if is_late {
                    self.reset_plain(out);
                }
                self.tls_is_over(out);
            }
            Event::Settled { leg: Leg::Tls } | Event::Failed { leg: Leg::Tls, .. } => self.tls_is_over(out),
            _ => {}
        }
        self.advance(busy, out)
    }

    fn advance(&mut self, busy: Busy, out: &mut Outbox) -> Next<Report> {
        self.advance_tls(busy, out);
        if matches!((&self.phase, &self.plain), (Phase::Over, PlainPhase::Over)) {
            return Next::Advance(Report { fault: self.fault, heard: self.heard, evidence: None });
        }
        Next::Stay
    }

    fn advance_tls(&mut self, busy: Busy, out: &mut Outbox) {
        match &mut self.phase {
            Phase::Over | Phase::Settling => return,
            Phase::Waiting(Farewell::Silent) => return self.tls_is_over(out),
            Phase::Waiting(_) | Phase::Saying if busy.tls_sending => return,
            Phase::Waiting(Farewell::Said) => self.finish(out),
            Phase::Waiting(farewell) => {
                match std::mem::replace(farewell, Farewell::Silent) {
                    Farewell::Bytes(buf) if buf.is_empty() => {
                        out.bufs.give(buf);
                        return self.tls_is_over(out);
                    }
                    Farewell::Bytes(buf) => out.push(Action::Send { leg: Leg::Tls, buf }),
                    Farewell::Record(buf) => {
                        out.push(Action::SendRecord { record_type: RecordType::Alert.number(), buf });
                    }
                    Farewell::Silent | Farewell::Said => {}
                }
                self.phase = Phase::Saying;
                return;
            }
            Phase::Saying | Phase::Flushing => self.finish(out),
            Phase::Lingering => {}
        }
        let has_ended = self.peer_ended || self.lingered_bytes > MAX_LINGER_BYTES;
        if has_ended && matches!(self.phase, Phase::Lingering) {
            return self.tls_is_over(out);
        }
        if self.is_deaf && self.fault.is_none() && matches!(self.phase, Phase::Lingering) {
            self.phase = Phase::Settling;
            out.push(Action::Settle { leg: Leg::Tls });
            return;
        }
        if !busy.tls_receiving && !has_ended && !self.is_deaf {
            out.push(Action::Receive { leg: Leg::Tls, max: RECEIVE_BYTES });
        }
    }

    fn finish(&mut self, out: &mut Outbox) {
        match self.flush {
            Flush::Needless => {
                out.push(Action::ShutdownWrite { leg: Leg::Tls });
                self.phase = Phase::Lingering;
                return;
            }
            Flush::Due => out.push(Action::Flush),
            Flush::Asked => {}
        }
        (self.flush, self.phase) = (Flush::Asked, Phase::Flushing);
    }

    /// The TLS leg is closed at once where the plain leg takes longer.
    fn tls_is_over(&mut self, out: &mut Outbox) {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Over => return,
            Phase::Waiting(Farewell::Bytes(buf) | Farewell::Record(buf)) => out.bufs.give(buf),
            _ => {}
        }
        if self.delivers() {
            out.push(Action::Release { leg: Leg::Tls, reset: false });
        }
    }

    fn reset_plain(&mut self, out: &mut Outbox) {
        match std::mem::replace(&mut self.plain, PlainPhase::Over) {
            PlainPhase::Over => return,
            PlainPhase::Sending(held) => held.into_iter().for_each(|buf| out.bufs.give(buf)),
            PlainPhase::Settling => {}
        }
        out.push(Action::Release { leg: Leg::Plain, reset: true });
    }
}

/// The next of what the plain leg is to get.
fn deliver(held: Option<Buf>, out: &mut Outbox) -> PlainPhase {
    match held {
        Some(buf) => {
            out.push(Action::Send { leg: Leg::Plain, buf });
            PlainPhase::Sending(None)
        }
        None => {
            out.push(Action::Settle { leg: Leg::Plain });
            PlainPhase::Settling
        }
    }
}
