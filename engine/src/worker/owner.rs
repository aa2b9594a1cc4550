//! Who owns an operation on the ring: its completions return that.

use super::mailbox::ServiceId;
use crate::conn::event::{Leg, Operation};

/// The worker's ring.
pub(super) type Ring = crate::sys::ring::Ring<Owner>;
/// What the worker's ring has completed.
pub(super) type Completion = crate::sys::ring::Completion<Owner>;

/// Names a tenant of a slot: no later tenant of the same slot is equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SlotId {
    pub(super) index: u32,
    pub(super) serial: u32,
}

/// The owner of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Mailbox,
    Accept(ServiceId),
    /// That of the far leg; attempts of one connection are counted.
    Connect(SlotId, u8),
    /// Any other operation of a connection.
    Leg(SlotId, Leg, Operation),
}
