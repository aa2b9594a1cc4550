//! When a place goes on: one timer each, at most.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// A place has one timer: a new one takes the old one's place, so that what an earlier connection waited for
/// does not wake a later one, or hand the place out twice.
#[derive(Debug)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    /// Of the timer that holds, by place; older ones in the heap do not.
    generations: Vec<u64>,
}

impl Timers {
    pub(super) fn new(places: usize) -> Self {
        Self { heap: BinaryHeap::new(), generations: vec![0; places] }
    }

    /// Wakes the place at this time, and not when it was to be woken before.
    pub(super) fn set(&mut self, place: usize, at: Instant) {
        self.clear(place);
        self.heap.push(Reverse((at, place, self.generations[place])));
    }

    /// The place is not to be woken any more.
    pub(super) fn clear(&mut self, place: usize) {
        self.generations[place] += 1;
    }

    /// When the next place is to be woken.
    pub(super) fn next(&mut self) -> Option<Instant> {
        while let Some(Reverse((at, place, generation))) = self.heap.peek().copied() {
            if generation == self.generations[place] {
                return Some(at);
            }
            self.heap.pop();
        }
        None
    }

    /// A place that is to be woken now; its timer is gone with that.
    pub(super) fn due(&mut self, now: Instant) -> Option<usize> {
        self.next().filter(|at| *at <= now)?;
        let Reverse((_, place, _)) = self.heap.pop()?;
        self.clear(place);
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::runner::now;

    #[test]
    fn a_place_is_woken_once_whatever_was_set_before() {
        let (start, second) = (now(), Duration::from_secs(1));
        let mut timers = Timers::new(3);
        timers.set(1, start + second);
        timers.set(1, start + 2 * second);
        timers.set(0, start + 3 * second);
        timers.set(2, start + second);
        timers.clear(2);
        assert_eq!(timers.due(start + second), None, "the place fell asleep anew");
        assert_eq!(timers.next(), Some(start + 2 * second));
        let late = start + 9 * second;
        assert_eq!([0; 3].map(|_| timers.due(late)), [Some(1), Some(0), None]);
    }
}
