//! Stage 5: the last record, FIN, a while for the peer to read it, and the report.

use super::action::{Action, Outbox, Report};
use super::carrier::{Ended, Farewell, Flush};
use super::event::{Event, Leg, Operation};
use super::fault::{Blame, Fault};
use super::{Busy, Next, RECEIVE_BYTES};
use crate::tls::record::RecordType;

/// Bytes of the peer that are thrown away, at the most, so that our FIN is not overtaken by a reset.
const MAX_LINGER_BYTES: usize = 256 * 1024;

/// What a record counts for at the least, so that empty ones end too.
const MIN_RECORD_BYTES: usize = 22;

/// An ending in progress.
#[derive(Debug)]
pub(super) struct Shutdown {
    fault: Option<Fault>,
    heard: Option<u8>,
    phase: Phase,
    flush: Flush,
    /// The peer sends no more.
    peer_ended: bool,
    /// What it sends cannot be received.
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
}

impl Shutdown {
    /// Lets go of the plain leg and says farewell, as soon as the TLS leg is free to.
    pub(super) fn begin(ended: Ended, busy: Busy, out: &mut Outbox) -> (Self, Next<Report>) {
        let Ended { fault, farewell, heard, flush, is_cut } = ended;
        if let Some(fault) = fault {
            let reset = is_cut || fault.blame() != Blame::Nobody;
            out.push(Action::Release { leg: Leg::Plain, reset });
        }
        let phase = Phase::Waiting(farewell);
        let mut this =
            Self { fault, heard, phase, flush, peer_ended: false, is_deaf: false, lingered_bytes: 0 };
        let next = this.advance(busy, out);
        (this, next)
    }

    pub(super) fn on(&mut self, event: Event, busy: Busy, out: &mut Outbox) -> Next<Report> {
        match event {
            Event::Received { buf, count, .. } => {
                out.bufs.give(buf);
                self.lingered_bytes += count;
                self.peer_ended |= count == 0;
            }
            Event::Record { record_type, buf } => {
                self.lingered_bytes += MIN_RECORD_BYTES + buf.len();
                out.bufs.give(buf);
                self.peer_ended |= record_type.is_none();
            }
            Event::Sent { buf, .. } => out.bufs.give(buf),
            Event::Flushed => self.flush = Flush::Needless,
            // It says so of each receive; the peer is to have read why before the socket is closed over what
            // lies in it.
            Event::Failed { leg: Leg::Tls, operation: Operation::Receive, errno: libc::EBADMSG } => {
                self.is_deaf = true;
            }
            // The kernel opens what comes, and what comes is a record that is not data.
            Event::Failed { leg: Leg::Tls, operation: Operation::Receive, errno: libc::EIO } => {
                let buf = out.bufs.take();
                out.push(Action::ReceiveRecord { buf });
                return Next::Stay;
            }
            Event::Expired | Event::Failed { leg: Leg::Tls, .. } => return self.over(out),
            _ => {}
        }
        self.advance(busy, out)
    }

    fn advance(&mut self, busy: Busy, out: &mut Outbox) -> Next<Report> {
        match &mut self.phase {
            Phase::Waiting(Farewell::Silent) => return self.over(out),
            Phase::Waiting(_) | Phase::Saying if busy.tls_sending => return Next::Stay,
            Phase::Waiting(Farewell::Said) => self.finish(out),
            Phase::Waiting(farewell) => {
                match std::mem::replace(farewell, Farewell::Silent) {
                    Farewell::Bytes(buf) if buf.is_empty() => {
                        out.bufs.give(buf);
                        return self.over(out);
                    }
                    Farewell::Bytes(buf) => out.push(Action::Send { leg: Leg::Tls, buf }),
                    Farewell::Record(buf) => {
                        out.push(Action::SendRecord { record_type: RecordType::Alert.number(), buf });
                    }
                    Farewell::Silent | Farewell::Said => {}
                }
                self.phase = Phase::Saying;
                return Next::Stay;
            }
            Phase::Saying | Phase::Flushing => self.finish(out),
            Phase::Lingering => {}
        }
        let has_ended = self.peer_ended || self.lingered_bytes > MAX_LINGER_BYTES;
        if has_ended && matches!(self.phase, Phase::Lingering) {
            return self.over(out);
        }
        if !busy.tls_receiving && !has_ended && !self.is_deaf {
            out.push(Action::Receive { leg: Leg::Tls, max: RECEIVE_BYTES });
        }
        Next::Stay
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

    fn over(&mut self, out: &mut Outbox) -> Next<Report> {
        if let Phase::Waiting(Farewell::Bytes(buf) | Farewell::Record(buf)) =
            std::mem::replace(&mut self.phase, Phase::Lingering)
        {
            out.bufs.give(buf);
        }
        Next::Advance(Report { fault: self.fault, heard: self.heard, evidence: None })
    }
}
