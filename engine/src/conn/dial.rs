//! Stage 1 in the client's role: the accepted leg is the plain one, and the TLS leg is to be connected.

use super::Next;
use super::action::{Action, Outbox};
use super::event::{Event, Leg, Operation};
use super::fault::Fault;

/// Waits for the TLS leg to open.
#[derive(Debug)]
pub(super) struct Dial;

impl Dial {
    /// 1. The plain leg is open: connect the other. 2. That is open: the handshake.
    pub(super) fn on(&mut self, event: Event, out: &mut Outbox) -> Next<()> {
        match event {
            Event::Opened => {
                out.push(Action::Connect { leg: Leg::Tls });
                Next::Stay
            }
            Event::Connected => Next::Advance(()),
            Event::Failed { operation: Operation::Connect, errno, .. } => Next::End(Fault::of_connect(errno)),
            Event::Expired => Next::End(Fault::ConnectTimeout),
            Event::Drain { .. } => Next::Stay,
            _ => Next::End(Fault::Internal),
        }
    }
}
