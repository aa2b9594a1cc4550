//! The loads of an epoch, and what came of them.

use std::time::Duration;

use anyhow::{Context, Result};
use offramp_loadgen::report::Report;

use super::engine::World;
use super::fault::Fault;
use super::processes::{Loadgen, Pool};
use super::verdict::Outcome;

/// How long the machine is measured before the first epoch.
const CALIBRATION: Duration = Duration::from_secs(5);
/// The part of the handshakes that goes to the pool whose backends are never touched.
const STEADY_SHARE: f64 = 0.7;

/// Handshakes per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// Of all loads together.
    pub(super) handshakes: f64,
}

impl Rates {
    /// This share of what engine, generator and backends can do together on this machine.
    pub(super) fn of_this_machine(world: &World, share: f64) -> Result<Self> {
        let words = "handshake --tls 1.2,1.3 --resume 0.8 --allow-full --request echo -c 16";
        let report = world.client(Pool::Steady, words, CALIBRATION)?.report()?;
        let run = report.runs.first().context("loadgen reports no run")?;
        Ok(Self { handshakes: (run.handshakes.per_second * share).max(1.0) })
    }
}

/// A load that runs.
struct Running {
    name: &'static str,
    pool: Pool,
    client: Loadgen,
}

/// All of them.
pub(super) struct Loads(Vec<Running>);

impl Loads {
    pub(super) fn start(world: &World, rates: Rates, length: Duration) -> Result<Self> {
        let handshakes = |share: f64| {
            let rate = (rates.handshakes * share).max(1.0);
            format!(
                "handshake --tls 1.2,1.3 --resume 0.8 --allow-full --request echo --rate {rate:.0} -c 500"
            )
        };
        let msrp = "message --msrp -c 16 --every 500ms --tls 1.3".to_owned();
        let large = "message -c 4 --request-size 64k --answer-size 256k --every 200ms --tls 1.2".to_owned();
        let loads = [
            ("handshakes", Pool::Steady, handshakes(STEADY_SHARE)),
            ("MSRP", Pool::Steady, msrp),
            ("large messages", Pool::Steady, large.clone()),
            ("handshakes", Pool::Fickle, handshakes(1.0 - STEADY_SHARE)),
            ("large messages", Pool::Fickle, large),
        ];
        let start = |(name, pool, words): (&'static str, Pool, String)| {
            world.client(pool, &words, length).map(|client| Running { name, pool, client })
        };
        loads.into_iter().map(start).collect::<Result<_>>().map(Self)
    }

    /// Waits for all of them.
    pub(super) fn finish(self) -> Result<Outcomes> {
        let report = |load: Running| Ok((load.name, load.pool, load.client.report()?));
        self.0.into_iter().map(report).collect::<Result<_>>().map(Outcomes)
    }
}

/// What the loads of one epoch reported.
pub(super) struct Outcomes(Vec<(&'static str, Pool, Report)>);

impl Outcomes {
    /// A failed connection is excused where the fault is one that fails connections whatever the engine does.
    pub(super) fn judged(self, fault: Fault) -> Vec<Outcome> {
        let outcome = |(name, pool, report): (&str, Pool, Report)| {
            let mut outcome = Outcome { load: format!("{name}, {pool:?}"), ..Outcome::default() };
            for run in report.runs {
                outcome.connections += run.connections.ended;
                outcome.messages += run.data.messages;
                outcome.changed += run.changed;
                outcome.resumed_refused += run.handshakes.resume_refused;
                match fault.excuses(pool) {
                    true => outcome.excused += run.connections.failed,
                    false => {
                        outcome.failed += run.connections.failed;
                        outcome.reasons.extend(run.failures);
                    }
                }
                // A run that was broken off has shown less than it was to show.
                outcome.broken_off = outcome.broken_off.take().or(run.broken_off);
            }
            outcome
        };
        self.0.into_iter().map(outcome).collect()
    }
}
