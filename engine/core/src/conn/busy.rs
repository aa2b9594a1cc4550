//! What is under way on the legs.

use super::action::Action;
use super::event::{Event, Leg, Operation};

/// Receives and sends under way, whichever stage began it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Busy {
    near: LegBusy,
    far: LegBusy,
}

#[derive(Clone, Copy, Debug, Default)]
struct LegBusy {
    receiving: bool,
    sending: bool,
}

impl Busy {
    fn leg(&mut self, leg: Leg) -> &mut LegBusy {
        match leg {
            Leg::Near => &mut self.near,
            Leg::Far => &mut self.far,
        }
    }

    pub(super) fn is_sending(mut self, leg: Leg) -> bool {
        self.leg(leg).sending
    }

    pub(super) fn is_receiving(mut self, leg: Leg) -> bool {
        self.leg(leg).receiving
    }

    pub(super) fn take(&mut self, event: &Event) {
        match event {
            Event::Received { leg, .. }
            | Event::Record { leg, .. }
            | Event::Failed { leg, operation: Operation::Receive, .. } => self.leg(*leg).receiving = false,
            Event::Sent { leg, .. } | Event::Failed { leg, operation: Operation::Send, .. } => {
                self.leg(*leg).sending = false;
            }
            _ => {}
        }
    }

    pub(super) fn give(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Receive { leg, .. }
                | Action::ReceiveInto { leg, .. }
                | Action::ReceiveHandshake { leg }
                | Action::ReceiveRecord { leg, .. } => self.leg(*leg).receiving = true,
                Action::Send { leg, .. } | Action::SendRecord { leg, .. } => self.leg(*leg).sending = true,
                _ => {}
            }
        }
    }
}
