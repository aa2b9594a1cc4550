//! How many records a key may protect (RFC 8446 §5.5), and what becomes of a connection whose key is spent.
//!
//! In TLS 1.3, on a record path that can replace keys, the next key follows: our own with a KeyUpdate, the
//! peer's by asking for one. Otherwise the connection is wound up: nothing more is received, what was is
//! passed on, and it ends with `record_limit` and an alert, before the limit.
//!
//! Userspace knows how many records it has sealed and opened. What the kernel has is bounded from above by
//! the bytes; only when that bound comes near the limit is the kernel asked.

use super::TlsSide;
use super::send_state::SendState;
use crate::conn::RECEIVE_BYTES;
use crate::conn::action::{Action, Outbox};
use crate::conn::record_path::{Count, Receiver, Transmitter};
use crate::tls::secrets::Direction;

/// Records kept back for what was received when the limit came near, and for the last ones. The least
/// `record_limit` that can be configured is a multiple.
const RESERVE_RECORDS: u64 = 64;

/// Whether our key has room for more data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyBudget {
    /// It has.
    Plenty,
    /// The kernel was asked.
    Asked,
    /// Under the next key.
    AfterKeyUpdate,
    /// For what was received, and no more.
    LastOnes,
}

impl TlsSide {
    /// Before data is sent.
    pub(super) fn room_to_send(&mut self, out: &mut Outbox) -> KeyBudget {
        let count = match &self.sender.path {
            Transmitter::Kernel(count) => *count,
            Transmitter::Userspace(sealer) => Count::from(sealer.keys().sequence()),
        };
        if self.winding_up || !count.reaches(self.record_limit - RESERVE_RECORDS) {
            return KeyBudget::Plenty;
        }
        if !count.settled {
            self.sender.state = SendState::Asking;
            out.push(Action::ReadSequence { leg: self.leg, direction: Direction::Tx });
            return KeyBudget::Asked;
        }
        if self.can_update(&[Direction::Tx]) { KeyBudget::AfterKeyUpdate } else { KeyBudget::LastOnes }
    }

    /// Before anything is received from the peer. The peer has records on the way when it is asked for its
    /// next key: it is asked when an eighth of the limit is left.
    pub(super) fn has_room_to_receive(&mut self, out: &mut Outbox) -> bool {
        if self.winding_up {
            return false;
        }
        let count = match &self.receiver.path {
            Receiver::Kernel(count) => *count,
            Receiver::Userspace(opener) => Count::from(opener.keys().sequence()),
        };
        let can_ask = !self.receiver.update_asked && self.can_update(&[Direction::Tx, Direction::Rx]);
        let kept_back = if can_ask { self.record_limit / 8 } else { RESERVE_RECORDS };
        if !count.reaches(self.record_limit - kept_back) {
            return true;
        }
        if !count.settled {
            self.receiver.is_asking = true;
            out.push(Action::ReadSequence { leg: self.leg, direction: Direction::Rx });
            return false;
        }
        if can_ask {
            self.sender.pending.key_update_request = true;
            self.receiver.update_asked = true;
        } else {
            self.winding_up = true;
        }
        can_ask
    }

    /// Most bytes to be received at once: the kernel opens no more records than that, should each have one.
    pub(super) fn receivable_bytes(&self) -> usize {
        match &self.receiver.path {
            Receiver::Userspace(_) => self.bulk_bytes(),
            Receiver::Kernel(count) => {
                let left = self.record_limit.saturating_sub(count.at_most);
                usize::try_from(left).unwrap_or(RECEIVE_BYTES).clamp(1, RECEIVE_BYTES)
            }
        }
    }

    /// The kernel's answer.
    pub(super) fn told_sequence(&mut self, direction: Direction, sequence: Option<u64>) {
        match direction {
            Direction::Tx => {
                self.sender.state = SendState::Idle;
                if let Transmitter::Kernel(count) = &mut self.sender.path {
                    count.settle(sequence);
                }
            }
            Direction::Rx => {
                self.receiver.is_asking = false;
                if let Receiver::Kernel(count) = &mut self.receiver.path {
                    // The bound counts bytes and is far above what there is. The limit is first of all the
                    // sender's (RFC 8446 §5.5): where the kernel cannot tell, it is left to the peer.
                    count.settle(sequence.or(Some(0)));
                }
            }
        }
    }

    /// Whether the next keys of all these directions can be had.
    fn can_update(&self, directions: &[Direction]) -> bool {
        self.rekey.is_some()
            && directions.iter().all(|direction| {
                let in_userspace = match direction {
                    Direction::Tx => matches!(self.sender.path, Transmitter::Userspace(_)),
                    Direction::Rx => matches!(self.receiver.path, Receiver::Userspace(_)),
                };
                in_userspace || self.offer.rekeys
            })
    }
}

impl Count {
    fn reaches(self, limit: u64) -> bool {
        self.at_most >= limit
    }
}
