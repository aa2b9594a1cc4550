//! Whether an endpoint is up: a pure decision of the control plane, made once per round, about each second.
//!
//! An endpoint goes down after [`HealthRules::failures`] consecutive failures, HAProxy's `fall`. Passive
//! failures (connections of clients that failed) and failed probes are counted separately; either count
//! suffices.
//!
//! How a down endpoint comes back depends on whether it is probed:
//!
//! - With active checks, it comes back after [`RISE`] consecutive good probes, HAProxy's `rise`, and never by
//!   time alone.
//! - Without active checks, only connections of clients can show whether the endpoint has healed. It comes
//!   back after a pause, on trial. On trial, a single failure takes it down again, and the pause doubles,
//!   from [`PAUSE_FIRST`] up to [`PAUSE_MAX`]. An endpoint that passes its trial is trusted again: it goes
//!   down only after [`HealthRules::failures`], and the next pause is [`PAUSE_FIRST`].
//!
//! A trial lasts as long as the pause before it, plus [`HealthRules::connect_timeout`]: a connection that
//! gets no answer is reported as failed only after that timeout. Without this addition, an endpoint that
//! drops packets would pass every short trial, and its pause would never grow. An endpoint that gets no
//! connection during its trial passes the trial.

use std::time::Duration;

/// Consecutive good probes that bring an endpoint back: HAProxy's `rise`.
pub const RISE: u32 = 2;
/// The pause of an endpoint that was trusted when it went down.
pub const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
pub const PAUSE_MAX: Duration = Duration::from_mins(1);

/// The rules for one endpoint. They may change between rounds, at a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthRules {
    /// Consecutive failures that take the endpoint down: HAProxy's `fall`. At least 1; 0 counts as 1.
    pub failures: u32,
    /// Whether active checks are configured. Without them, probe results are ignored.
    pub is_probed: bool,
    /// The longest time from the start of a connection to the report of its failure.
    pub connect_timeout: Duration,
}

impl Default for HealthRules {
    /// 3 failures, no active checks, 5 seconds.
    fn default() -> Self {
        Self { failures: 3, is_probed: false, connect_timeout: Duration::from_secs(5) }
    }
}

/// A change of an endpoint's state. The caller passes it to
/// [`EndpointState::set_up`](super::EndpointState::set_up).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The endpoint was up and gets no new connections from now on.
    Down,
    /// The endpoint was down and gets connections again. The caller sets its passive failures to 0.
    Up,
}

/// The health of one endpoint, as the control plane sees it.
#[derive(Clone, Debug)]
pub struct Health {
    state: State,
    /// The last pause; `None` if the endpoint has been trusted since, or was never down.
    pause: Option<Duration>,
    /// Consecutive good probes, up to [`RISE`].
    good_probes: u32,
    /// Consecutive failed probes.
    failed_probes: u32,
}

/// `since` is the time of the round in which the state began.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Up, and trusted.
    Trusted,
    /// Up, after a pause.
    Trial { since: Duration },
    /// Down.
    Down { since: Duration },
}

impl Health {
    /// An endpoint that is up and trusted.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: State::Trusted, pause: None, good_probes: 0, failed_probes: 0 }
    }

    /// Decides whether the endpoint goes down or comes up; `None` if it stays as it is.
    ///
    /// - `passive_failures`: consecutive failures of connections, as
    ///   [`EndpointState::failures`](super::EndpointState::failures) returns them. The count starts at 0
    ///   whenever the endpoint comes up. A failure that is followed by a success before the round is not
    ///   seen.
    /// - `probe`: the result of an active check that ended since the last round; `None` if none ended.
    /// - `now`: the time of a monotonic clock, not before that of the last round.
    pub fn on_round(
        &mut self,
        rules: &HealthRules,
        passive_failures: u32,
        probe: Option<Result<(), ()>>,
        now: Duration,
    ) -> Option<Change> {
        if rules.is_probed {
            self.count(probe);
        } else {
            (self.good_probes, self.failed_probes) = (0, 0);
        }
        let most_failures = passive_failures.max(self.failed_probes);
        let has_fallen = most_failures >= rules.failures.max(1);
        match self.state {
            State::Trusted => has_fallen.then(|| self.go_down(now)),
            State::Trial { since } => {
                if has_fallen || passive_failures > 0 {
                    return Some(self.go_down(now));
                }
                let pause = self.pause.unwrap_or(PAUSE_FIRST);
                if now.saturating_sub(since) >= pause.saturating_add(rules.connect_timeout) {
                    self.trust();
                }
                None
            }
            State::Down { .. } if rules.is_probed => (self.good_probes >= RISE).then(|| {
                self.trust();
                Change::Up
            }),
            State::Down { since } => {
                let pause = self.pause.unwrap_or(PAUSE_FIRST);
                (now.saturating_sub(since) >= pause).then(|| {
                    self.state = State::Trial { since: now };
                    Change::Up
                })
            }
        }
    }

    /// Continues the run of equal probe results, or starts a new run.
    fn count(&mut self, probe: Option<Result<(), ()>>) {
        match probe {
            Some(Ok(())) => {
                self.good_probes = (self.good_probes + 1).min(RISE);
                self.failed_probes = 0;
            }
            Some(Err(())) => {
                self.good_probes = 0;
                self.failed_probes = self.failed_probes.saturating_add(1);
            }
            None => {}
        }
    }

    /// Good probes from before do not bring the endpoint back.
    fn go_down(&mut self, now: Duration) -> Change {
        let doubled = self.pause.map_or(PAUSE_FIRST, |pause| pause.saturating_mul(2));
        self.pause = Some(doubled.min(PAUSE_MAX));
        self.good_probes = 0;
        self.state = State::Down { since: now };
        Change::Down
    }

    fn trust(&mut self) {
        self.state = State::Trusted;
        self.pause = None;
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSIVE: HealthRules =
        HealthRules { failures: 3, is_probed: false, connect_timeout: Duration::from_secs(0) };
    const PROBED: HealthRules = HealthRules { is_probed: true, ..PASSIVE };

    const GOOD: Option<Result<(), ()>> = Some(Ok(()));
    const BAD: Option<Result<(), ()>> = Some(Err(()));

    /// An endpoint whose rounds are a second apart.
    struct Rounds {
        health: Health,
        rules: HealthRules,
        second: u64,
    }

    impl Rounds {
        fn new(rules: HealthRules) -> Self {
            Self { health: Health::new(), rules, second: 0 }
        }

        fn next(&mut self, passive_failures: u32, probe: Option<Result<(), ()>>) -> Option<Change> {
            self.second += 1;
            self.health.on_round(&self.rules, passive_failures, probe, Duration::from_secs(self.second))
        }

        /// Rounds without failures until the endpoint comes up: how many.
        fn pause(&mut self) -> u64 {
            (1..=1_000).find(|_| self.next(0, None) == Some(Change::Up)).expect("it comes up")
        }

        /// Fails every trial at its first round: the pauses.
        fn pauses_of_failed_trials(&mut self, trials: usize) -> Vec<u64> {
            let mut pauses = Vec::new();
            for _ in 0..trials {
                assert_eq!(self.next(3, None), Some(Change::Down));
                pauses.push(self.pause());
            }
            pauses
        }
    }

    #[test]
    fn passive_failures_below_the_limit_keep_it_up() {
        let mut rounds = Rounds::new(PASSIVE);
        assert!([1, 2, 2, 0, 2].into_iter().all(|failures| rounds.next(failures, None).is_none()));
    }

    #[test]
    fn passive_failures_at_the_limit_take_it_down() {
        let mut rounds = Rounds::new(PASSIVE);
        assert_eq!(rounds.next(2, None), None);
        assert_eq!(rounds.next(3, None), Some(Change::Down));
        assert_eq!(Rounds::new(PASSIVE).next(100, None), Some(Change::Down), "many in one round");
    }

    #[test]
    fn rules_without_failures_count_as_one() {
        let mut rounds = Rounds::new(HealthRules { failures: 0, ..PASSIVE });
        assert_eq!(rounds.next(0, None), None);
        assert_eq!(rounds.next(1, None), Some(Change::Down));
    }

    #[test]
    fn pause_of_a_trusted_endpoint_is_a_second() {
        let mut rounds = Rounds::new(PASSIVE);
        assert_eq!(rounds.next(3, None), Some(Change::Down));
        let half = Duration::from_millis(1_500);
        assert_eq!(rounds.health.on_round(&PASSIVE, 3, None, half), None, "half a second later");
        assert_eq!(rounds.next(3, None), Some(Change::Up), "failures of before do not hold it");
    }

    #[test]
    fn pause_of_a_flapping_endpoint_doubles() {
        let pauses = Rounds::new(PASSIVE).pauses_of_failed_trials(9);
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn trial_single_failure_takes_it_down() {
        let mut rounds = Rounds::new(PASSIVE);
        rounds.pauses_of_failed_trials(3);
        assert_eq!(rounds.next(0, None), None);
        assert_eq!(rounds.next(1, None), Some(Change::Down));
        assert_eq!(rounds.pause(), 8);
    }

    #[test]
    fn trial_failure_in_its_last_round_counts() {
        let mut rounds = Rounds::new(PASSIVE);
        rounds.pauses_of_failed_trials(3);
        assert!((0..3).all(|_| rounds.next(0, None).is_none()));
        assert_eq!(rounds.next(1, None), Some(Change::Down));
    }

    #[test]
    fn trial_passed_is_forgiven() {
        let mut rounds = Rounds::new(PASSIVE);
        rounds.pauses_of_failed_trials(4);
        assert!((0..8).all(|_| rounds.next(0, None).is_none()));
        assert_eq!(rounds.next(2, None), None, "trusted: two failures are not enough");
        assert_eq!(rounds.next(3, None), Some(Change::Down));
        assert_eq!(rounds.pause(), 1);
    }

    #[test]
    fn trial_lasts_the_connect_timeout_longer() {
        let slow = HealthRules { connect_timeout: Duration::from_secs(5), ..PASSIVE };
        let mut rounds = Rounds::new(slow);
        rounds.pauses_of_failed_trials(1);
        assert!((0..4).all(|_| rounds.next(0, None).is_none()), "connections get no answer");
        assert_eq!(rounds.next(1, None), Some(Change::Down), "the first has timed out");
        assert_eq!(rounds.pause(), 2);
        assert!((0..7).all(|_| rounds.next(0, None).is_none()));
        assert_eq!(rounds.next(1, None), None, "trusted");
    }

    #[test]
    fn probes_ignored_without_active_checks() {
        let mut rounds = Rounds::new(PASSIVE);
        assert!((0..10).all(|_| rounds.next(0, BAD).is_none()));
    }

    #[test]
    fn probes_failed_in_a_row_take_it_down() {
        let mut rounds = Rounds::new(PROBED);
        let probes = [BAD, None, BAD, None, None];
        assert!(probes.into_iter().all(|probe| rounds.next(0, probe).is_none()));
        assert_eq!(rounds.next(0, BAD), Some(Change::Down), "rounds without a result do not end the run");
    }

    #[test]
    fn probes_good_between_failed_keep_it_up() {
        let mut rounds = Rounds::new(PROBED);
        let probes = [BAD, BAD, GOOD, BAD, BAD, GOOD];
        assert!(probes.into_iter().all(|probe| rounds.next(0, probe).is_none()));
    }

    #[test]
    fn failures_of_both_kinds_are_not_added() {
        let mut rounds = Rounds::new(PROBED);
        assert_eq!(rounds.next(0, BAD), None);
        assert_eq!(rounds.next(2, BAD), None);
    }

    #[test]
    fn passive_failures_with_good_probes_take_it_down() {
        let mut rounds = Rounds::new(PROBED);
        assert_eq!(rounds.next(0, GOOD), None);
        assert_eq!(rounds.next(3, GOOD), Some(Change::Down));
        assert_eq!(rounds.next(3, GOOD), None, "good probes of before do not count");
        assert_eq!(rounds.next(3, GOOD), Some(Change::Up));
    }

    #[test]
    fn probed_endpoint_never_returns_by_time() {
        let mut rounds = Rounds::new(PROBED);
        assert_eq!(rounds.next(3, None), Some(Change::Down));
        assert!((0..1_000).all(|_| rounds.next(0, None).is_none()));
        let probes = [GOOD, BAD, GOOD, None];
        assert!(probes.into_iter().all(|probe| rounds.next(0, probe).is_none()), "not in a row");
        assert_eq!(rounds.next(0, GOOD), Some(Change::Up));
    }

    #[test]
    fn probed_endpoint_returns_without_trial() {
        let mut rounds = Rounds::new(PROBED);
        assert_eq!(rounds.next(3, None), Some(Change::Down));
        assert_eq!((rounds.next(0, GOOD), rounds.next(0, GOOD)), (None, Some(Change::Up)));
        assert_eq!(rounds.next(2, None), None);
        assert_eq!(rounds.next(0, BAD), None);
    }

    #[test]
    fn probes_switched_off_bring_it_back_by_time() {
        let mut rounds = Rounds::new(PROBED);
        assert!((0..2).all(|_| rounds.next(0, BAD).is_none()));
        assert_eq!(rounds.next(0, BAD), Some(Change::Down));
        rounds.rules = PASSIVE;
        assert_eq!(rounds.next(0, None), Some(Change::Up));
        assert_eq!(rounds.next(0, None), None, "failed probes of before do not count");
    }
}
