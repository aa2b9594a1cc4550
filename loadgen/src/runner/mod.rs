//! Load on a ring: a closed loop of so many connections at once, or an open one of planned starts.
//!
//! The runner makes every system call; what to say is decided in [`session`](crate::session) and
//! [`task`](crate::task). A connection has at most one receive and one send in flight, and its place is used
//! again only after both are complete.

mod begin;
mod complete;
mod connection;
mod free;
mod meter;
mod pin;
mod stock;
mod timers;
mod worker;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use offramp_ring::socket::{self, Address};

use crate::interrupt::Interrupt;
use crate::plan::{Load, Plan, Target, Work};
use crate::profiles::{ClientProfile, Profiles};
use crate::series::Interval;
use crate::tally::{Part, Tally};
use crate::tickets::Origin;

use meter::Shared;
use worker::{End, Worker};

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Everything that counted.
    pub tally: Tally,
    /// Second by second, from the start on, the warm-up included.
    pub seconds: BTreeMap<u64, Interval>,
    /// When it began, on the clock of the day.
    pub began: Duration,
    /// How long it was before anything counted.
    pub warm_up: Duration,
    /// How long it counted.
    pub measured: Duration,
    /// CPU time of the client threads while it counted.
    pub cpu: Duration,
    /// Why it was broken off, if it was.
    pub broken_off: Option<String>,
    /// Whether it was ended before its time ([`Clients::interrupted_by`]).
    pub interrupted: bool,
}

/// One second of progress.
#[derive(Clone, Copy, Debug)]
pub struct Second<'a> {
    /// Since the start.
    pub index: u64,
    /// Whether it is of the warm-up.
    pub warm_up: bool,
    /// What happened in it.
    pub interval: &'a Interval,
}

/// The clients of a run, each thread with its tickets. They outlive a run: the next one may go to another
/// target with the same tickets.
#[derive(Debug)]
pub struct Clients {
    profiles: Vec<Profiles>,
    /// Those of earlier runs: a ticket's origin is its target's place among them.
    targets: Vec<SocketAddr>,
    interrupt: Interrupt,
}

impl Clients {
    /// For a plan's threads.
    ///
    /// # Errors
    /// The profile contradicts itself.
    pub fn new(plan: &Plan, profile: &ClientProfile) -> Result<Self> {
        let profiles: Result<Vec<_>> = (0..plan.threads)
            .map(|index| Profiles::new(profile, plan.resume, plan.seed.wrapping_add(index as u64)))
            .collect();
        Ok(Self { profiles: profiles?, targets: Vec::new(), interrupt: Interrupt::default() })
    }

    /// Once this is set, the run ends at once: what is under way is dropped, and is no failure.
    #[must_use]
    pub fn interrupted_by(mut self, interrupt: Interrupt) -> Self {
        self.interrupt = interrupt;
        self
    }

    /// Puts the load of a plan on a target. `progress` hears every second when it is over.
    ///
    /// # Errors
    /// The load cannot be put on at all: no ring, or too few descriptors. What merely went wrong is in the
    /// [`Outcome`], also if places never had a connection and counting did not begin.
    pub fn run(
        &mut self,
        plan: &Plan,
        target: &Target,
        mut progress: impl FnMut(Second<'_>),
    ) -> Result<Outcome> {
        allow_descriptors(plan)?;
        check_sources(plan, target)?;
        let origin = self.origin(target);
        let began = time_of_day();
        let shared = Arc::new(Shared::new(plan, now()));
        let cpus = pin::cpus(plan);
        let interrupt = self.interrupt.clone();
        let ends = thread::scope(|scope| {
            let threads: Vec<_> = self
                .profiles
                .iter_mut()
                .enumerate()
                .map(|(index, profiles)| {
                    profiles.set_origin(origin);
                    let shared = Arc::clone(&shared);
                    let cpu = cpus.get(index).copied();
                    scope.spawn(move || {
                        if let Some(cpu) = cpu {
                            pin::to(cpu, index);
                        }
                        let ended = Worker::new(plan, target, profiles, (index, origin), &shared)
                            .and_then(Worker::run);
                        if ended.is_err() {
                            // The others must not wait for this one.
                            shared.stop.store(true, Ordering::Release);
                        }
                        ended
                    })
                })
                .collect();
            watch(&threads, &shared, plan, &interrupt, &mut progress);
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow!("a client thread panicked"))?)
                .collect::<Result<Vec<End>>>()
        })?;
        let shared = Arc::into_inner(shared).context("all threads have ended")?;
        Ok(sum_up(ends, shared, plan, began))
    }
}

impl Clients {
    fn origin(&mut self, target: &Target) -> Origin {
        let known = self.targets.iter().position(|known| *known == target.address);
        known.unwrap_or_else(|| {
            self.targets.push(target.address);
            self.targets.len() - 1
        })
    }
}

/// Hands on every second a little after it is over, when all threads have told theirs, and hands the threads
/// an interruption.
fn watch<T>(
    threads: &[ScopedJoinHandle<'_, T>],
    shared: &Shared,
    plan: &Plan,
    interrupt: &Interrupt,
    progress: &mut impl FnMut(Second<'_>),
) {
    let mut index = 0;
    while !threads.iter().all(ScopedJoinHandle::is_finished) {
        thread::park_timeout(Duration::from_millis(20));
        if interrupt.is_set() && !shared.interrupted.load(Ordering::Acquire) {
            // In this order: who sees the second sees the first.
            shared.interrupted.store(true, Ordering::Release);
            shared.stop.store(true, Ordering::Release);
        }
        let told = shared.start + Duration::from_secs(index + 1) + 2 * worker::LOOK_AT_TIME;
        let now = now();
        if now < told {
            continue;
        }
        let ended = shared.start + Duration::from_secs(index + 1);
        let warm_up = match plan.load {
            Load::Open { .. } => ended <= shared.start + plan.warm_up,
            Load::Closed { .. } => shared.gate.window(now).is_none_or(|window| ended <= window.start()),
        };
        if let Some(interval) = shared.series.second(index) {
            progress(Second { index, warm_up, interval: &interval });
        }
        index += 1;
    }
}

fn sum_up(ends: Vec<End>, shared: Shared, plan: &Plan, began: Duration) -> Outcome {
    let mut tally = Tally::default();
    let (mut cpu, mut broken_off, mut window, mut last) = (Duration::ZERO, None, None, shared.start);
    for end in ends {
        tally.add(&end.tally);
        cpu += end.cpu;
        broken_off = broken_off.or(end.broken_off);
        window = window.or(end.window);
        last = last.max(end.over_at);
    }
    let counts_from = window.map_or(last, |window| window.start());
    Outcome {
        tally,
        interrupted: shared.interrupted.into_inner(),
        seconds: shared.series.into_seconds(),
        began,
        warm_up: counts_from.saturating_duration_since(shared.start),
        measured: last.saturating_duration_since(counts_from).min(plan.measured()),
        cpu,
        broken_off,
    }
}

/// The latency that a plan is about: what its second-by-second percentiles are of.
#[must_use]
pub fn subject(work: &Work) -> Part {
    meter::subject(work)
}

/// Descriptors beside those of connections: rings, standard streams, what a library opens.
const DESCRIPTORS_BESIDE: u64 = 32;

/// Raises the limit on descriptors as far as it goes, and says what is missing.
fn allow_descriptors(plan: &Plan) -> Result<()> {
    let (Load::Closed { connections: places } | Load::Open { connections_max: places, .. }) = plan.load;
    let limit = socket::raise_nofile_limit().context("the limit on descriptors")?;
    let needed = places as u64 + plan.threads as u64 * 4 + DESCRIPTORS_BESIDE;
    ensure!(
        needed <= limit,
        "{places} connections at once need {needed} descriptors, but this process may have {limit}: \
         ulimit -Hn {needed}, or LimitNOFILE={needed} in a unit, or fewer --connections"
    );
    Ok(())
}

/// Whether every source is an address of this host and of the target's family.
fn check_sources(plan: &Plan, target: &Target) -> Result<()> {
    for source in &plan.sources {
        socket::outgoing_from(&Address::Tcp(target.address), *source).with_context(|| {
            format!(
                "--source {source}: not an address of this host, or of another family than {}; `ip address` \
                 shows which there are",
                target.address
            )
        })?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the load generator owns its clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Since 1970.
#[expect(clippy::disallowed_methods, reason = "a report says when it was made")]
pub(crate) fn time_of_day() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}
