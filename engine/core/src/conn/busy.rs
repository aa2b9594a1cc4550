//! What is under way on the legs.

use super::event::Leg;

/// Receives and sends under way, whichever stage began them: two bits for each leg.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Busy(u8);

const RECEIVING: u8 = 1;
const SENDING: u8 = 2;

fn bit(leg: Leg, what: u8) -> u8 {
    match leg {
        Leg::Near => what,
        Leg::Far => what << 2,
    }
}

impl Busy {
    pub(super) fn is_sending(self, leg: Leg) -> bool {
        self.0 & bit(leg, SENDING) != 0
    }

    pub(super) fn is_receiving(self, leg: Leg) -> bool {
        self.0 & bit(leg, RECEIVING) != 0
    }

    /// A receive begins.
    pub(super) fn receive(&mut self, leg: Leg) {
        self.0 |= bit(leg, RECEIVING);
    }

    /// A send begins.
    pub(super) fn send(&mut self, leg: Leg) {
        self.0 |= bit(leg, SENDING);
    }

    /// A receive has ended.
    pub(super) fn end_receive(&mut self, leg: Leg) {
        self.0 &= !bit(leg, RECEIVING);
    }

    /// A send has ended.
    pub(super) fn end_send(&mut self, leg: Leg) {
        self.0 &= !bit(leg, SENDING);
    }

    /// Adds what has `begun`, and empties that.
    pub(super) fn add(&mut self, begun: &mut Self) {
        self.0 |= std::mem::take(begun).0;
    }
}
