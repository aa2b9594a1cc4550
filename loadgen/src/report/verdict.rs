//! Whether a run is what was asked, and whether its figures are to be trusted.

use super::{Report, Run, is_about_handshakes};
use crate::tally::Part;

/// The exit codes of the commands that put load on a target.
pub mod exit {
    /// Everything was as it was asked.
    pub const AS_ASKED: u8 = 0;
    /// The run could not be made.
    pub const NOT_RUN: u8 = 1;
    /// The command line is wrong (clap's own code).
    pub const USAGE: u8 = 2;
    /// Connections failed, or nothing was done.
    pub const FAILED: u8 = 3;
    /// Handshakes were not of the kind that was asked for.
    pub const NOT_AS_ASKED: u8 = 4;
    /// A byte of application data was lost or changed.
    pub const CHANGED: u8 = 5;
    /// No rate meets the limit of a search.
    pub const NO_RATE: u8 = 6;
    /// A signal ended the run before its time; all else was as it was asked.
    pub const INTERRUPTED: u8 = 7;
    /// Standard output was closed or is full; all else was as it was asked.
    pub const NO_STDOUT: u8 = 8;
}

/// What is let pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// The share of connections that may fail, 0 to 1.
    pub failures: f64,
    /// Full handshakes where resumed ones were asked for.
    pub full: bool,
}

/// The generator's threads are as good as saturated above this share.
const CPU_SHARE_MAX: f64 = 0.95;
/// A start this late, in µs, is late: more than a sleeping thread takes to wake.
const LATE_START_US: u64 = 1000;

/// What is not as it was asked, and the exit code that says so; the worst one wins.
#[must_use]
pub fn problems(run: &Run, allowed: Allowed) -> (Vec<String>, u8) {
    let mut found = Vec::new();
    let mut code = exit::AS_ASKED;
    let mut problem = |text: String, as_code: u8| {
        found.push(format!("{}: {text}", run.target));
        code = code.max(as_code);
    };
    if let Some(reason) = &run.broken_off {
        problem(format!("broken off: {reason}"), exit::FAILED);
    }
    let failed = run.connections.failed;
    // Both with the warm-up's.
    let all = run.connections.ended + failed;
    if failed > 0 && failed as f64 > allowed.failures * all as f64 {
        let reasons: Vec<_> =
            run.failures.iter().map(|(reason, count)| format!("{count} × {reason}")).collect();
        problem(format!("{failed} connections failed: {}", reasons.join("; ")), exit::FAILED);
    }
    let (unanswered, answered) = (run.data.messages_unanswered, run.data.messages);
    if unanswered as f64 > allowed.failures * (unanswered + answered) as f64 {
        let text =
            format!("{unanswered} of {} messages that were due were never answered", unanswered + answered);
        problem(text, exit::FAILED);
    }
    let idle = if is_about_handshakes(run) {
        run.handshakes.count == 0
    } else {
        run.data.up_bytes + run.data.down_bytes == 0
    };
    if idle {
        problem("nothing was done while it counted".to_owned(), exit::FAILED);
    }
    let handshakes = &run.handshakes;
    let not = handshakes.count - handshakes.as_asked;
    if not > 0 && !allowed.full {
        problem(
            format!(
                "NOT AS ASKED: {not} of {} handshakes; {} were to be resumed, of which {} offered a ticket \
                 that the server did not take and {} had none (one of TLS 1.3 serves once: in an open loop a \
                 longer --warm-up fetches more, up to --connections); --allow-full lets it pass",
                handshakes.count,
                handshakes.resume_asked,
                handshakes.resume_refused,
                handshakes.resume_without_ticket,
            ),
            exit::NOT_AS_ASKED,
        );
    }
    let (offered, resumed) = (handshakes.foreign_tickets_offered, handshakes.foreign_tickets_resumed);
    if offered > resumed && !allowed.full {
        problem(
            format!(
                "NOT AS ASKED: of {offered} handshakes that offered a ticket of the earlier target, {} were \
                 not resumed: the hosts do not share their ticket keys",
                offered - resumed
            ),
            exit::NOT_AS_ASKED,
        );
    }
    if run.changed > 0 {
        problem(format!("{} connections had LOST OR CHANGED BYTES", run.changed), exit::CHANGED);
    }
    (found, code)
}

/// By how much, in µs, one start in 100 was late for the generator's own reasons.
#[must_use]
pub fn late_us(run: &Run) -> u64 {
    run.latency_us.get(Part::Late.label()).map_or(0, |late| late.p99)
}

/// Whether the generator's threads had no CPU time left: its figures are its own limit.
#[must_use]
pub fn is_saturated(run: &Run) -> bool {
    run.generator.cpu_share > CPU_SHARE_MAX
}

/// What makes the figures doubtful.
#[must_use]
pub fn warnings(run: &Run) -> Vec<String> {
    let mut found = Vec::new();
    let share = run.generator.cpu_share;
    if is_saturated(run) {
        found.push(format!(
            "the load generator is the bottleneck: its threads used {:.0} % of their CPUs; more --threads, \
             or another machine",
            share * 100.0
        ));
    }
    let late = late_us(run);
    if run.asked.rate.is_some() && late > LATE_START_US {
        found.push(format!(
            "the load generator starts late: one start in 100 by {late} µs or more; these delays are in the \
             latencies"
        ));
    }
    if run.connections.capped > 0 {
        found.push(format!(
            "{} starts waited because {} connections were open: more --connections",
            run.connections.capped, run.asked.connections
        ));
    }
    found.into_iter().map(|text| format!("{}: {text}", run.target)).collect()
}

impl Report {
    /// Fills in what is wrong and what is doubtful, and says the exit code.
    pub fn judge(&mut self, allowed: Allowed) -> u8 {
        let mut code = exit::AS_ASKED;
        let untried = |run: &&Run| run.asked.resume > 0.0 && run.handshakes.foreign_tickets_offered == 0;
        let broken = self.runs.iter().any(|run| run.broken_off.is_some());
        // A search leaves one run: further ones are those of --then-target.
        for run in self.runs.iter().skip(1).filter(untried).filter(|_| !broken) {
            self.problems.push(format!("{}: no ticket of the earlier target was left to offer", run.target));
            code = exit::NOT_AS_ASKED;
        }
        for run in &self.runs {
            let (problems, as_code) = problems(run, allowed);
            self.problems.extend(problems);
            self.warnings.extend(warnings(run));
            code = code.max(as_code);
        }
        for run in self.runs.iter().filter(|run| run.interrupted) {
            let text =
                format!("{}: a signal ended the run after {:.1} s of counting", run.target, run.seconds);
            self.problems.push(text);
            if code == exit::AS_ASKED {
                code = exit::INTERRUPTED;
            }
        }
        if self.environment.debug_build {
            self.warnings.push("a debug build: no figure of it is worth anything".to_owned());
        }
        code
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::failure::Failure;
    use crate::plan::{Ending, Load, Pin, Plan, Request, Until, Work};
    use crate::runner::Outcome;
    use crate::schedule::{Rate, Spacing};
    use crate::series::Interval;
    use crate::tally::Tally;

    fn run(tally: Tally, cpu: Duration) -> Run {
        run_of(tally, cpu, BTreeMap::new())
    }

    pub(crate) fn run_of(tally: Tally, cpu: Duration, seconds: BTreeMap<u64, Interval>) -> Run {
        let rate = Rate::steady(1.0);
        let plan = Plan {
            work: Work::Handshake(Request::Echo),
            load: Load::Open { rate, spacing: Spacing::Even, connections_max: 4 },
            resume: 1.0,
            ending: Ending::Orderly,
            sources: Vec::new(),
            threads: 1,
            pin: Pin::Off,
            warm_up: Duration::ZERO,
            until: Until::Elapsed(Duration::from_secs(1)),
            patience: Duration::from_secs(1),
            give_up_after: 1,
            seed: 0,
        };
        let outcome = Outcome {
            tally,
            seconds,
            began: Duration::ZERO,
            warm_up: Duration::ZERO,
            measured: Duration::from_secs(1),
            cpu,
            broken_off: None,
            interrupted: false,
        };
        Run::new("x".to_owned(), &plan, &[], &outcome)
    }

    #[test]
    fn the_worst_problem_decides_the_exit_code() {
        let mut tally = Tally::default();
        tally.kinds.full = 100;
        tally.ended = 99;
        tally.failure(&Failure::Refused);
        let codes = |tally: &Tally, failures, full| {
            problems(&run(tally.clone(), Duration::ZERO), Allowed { failures, full }).1
        };
        assert_eq!(codes(&tally, 0.0, true), exit::FAILED);
        assert_eq!(codes(&tally, 0.01, true), exit::AS_ASKED);
        assert_eq!(codes(&tally, 0.01, false), exit::NOT_AS_ASKED);
        tally.failure(&Failure::Changed("x"));
        assert_eq!(codes(&tally, 1.0, true), exit::CHANGED);
        assert_eq!(codes(&Tally::default(), 1.0, true), exit::FAILED, "nothing was done");
    }

    #[test]
    fn failure_share_includes_warm_up_connections() {
        let mut tally = Tally::default();
        tally.kinds.resumed = 10;
        (tally.done, tally.ended) = (10, 1000);
        for _ in 0..5 {
            tally.failure(&Failure::Refused);
        }
        let allowed = Allowed { failures: 0.01, full: true };
        assert_eq!(problems(&run(tally, Duration::ZERO), allowed), (Vec::new(), exit::AS_ASKED));
    }

    #[test]
    fn a_message_that_is_never_answered_is_a_failure() {
        let mut tally = Tally::default();
        tally.kinds.resumed = 10;
        tally.unanswered = 1;
        tally.part(Part::Message, Duration::from_millis(1));
        let code =
            |failures| problems(&run(tally.clone(), Duration::ZERO), Allowed { failures, full: true }).1;
        assert_eq!([0.4, 0.5].map(code), [exit::FAILED, exit::AS_ASKED]);
    }

    #[test]
    fn a_generator_that_is_the_bottleneck_is_told() {
        let mut tally = Tally::default();
        assert_eq!(warnings(&run(tally.clone(), Duration::from_millis(900))).len(), 0);
        let saturated = warnings(&run(tally.clone(), Duration::from_millis(990)));
        assert!(saturated[0].contains("99 % of their CPUs"), "{saturated:?}");
        for _ in 0..10 {
            tally.part(Part::Late, Duration::from_millis(3));
        }
        tally.capped = 7;
        let late = warnings(&run(tally, Duration::ZERO)).join("\n");
        assert!(late.contains("starts late") && late.contains("7 starts waited"), "{late}");
    }
}
