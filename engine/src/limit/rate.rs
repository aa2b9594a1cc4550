//! Token buckets: a rate per second, with bursts.
//!
//! The algorithm is GCRA (generic cell rate algorithm, ITU-T I.371). The state of a bucket is one integer:
//! the instant at which the bucket is full again. Taking a token moves this instant by the time that one
//! token needs to arrive. No thread has to refill anything.
//!
//! The instant is counted in units that depend on the rate: one second is 2^31 to 2^32 units, and one token
//! is a whole number of units. Therefore the rate is exact and does not drift, also when the interval between
//! tokens is not a whole number of nanoseconds. A token arrives at most one unit (0.47 ns) too early.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Nanoseconds in a second.
const NANOS: u64 = 1_000_000_000;

/// A token bucket that any number of threads share without a lock.
///
/// The bucket is full at its origin. The arithmetic is exact for 68 years after the origin; no realistic
/// uptime comes near.
#[derive(Debug)]
pub struct RateLimit {
    gcra: Gcra,
    origin: Instant,
    /// When the bucket is full again, in units of `gcra` since `origin`.
    full_at: AtomicU64,
}

impl RateLimit {
    /// A full bucket that holds up to `burst` tokens and gains `per_second` tokens per second.
    ///
    /// Between any two instants, at most `burst` tokens plus `per_second` for each second between them are
    /// taken. `origin` is at or before every instant that is passed later; an earlier instant counts as
    /// `origin`.
    #[must_use]
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32, origin: Instant) -> Self {
        Self { gcra: Gcra::new(per_second, burst), origin, full_at: AtomicU64::new(0) }
    }

    /// A full bucket that gains `per_second` tokens per second and holds those of one second.
    #[must_use]
    pub fn per_second(per_second: NonZeroU32, origin: Instant) -> Self {
        Self::new(per_second, per_second, origin)
    }

    /// Takes a token if one is available at `now`. Returns whether it did.
    ///
    /// Each thread may pass its own clock reading: an instant before that of another thread takes a token
    /// only if one was available at that earlier instant.
    ///
    /// The update is a compare-and-swap loop. An attempt fails only if another thread took a token in
    /// between, therefore one call makes at most one attempt more than tokens are taken by other threads
    /// during the call (weak exchanges of some processors add spurious failures). An empty bucket is only
    /// read, never written: refusals do not contend.
    pub fn try_take(&self, now: Instant) -> bool {
        let now = self.gcra.units(now.saturating_duration_since(self.origin));
        // Relaxed: the value protects no other memory.
        let take = |full_at| self.gcra.take(full_at, now);
        self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Takes a token at `now`, whether one is available or not: the bucket owes it then, and the next one is
    /// available as much later. For what has happened already.
    pub fn charge(&self, now: Instant) {
        let now = self.gcra.units(now.saturating_duration_since(self.origin));
        let take = |full_at: u64| Some(self.gcra.charge(full_at, now));
        // It always has a next value.
        let _ = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
    }

    /// How long after `now` the next token is available, rounded up to a nanosecond; `None` if one is
    /// available now. Another thread may take this token first.
    #[must_use]
    pub fn next_at(&self, now: Instant) -> Option<Duration> {
        let elapsed = self.gcra.units(now.saturating_duration_since(self.origin));
        let due = self.gcra.available_at(self.full_at.load(Ordering::Relaxed));
        (due > elapsed).then(|| (self.origin + self.gcra.duration(due)).saturating_duration_since(now))
    }
}

/// The arithmetic of a token bucket: its parameters, without its state.
///
/// The state is a `u64` that the owner keeps: when the bucket is full again, in units since an origin. 0 is a
/// bucket that was never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gcra {
    /// Units in a second: 2^31 to 2^32 - 1.
    second: u64,
    /// Units in which one token arrives: 1 to 2^31.
    token: u64,
    /// Units in which an empty bucket becomes full: below 2^63.
    depth: u64,
}

impl Gcra {
    /// `per_second` tokens per second, up to `burst` tokens at once.
    pub(super) fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        let token = 1 << per_second.leading_zeros();
        Self { second: u64::from(per_second.get()) * token, token, depth: u64::from(burst.get()) * token }
    }

    /// `elapsed` in units, rounded down. Saturates after 136 years.
    pub(super) fn units(self, elapsed: Duration) -> u64 {
        // Below 2^62: less than 2^30 nanoseconds, less than 2^32 units in a second.
        let fraction = u64::from(elapsed.subsec_nanos()) * self.second / NANOS;
        elapsed.as_secs().saturating_mul(self.second).saturating_add(fraction)
    }

    /// `units` as a duration, rounded up to a nanosecond.
    fn duration(self, units: u64) -> Duration {
        let nanos = (units % self.second * NANOS).div_ceil(self.second);
        Duration::from_secs(units / self.second) + Duration::from_nanos(nanos)
    }

    /// Takes a token at `now` from a bucket that is full at `full_at`, which may owe it afterwards. Returns
    /// when the bucket is full after that.
    fn charge(self, full_at: u64, now: u64) -> u64 {
        full_at.max(now).saturating_add(self.token)
    }

    /// Takes a token at `now` from a bucket that is full at `full_at`. Returns when the bucket is full after
    /// that; `None` if no token is available.
    pub(super) fn take(self, full_at: u64, now: u64) -> Option<u64> {
        let next = self.charge(full_at, now);
        (next <= now.saturating_add(self.depth)).then_some(next)
    }

    /// From when on the bucket has a token.
    fn available_at(self, full_at: u64) -> u64 {
        full_at.saturating_add(self.token).saturating_sub(self.depth)
    }

    /// The instant `units`, counted in the units of `from`, in the units of `self`; rounded down.
    pub(super) fn convert(self, units: u64, from: Self) -> u64 {
        let fraction = units % from.second * self.second / from.second;
        (units / from.second).saturating_mul(self.second).saturating_add(fraction)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the origin")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn number(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).expect("not zero")
    }

    /// Takes tokens until none is left at `now`.
    fn drain(limit: &RateLimit, now: Instant) -> u64 {
        let mut taken = 0;
        while limit.try_take(now) {
            taken += 1;
        }
        taken
    }

    /// Empties the bucket at the origin and at each of `steps` instants, `step` apart.
    fn drained(rate: u32, burst: u32, step: Duration, steps: u32) -> u64 {
        let origin = origin();
        let limit = RateLimit::new(number(rate), number(burst), origin);
        (0..=steps).map(|nth| drain(&limit, origin + step * nth)).sum()
    }

    #[test]
    fn rate_ten_seconds_exact() {
        for (rate, burst) in [(1, 2), (3, 2), (7, 7), (10, 1), (999, 40), (1000, 1000), (99_991, 1000)] {
            let expected = u64::from(burst) + u64::from(rate) * 10;
            assert_eq!(drained(rate, burst, Duration::from_millis(1), 10_000), expected, "{rate} {burst}");
        }
    }

    #[test]
    fn rate_odd_interval_no_drift() {
        // A third of a second is not a whole number of nanoseconds: a day of rounding would lose tokens.
        assert_eq!(drained(3, 3, SECOND / 2, 2 * 86_400), 3 + 3 * 86_400);
        assert_eq!(drained(4_000_000_007, 1 << 20, Duration::from_nanos(100_000), 10), (1 << 20) + 4_000_000);
    }

    #[test]
    fn rate_largest_values_limit() {
        let origin = origin();
        let limit = RateLimit::new(number(1), number(u32::MAX), origin);
        let century = origin + SECOND * 60 * 60 * 24 * 365 * 60;
        assert!(limit.try_take(origin) && limit.try_take(century));
        limit.full_at.store(limit.gcra.units(century - origin) + limit.gcra.depth, Ordering::Relaxed);
        assert!(!limit.try_take(century), "an empty bucket of 2^32 - 1 tokens after 60 years");
        assert_eq!(limit.next_at(century), Some(SECOND));
        assert!(limit.try_take(century + SECOND));

        let fastest = RateLimit::new(number(u32::MAX), number(1), origin);
        assert_eq!(drain(&fastest, century), 1);
        assert_eq!(drain(&fastest, century + Duration::from_nanos(1)), 1);
    }

    #[test]
    fn rate_idle_bucket_keeps_one_burst() {
        let origin = origin();
        let limit = RateLimit::new(number(10), number(4), origin);
        assert_eq!(drain(&limit, origin + SECOND * 3600), 4);
        assert_eq!(drain(&limit, origin + SECOND * 3600), 0);
        assert_eq!(drain(&limit, origin + SECOND * 3601), 4, "not the ten of the second");
    }

    #[test]
    fn rate_default_burst_is_one_second() {
        let origin = origin();
        let limit = RateLimit::per_second(number(25), origin);
        assert_eq!(drain(&limit, origin), 25);
        assert_eq!(drain(&limit, origin + SECOND / 5), 5);
    }

    #[test]
    fn rate_next_at_is_first_instant() {
        let nanosecond = Duration::from_nanos(1);
        for rate in [1, 3, 7, 1000, 99_991, 1_000_000, 300_000_007] {
            let origin = origin();
            let limit = RateLimit::new(number(rate), number(3), origin);
            let mut now = origin;
            assert_eq!(limit.next_at(now), None);
            for _ in 0..1000 {
                drain(&limit, now);
                let wait = limit.next_at(now).expect("an empty bucket");
                assert!(!limit.try_take(now + wait - nanosecond), "{rate}: available earlier");
                now += wait;
                assert_eq!(limit.next_at(now), None);
                assert!(limit.try_take(now), "{rate}: not available");
            }
        }
    }

    #[test]
    fn rate_clock_behind_takes_nothing_extra() {
        let origin = origin();
        let limit = RateLimit::new(number(10), number(2), origin);
        assert_eq!(drain(&limit, origin + SECOND), 2);
        assert_eq!(drain(&limit, origin + SECOND / 2), 0, "a thread whose clock reading is older");
        assert_eq!(limit.next_at(origin + SECOND / 2), Some(SECOND / 2 + SECOND / 10));
        assert_eq!(drain(&limit, origin + SECOND + SECOND / 10), 1);
    }

    #[test]
    fn rate_instant_before_origin_is_origin() {
        let early = origin();
        let origin = early + SECOND;
        let limit = RateLimit::new(number(10), number(1), origin);
        assert_eq!(drain(&limit, early), 1);
        assert_eq!(limit.next_at(early), Some(SECOND + SECOND / 10));
    }

    #[test]
    fn rate_threads_take_exactly_burst() {
        let origin = origin();
        let limit = RateLimit::new(number(7), number(12_345), origin);
        let take = || (0..10_000).filter(|_| limit.try_take(origin)).count();
        let taken: usize = thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(take));
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(taken, 12_345);
    }

    #[test]
    fn gcra_matches_fractions() {
        // The same bucket as a level in tokens / 10^9, which is exact.
        let full = u128::from(NANOS);
        for rate in [1_u32, 3, 1024, 77_777] {
            let (gcra, most) = (Gcra::new(number(rate), number(5)), 5 * full);
            let (mut level, mut full_at, mut now, mut random) = (most, 0, 0_u64, 1_u64);
            for _ in 0..100_000 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let step = (random >> 33) % (2 * NANOS / u64::from(rate));
                now += step;
                level = most.min(level + u128::from(step) * u128::from(rate));
                let taken = gcra.take(full_at, gcra.units(Duration::from_nanos(now)));
                // One unit too early is allowed: less than the tokens of one nanosecond.
                let early = level + u128::from(rate) >= full;
                assert!(taken.is_some() == (level >= full) || (taken.is_some() && early), "{rate} at {now}");
                if let Some(next) = taken {
                    full_at = next;
                    level = level.saturating_sub(full);
                }
            }
        }
    }

    #[test]
    fn gcra_convert_keeps_instant() {
        let (slow, fast) = (Gcra::new(number(3), number(3)), Gcra::new(number(1_000_000), number(9)));
        let nanosecond = Duration::from_nanos(1);
        for elapsed in [Duration::ZERO, SECOND / 3, SECOND * 86_400 + nanosecond * 17, SECOND * (1 << 31)] {
            let there = fast.convert(slow.units(elapsed), slow);
            assert!(fast.units(elapsed) - there <= 2, "{elapsed:?}");
            let back = slow.duration(slow.convert(there, fast));
            assert!(back <= elapsed && elapsed - back <= nanosecond * 2, "{elapsed:?}: {back:?}");
        }
    }

    #[test]
    fn charge_beyond_the_burst_is_paid_back() {
        let (origin, now) = (origin(), origin());
        let limit = RateLimit::new(number(10), number(10), origin);
        (0..30).for_each(|_| limit.charge(now));
        let pause = limit.next_at(now).expect("it owes 20");
        assert!(pause > 2 * SECOND && pause < 3 * SECOND, "{pause:?}");
        assert!(!limit.try_take(now + 2 * SECOND) && limit.try_take(now + pause));
    }
}
