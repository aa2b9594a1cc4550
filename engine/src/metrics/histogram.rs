//! Histograms of durations with fixed buckets. As with counters, one worker writes, with a load and a store
//! for the bucket and for the sum, and anyone reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::counters::bump;

/// Buckets with an upper bound; what is above the last bound has one more.
const BOUNDED: usize = 16;

/// Upper bounds of buckets, in microseconds.
pub(super) type Bounds = [u64; BOUNDED];

/// For handshakes, connects and first bytes: 100 microseconds to 60 seconds.
pub(super) const SHORT: Bounds = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000, 60_000_000,
];

/// For whole connections: 1 millisecond to a day.
pub(super) const LONG: Bounds = [
    1_000,
    10_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    15_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    1_800_000_000,
    3_600_000_000,
    10_800_000_000,
    21_600_000_000,
    43_200_000_000,
    86_400_000_000,
];

/// One worker's observations of a duration.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static Bounds,
    buckets: [AtomicU64; BOUNDED + 1],
    sum_us: AtomicU64,
}

/// Observations of all workers.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Upper bound in seconds, and how many were in the bucket alone.
    pub buckets: [(f64, u64); BOUNDED + 1],
    /// In seconds.
    pub sum: f64,
    /// How many there were.
    pub count: u64,
}

impl Histogram {
    /// Without an observation.
    pub(super) const fn new(bounds: &'static Bounds) -> Self {
        Self { bounds, buckets: [const { AtomicU64::new(0) }; BOUNDED + 1], sum_us: AtomicU64::new(0) }
    }

    /// Adds one. Only the worker that the histogram belongs to may call this.
    pub fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        bump(&self.buckets[self.bounds.partition_point(|bound| *bound < micros)], 1);
        bump(&self.sum_us, micros);
    }
}

impl Distribution {
    /// The sum of histograms with the same bounds; `None` if nothing was observed.
    pub fn of<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> Option<Self> {
        let (mut counts, mut micros, mut bounds) = ([0_u64; BOUNDED + 1], 0_u64, None);
        for histogram in histograms {
            for (count, bucket) in counts.iter_mut().zip(&histogram.buckets) {
                *count = count.wrapping_add(bucket.load(Ordering::Relaxed));
            }
            micros = micros.wrapping_add(histogram.sum_us.load(Ordering::Relaxed));
            bounds = Some(histogram.bounds);
        }
        let (bounds, count) = (bounds?, counts.iter().sum());
        let seconds = |micros: u64| Duration::from_micros(micros).as_secs_f64();
        let mut buckets = [(f64::INFINITY, 0); BOUNDED + 1];
        for (place, (bucket, count)) in buckets.iter_mut().zip(counts).enumerate() {
            *bucket = (bounds.get(place).map_or(f64::INFINITY, |bound| seconds(*bound)), count);
        }
        (count > 0).then_some(Self { buckets, sum: seconds(micros), count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_puts_a_bound_into_its_own_bucket() {
        let (one, two) = (Histogram::new(&SHORT), Histogram::new(&SHORT));
        assert_eq!(Distribution::of([&one, &two]), None);
        for micros in [0, 100, 101, 60_000_001] {
            one.observe(Duration::from_micros(micros));
        }
        two.observe(Duration::from_micros(100));
        let all = Distribution::of([&one, &two]).expect("there are some");
        assert_eq!(
            (all.buckets[0], all.buckets[1], all.buckets[16]),
            ((1e-4, 3), (2.5e-4, 1), (f64::INFINITY, 1))
        );
        assert_eq!((all.count, all.sum), (5, 60.000_302));
    }

    #[test]
    fn bounds_rise() {
        assert!(SHORT.is_sorted() && LONG.is_sorted());
    }
}
