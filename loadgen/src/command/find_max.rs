//! The search for the highest rate that a target sustains.

use std::time::Duration;

use anyhow::Result;

use super::output::publish;
use super::{Session, open};
use crate::console;
use crate::report::table::time;
use crate::report::verdict::{Allowed, exit, is_saturated, late_us, problems};
use crate::report::{Run, SearchStep};
use crate::schedule::{Rate, Spacing};
use crate::search::Search;

/// A rate is sustained if at least this share of it was done while it counted.
const ACHIEVED_MIN: f64 = 0.95;
/// What the generator's own late starts may take of the limit.
const OWN_SHARE_MAX: f64 = 0.1;

/// What a search keeps to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) p99: Duration,
}

/// Why a rate was not sustained.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refused {
    /// It is more than the target can do.
    Target(String),
    /// It is more than we can do: nothing is known about the target.
    Generator(String),
}

/// Searches, and says the exit code.
pub(super) fn search(
    session: &mut Session<'_>,
    limit: Limit,
    from: f64,
    spacing: Spacing,
    allowed: Allowed,
) -> Result<u8> {
    let mut search = Search::new(from);
    let (mut steps, mut best, mut own) = (Vec::new(), None, None);
    while let Some(rate) = search.next() {
        session.plan.load = open(session.common, Rate::steady(rate), spacing);
        let (run, _) = session.run(&session.common.target)?;
        if run.interrupted {
            report_interruption(session, rate);
            break;
        }
        let refused = refused(&run, rate, limit, allowed);
        let p99_us = run.subject().map_or(0, |latency| latency.p99);
        let achieved = run.handshakes.per_second;
        search.tell(refused.is_none());
        if refused.is_none() {
            best = Some(run);
        }
        let refused = refused.map(|refused| match refused {
            Refused::Target(text) => text,
            Refused::Generator(text) => {
                own = Some(rate);
                text
            }
        });
        console::note(format_args!(
            "{rate:.0}/s: {achieved:.0}/s done, p99 {}: {}",
            time(p99_us),
            refused.as_deref().unwrap_or("sustained")
        ));
        steps.push(SearchStep { rate, achieved, p99_us, refused });
    }
    let report = &mut session.report;
    report.search = Some(steps);
    report.runs.extend(best);
    let mut code = report.judge(allowed);
    if let Some(rate) = own {
        report.warnings.push(format!(
            "at {rate:.0} a second the load generator was at its own limit: the target may sustain more than \
             was found"
        ));
    }
    match search.answer() {
        Some(rate) => {
            let text = if session.interrupt.is_set() { "sustained so far" } else { "highest sustained rate" };
            console::note(format_args!("{text}: {rate:.0} connections a second"));
        }
        None if session.interrupt.is_set() => {}
        None => {
            let text = format!("{}: no rate keeps p99 within {:?}", session.common.target.host, limit.p99);
            report.problems.push(text);
            code = exit::NO_RATE;
        }
    }
    if session.interrupt.is_set() && code == exit::AS_ASKED {
        code = exit::INTERRUPTED;
    }
    publish(report, &session.common.output, code)
}

/// What a step found that a signal ended says nothing of its rate.
fn report_interruption(session: &mut Session<'_>, rate: f64) {
    let text = format!(
        "{}: a signal ended the search at {rate:.0} connections a second",
        session.common.target.host
    );
    session.report.problems.push(text);
}

/// Why a rate is more than can be sustained, and whose fault that is.
fn refused(run: &Run, rate: f64, limit: Limit, allowed: Allowed) -> Option<Refused> {
    if is_saturated(run) {
        return Some(Refused::Generator("the load generator has no CPU time left".to_owned()));
    }
    let reason = exceeded(run, rate, limit, allowed)?;
    let late = Duration::from_micros(late_us(run));
    let handshakes = &run.handshakes;
    Some(if late > limit.p99.mul_f64(OWN_SHARE_MAX) {
        Refused::Generator(format!("the load generator starts {} late itself; {reason}", time(late_us(run))))
    } else if handshakes.resume_without_ticket > 0 && handshakes.resume_refused == 0 && !allowed.full {
        Refused::Generator(format!("the load generator has too few tickets; {reason}"))
    } else {
        Refused::Target(reason)
    })
}

/// What a rate must keep and did not.
fn exceeded(run: &Run, rate: f64, limit: Limit, allowed: Allowed) -> Option<String> {
    if let Some(problem) = problems(run, allowed).0.first() {
        return Some(problem.clone());
    }
    let p99 = run.subject().map_or(Duration::MAX, |latency| Duration::from_micros(latency.p99));
    if p99 > limit.p99 {
        return Some(format!("p99 is above {:?}", limit.p99));
    }
    // Planned starts are left to chance: a few are more or less than the rate says.
    let chance = 3.0 * (rate * run.seconds).sqrt() / run.seconds.max(1e-9);
    let achieved = run.handshakes.per_second;
    (achieved < ACHIEVED_MIN * rate - chance)
        .then(|| format!("only {achieved:.0} a second were done while it counted"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::verdict::tests::run_of;
    use crate::tally::{Part, Tally};

    const RATE: f64 = 1000.0;

    /// A run of a second in which so many of its handshakes were done within it.
    fn run(completed: u64, part: Part, latency: Duration) -> Run {
        let mut tally = Tally::default();
        tally.kinds.resumed = 1000;
        tally.completed = completed;
        tally.part(Part::Total, Duration::from_millis(1));
        for _ in 0..100 {
            tally.part(part, latency);
        }
        let mut run = run_of(tally, Duration::ZERO, std::collections::BTreeMap::new());
        run.handshakes.as_asked = run.handshakes.count;
        run
    }

    #[test]
    fn what_is_done_after_the_end_is_not_sustained() {
        let limit = Limit { p99: Duration::from_secs(9) };
        let of = |completed| {
            let run = run(completed, Part::Total, Duration::from_secs(5));
            refused(&run, RATE, limit, Allowed::default())
        };
        assert_eq!(of(900), None, "within what is left to chance");
        assert!(matches!(of(700), Some(Refused::Target(text)) if text.contains("700 a second")));
    }

    #[test]
    fn generator_limits_are_not_blamed_on_the_target() {
        let limit = Limit { p99: Duration::from_millis(20) };
        let of = |run: &Run| refused(run, RATE, limit, Allowed::default());
        let late = run(100, Part::Late, Duration::from_millis(5));
        assert!(matches!(of(&late), Some(Refused::Generator(text)) if text.contains("late itself")));
        let slow = run(100, Part::Late, Duration::from_micros(5));
        assert!(matches!(of(&slow), Some(Refused::Target(_))));
        let mut tickets = run(1000, Part::Late, Duration::ZERO);
        (tickets.handshakes.as_asked, tickets.handshakes.resume_without_ticket) = (990, 10);
        assert!(matches!(of(&tickets), Some(Refused::Generator(text)) if text.contains("too few tickets")));
    }
}
