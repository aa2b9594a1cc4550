//! When connections begin, and which moments count. No clock: times are given, or counted from a start.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How starts are spread at a given rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    /// As independent clients do: gaps are exponentially distributed.
    Poisson,
    /// All gaps alike.
    Even,
}

/// Connections a second, at the beginning and at the end of the time that counts; linear in between.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Per second, more than zero; also during the warm-up.
    pub from: f64,
    /// Per second, more than zero.
    pub to: f64,
}

impl Rate {
    /// The same all the time.
    #[must_use]
    pub fn steady(per_second: f64) -> Self {
        Self { from: per_second, to: per_second }
    }
}

/// The planned starts of one thread, as times since the start of the run; ends with the time that counts.
#[derive(Clone, Debug)]
pub struct Arrivals {
    rate: Rate,
    warm_up: f64,
    measured: f64,
    spacing: Spacing,
    dice: fastrand::Rng,
    /// How many starts the plan has until the one that comes next; a real number.
    count: f64,
}

impl Arrivals {
    /// The share of thread `index` of `threads` (at least one): together they make `rate`. Thread and `seed`
    /// decide all.
    #[must_use]
    pub fn new(
        rate: Rate,
        (warm_up, measured): (Duration, Duration),
        spacing: Spacing,
        (index, threads): (usize, usize),
        seed: u64,
    ) -> Self {
        let share = threads.max(1) as f64;
        let mut arrivals = Self {
            rate: Rate { from: rate.from / share, to: rate.to / share },
            warm_up: warm_up.as_secs_f64(),
            measured: measured.as_secs_f64(),
            spacing,
            dice: fastrand::Rng::with_seed(seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            count: 0.0,
        };
        // Evenly spaced threads take turns.
        arrivals.count = match spacing {
            Spacing::Even => index as f64 / share,
            Spacing::Poisson => arrivals.gap(),
        };
        arrivals
    }

    /// In units of starts: one on average.
    fn gap(&mut self) -> f64 {
        match self.spacing {
            Spacing::Even => 1.0,
            Spacing::Poisson => -(1.0 - self.dice.f64()).ln(),
        }
    }

    /// When the plan has had `count` starts: the inverse of the rate's integral.
    fn time_of(&self, count: f64) -> f64 {
        let Rate { from, to } = self.rate;
        let before = from * self.warm_up;
        if count <= before {
            return count / from;
        }
        let (count, slope) = (count - before, (to - from) / self.measured);
        // slope/2·t² + from·t = count, in the form that also holds for a slope of nothing.
        let root = (from * from + 2.0 * slope * count).max(0.0).sqrt();
        self.warm_up + 2.0 * count / (from + root)
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let at = self.time_of(self.count);
        self.count += self.gap();
        (at.is_finite() && at < self.warm_up + self.measured).then(|| Duration::from_secs_f64(at))
    }
}

/// The time that counts: half-open.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    counts_from: Instant,
    end: Instant,
}

impl Window {
    /// From `counts_from`, for `measured`.
    #[must_use]
    pub fn new(counts_from: Instant, measured: Duration) -> Self {
        Self { counts_from, end: counts_from + measured }
    }

    /// Whether what belongs to `moment` counts.
    #[must_use]
    pub fn counts(&self, moment: Instant) -> bool {
        self.counts_from <= moment && moment < self.end
    }

    /// Whether no new work begins any more.
    #[must_use]
    pub fn is_over(&self, moment: Instant) -> bool {
        moment >= self.end
    }

    /// Whether, `patience` after the end, what is still under way will not end by itself.
    #[must_use]
    pub fn is_exceeded(&self, moment: Instant, patience: Duration) -> bool {
        moment >= self.end + patience
    }

    /// When it begins.
    #[must_use]
    pub fn start(&self) -> Instant {
        self.counts_from
    }

    /// When it is over.
    #[must_use]
    pub fn end(&self) -> Instant {
        self.end
    }
}

/// Opens the window of a closed loop: when the warm-up is over **and** every place has an established
/// connection behind it, on all threads.
#[derive(Debug)]
pub struct Gate {
    places: usize,
    active: AtomicUsize,
    /// When the last place became active, in nanoseconds after `warm_until`; 0 before.
    activated_ns: AtomicU64,
    warm_until: Instant,
    measured: Duration,
    window: OnceLock<Window>,
}

impl Gate {
    /// For so many places on all threads together.
    #[must_use]
    pub fn new(places: usize, warm_until: Instant, measured: Duration) -> Self {
        Self {
            places,
            active: AtomicUsize::new(0),
            activated_ns: AtomicU64::new(0),
            warm_until,
            measured,
            window: OnceLock::new(),
        }
    }

    /// A place has had its first established connection.
    pub fn activate(&self, now: Instant) {
        self.active.fetch_add(1, Ordering::AcqRel);
        let since = now.saturating_duration_since(self.warm_until).as_nanos();
        self.activated_ns.fetch_max(u64::try_from(since).unwrap_or(u64::MAX), Ordering::AcqRel);
    }

    /// How many places there are.
    #[must_use]
    pub fn places(&self) -> usize {
        self.places
    }

    /// How many places have.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Acquire)
    }

    /// Whether it will not open: the warm-up is over, places are missing, and for twice the `patience` that a
    /// part of a connection has, no further one became active.
    #[must_use]
    pub fn is_stuck(&self, now: Instant, patience: Duration) -> bool {
        let last = Duration::from_nanos(self.activated_ns.load(Ordering::Acquire));
        self.active() < self.places && now >= self.warm_until + last + 2 * patience
    }

    /// The window, once it is open: the first to ask at or after that moment opens it for all.
    #[must_use]
    pub fn window(&self, now: Instant) -> Option<Window> {
        if let Some(window) = self.window.get() {
            return Some(*window);
        }
        let open = now >= self.warm_until && self.active() >= self.places;
        open.then(|| *self.window.get_or_init(|| Window::new(now, self.measured)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn starts(rate: Rate, spacing: Spacing, warm_up: u64, measured: u64) -> Vec<f64> {
        let times = (SECOND * warm_up as u32, SECOND * measured as u32);
        let mut all: Vec<f64> = (0..2)
            .flat_map(|index| Arrivals::new(rate, times, spacing, (index, 2), 7))
            .map(|at| at.as_secs_f64())
            .collect();
        all.sort_by(f64::total_cmp);
        all
    }

    #[test]
    fn even_starts_are_equally_far_apart_over_all_threads() {
        let all = starts(Rate::steady(100.0), Spacing::Even, 1, 2);
        assert_eq!(all.len(), 300);
        assert!(all.windows(2).all(|pair| (pair[1] - pair[0] - 0.01).abs() < 1e-6));
    }

    #[test]
    fn poisson_starts_have_the_rate_and_its_spread() {
        let all = starts(Rate::steady(1000.0), Spacing::Poisson, 0, 20);
        let gaps: Vec<f64> = all.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 1000.0 - 1.0).abs() < 0.05, "{mean}");
        // An exponential distribution deviates from its mean by its mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.1, "{variance}");
    }

    #[test]
    fn a_ramp_is_linear_and_begins_after_the_warm_up() {
        let all = starts(Rate { from: 100.0, to: 300.0 }, Spacing::Even, 2, 10);
        let within = |from: f64, to: f64| all.iter().filter(|at| (from..to).contains(*at)).count() as f64;
        assert!((within(0.0, 2.0) - 200.0).abs() <= 2.0, "the first rate");
        assert!((within(2.0, 12.0) - 2000.0).abs() <= 4.0, "the mean of both rates");
        assert!((within(11.0, 12.0) - 290.0).abs() <= 4.0, "nearly the last rate");
        let down = starts(Rate { from: 300.0, to: 100.0 }, Spacing::Even, 0, 10);
        assert!((down.len() as f64 - 2000.0).abs() <= 4.0);
    }

    /// Coordinated omission on a virtual clock: one server, 1 ms a connection, that stalls for a second.
    #[test]
    fn planned_starts_reveal_a_stall_closed_loops_hide() {
        let serve = |free_at: f64, begun: f64| {
            let begins = free_at.max(begun);
            let begins = if (4.0..5.0).contains(&begins) { 5.0 } else { begins };
            begins + 0.001
        };
        let late = |latencies: &[f64]| {
            latencies.iter().filter(|latency| **latency > 0.1).count() as f64 / latencies.len() as f64
        };
        let mut free_at = 0.0;
        let open: Vec<f64> = starts(Rate::steady(100.0), Spacing::Even, 0, 10)
            .into_iter()
            .map(|planned| {
                free_at = serve(free_at, planned);
                free_at - planned
            })
            .collect();
        let mut now = 0.0;
        let mut closed = Vec::new();
        while now < 10.0 {
            let done = serve(now, now);
            closed.push(done - now);
            now = done;
        }
        assert!(late(&open) > 0.09, "one second in ten was stalled: {}", late(&open));
        assert!(late(&closed) < 0.001, "the closed loop sees a single one: {}", late(&closed));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any moment will do as a start")]
    fn the_gate_opens_when_all_are_active_and_warm() {
        let start = Instant::now();
        let gate = Gate::new(2, start + SECOND, 8 * SECOND);
        gate.activate(start);
        assert!(gate.window(start + 5 * SECOND).is_none(), "one place has no connection yet");
        gate.activate(start);
        assert!(gate.window(start).is_none(), "still warming up");
        let window = gate.window(start + 6 * SECOND).unwrap();
        assert_eq!(gate.window(start + 7 * SECOND).unwrap().start(), window.start(), "opened once for all");
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!([5, 6, 13, 14].map(|s| window.counts(after(s))), [false, true, true, false]);
        assert_eq!([13, 14].map(|s| window.is_over(after(s))), [false, true]);
        assert!(!window.is_exceeded(after(18), 5 * SECOND) && window.is_exceeded(after(19), 5 * SECOND));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any moment will do as a start")]
    fn gate_is_stuck_when_places_are_missing_too_long() {
        let start = Instant::now();
        let gate = Gate::new(3, start + SECOND, SECOND);
        let stuck = |seconds| gate.is_stuck(start + seconds * SECOND, 5 * SECOND);
        gate.activate(start);
        assert!(!stuck(10) && stuck(11), "twice the patience after the warm-up");
        gate.activate(start + 8 * SECOND);
        assert!(!stuck(17) && stuck(18), "twice the patience after the last one");
        gate.activate(start + 9 * SECOND);
        assert!(!stuck(100), "all are there");
    }
}
