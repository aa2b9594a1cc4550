//! What is known of the sources of one shard.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroU32;
use std::time::Duration;

use super::super::rate::Gcra;
use super::{IDLE_MAX, SHARDS, SourceKey, SourceRefusal};

/// Idle entries in a set, which takes 256 bytes.
const WAYS: usize = 8;
/// Sets of idle entries per shard.
pub(super) const SETS: usize = IDLE_MAX / SHARDS / WAYS;

/// The sources of one shard. No source is both in `open` and in `idle`.
pub(super) struct Table {
    connections: Option<NonZeroU32>,
    rate: Option<Gcra>,
    open: HashMap<SourceKey, Open>,
    /// Empty until first used, then of `SETS` sets.
    idle: Vec<[Idle; WAYS]>,
}

/// A source with open connections.
struct Open {
    /// When the bucket is full again, in units of `Table::rate`; 0 without a rate.
    full_at: u64,
    /// Open connections, at least 1.
    count: u32,
}

/// A source without open connections, or a free entry: one whose bucket is full.
#[derive(Clone, Copy, Default)]
struct Idle {
    /// See [`Open::full_at`]; 0 in an entry that was never used or that moved to the open sources.
    full_at: u64,
    key: SourceKey,
}

impl Table {
    /// No source is known, and nothing is limited. Memory for `reserved` open sources is allocated.
    pub(super) fn new(reserved: usize) -> Self {
        Self { connections: None, rate: None, open: HashMap::with_capacity(reserved), idle: Vec::new() }
    }

    /// Counts a connection of `key`, whose hash chooses `set`, at `elapsed` after the origin.
    pub(super) fn enter(
        &mut self,
        key: SourceKey,
        set: usize,
        elapsed: Duration,
    ) -> Result<(), SourceRefusal> {
        let rate = self.rate;
        let take = |full_at| match rate {
            Some(gcra) => gcra.take(full_at, gcra.units(elapsed)).ok_or(SourceRefusal::Rate),
            None => Ok(0),
        };
        match self.open.entry(key) {
            Entry::Occupied(mut entry) => {
                let open = entry.get_mut();
                if self.connections.is_some_and(|most| open.count >= most.get()) {
                    return Err(SourceRefusal::Connections);
                }
                open.full_at = take(open.full_at)?;
                open.count += 1;
            }
            Entry::Vacant(entry) => {
                let mut known = self.idle.get_mut(set).into_iter().flatten();
                let known = known.find(|idle| idle.key == key && idle.full_at > 0);
                let full_at = take(known.as_ref().map_or(0, |idle| idle.full_at))?;
                entry.insert(Open { full_at, count: 1 });
                if let Some(idle) = known {
                    idle.full_at = 0;
                }
            }
        }
        Ok(())
    }

    /// Ends a connection of `key`. No effect if there is none.
    pub(super) fn leave(&mut self, key: SourceKey, set: usize) {
        let Entry::Occupied(mut entry) = self.open.entry(key) else { return };
        entry.get_mut().count -= 1;
        if entry.get().count == 0 {
            let full_at = entry.remove().full_at;
            self.remember(Idle { full_at, key }, set);
        }
    }

    /// Keeps an idle source in place of the one in its set whose bucket is nearest to full. A full bucket has
    /// the earliest instant of all, so a free entry is found without a clock.
    ///
    /// The new one is kept even if its own bucket is nearer to full: otherwise a source that always meets a
    /// used-up set would have a full bucket each time.
    fn remember(&mut self, idle: Idle, set: usize) {
        if idle.full_at == 0 {
            return;
        }
        if self.idle.is_empty() {
            self.idle = vec![[Idle::default(); WAYS]; SETS];
        }
        if let Some(fullest) = self.idle[set].iter_mut().min_by_key(|idle| idle.full_at) {
            *fullest = idle;
        }
    }

    /// Changes the limits.
    pub(super) fn set_limits(&mut self, connections: Option<NonZeroU32>, rate: Option<NonZeroU32>) {
        self.connections = connections;
        self.set_rate(rate.map(|rate| Gcra::new(rate, rate)));
    }

    /// Changes the rate. The instants at which buckets are full stay the same, in units of the new rate.
    fn set_rate(&mut self, rate: Option<Gcra>) {
        let before = std::mem::replace(&mut self.rate, rate);
        if before == rate {
            return;
        }
        let (Some(before), Some(rate)) = (before, rate) else {
            self.open.values_mut().for_each(|open| open.full_at = 0);
            self.idle = Vec::new();
            return;
        };
        self.open.values_mut().for_each(|open| open.full_at = rate.convert(open.full_at, before));
        for idle in self.idle.iter_mut().flatten() {
            idle.full_at = rate.convert(idle.full_at, before);
        }
    }
}

#[cfg(test)]
impl Table {
    /// Open sources, and their connections.
    pub(super) fn open(&self) -> (usize, u32) {
        (self.open.len(), self.open.values().map(|open| open.count).sum())
    }

    /// Bytes of the idle entries, and how many of the buckets in them are not full at `elapsed`.
    pub(super) fn idle(&self, elapsed: Duration) -> (usize, usize) {
        let now = self.rate.map_or(0, |gcra| gcra.units(elapsed));
        let used = self.idle.iter().flatten().filter(|idle| idle.full_at > now).count();
        (self.idle.len() * size_of::<[Idle; WAYS]>(), used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const SET: usize = 5;

    fn key(nth: u8) -> SourceKey {
        SourceKey::new([192, 0, 2, nth].into(), 32, 64)
    }

    fn table(rate: u32) -> Table {
        let mut table = Table::new(0);
        table.set_limits(None, NonZeroU32::new(rate));
        table
    }

    /// Tries 100 connections one after another. Returns how many were not refused.
    fn visits(table: &mut Table, key: SourceKey, elapsed: Duration) -> usize {
        let visit = |_: &i32| table.enter(key, SET, elapsed).map(|()| table.leave(key, SET)).is_ok();
        (0..100).filter(visit).count()
    }

    /// Enters and leaves `times` times at the origin.
    fn visit(table: &mut Table, key: SourceKey, times: usize) {
        for _ in 0..times {
            assert_eq!(table.enter(key, SET, Duration::ZERO), Ok(()));
            table.leave(key, SET);
        }
    }

    #[test]
    fn entry_sizes_match_documentation() {
        assert_eq!(size_of::<(SourceKey, Open)>(), 40);
        assert_eq!(size_of::<Idle>(), 32);
        assert_eq!(SHARDS * SETS * WAYS, IDLE_MAX);
    }

    #[test]
    fn idle_full_set_forgets_nearest_to_full() {
        let mut table = table(20);
        // The third source has used the least.
        let used = [9, 7, 2, 8, 4, 5, 6, 3];
        (1..).zip(used).for_each(|(nth, times)| visit(&mut table, key(nth), times));
        visit(&mut table, key(9), 5);
        assert_eq!(table.idle(Duration::ZERO).1, 8);
        for (nth, times) in (1..).zip(used).filter(|(nth, _)| *nth != 3).chain([(9, 5)]) {
            assert_eq!(visits(&mut table, key(nth), Duration::ZERO), 20 - times, "source {nth}");
        }
        assert_eq!(visits(&mut table, key(3), Duration::ZERO), 20, "forgotten");
    }

    #[test]
    fn idle_full_set_limits_newcomer() {
        let mut table = table(20);
        (1..=8).for_each(|nth| visit(&mut table, key(nth), 20));
        assert_eq!(visits(&mut table, key(9), Duration::ZERO), 20);
        assert_eq!(visits(&mut table, key(9), Duration::ZERO), 0);
        assert_eq!(visits(&mut table, key(9), SECOND / 10), 2);
    }

    #[test]
    fn idle_full_buckets_are_replaced_first() {
        let mut table = table(20);
        (1..=8).for_each(|nth| assert_eq!(visits(&mut table, key(nth), Duration::ZERO), 20));
        assert_eq!((table.idle(Duration::ZERO).1, table.idle(SECOND).1), (8, 0));
        (11..=18).for_each(|nth| assert_eq!(visits(&mut table, key(nth), SECOND), 20));
        (11..=18).for_each(|nth| assert_eq!(visits(&mut table, key(nth), SECOND), 0));
    }

    #[test]
    fn idle_without_rate_takes_no_memory() {
        let mut table = table(0);
        assert_eq!(visits(&mut table, key(1), SECOND), 100);
        assert_eq!((table.idle(SECOND), table.open()), ((0, 0), (0, 0)));
        table.set_limits(None, NonZeroU32::new(3));
        assert_eq!(visits(&mut table, key(1), SECOND), 3);
        assert_eq!(table.idle(SECOND), (SETS * WAYS * 32, 1));
        table.set_limits(None, None);
        assert_eq!(table.idle(SECOND), (0, 0));
    }

    #[test]
    fn rate_changed_empty_bucket_stays_empty() {
        for (before, after) in [(4, 1000), (1000, 4), (7, 3), (u32::MAX, 10)] {
            let mut table = table(before);
            let gcra = table.rate.expect("a rate");
            let empty = gcra.units(SECOND * 12);
            table.open.insert(key(1), Open { full_at: empty, count: 1 });
            table.remember(Idle { full_at: empty, key: key(2) }, SET);
            table.set_limits(None, NonZeroU32::new(after));
            for nth in [1, 2] {
                assert_eq!(table.enter(key(nth), SET, SECOND * 11), Err(SourceRefusal::Rate), "{before}");
                let expected = (after as usize / 2).min(100);
                assert_eq!(visits(&mut table, key(nth), SECOND * 23 / 2), expected, "{before} {after}");
            }
        }
    }

    #[test]
    fn leave_unknown_key_no_effect() {
        let mut table = table(4);
        assert_eq!(table.enter(key(1), SET, SECOND), Ok(()));
        table.leave(key(2), SET);
        table.leave(key(1), SET);
        table.leave(key(1), SET);
        assert_eq!(table.open(), (0, 0));
        assert_eq!(visits(&mut table, key(1), SECOND), 3);
    }
}
