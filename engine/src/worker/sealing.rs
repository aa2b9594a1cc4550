//! What was given to the socket of a leg with TLS, and when to look again at what became of it.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use offramp_proto::Direction;

use crate::sys::ktls::{self, Material};
use crate::sys::tcp;

/// What was given to the socket of a TLS leg, and what the kernel adds to it.
#[derive(Default)]
pub(super) struct Sealing {
    /// Bytes that the socket has taken: sealed ones before the kernel had a key, plain ones since.
    taken: u64,
    /// Bytes that the kernel has added under keys before the present one.
    added: u64,
    key: Option<Key>,
}

/// The kernel's present key.
#[derive(Clone, Copy)]
struct Key {
    bytes_a_record: u64,
    first: u64,
}

/// A look that has found something waiting, and the next one.
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) pause: Duration,
    pub(super) given: u64,
    pub(super) awaits: Awaits,
}

/// What a look waits for.
#[derive(Clone, Copy)]
pub(super) enum Awaits {
    Flushed,
    Settled,
}

impl Sealing {
    /// The socket has taken so many bytes.
    pub(super) fn took(&mut self, count: usize) {
        self.taken += count as u64;
    }

    /// What the kernel has added under its present key, before another replaces it.
    pub(super) fn added_under_key(&self, socket: BorrowedFd<'_>) -> u64 {
        let Some(key) = self.key else { return 0 };
        let sequence = ktls::sequence(socket, Direction::Tx).unwrap_or(key.first);
        sequence.saturating_sub(key.first) * key.bytes_a_record
    }

    /// The kernel seals with these keys from here on, and has added so many bytes under those before.
    pub(super) fn begin(&mut self, material: &Material<'_>, added: u64) {
        self.added += added;
        let bytes_a_record = material.cipher.bytes_a_record();
        self.key = Some(Key { bytes_a_record, first: material.sequence });
    }

    /// How many bytes TCP was given, if something is still to be; `None` if not, or if that cannot be told.
    pub(super) fn waiting(&self, socket: BorrowedFd<'_>, last: Option<&Look>) -> Option<u64> {
        self.key?;
        let tcp = tcp::sending(socket).ok()?;
        let all = self.taken + self.added + self.added_under_key(socket);
        // With nothing left to send and nothing come since the last look, there was nothing to come.
        let has_settled = tcp.is_done && last.is_some_and(|last| last.given == tcp.given);
        (tcp.given < all && !has_settled).then_some(tcp.given)
    }
}
