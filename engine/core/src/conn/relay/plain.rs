//! A leg without TLS, between the relay and the shell.

use crate::buf::Buf;
use crate::conn::PLAINTEXT_BYTES;
use crate::conn::action::{Action, Outbox};
use crate::conn::event::{Event, Leg, Operation};
use crate::conn::fault::Fault;

/// The state of a plain leg.
#[derive(Debug)]
pub(in crate::conn) struct PlainSide {
    leg: Leg,
    receiving: bool,
    sending: bool,
    /// The peer sends no more.
    eof: bool,
    /// Nothing more is sent: FIN was, or the peer takes no more.
    ended: bool,
    /// The peer takes no more; what still comes from it is passed on.
    broken: bool,
    /// What was received before the relay began.
    first: Option<Buf>,
}

impl PlainSide {
    /// `first` was received already.
    pub(in crate::conn) fn new(leg: Leg, first: Option<Buf>) -> Self {
        Self { leg, receiving: false, sending: false, eof: false, ended: false, broken: false, first }
    }

    /// Gives what it holds back to the free list.
    pub(in crate::conn) fn release(self, out: &mut Outbox) {
        self.first.into_iter().for_each(|buf| out.bufs.give(buf));
    }

    /// What happened on this leg; what was received is `received` afterwards.
    pub(super) fn on(
        &mut self,
        event: Event,
        received: &mut Option<Buf>,
        out: &mut Outbox,
    ) -> Result<(), Fault> {
        match event {
            Event::Received { buf, count: 0, .. } => {
                self.receiving = false;
                self.eof = true;
                out.bufs.give(buf);
            }
            Event::Received { buf, .. } => {
                self.receiving = false;
                out.count(self.leg, buf.len());
                *received = Some(buf);
            }
            Event::Sent { buf, .. } => {
                out.bufs.give(buf);
                self.sending = false;
            }
            Event::Moved { .. } | Event::Settled { .. } => {}
            Event::Failed { operation: Operation::Receive, .. } => return Err(Fault::PlainPeerReset),
            // It takes no more, but what it sent before may still be on the way: a server that answers early.
            Event::Failed { operation: Operation::Send, .. } => {
                (self.broken, self.ended, self.sending) = (true, true, false);
            }
            _ => return Err(Fault::Internal),
        }
        Ok(())
    }

    /// Sends what is `held`, or behind it all the end of what is sent.
    pub(super) fn send_next(&mut self, held: &mut Option<Buf>, is_at_end: bool, out: &mut Outbox) {
        if self.sending || self.ended {
            return;
        }
        if let Some(buf) = held.take() {
            self.sending = true;
            out.push(Action::Send { leg: self.leg, buf });
        } else if is_at_end {
            self.ended = true;
            out.push(Action::ShutdownWrite { leg: self.leg });
        }
    }

    /// Whether it keeps what was received before the relay began.
    pub(in crate::conn) fn keeps_first(&self) -> bool {
        self.first.is_some()
    }

    /// What was received before the relay began.
    pub(super) fn take_first(&mut self) -> Option<Buf> {
        self.first.take()
    }

    pub(super) fn receive_next(&mut self, out: &mut Outbox) {
        if !self.receiving && !self.eof {
            self.receiving = true;
            out.push(Action::Receive { leg: self.leg, max: PLAINTEXT_BYTES });
        }
    }

    pub(super) fn leg(&self) -> Leg {
        self.leg
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.eof
    }

    pub(super) fn is_sending(&self) -> bool {
        self.sending
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }
}
