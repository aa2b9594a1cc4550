//! A connection whose TLS is passed through: its first hello is read for the route, and then relayed as it
//! came.

use super::Next;
use super::action::{Action, Outbox};
use super::event::{Event, Leg};
use super::fault::{Fault, alert};
use super::handshake::Failure;
use crate::buf::Buf;
use crate::tls::evidence::first_bytes;
use crate::tls::peek::Asked;
use crate::tls::record::HANDSHAKE;
use crate::tls::session::{Refusal, alert_in_the_clear};

/// Most bytes of a hello that are kept: one buffer. The longest of a client that offers post-quantum groups
/// has a few thousand.
const HELLO_BYTES_MAX: usize = crate::buf::BUF_BYTES;

/// Waits for the hello.
#[derive(Debug)]
pub(super) struct Peek {
    incoming: Option<Buf>,
    /// What came in its place, for the log.
    pub(super) first_bytes: Option<Box<str>>,
}

impl Peek {
    /// Without having received anything yet.
    pub(super) fn begin(out: &mut Outbox) -> Self {
        out.push(Action::ReceiveHandshake { leg: Leg::Near });
        Self::new()
    }

    pub(super) fn new() -> Self {
        Self { incoming: None, first_bytes: None }
    }

    /// Advances with all that came, once the hello is complete.
    ///
    /// # Errors
    /// It is a handshake and no hello, which is answered by an alert.
    pub(super) fn on(&mut self, event: Event, out: &mut Outbox) -> Result<Next<Buf>, Failure> {
        Ok(match event {
            Event::Received { buf, count: 0, .. } => {
                out.bufs.give(buf);
                let has_begun = self.incoming.is_some();
                Next::End(if has_begun { Fault::ClosedInHandshake } else { Fault::ClosedBeforeHello })
            }
            Event::Received { buf, .. } => return self.take(buf, out),
            Event::Failed { .. } if self.incoming.is_some() => Next::End(Fault::ClosedInHandshake),
            Event::Failed { .. } => Next::End(Fault::ClosedBeforeHello),
            Event::Drain { .. } => Next::Stay,
            Event::Expired => Next::End(Fault::HandshakeTimeout),
            _ => Next::End(Fault::Internal),
        })
    }

    fn take(&mut self, buf: Buf, out: &mut Outbox) -> Result<Next<Buf>, Failure> {
        let whole = out.bufs.join(self.incoming.take(), buf);
        match Asked::read(whole.filled()) {
            Ok(Some(asked)) => {
                out.push(Action::Asked(Box::new(asked)));
                Ok(Next::Advance(whole))
            }
            Ok(None) if whole.len() < HELLO_BYTES_MAX => {
                self.incoming = Some(out.bufs.fit(whole));
                out.push(Action::ReceiveHandshake { leg: Leg::Near });
                Ok(Next::Stay)
            }
            Ok(None) => Err(self.refuse(whole, Fault::HandshakeTooLong, alert::DECODE_ERROR, out)),
            Err(refusal) if whole.filled().first() == Some(&HANDSHAKE) => {
                let description = match refusal {
                    Refusal::RecordTooLong => alert::RECORD_OVERFLOW,
                    Refusal::Unexpected => alert::UNEXPECTED_MESSAGE,
                    _ => alert::DECODE_ERROR,
                };
                Err(self.refuse(whole, refusal.into(), description, out))
            }
            Err(_) => {
                self.first_bytes = Some(first_bytes(whole.filled()));
                out.bufs.give(whole);
                Ok(Next::End(Fault::NotTls))
            }
        }
    }

    fn refuse(&mut self, whole: Buf, fault: Fault, description: u8, out: &mut Outbox) -> Failure {
        self.first_bytes = Some(first_bytes(whole.filled()));
        out.bufs.give(whole);
        let mut alert = out.bufs.take();
        alert.extend(&alert_in_the_clear(description));
        Failure::with(fault, alert)
    }

    /// Whether it keeps bytes of a message that is not whole.
    pub(super) fn keeps_front(&self) -> bool {
        self.incoming.is_some()
    }

    /// Gives what it holds back to the free list.
    pub(super) fn release(&mut self, out: &mut Outbox) {
        self.incoming.take().into_iter().for_each(|buf| out.bufs.give(buf));
    }
}
