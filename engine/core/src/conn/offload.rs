//! Stage 3: the keys to the kernel, each direction separately.
//!
//! What we send begins at a record boundary as soon as the last flight is sent. What the peer sends does so
//! only if nothing came behind its last flight: the client's first data often shares a segment with its
//! Finished, and what lies in our memory the kernel cannot open. Then the relay begins with userspace opening
//! that direction, receives no byte beyond the record that it is in, and hands over at the boundary: nobody
//! waits for it. So it goes with either direction where the policy wants some bytes in userspace first. A
//! direction that the kernel does not take stays in userspace, and nothing is lost.

use super::Next;
use super::action::{Action, Milestone, Outbox, RecordPath};
use super::event::{Event, Leg};
use super::fault::Fault;
use super::handshake::Handshaken;
use super::record_path::{Count, Offer, Receiver, SecuredLeg, Transmitter};
use crate::buf::Buf;
use crate::tls::cipher::{Opener, Sealer};
use crate::tls::secrets::{Cipher, Direction, TrafficKeys};
use crate::tls::session::{Established, Rekey};
use offramp_proto::CipherSet;

/// A hand-over in progress.
#[derive(Debug)]
pub(super) struct Offload {
    leg: Leg,
    cipher: Cipher,
    after_bytes: u64,
    tx: Side<Sealer>,
    rx: Side<Opener>,
    rekey: Option<Rekey>,
    partial: Option<Buf>,
}

/// One direction on its way to its record path.
#[derive(Debug)]
struct Side<C> {
    userspace: C,
    fate: HandoverState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HandoverState {
    /// To be offered to the kernel now.
    Wanted,
    /// To be offered by the relay, at a record boundary.
    Later,
    /// Offered.
    Offered,
    Kernel,
    Userspace {
        refused: Option<i32>,
    },
}

impl Offload {
    /// Decides who shall carry what.
    pub(super) fn begin(handshaken: Handshaken, leg: Leg, offer: Offer, out: &mut Outbox) -> Self {
        let none = Offer { tx: CipherSet::NONE, rx: CipherSet::NONE, ..offer };
        let offer = if out.may_offload { offer } else { none };
        let Handshaken { established, incoming } = handshaken;
        let Established { cipher, info, tx, rx, rekey, .. } = established;
        out.push(Action::Established { leg, info });
        let fate = |ciphers: CipherSet, wanted| {
            if ciphers.contains(cipher) { wanted } else { HandoverState::Userspace { refused: None } }
        };
        let when = |is_aligned| {
            if offer.after_bytes == 0 && is_aligned { HandoverState::Wanted } else { HandoverState::Later }
        };
        Self {
            leg,
            cipher,
            after_bytes: offer.after_bytes,
            tx: Side { userspace: Sealer::new(tx), fate: fate(offer.tx, when(true)) },
            rx: Side { userspace: Opener::new(rx), fate: fate(offer.rx, when(incoming.is_none())) },
            rekey,
            partial: incoming,
        }
    }

    /// Goes as far as it can; [`Next::Advance`] once no answer is awaited.
    pub(super) fn advance(&mut self, out: &mut Outbox) -> Next<()> {
        self.rx.offer(self.leg, Direction::Rx, |opener| opener.keys().clone(), out);
        self.tx.offer(self.leg, Direction::Tx, |sealer| sealer.keys().clone(), out);
        if self.rx.fate == HandoverState::Offered || self.tx.fate == HandoverState::Offered {
            Next::Stay
        } else {
            Next::Advance(())
        }
    }

    pub(super) fn on(&mut self, event: Event, out: &mut Outbox) -> Next<()> {
        match event {
            Event::Keyed { direction, .. } => self.settle(direction, HandoverState::Kernel),
            Event::Refused { direction, errno, .. } => {
                self.settle(direction, HandoverState::Userspace { refused: Some(errno) });
            }
            Event::Expired => return Next::End(Fault::HandshakeTimeout),
            Event::Drain { .. } => return Next::Stay,
            _ => return Next::End(Fault::Internal),
        }
        self.advance(out)
    }

    /// Once [`Next::Advance`] was said.
    pub(super) fn finish(self, out: &mut Outbox) -> SecuredLeg {
        for (direction, fate) in [(Direction::Tx, self.tx.fate), (Direction::Rx, self.rx.fate)] {
            let by = match fate {
                HandoverState::Kernel => RecordPath::Kernel,
                HandoverState::Userspace { refused } => RecordPath::userspace(refused),
                // Not settled: the relay will say.
                HandoverState::Later | HandoverState::Wanted | HandoverState::Offered => continue,
            };
            out.push(Action::Note(Milestone::RecordPath { leg: self.leg, direction, path: by }));
        }
        let left = |fate| (fate == HandoverState::Later).then_some(self.after_bytes);
        let (tx_left, rx_left) = (left(self.tx.fate), left(self.rx.fate));
        let tx = match self.tx.fate {
            HandoverState::Kernel => Transmitter::Kernel(Count::from(self.tx.userspace.keys().sequence())),
            _ => Transmitter::Userspace(self.tx.userspace),
        };
        let rx = match self.rx.fate {
            HandoverState::Kernel => Receiver::Kernel(Count::from(self.rx.userspace.keys().sequence())),
            _ => Receiver::Userspace(self.rx.userspace),
        };
        let Self { cipher, rekey, partial, .. } = self;
        SecuredLeg { cipher, tx, rx, tx_left, rx_left, rekey, partial }
    }

    /// Gives what it holds back to the free list.
    pub(super) fn release(self, out: &mut Outbox) {
        if let Some(buf) = self.partial {
            out.bufs.give(buf);
        }
    }

    pub(super) fn leg(&self) -> Leg {
        self.leg
    }

    fn settle(&mut self, direction: Direction, fate: HandoverState) {
        match direction {
            Direction::Tx => self.tx.fate = fate,
            Direction::Rx => self.rx.fate = fate,
        }
    }
}

impl<C> Side<C> {
    fn offer(&mut self, leg: Leg, direction: Direction, keys: impl Fn(&C) -> TrafficKeys, out: &mut Outbox) {
        if self.fate == HandoverState::Wanted {
            self.fate = HandoverState::Offered;
            out.push(Action::InstallKeys { leg, direction, keys: keys(&self.userspace) });
        }
    }
}
