//! Little before much: what came of few bytes is handled, and submitted, before what came of many.
//!
//! 64 KiB to be sealed and handed to TCP take longer than a small message needs for all of its way through
//! here. Nothing is turned round within a direction of a connection: no more than one receive and one send of
//! it are under way.

use super::owner::{Completion, Owner, SlotId};
use super::{TURN_COMPLETIONS, Worker};
use crate::sys::ring::Outcome;

/// A completion of more bytes than that is bulk: to seal or open it and to hand it to TCP would keep a small
/// message waiting for longer than that takes itself.
const BULK_BYTES: usize = 16 * 1024;
/// A completion of no more bytes than that is a small message, which bulk lets go first: an MSRP chunk with
/// its headers (RFC 4975 §5.1) is at most so long. What is between the two is most often a piece of bulk.
const LITTLE_BYTES: usize = 4 * 1024;

/// Whose little bytes a turn has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Little {
    None,
    Of(SlotId),
    OfSeveral,
}

impl Little {
    fn and(self, id: Option<SlotId>) -> Self {
        match (self, id) {
            (_, None) => self,
            (Self::None, Some(id)) => Self::Of(id),
            (Self::Of(one), Some(id)) if one == id => self,
            _ => Self::OfSeveral,
        }
    }
}

impl Worker {
    /// Handles those that cost little; the others wait. Says whose bytes were among them.
    pub(super) fn take_completions(&mut self) -> Little {
        let mut little = Little::None;
        for _ in 0..TURN_COMPLETIONS {
            let Some(completion) = self.ring.next_transfer() else { break };
            let bytes = moved_bytes(&completion);
            if bytes > BULK_BYTES {
                self.bulk.push_back(completion);
            } else {
                if (1..=LITTLE_BYTES).contains(&bytes) {
                    little = little.and(tenant(&completion));
                }
                self.complete(completion);
            }
        }
        little
    }

    /// Whether there were little bytes of another connection than the one whose bulk is next.
    pub(super) fn is_of_others(&self, little: Little) -> bool {
        match little {
            Little::None => false,
            Little::Of(id) => self.bulk.front().is_some_and(|bulk| tenant(bulk) != Some(id)),
            Little::OfSeveral => true,
        }
    }

    /// In the order in which they came.
    pub(super) fn run_bulk(&mut self) {
        while let Some(completion) = self.bulk.pop_front() {
            self.complete(completion);
        }
    }
}

/// The connection that a completion is of.
fn tenant(completion: &Completion) -> Option<SlotId> {
    match completion.user_data {
        Owner::Leg(id, ..) | Owner::Connect(id, _) => Some(id),
        Owner::Mailbox | Owner::Accept(_) => None,
    }
}

/// How many bytes were received or sent.
fn moved_bytes(completion: &Completion) -> usize {
    match completion.outcome {
        Outcome::Received { count, .. } | Outcome::Sent { count, .. } => count,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_little_bytes_there_were_is_told() {
        let of = |index| Some(SlotId { index, serial: 0 });
        let one = Little::None.and(of(1));
        assert_eq!(Some(one), of(1).map(Little::Of));
        assert_eq!(one.and(of(1)), one);
        assert_eq!(one.and(None), one);
        assert_eq!(one.and(of(2)), Little::OfSeveral);
        assert_eq!(Little::OfSeveral.and(of(1)), Little::OfSeveral);
    }
}
