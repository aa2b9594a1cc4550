//! Places without a connection, and since when there are any.

use std::time::Instant;

/// The free places of one thread.
#[derive(Debug)]
pub(super) struct Free {
    places: Vec<usize>,
    /// Until when there was none, last.
    none_until: Option<Instant>,
}

impl Free {
    /// All places, the first one first.
    pub(super) fn all(places: usize) -> Self {
        Self { places: (0..places).rev().collect(), none_until: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn take(&mut self) -> Option<usize> {
        self.places.pop()
    }

    pub(super) fn give(&mut self, place: usize, now: Instant) {
        if self.places.is_empty() {
            self.none_until = Some(now);
        }
        self.places.push(place);
    }

    /// Whether a start that was planned for this time, and comes later, had no place to begin on: it is late
    /// because the plan allows no more connections at once, and not because of the generator.
    pub(super) fn held_back(&self, planned: Instant) -> bool {
        self.none_until.is_some_and(|until| planned <= until)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::runner::now;

    #[test]
    fn start_is_held_back_until_a_place_is_free() {
        let (start, ms) = (now(), Duration::from_millis(1));
        let mut free = Free::all(2);
        assert_eq!((free.take(), free.take(), free.take()), (Some(0), Some(1), None));
        assert!(!free.held_back(start), "there were places so far");
        free.give(1, start + 5 * ms);
        free.give(0, start + 9 * ms);
        // Planned after anybody looked last, and yet while no place was free.
        assert!(free.held_back(start + 4 * ms));
        assert!(!free.held_back(start + 7 * ms), "a place was free: that is our own delay");
    }
}
