//! A direction changes its record path, or a record path its key.
//!
//! Each direction goes to the kernel separately, at one of its own record boundaries: what goes to the peer
//! when nothing of ours is being sent, what comes from it when nothing of it lies in our memory. A kernel
//! that refuses, now or later, leaves the direction where it is.

use super::send_state::SendState;
use super::{TlsSide, control, note};
use crate::conn::action::{Action, Milestone, Outbox, RecordPath};
use crate::conn::fault::Fault;
use crate::conn::record_path::{Count, Receiver, Transmitter};
use crate::tls::cipher::{Opener, Sealer};
use crate::tls::record::RecordType;
use crate::tls::secrets::Direction;

impl TlsSide {
    /// At a record boundary, with nothing of what comes from the peer received beyond it. Says whether the
    /// kernel was asked; it is not if the policy has changed its mind.
    pub(super) fn offer_rx(&mut self, out: &mut Outbox) -> bool {
        if let Receiver::Userspace(opener) = &self.receiver.path
            && out.may_offload
            && self.offer.rx.contains(self.cipher)
        {
            self.receiver.is_asking = true;
            out.push(Action::InstallKeys {
                leg: self.leg,
                direction: Direction::Rx,
                keys: opener.keys().clone(),
            });
            return true;
        }
        self.receiver.left = None;
        note(self.leg, Direction::Rx, RecordPath::Userspace, out);
        false
    }

    /// With nothing of ours being sent. Says whether the kernel was asked.
    pub(super) fn offer_tx(&mut self, out: &mut Outbox) -> bool {
        if let Transmitter::Userspace(sealer) = &self.sender.path
            && out.may_offload
            && self.offer.tx.contains(self.cipher)
        {
            self.sender.state = SendState::Asking;
            out.push(Action::InstallKeys {
                leg: self.leg,
                direction: Direction::Tx,
                keys: sealer.keys().clone(),
            });
            return true;
        }
        self.sender.left = None;
        note(self.leg, Direction::Tx, RecordPath::Userspace, out);
        false
    }

    /// The kernel has taken keys: its first of this direction, or the next.
    pub(super) fn keyed(&mut self, direction: Direction, out: &mut Outbox) {
        match direction {
            Direction::Rx => {
                self.receiver.is_asking = false;
                let sequence = match &self.receiver.path {
                    Receiver::Userspace(opener) => opener.keys().sequence(),
                    Receiver::Kernel(_) => 0,
                };
                self.receiver.path = Receiver::Kernel(Count::from(sequence));
                if self.receiver.left.take().is_some() {
                    note(self.leg, direction, RecordPath::Kernel, out);
                }
            }
            Direction::Tx => {
                self.sender.state = SendState::Idle;
                let sequence = match &self.sender.path {
                    Transmitter::Userspace(sealer) => sealer.keys().sequence(),
                    Transmitter::Kernel(_) => 0,
                };
                self.sender.path = Transmitter::Kernel(Count::from(sequence));
                if self.sender.left.take().is_some() {
                    note(self.leg, direction, RecordPath::Kernel, out);
                }
            }
        }
    }

    /// The kernel has not taken keys: its first, which leaves userspace to carry on, or the next, which
    /// nobody can.
    pub(super) fn keys_refused(
        &mut self,
        direction: Direction,
        errno: i32,
        out: &mut Outbox,
    ) -> Result<(), Fault> {
        let left = match direction {
            Direction::Rx => {
                self.receiver.is_asking = false;
                self.receiver.left.take()
            }
            Direction::Tx => {
                self.sender.state = SendState::Idle;
                self.sender.left.take()
            }
        };
        if left.is_some() {
            note(self.leg, direction, RecordPath::Fallback { errno }, out);
            return Ok(());
        }
        // The peer has our KeyUpdate and expects the next key: nothing can be sent to it any more.
        self.sender.is_lost = direction == Direction::Tx;
        Err(Fault::RekeyRefused)
    }

    /// The peer's records are under its next key from here on.
    pub(super) fn follow_key_update(&mut self, out: &mut Outbox) -> Result<(), Fault> {
        let keys = self.rekey.as_mut().ok_or(Fault::UnexpectedRecord)?.next(Direction::Rx)?;
        match &mut self.receiver.path {
            Receiver::Kernel(_) => {
                self.receiver.is_asking = true;
                out.push(Action::InstallKeys { leg: self.leg, direction: Direction::Rx, keys });
            }
            Receiver::Userspace(opener) => *opener = Opener::new(keys),
        }
        Ok(())
    }

    /// Our records are under our next key after this message; where the kernel seals and cannot be given one,
    /// nothing is sent, so that an alert can still be sealed under the old key.
    pub(super) fn send_key_update(&mut self, out: &mut Outbox) -> Result<(), Fault> {
        if matches!(self.sender.path, Transmitter::Kernel(_)) && !self.offer.rekeys {
            return Err(Fault::RekeyRefused);
        }
        let payload = if self.sender.pending.key_update_request {
            control::KEY_UPDATE_REQUESTED
        } else {
            control::KEY_UPDATE_NOT_REQUESTED
        };
        self.sender.pending.key_update = false;
        self.sender.pending.key_update_request = false;
        out.push(Action::Note(Milestone::KeyUpdateSent));
        if matches!(self.sender.path, Transmitter::Kernel(_)) {
            return self.send_record(RecordType::Handshake, &payload, SendState::KeyUpdate, out);
        }
        self.send_record(RecordType::Handshake, &payload, SendState::Data, out)?;
        let keys = self.rekey.as_mut().ok_or(Fault::Internal)?.next(Direction::Tx)?;
        self.sender.path = Transmitter::Userspace(Sealer::new(keys));
        Ok(())
    }

    /// The KeyUpdate that the kernel sealed is sent: it gets our next key.
    pub(super) fn install_next_tx_key(&mut self, out: &mut Outbox) -> Result<(), Fault> {
        let keys = self.rekey.as_mut().ok_or(Fault::Internal)?.next(Direction::Tx)?;
        self.sender.state = SendState::Asking;
        out.push(Action::InstallKeys { leg: self.leg, direction: Direction::Tx, keys });
        Ok(())
    }

    /// Counts what userspace carries towards the hand-over.
    pub(super) fn carried_in_userspace(left: &mut Option<u64>, bytes: usize) {
        if let Some(left) = left {
            *left = left.saturating_sub(bytes as u64);
        }
    }
}
