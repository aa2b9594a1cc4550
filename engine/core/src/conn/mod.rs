//! The data path: what happens to one connection, decided without a socket, a clock, a lock or a counter.
//!
//! ```text
//! near leg:  accept → handshake → (hold) → offload ─┐          plain: nothing to do, or peek
//!                                                   connect
//! far leg:   accept → handshake → (hold) → offload ─┴→ relay → shutdown
//! ```
//!
//! [`Conn::step`] takes one [`Event`], appends the [`Action`]s that follow from it, and cannot fail: a
//! failure is the shutdown stage with a [`Fault`]. A stage never changes itself into another; it says
//! `Next`, and only `course` acts on it.

use std::time::Instant;

mod accept;
pub mod action;
pub mod alerts;
mod busy;
mod connect;
mod course;
pub mod event;
pub mod fault;
mod handshake;
mod hold;
mod offload;
mod peek;
pub mod policy;
mod proxied;
pub mod record_path;
mod relay;
mod shutdown;

use std::sync::Arc;

use crate::buf::BUF_BYTES;
use crate::tls::cipher::MAX_OVERHEAD_BYTES;
use crate::tls::record::MAX_PLAINTEXT_BYTES;
use action::Outbox;
use course::{Course, Stage};
use event::Event;
use fault::Fault;
use policy::{Policy, Turn};

/// Most bytes received at once from the TLS leg: a whole buffer.
const RECEIVE_BYTES: usize = BUF_BYTES;
/// Most records that are made of what is received at once from the plain leg.
const RECORDS: usize = BUF_BYTES.div_ceil(MAX_PLAINTEXT_BYTES);
/// Most bytes received at once from the plain leg: what fits into one buffer when it is sealed.
const PLAINTEXT_BYTES: usize = BUF_BYTES - RECORDS * MAX_OVERHEAD_BYTES;

/// One connection: a near leg, which was accepted, and a far leg, which is connected. Which of them has TLS,
/// and in which role, is a matter of its policy.
#[derive(Debug)]
pub struct Conn {
    policy: Arc<Policy>,
    course: Course,
}

/// What a stage says after an event.
#[derive(Debug)]
enum Next<T> {
    /// It goes on.
    Stay,
    /// It is complete; the stage after it gets this.
    Advance(T),
    /// It cannot go on.
    End(Fault),
}

impl Conn {
    /// A connection whose near leg was accepted.
    #[must_use]
    pub fn new(policy: Arc<Policy>) -> Self {
        Self { policy, course: Course::begin() }
    }

    /// The policy under which it began.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// When it wants [`Event::Expired`], if nothing happens before; asked again after every step.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let Course { deadline, ends_at, .. } = &self.course;
        [*deadline, self.course.record_until(), *ends_at].into_iter().flatten().min()
    }

    /// Since when a peer has owed it the rest of a record; of a connection that relays.
    #[must_use]
    pub fn record_since(&self) -> Option<Instant> {
        self.course.record_until()?.checked_sub(self.policy.timeouts.handshake)
    }

    /// Whether it keeps the front of a message of a handshake that is not complete, or what came before its
    /// far leg is open.
    #[must_use]
    pub fn keeps_front_of_handshake(&self) -> bool {
        match &self.course.stage {
            Stage::Handshake(stage) => stage.keeps_front(),
            Stage::Peek(stage) => stage.keeps_front(),
            Stage::Proxied(stage) => stage.keeps_front(),
            Stage::Connect(_) => self.course.keeps_first(),
            _ => false,
        }
    }

    /// The name of the stage in which it is.
    #[must_use]
    pub fn stage(&self) -> &'static str {
        self.course.stage_name()
    }

    /// Whether its handshake was completed.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.course.is_established
    }

    /// Whether it has asked to be closed; events after that are ignored.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.course.stage, Stage::Closed)
    }

    /// Takes one event; all that follows from it is in `out` when this returns.
    pub fn step(&mut self, event: Event, turn: Turn, out: &mut Outbox) {
        let Turn { now, may_offload, may_begin_full } = turn;
        (out.now, out.may_offload, out.may_begin_full) = (now, may_offload, may_begin_full);
        self.course.step(event, &self.policy, out);
    }
}

#[cfg(test)]
mod tests {
    use super::relay::Relay;
    use super::*;

    #[test]
    fn a_waiting_connection_is_small() {
        // Resident memory of an idle connection is this, its stage, and the kernel's.
        assert!(size_of::<Conn>() <= 160, "{} bytes", size_of::<Conn>());
        assert!(size_of::<Relay>() <= 2048, "{} bytes", size_of::<Relay>());
    }
}
