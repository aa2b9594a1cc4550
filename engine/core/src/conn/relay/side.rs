//! One side of a connection: a leg with TLS or without. Plaintext goes in and out; whatever TLS adds stays
//! inside.

use std::time::Instant;

use super::plain::PlainSide;
use super::tls::TlsSide;
use super::{Cut, Ending, RECEIVE_BYTES};
use crate::buf::Buf;
use crate::conn::PLAINTEXT_BYTES;
use crate::conn::action::Outbox;
use crate::conn::event::{Event, Leg};
use crate::conn::fault::Fault;
use crate::conn::record_path::{Delivery, LegEnd, PlainEnd};

/// A side, open and, with TLS, established.
#[derive(Debug)]
pub(in crate::conn) enum Side {
    Plain(PlainSide),
    Tls(Box<TlsSide>),
}

impl Side {
    #[inline]
    pub(super) fn leg(&self) -> Leg {
        match self {
            Self::Plain(side) => side.leg(),
            Self::Tls(side) => side.leg(),
        }
    }

    /// What happened on this leg; what was received is `received` afterwards.
    #[inline]
    pub(super) fn on(
        &mut self,
        event: Event,
        received: &mut Option<Buf>,
        out: &mut Outbox,
    ) -> Result<(), Fault> {
        match self {
            Self::Plain(side) => side.on(event, received, out),
            Self::Tls(side) => side.on(event, received, out),
        }
    }

    /// Sends what comes next, if it can be sent now: of what is `held`, or behind it all the end.
    #[inline]
    pub(super) fn send_next(
        &mut self,
        held: &mut Option<Buf>,
        is_at_end: bool,
        out: &mut Outbox,
    ) -> Result<(), Fault> {
        match self {
            Self::Plain(side) => {
                side.send_next(held, is_at_end, out);
                Ok(())
            }
            Self::Tls(side) => side.send_next(held, is_at_end, out),
        }
    }

    /// Receives the next bytes, at most `max` of plaintext, if it `may`. Returns whether some were there
    /// already, or something was settled: then it is to be called again.
    #[inline]
    pub(super) fn receive_next(
        &mut self,
        received: &mut Option<Buf>,
        may: bool,
        max: usize,
        out: &mut Outbox,
    ) -> Result<bool, Fault> {
        match self {
            Self::Plain(side) => {
                if may {
                    side.receive_next(out);
                }
                Ok(false)
            }
            Self::Tls(side) => side.receive_next(received, may, max, out),
        }
    }

    /// Most bytes of plaintext that it takes at once.
    #[inline]
    pub(super) fn takes_bytes(&self) -> usize {
        match self {
            Self::Plain(_) => RECEIVE_BYTES,
            Self::Tls(_) => PLAINTEXT_BYTES,
        }
    }

    /// The peer sends no more.
    #[inline]
    pub(super) fn is_at_end(&self) -> bool {
        match self {
            Self::Plain(side) => side.is_at_end(),
            Self::Tls(side) => side.is_at_end(),
        }
    }

    /// Nothing more can be sent, or is to be.
    #[inline]
    pub(super) fn has_ended(&self) -> bool {
        match self {
            Self::Plain(side) => side.has_ended(),
            Self::Tls(side) => side.has_ended(),
        }
    }

    pub(super) fn is_sending(&self) -> bool {
        match self {
            Self::Plain(side) => side.is_sending(),
            Self::Tls(side) => side.is_sending(),
        }
    }

    /// A key is spent: nothing more is received on either side, and what was is passed on.
    #[inline]
    pub(super) fn is_winding_up(&self) -> bool {
        matches!(self, Self::Tls(side) if side.is_winding_up())
    }

    /// The peer has reset the connection; what it sent before is still passed on.
    #[inline]
    pub(super) fn has_lost_its_peer(&self) -> bool {
        matches!(self, Self::Tls(side) if side.has_lost_its_peer())
    }

    /// The front of a record is there that cannot be passed on.
    pub(super) fn has_half_a_record(&self) -> bool {
        matches!(self, Self::Tls(side) if side.has_half_a_record())
    }

    /// Whether the front of a record may lie with the kernel.
    pub(super) fn may_have_unread(&self) -> bool {
        matches!(self, Self::Tls(side) if side.may_have_unread())
    }

    pub(super) fn record_until(&self) -> Option<Instant> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(side) => side.record_until(),
        }
    }

    /// What was not orderly about it, when both sides have ended.
    pub(super) fn cut(&self) -> Option<Cut> {
        let fault = match self {
            Self::Plain(side) => side.is_broken().then_some(Fault::PlainPeerReset),
            Self::Tls(side) => side.cut(),
        };
        fault.map(|fault| Cut { fault, culprit: Some(self.leg()) })
    }

    /// How this leg ends behind a fault; `held` is what it was to be sent.
    pub(in crate::conn) fn end(self, ending: Ending, held: Option<Buf>, out: &mut Outbox) -> LegEnd {
        match self {
            Self::Tls(side) => LegEnd::Tls(side.end(ending, held, out)),
            Self::Plain(side) => {
                let end = plain_end(&side, ending, held, out);
                side.release(out);
                LegEnd::Plain(end)
            }
        }
    }

    /// How this leg ends when both sides have ended.
    pub(super) fn end_in_order(self, out: &mut Outbox) -> LegEnd {
        match self {
            Self::Plain(side) => {
                side.release(out);
                LegEnd::Plain(PlainEnd::InOrder)
            }
            Self::Tls(side) => LegEnd::Tls(side.end_in_order(out)),
        }
    }

    /// The description of the peer's fatal alert.
    pub(in crate::conn) fn heard(&self) -> Option<u8> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(side) => side.heard(),
        }
    }
}

fn plain_end(side: &PlainSide, ending: Ending, held: Option<Buf>, out: &mut Outbox) -> PlainEnd {
    let end = match ending.fault {
        // It takes nothing more, or has had its time.
        _ if ending.culprit == Some(side.leg()) || side.is_broken() => PlainEnd::Reset,
        fault if fault.is_for_want_of_time() => PlainEnd::Reset,
        Fault::IdleTimeout if ending.is_cut => PlainEnd::Reset,
        Fault::IdleTimeout => PlainEnd::InOrder,
        // Its end was passed on as one: the operator takes FIN alone for an end.
        Fault::Truncated if side.has_ended() => PlainEnd::InOrder,
        _ => return PlainEnd::DeliverThenReset(Delivery { sending: side.is_sending(), held }),
    };
    held.into_iter().for_each(|buf| out.bufs.give(buf));
    end
}
