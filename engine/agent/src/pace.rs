//! When the next round is due.

use std::time::{Duration, Instant};

/// After this agent has changed something in etcd, before it reads what is there.
const PAUSE: Duration = Duration::from_millis(100);
/// Between a round and the next one, if etcd reports a change.
const CALM: Duration = Duration::from_millis(500);
/// Changes that belong together: this agent becomes the leader, and publishes.
const TOGETHER: u32 = 2;

/// The time between rounds. With each further change that this agent makes, PAUSE and CALM double, up to the
/// interval, until etcd leaves it in peace for an interval: whoever may write there, and removes what the
/// agent writes, cannot keep it busy, nor fill its log.
pub(crate) struct Pace {
    interval: Duration,
    /// The end of the last round.
    last: Instant,
    next: Instant,
    /// Rounds that changed something, since the last interval without any.
    changes: u32,
    /// The next round comes before the interval is over.
    is_early: bool,
}

impl Pace {
    /// The first round is due at once.
    pub(crate) fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, last: now, next: now, changes: 0, is_early: true }
    }

    /// When the next round is due.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// etcd reports a change.
    pub(crate) fn hurry(&mut self) {
        let next = self.last + self.stretched(CALM);
        if next < self.next {
            (self.next, self.is_early) = (next, true);
        }
    }

    /// A round is over, which has changed something in etcd or not.
    pub(crate) fn round(&mut self, is_changed: bool, now: Instant) {
        if is_changed {
            self.changes = self.changes.saturating_add(1);
        } else if !self.is_early {
            self.changes = 0;
        }
        self.is_early = is_changed;
        self.last = now;
        self.next = now + if is_changed { self.stretched(PAUSE) } else { self.interval };
    }

    fn stretched(&self, time: Duration) -> Duration {
        let times = 2_u32.saturating_pow(self.changes.saturating_sub(TOGETHER));
        time.saturating_mul(times).min(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::instant;

    const INTERVAL: Duration = Duration::from_secs(10);

    /// How many rounds change something within this time, if etcd reports a change after each.
    fn changes(time: Duration, is_changed: impl Fn(usize) -> bool) -> usize {
        let begin = instant();
        let mut pace = Pace::new(INTERVAL, begin);
        let rounds = (0..).take_while(|nth| {
            let now = pace.next();
            pace.round(is_changed(*nth), now);
            pace.hurry();
            now <= begin + time
        });
        rounds.filter(|nth| is_changed(*nth)).count()
    }

    #[test]
    fn rounds_slow_down_while_changes_are_undone() {
        let always = [5, 60].map(|seconds| changes(Duration::from_secs(seconds), |_| true));
        assert!(always[0] <= 8 && always[1] <= 14, "{always:?}");
        // A round between them finds what was written.
        let each_second = changes(Duration::from_secs(60), |nth| nth % 2 == 0);
        assert!(each_second <= 12, "{each_second}");
    }

    #[test]
    fn pace_recovers_after_a_quiet_interval() {
        let mut now = instant();
        let mut pace = Pace::new(INTERVAL, now);
        for _ in 0..20 {
            pace.round(true, now);
            now = pace.next();
        }
        pace.round(false, now);
        assert_eq!(pace.next(), now + INTERVAL);
        now = pace.next();
        pace.round(false, now);
        pace.hurry();
        assert_eq!(pace.next(), now + CALM);
        pace.round(true, now);
        assert_eq!(pace.next(), now + PAUSE);
    }
}
