//! Limits per source: open connections, and new connections per second.
//!
//! A source is a client address or the prefix that contains the client address. Two tables, both split into
//! 64 shards with a lock each, hold what is known of sources:
//!
//! - Open sources have at least one open connection. This table never forgets an entry before the last
//!   connection of the source ends, so its counts are always right. It has at most one entry per connection
//!   of the process.
//! - Idle sources have no open connection, but a token bucket that is not full yet. A bucket holds the tokens
//!   of one second, so it is full again, and the entry is free again, at most one second after the last new
//!   connection. This table has a fixed size of [`IDLE_MAX`] entries in sets of 8; the hash of a source
//!   chooses the set. If a set has no free entry, a new entry replaces the one whose bucket is nearest to
//!   full; the next connection of the replaced source finds a full bucket. There is no sweep: each call looks
//!   at 8 entries at most.
//!
//! # Memory
//!
//! - Idle sources: 65,536 entries of 32 bytes, exactly 2 MiB, allocated when first used.
//! - Open sources: hash maps with 41 bytes per slot (an entry of 40 bytes, and 1 of the map). A shard keeps
//!   at most 32/7 slots per source at its highest count of open sources, therefore at most 188 bytes; most
//!   often 47 to 94. The slots that are reserved at the start take at most 0.7 MB. While the map of a shard
//!   grows, its old slots exist too: 1/64 of half the table.
//!
//! 1,000,000 open sources take 88 MB, up to 174 MB after many of them changed. The number of distinct sources
//! over time has no influence.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use self::table::{SETS, Table};

mod table;

/// Sources without open connections that are remembered at once, at most.
pub const IDLE_MAX: usize = 65_536;

/// Shards of the tables: many more than workers that hold a lock at the same time.
const SHARDS: usize = 64;
/// Open sources per shard for which memory is reserved at the start, at most. With 10,000 connections, no
/// shard grows under its lock, except by an unlikely hash; more memory would only cost cache misses.
const RESERVED_MAX: usize = 224;

/// What one source may use. `None` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRules {
    /// Connections open at once, 1 to 2^32 - 1.
    pub connections: Option<NonZeroU32>,
    /// New connections per second, 1 to 2^32 - 1; the burst is the same number.
    pub rate: Option<NonZeroU32>,
    /// Leading bits of an IPv4 address that name the source, 0 to 32; more count as 32.
    pub prefix_v4: u8,
    /// Leading bits of an IPv6 address that name the source, 0 to 128; more count as 128.
    ///
    /// Behind a translator that embeds IPv4 addresses in a /96 (64:ff9b::/96 of RFC 6052), all IPv4 clients
    /// are in one /64: use 128 there.
    pub prefix_v6: u8,
}

impl Default for SourceRules {
    /// No limits; an IPv4 address and an IPv6 /64 are one source each.
    fn default() -> Self {
        Self { connections: None, rate: None, prefix_v4: 32, prefix_v6: 64 }
    }
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceRefusal {
    /// The source has [`SourceRules::connections`] open connections or more.
    Connections,
    /// The source has used up [`SourceRules::rate`].
    Rate,
}

/// Names a source: the prefix under which a connection was counted.
///
/// A key stays valid when the rules change: it contains the length of its prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SourceKey {
    /// The upper half of the IPv6 address, or of the IPv4-mapped one; zero behind the prefix.
    high: u64,
    /// The lower half.
    low: u64,
    /// Leading bits that count, 0 to 128; 96 more than those of an IPv4 address.
    length: u8,
}

impl SourceKey {
    /// An IPv4-mapped IPv6 address (`::ffff:a.b.c.d`) is the same source as the IPv4 address.
    fn new(source: IpAddr, prefix_v4: u8, prefix_v6: u8) -> Self {
        let (bits, length) = match source.to_canonical() {
            IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), 96 + prefix_v4),
            IpAddr::V6(address) => (address.to_bits(), prefix_v6),
        };
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        let bits = bits & mask;
        Self { high: (bits >> 64) as u64, low: bits as u64, length }
    }
}

/// What is known of all sources, shared by all workers.
///
/// [`enter`](Self::enter) and [`leave`](Self::leave) lock one of 64 shards for the time of a hash map lookup.
/// The hash is keyed randomly in each process, so clients cannot choose addresses that collide.
///
/// Connections are counted also while there is no limit, for who calls it then: the worker does not, so
/// that a limit that a reload sets first counts from there.
pub struct Sources {
    origin: Instant,
    /// `prefix_v4` in the upper byte, `prefix_v6` in the lower one.
    prefixes: AtomicU16,
    /// Chooses the shard and the set.
    hasher: RandomState,
    shards: Box<[Shard]>,
    /// Held while rules are set, so that all shards get the same.
    setting: Mutex<()>,
}

impl Sources {
    /// No source is known yet.
    ///
    /// `max_connections`: how many connections the process has open at once, at most. It bounds the entries
    /// of open sources, because each has an open connection. Memory for up to 14,336 of them is reserved.
    ///
    /// `origin` is at or before every instant that is passed later; an earlier instant counts as `origin`.
    #[must_use]
    pub fn new(rules: SourceRules, max_connections: usize, origin: Instant) -> Self {
        let reserved = max_connections.div_ceil(SHARDS).min(RESERVED_MAX);
        let sources = Self {
            origin,
            prefixes: AtomicU16::new(0),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Shard(Mutex::new(Table::new(reserved)))).collect(),
            setting: Mutex::new(()),
        };
        sources.set_rules(rules);
        sources
    }

    /// Counts a new connection from `source`, which takes a token of the source at `now`.
    ///
    /// The caller passes the key to [`leave`](Self::leave) exactly once, when the connection ends. Nothing is
    /// counted and no token is taken if the connection is refused.
    ///
    /// # Errors
    /// Why the connection is to be refused; `Connections` if both limits are reached.
    pub fn enter(&self, source: IpAddr, now: Instant) -> Result<SourceKey, SourceRefusal> {
        let [prefix_v4, prefix_v6] = self.prefixes.load(Ordering::Relaxed).to_be_bytes();
        let key = SourceKey::new(source, prefix_v4, prefix_v6);
        let (shard, set) = self.place(key);
        shard.lock().enter(key, set, now.saturating_duration_since(self.origin))?;
        Ok(key)
    }

    /// Ends a connection that [`enter`](Self::enter) counted under `key`.
    ///
    /// Each successful `enter` is followed by exactly one `leave`. A second `leave` would end another
    /// connection of the source in the count, or has no effect if there is none.
    pub fn leave(&self, key: SourceKey) {
        let (shard, set) = self.place(key);
        shard.lock().leave(key, set);
    }

    /// Replaces the rules; they hold for connections that enter from now on.
    ///
    /// Open connections stay counted: a source above a lower limit is refused until enough of its connections
    /// end. A bucket needs as long as before until it is full: an empty one stays empty. Where the rate was
    /// unlimited before, all buckets are full. After a change of a prefix, connections that are open count
    /// for their old prefix only.
    ///
    /// If the rate changes, each shard is locked for a walk through its open sources: 17 ms in total, in 64
    /// parts, with 1,000,000 of them.
    pub fn set_rules(&self, rules: SourceRules) {
        let _setting = self.setting.lock().unwrap_or_else(PoisonError::into_inner);
        let prefixes = u16::from_be_bytes([rules.prefix_v4.min(32), rules.prefix_v6.min(128)]);
        self.prefixes.store(prefixes, Ordering::Relaxed);
        for shard in &self.shards {
            shard.lock().set_limits(rules.connections, rules.rate);
        }
    }

    /// The shard of a source, and its set there.
    fn place(&self, key: SourceKey) -> (&Shard, usize) {
        let hash = self.hasher.hash_one(key) as usize;
        (&self.shards[hash % SHARDS], hash / SHARDS % SETS)
    }
}

impl fmt::Debug for Sources {
    /// Without the sources: there may be millions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// Aligned to two cache lines: no two locks share one, nor a pair that is fetched together.
#[repr(align(128))]
struct Shard(Mutex<Table>);

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::thread;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NO_LIMITS: SourceRules =
        SourceRules { connections: None, rate: None, prefix_v4: 32, prefix_v6: 64 };

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the origin")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn connections(most: u32) -> SourceRules {
        SourceRules { connections: NonZeroU32::new(most), ..NO_LIMITS }
    }

    fn rate(per_second: u32) -> SourceRules {
        SourceRules { rate: NonZeroU32::new(per_second), ..NO_LIMITS }
    }

    fn sources(rules: SourceRules) -> (Sources, Instant) {
        let origin = origin();
        (Sources::new(rules, 10_000, origin), origin)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn nth_address(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(n))
    }

    /// Enters and leaves `tries` times at `now`. Returns how often it was not refused.
    fn visits(sources: &Sources, source: IpAddr, tries: usize, now: Instant) -> usize {
        let visit = |_: &usize| sources.enter(source, now).map(|key| sources.leave(key)).is_ok();
        (0..tries).filter(visit).count()
    }

    impl Sources {
        /// Open sources, and their connections.
        fn open(&self) -> (usize, u32) {
            let add = |sum: (usize, u32), open: (usize, u32)| (sum.0 + open.0, sum.1 + open.1);
            self.shards.iter().map(|shard| shard.lock().open()).fold((0, 0), add)
        }

        /// Bytes of the idle entries, and how many of the buckets in them are not full at `now`.
        fn idle(&self, now: Instant) -> (usize, usize) {
            let elapsed = now - self.origin;
            let add = |sum: (usize, usize), idle: (usize, usize)| (sum.0 + idle.0, sum.1 + idle.1);
            self.shards.iter().map(|shard| shard.lock().idle(elapsed)).fold((0, 0), add)
        }
    }

    #[test]
    fn connections_limit_refused_until_leave() {
        let (sources, now) = sources(connections(2));
        let client = address("192.0.2.1");
        let first = sources.enter(client, now).expect("none open");
        let second = sources.enter(client, now).expect("one open");
        assert_eq!(sources.enter(client, now), Err(SourceRefusal::Connections));
        assert_eq!(sources.enter(client, now + SECOND * 3600), Err(SourceRefusal::Connections));
        sources.leave(first);
        let third = sources.enter(client, now).expect("one left");
        assert_eq!(sources.enter(client, now), Err(SourceRefusal::Connections));
        sources.leave(second);
        sources.leave(third);
        assert_eq!(sources.open(), (0, 0));
    }

    #[test]
    fn connections_limit_other_source_free() {
        let (sources, now) = sources(SourceRules { rate: NonZeroU32::new(5), ..connections(1) });
        assert!(sources.enter(address("192.0.2.1"), now).is_ok());
        for _ in 0..1000 {
            assert_eq!(sources.enter(address("192.0.2.1"), now), Err(SourceRefusal::Connections));
        }
        assert_eq!(visits(&sources, address("192.0.2.2"), 10, now), 5);
        assert_eq!(visits(&sources, address("2001:db8::1"), 10, now), 5);
    }

    #[test]
    fn prefix_v6_64_is_one_source() {
        let (sources, now) = sources(connections(1));
        let key = sources.enter(address("2001:db8:0:1::1"), now).expect("none open");
        assert!(sources.enter(address("2001:db8:0:1:ffff::2"), now).is_err());
        assert!(sources.enter(address("2001:db8:0:2::1"), now).is_ok());
        sources.leave(key);
        assert_eq!(sources.enter(address("2001:db8:0:1:ffff::2"), now), Ok(key));
    }

    #[test]
    fn prefix_every_length_masks() {
        let (v4, v6) = (Ipv4Addr::new(203, 0, 113, 255), Ipv6Addr::from_bits(u128::MAX / 3));
        for length in 0..=128 {
            let key = SourceKey::new(v6.into(), 32, length);
            for bit in 0..128 {
                let other = Ipv6Addr::from_bits(v6.to_bits() ^ (1 << (127 - bit)));
                assert_eq!(SourceKey::new(other.into(), 32, length) == key, bit >= length, "{bit} {length}");
            }
        }
        for length in 0..=32 {
            let key = SourceKey::new(v4.into(), length, 64);
            for bit in 0..32 {
                let other = Ipv4Addr::from_bits(v4.to_bits() ^ (1 << (31 - bit)));
                assert_eq!(SourceKey::new(other.into(), length, 64) == key, bit >= length, "{bit} {length}");
            }
            assert_ne!(SourceKey::new(Ipv6Addr::UNSPECIFIED.into(), 0, 96), key);
        }
    }

    #[test]
    fn prefix_too_long_is_whole_address() {
        let (sources, now) = sources(SourceRules { prefix_v4: 255, prefix_v6: 255, ..connections(1) });
        for client in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"] {
            assert!(sources.enter(address(client), now).is_ok());
            assert!(sources.enter(address(client), now).is_err());
        }
    }

    #[test]
    fn mapped_v4_counts_as_v4() {
        let (sources, now) = sources(SourceRules { prefix_v6: 0, ..connections(1) });
        let key = sources.enter(address("::ffff:192.0.2.1"), now).expect("none open");
        assert!(sources.enter(address("192.0.2.1"), now).is_err());
        assert!(sources.enter(address("::ffff:192.0.2.2"), now).is_ok());
        assert!(sources.enter(address("2001:db8::1"), now).is_ok(), "all of IPv6 is another source");
        sources.leave(key);
        assert_eq!(sources.enter(address("192.0.2.1"), now), Ok(key));
    }

    #[test]
    fn rate_refuses_and_recovers() {
        let (sources, now) = sources(rate(4));
        let client = address("192.0.2.1");
        assert_eq!(visits(&sources, client, 10, now), 4);
        assert_eq!(sources.enter(client, now), Err(SourceRefusal::Rate));
        assert_eq!(visits(&sources, client, 10, now + SECOND / 4), 1);
        assert_eq!(visits(&sources, client, 10, now + SECOND * 10), 4);
        let steps = (1..=40).map(|step| visits(&sources, client, 10, now + SECOND * 10 + SECOND / 4 * step));
        assert_eq!(steps.sum::<usize>(), 40, "ten seconds");
    }

    #[test]
    fn rate_open_source_keeps_bucket() {
        let (sources, now) = sources(rate(4));
        let client = address("192.0.2.1");
        let keys: Vec<_> = (0..10).map_while(|_| sources.enter(client, now).ok()).collect();
        assert_eq!(keys.len(), 4);
        keys.into_iter().for_each(|key| sources.leave(key));
        assert_eq!(visits(&sources, client, 10, now), 0, "the bucket outlasts the connections");
        assert_eq!(sources.idle(now).1, 1);
        assert_eq!(sources.idle(now + SECOND).1, 0, "free once the bucket is full");
    }

    #[test]
    fn refusal_takes_no_token() {
        let (sources, now) = sources(SourceRules { connections: NonZeroU32::new(1), ..rate(2) });
        let client = address("192.0.2.1");
        let key = sources.enter(client, now).expect("none open");
        (0..100).for_each(|_| assert!(sources.enter(client, now).is_err()));
        sources.leave(key);
        assert_eq!(visits(&sources, client, 10, now), 1);
    }

    #[test]
    fn rules_lower_limit_open_connections_stay() {
        let (sources, now) = sources(NO_LIMITS);
        let client = address("192.0.2.1");
        let mut keys: Vec<_> = (0..5).filter_map(|_| sources.enter(client, now).ok()).collect();
        assert_eq!(keys.len(), 5, "counted without a limit");
        sources.set_rules(connections(3));
        for _ in 0..3 {
            assert_eq!(sources.enter(client, now), Err(SourceRefusal::Connections));
            keys.pop().into_iter().for_each(|key| sources.leave(key));
        }
        assert!(sources.enter(client, now).is_ok(), "two are open");
        sources.set_rules(NO_LIMITS);
        assert!((0..10).all(|_| sources.enter(client, now).is_ok()));
        assert_eq!(sources.open(), (1, 13));
    }

    #[test]
    fn rules_prefix_changed_old_keys_leave() {
        let (sources, now) = sources(connections(2));
        let old =
            [1, 2, 3].map(|last| sources.enter(IpAddr::from([192, 0, 2, last]), now).expect("none open"));
        sources.set_rules(SourceRules { prefix_v4: 24, ..connections(2) });
        let new = [4, 5].map(|last| sources.enter(IpAddr::from([192, 0, 2, last]), now).expect("below 2"));
        assert_eq!(sources.open(), (4, 5));
        sources.leave(old[0]);
        assert!(sources.enter(address("192.0.2.1"), now).is_err(), "the prefix is still at its limit");
        sources.leave(new[0]);
        assert_eq!(sources.enter(address("192.0.2.1"), now), Ok(new[0]));
        sources.set_rules(connections(2));
        [old[1], old[2], new[0], new[1]].into_iter().for_each(|key| sources.leave(key));
        assert_eq!(sources.open(), (0, 0));
    }

    #[test]
    fn rules_rate_changed_while_open() {
        let (sources, now) = sources(rate(4));
        let client = address("192.0.2.1");
        let key = sources.enter(client, now).expect("a full bucket");
        assert_eq!(visits(&sources, client, 10, now), 3);
        sources.set_rules(rate(10));
        assert_eq!(visits(&sources, client, 10, now), 0, "a reload gives nothing");
        assert_eq!(visits(&sources, client, 10, now + SECOND / 2), 5);
        sources.set_rules(NO_LIMITS);
        assert_eq!(visits(&sources, client, 100, now + SECOND / 2), 100);
        sources.leave(key);
        assert_eq!(sources.open(), (0, 0));
    }

    #[test]
    fn threads_never_exceed_limit() {
        let (sources, now) = sources(connections(3));
        let entered = |nth: u32| {
            let mut keys = Vec::new();
            for round in 0..20_000 {
                match sources.enter(nth_address(round % 7), now) {
                    Ok(key) => keys.push(key),
                    Err(refusal) => assert_eq!(refusal, SourceRefusal::Connections),
                }
                if (round + nth).is_multiple_of(3) {
                    keys.pop().into_iter().for_each(|key| sources.leave(key));
                }
            }
            keys
        };
        let keys: Vec<_> = thread::scope(|scope| {
            let threads = [0, 1, 2, 3].map(|nth| scope.spawn(move || entered(nth)));
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(sources.open().1 as usize, keys.len());
        assert!(keys.iter().all(|key| keys.iter().filter(|it| *it == key).count() <= 3));
        keys.into_iter().for_each(|key| sources.leave(key));
        assert_eq!(sources.open(), (0, 0));
    }

    #[test]
    fn million_sources_memory_bounded() {
        let (sources, start) = sources(SourceRules { rate: NonZeroU32::new(2), ..connections(1) });
        let held: Vec<_> =
            (0..1000).map(|n| sources.enter(nth_address(n), start).expect("none open")).collect();
        for n in 1000..1_000_000 {
            // All within one second: no bucket becomes full.
            let now = start + Duration::from_nanos(u64::from(n) * 400);
            sources.leave(sources.enter(nth_address(n), now).expect("a source of its own"));
        }
        let now = start + SECOND * 2 / 5;
        assert_eq!(sources.open(), (1000, 1000));
        assert_eq!(sources.idle(now), (IDLE_MAX * 32, IDLE_MAX), "all entries are in use");
        assert_eq!(sources.idle(start + SECOND * 2), (IDLE_MAX * 32, 0));
        for (n, key) in (0..).zip(held) {
            assert_eq!(sources.enter(nth_address(n), now), Err(SourceRefusal::Connections), "not forgotten");
            sources.leave(key);
        }
        assert_eq!(sources.open(), (0, 0));
        let known = (999_990..1_000_000).filter(|n| visits(&sources, nth_address(*n), 2, now) == 1).count();
        assert_eq!(known, 10, "the sources seen last");
    }
}
