//! Completions that were read from the queue and not yet taken, by what they are of; and the names of
//! operations, which say so.

use std::collections::VecDeque;

use io_uring::cqueue;

/// `user_data` of operations whose completion nobody waits for.
pub(super) const UNWATCHED: u64 = u64::MAX;
/// A name is the operation's place in the table of operations and, above that, its number, which tells it
/// from those that had the place before. Two marks stand above the number.
const PLACE_BITS: u32 = 32;
const NUMBERS: u64 = 1 << 29;
const ACCEPT: u64 = 1 << 62;
const HANDSHAKE: u64 = 1 << 61;

/// What an operation is of, which decides the queue that its completion waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Transfer,
    Handshake,
    Accept,
}

/// The name of an operation, for its `user_data`.
pub(super) fn name(place: usize, number: u64, class: Class) -> u64 {
    let mark = match class {
        Class::Transfer => 0,
        Class::Handshake => HANDSHAKE,
        Class::Accept => ACCEPT,
    };
    place as u64 | (number % NUMBERS) << PLACE_BITS | mark
}

/// The place in a name.
pub(super) fn place(name: u64) -> usize {
    (name & ((1 << PLACE_BITS) - 1)) as usize
}

/// Each class has a queue of its own: one wait may bring a whole backlog of accepts or a flood of hellos,
/// which hold up nobody else there.
#[derive(Default)]
pub(super) struct Unread {
    pub(super) transfers: VecDeque<cqueue::Entry>,
    pub(super) handshakes: VecDeque<cqueue::Entry>,
    pub(super) accepts: VecDeque<cqueue::Entry>,
}

impl Unread {
    pub(super) fn put(&mut self, entry: cqueue::Entry) {
        match entry.user_data() {
            UNWATCHED => {}
            name if name & ACCEPT != 0 => self.accepts.push_back(entry),
            name if name & HANDSHAKE != 0 => self.handshakes.push_back(entry),
            _ => self.transfers.push_back(entry),
        }
    }

    /// Whether nothing waits but accepts: their caller may have no room for them.
    pub(super) fn has_only_accepts(&self) -> bool {
        self.transfers.is_empty() && self.handshakes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_keeps_place_and_class_apart() {
        for class in [Class::Transfer, Class::Handshake, Class::Accept] {
            for number in [0, 1, NUMBERS - 1, u64::MAX] {
                let name = name(u32::MAX as usize, number, class);
                assert_eq!(place(name), u32::MAX as usize);
                assert_ne!(name, UNWATCHED);
                let marks = (name & ACCEPT != 0, name & HANDSHAKE != 0);
                assert_eq!(marks, (class == Class::Accept, class == Class::Handshake));
            }
        }
        assert_ne!(name(1, 1, Class::Transfer), name(1, 2, Class::Transfer));
    }
}
