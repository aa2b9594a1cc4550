//! One direction of the relay: at most one buffer received and waiting, at most one being sent.

use crate::buf::Buf;

/// The state of one direction.
#[derive(Debug, Default)]
pub(super) struct Half {
    /// A receive is under way on the leg that it comes from.
    pub(super) receiving: bool,
    /// What was received and waits for the leg that it goes to.
    pub(super) held: Option<Buf>,
    /// A send is under way on the leg that it goes to.
    pub(super) sending: bool,
    /// Nothing more will come.
    pub(super) eof: bool,
    /// Its end has been passed on; it is over.
    pub(super) ended: bool,
}

impl Half {
    /// Whether to ask for more: back-pressure is that this stays false while something waits.
    pub(super) fn wants_more(&self) -> bool {
        !self.receiving && self.held.is_none() && !self.eof && !self.ended
    }

    /// Whether all that came has been passed on and only its end remains to be.
    pub(super) fn is_at_its_end(&self) -> bool {
        self.eof && !self.ended && !self.sending && self.held.is_none()
    }
}
