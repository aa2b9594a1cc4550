//! A soak: mixed load on an engine for minutes or hours, while what it depends on fails in turn.
//!
//! Time is cut into epochs. In each of them the same loads run, one [`Fault`] is injected and undone, and
//! then everything is quiet, so that what is left over can be counted: slots, buffers, descriptors, memory.
//! Two pools stand behind two listeners: one whose backend is never touched, where every failed connection is
//! the engine's, and one whose backends are killed and stopped. The verdict is in [`verdict`].

mod engine;
mod fault;
mod load;
mod processes;
pub mod verdict;

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;

use engine::World;
use fault::Fault;
use load::{Loads, Rates};
use verdict::{Epoch, Verdict};

/// The share of the handshakes that this machine can do that is asked for.
const LOAD_SHARE: f64 = 0.7;
/// How long an epoch is under load.
const EPOCH: Duration = Duration::from_secs(20);
/// How long the engine has to come to rest after an epoch; three quarters of an epoch are rarely needed.
const REST: Duration = Duration::from_secs(15);
/// What is looked at while something is waited for.
const POLL: Duration = Duration::from_millis(100);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long. The epoch that is under way is finished.
    pub length: Duration,
    /// Decides the order of the faults.
    pub seed: u64,
    /// The program that is soaked.
    pub offramp: PathBuf,
    /// The program that makes the load, and serves as the backends.
    pub loadgen: PathBuf,
    /// Whether this process has a mount namespace of its own, so that it may mount a small file system for
    /// the log. Without one the log's disk does not become full.
    pub may_mount: bool,
}

/// Soaks, and reports each epoch as it ends.
///
/// # Errors
/// The soak could not be made: a program does not start, the engine is gone, a tool is missing. What the
/// engine does wrong while it runs is no error but part of the verdict.
pub fn run(plan: &Plan, mut report: impl FnMut(&Epoch)) -> Result<Verdict> {
    let began = now();
    let mut world = World::start(plan)?;
    let rates = Rates::of_this_machine(&world, LOAD_SHARE)?;
    let mut verdict = Verdict::new(plan.seed, rates.handshakes, &Fault::left_out(&world));
    let mut deck = Deck { kinds: Fault::all(&world), left: Vec::new(), rng: Rng::with_seed(plan.seed) };
    while began.elapsed() < plan.length || verdict.epochs.is_empty() {
        let fault = deck.draw();
        let epoch = epoch(fault, &mut world, rates).with_context(|| {
            format!(
                "in epoch {}, {fault}; the engine's last lines:\n{}",
                verdict.epochs.len(),
                world.last_words()
            )
        })?;
        report(&epoch);
        verdict.epochs.push(epoch);
    }
    verdict.seconds = began.elapsed().as_secs();
    verdict.end = world.stop()?;
    Ok(verdict)
}

fn epoch(fault: Fault, world: &mut World, rates: Rates) -> Result<Epoch> {
    let loads = Loads::start(world, rates, EPOCH)?;
    wait(EPOCH / 5);
    let undo = fault.inject(world)?;
    wait(EPOCH * 2 / 5);
    undo.undo(world)?;
    let outcomes = loads.finish()?;
    let rest = world.rest(REST)?;
    Ok(Epoch { fault: fault.to_string(), outcomes: outcomes.judged(fault), rest })
}

/// Every fault once, by chance; then all of them again.
struct Deck {
    kinds: Vec<Fault>,
    left: Vec<Fault>,
    rng: Rng,
}

impl Deck {
    fn draw(&mut self) -> Fault {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
            self.rng.shuffle(&mut self.left);
        }
        self.left.pop().unwrap_or(Fault::Reloads)
    }
}

#[expect(clippy::disallowed_methods, reason = "the soak has a clock of its own")]
fn now() -> Instant {
    Instant::now()
}

fn wait(time: Duration) {
    let end = now() + time;
    while let Some(left) = end.checked_duration_since(now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}

/// Waits until `what` gives something.
fn until<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let end = now() + patience;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(now() < end, "{what}: not within {patience:?}");
        thread::park_timeout(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_comes_before_one_comes_again() {
        let kinds = vec![Fault::Reloads, Fault::BackendKilled, Fault::ClientsCut];
        let mut deck = Deck { kinds: kinds.clone(), left: Vec::new(), rng: Rng::with_seed(3) };
        for _ in 0..4 {
            let mut round: Vec<_> = kinds.iter().map(|_| deck.draw()).collect();
            round.sort_unstable();
            let mut all = kinds.clone();
            all.sort_unstable();
            assert_eq!(round, all);
        }
    }

    #[test]
    fn waiting_returns_the_result_or_times_out() {
        assert!(until(Duration::ZERO, "nothing", || None::<()>).is_err());
        assert_eq!(until(Duration::ZERO, "something", || Some(3)).unwrap(), 3);
    }
}
