//! The far leg: one endpoint of the route after the other, until one is open or the time is over.

use super::Next;
use super::action::{Action, Outbox};
use super::event::{Event, Operation};
use super::fault::Fault;

/// Waits for the far leg to open.
#[derive(Debug)]
pub(super) struct Connect {
    to: usize,
}

impl Connect {
    pub(super) fn begin(out: &mut Outbox) -> Self {
        out.push(Action::Connect { to: 0 });
        Self { to: 0 }
    }

    /// An attempt that fails is followed by the next of the `endpoints`; the failure of the last one is
    /// reported.
    pub(super) fn on(&mut self, event: Event, endpoints: usize, out: &mut Outbox) -> Next<()> {
        match event {
            Event::Connected => Next::Advance(()),
            Event::Failed { operation: Operation::Connect, .. } if self.to + 1 < endpoints => {
                self.to += 1;
                out.push(Action::Connect { to: self.to });
                Next::Stay
            }
            Event::Failed { operation: Operation::Connect, errno, .. } => Next::End(Fault::of_connect(errno)),
            Event::Expired => Next::End(Fault::ConnectTimeout),
            Event::Drain { .. } => Next::Stay,
            _ => Next::End(Fault::Internal),
        }
    }
}
