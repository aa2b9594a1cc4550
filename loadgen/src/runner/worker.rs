//! One thread's part of a run: its ring, its places, and what is due on each.

use std::iter::Peekable;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use offramp_proto::buf::{Buf, Bufs};
use offramp_ring::ring::{Ring, hint};
use offramp_ring::socket::Address;

use super::connection::{Connection, Stage};
use super::free::Free;
use super::meter::{Meter, Shared};
use super::now;
use super::stock::{OPENING_MAX, stock};
use super::timers::Timers;
use crate::failure::Failure;
use crate::plan::{Load, Plan, Target, Until};
use crate::profiles::Profiles;
use crate::schedule::{Arrivals, Window};
use crate::tally::Tally;
use crate::tickets::Origin;

/// How long the ring waits at most before the time is looked at.
pub(super) const LOOK_AT_TIME: Duration = Duration::from_millis(100);
/// Free buffers that are kept.
const BUFFERS_KEPT: usize = 64;
/// Completions that are taken before what they led to is submitted: a full handshake is 0.1 ms of work, and
/// what is due meanwhile waits.
const TURN: usize = 16;
/// How long a place of a closed loop rests after a failure.
const AFTER_FAILURE: Duration = Duration::from_millis(10);
/// Connections that are ended in one turn when a run is over: thousands at once would want as many buffers.
const ENDED_AT_ONCE: usize = 256;
/// The errno for which a receive is simply started again (ENOBUFS): the ring has no buffer to give at this
/// moment.
pub(super) const NO_BUFFER: i32 = 105;

/// What an operation was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Connect,
    Receive,
    Send,
}

/// An operation, and the place whose connection it is of.
pub(super) type Owner = (usize, Operation);

pub(super) struct Worker<'a> {
    pub(super) plan: &'a Plan,
    pub(super) address: Address,
    pub(super) profiles: &'a mut Profiles,
    /// Where new tickets come from.
    pub(super) origin: Origin,
    /// TLS 1.3 tickets that the warm-up of an open loop collects, of each kind.
    pub(super) stock: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) ring: Ring<Owner>,
    /// For what is received and for bulk data.
    pub(super) bufs: Bufs,
    /// Free ones for everything else that is sent.
    pub(super) small: Vec<Buf>,
    pub(super) places: Vec<Place>,
    /// Places without a connection.
    pub(super) free: Free,
    /// Planned starts; none in a closed loop.
    pub(super) arrivals: Option<Peekable<Arrivals>>,
    /// When what rests goes on.
    pub(super) timers: Timers,
    overdue_seen: Instant,
    pub(super) meter: Meter<'a>,
    pub(super) open: usize,
    pub(super) opening: usize,
    pub(super) failures_in_a_row: u64,
    pub(super) broken_off: Option<String>,
    /// When no new work began any more.
    pub(super) over_at: Option<Instant>,
    /// Places that were looked at since then.
    ended_up_to: usize,
    pub(super) dice: fastrand::Rng,
    /// Begun so far.
    pub(super) connections: usize,
    pub(super) plaintext: Vec<u8>,
}

/// One of the connections at once, and its successors.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) connection: Option<Connection>,
    /// Whether it had an established connection, ever.
    pub(super) active: bool,
    /// When the next message is due, where messages have a schedule: it is the place's, and outlives a
    /// connection that fails.
    pub(super) next_due: Option<Instant>,
}

/// What came of one thread.
pub(super) struct End {
    pub(super) tally: Tally,
    pub(super) window: Option<Window>,
    pub(super) over_at: Instant,
    pub(super) cpu: Duration,
    pub(super) broken_off: Option<String>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        target: &'a Target,
        profiles: &'a mut Profiles,
        (index, origin): (usize, Origin),
        shared: &Arc<Shared>,
    ) -> Result<Self> {
        let places = plan.places(index);
        let stock = stock(plan, places, profiles.kinds());
        let arrivals = match plan.load {
            Load::Closed { .. } => None,
            Load::Open { rate, spacing, .. } => {
                let times = (plan.warm_up, plan.measured());
                Some(Arrivals::new(rate, times, spacing, (index, plan.threads), plan.seed).peekable())
            }
        };
        Ok(Self {
            plan,
            address: Address::Tcp(target.address),
            profiles,
            origin,
            stock,
            shared: Arc::clone(shared),
            ring: Ring::new()
                .map_err(|error| anyhow!("io_uring cannot be set up ({error}): {}", hint(&error)))?,
            bufs: Bufs::new(BUFFERS_KEPT),
            small: Vec::new(),
            places: std::iter::repeat_with(Place::default).take(places).collect(),
            free: Free::all(places),
            arrivals,
            timers: Timers::new(places),
            overdue_seen: shared.start,
            meter: Meter::new(plan, Arc::clone(shared)),
            open: 0,
            opening: 0,
            failures_in_a_row: 0,
            broken_off: None,
            over_at: None,
            ended_up_to: 0,
            dice: fastrand::Rng::with_seed(plan.seed ^ (index as u64) << 32),
            connections: 0,
            plaintext: Vec::new(),
        })
    }

    pub(super) fn run(mut self) -> Result<End> {
        loop {
            let now = now();
            self.meter.tick(now, self.open);
            self.break_off_if_stuck(now);
            if self.over_at.is_some() || self.meter.is_over(now) {
                self.over_at.get_or_insert(now);
                self.end_what_rests(now)?;
            }
            self.wake_what_is_due(now)?;
            self.begin_what_is_due(now)?;
            self.fail_what_is_overdue(now)?;
            let over = self.over_at.is_some();
            if over && self.open == 0 && (self.arrivals_are_over() || self.meter.is_exceeded(now)) {
                break;
            }
            let patience = self.patience(now);
            self.ring.wait(&mut self.bufs, Some(patience)).context("waiting on the ring")?;
            for _ in 0..TURN {
                let Some(completion) = self.ring.next_completion() else { break };
                self.complete(completion)?;
            }
        }
        self.count_what_is_missing();
        // A run by count counts until its last connection is done.
        let over_at = self.over_at.filter(|_| matches!(self.plan.until, Until::Elapsed(_)));
        let over_at = over_at.unwrap_or_else(now);
        let (tally, window, cpu) = self.meter.finish();
        Ok(End { tally, window, over_at, cpu, broken_off: self.broken_off })
    }

    /// Breaks the run off, for all threads, if counting will never begin.
    fn break_off_if_stuck(&mut self, now: Instant) {
        let gate = &self.shared.gate;
        if gate.is_stuck(now, self.plan.patience) && !self.shared.stop.swap(true, Ordering::AcqRel) {
            self.broken_off = Some(format!(
                "counting never began: only {} of {} connections became active; fewer --connections, or a \
                 target that takes more",
                gate.active(),
                gate.places()
            ));
        }
    }

    /// What the plan asks for and never began.
    fn count_what_is_missing(&mut self) {
        if self.shared.stop.load(Ordering::Acquire) {
            return;
        }
        for _ in self.arrivals.take().into_iter().flatten() {
            self.meter.failed(&Failure::NeverStarted);
        }
        if let Some(gap) = self.plan.work.gap() {
            for due in self.places.iter().filter_map(|place| place.next_due) {
                self.meter.never_sent(due, gap);
            }
        }
    }

    /// How long nothing of its own is due.
    fn patience(&mut self, now: Instant) -> Duration {
        if self.over_at.is_some() && self.ended_up_to < self.places.len() || self.may_begin() {
            return Duration::ZERO;
        }
        let start = self.shared.start;
        let arrival = self.arrivals.as_mut().and_then(Peekable::peek).map(|planned| start + *planned);
        // What waits for a free place is woken by the completion that makes one.
        let arrival = arrival.filter(|_| !self.free.is_empty());
        let due = [arrival, self.timers.next()].into_iter().flatten().min();
        due.map_or(LOOK_AT_TIME, |due| due.saturating_duration_since(now).min(LOOK_AT_TIME))
    }

    fn arrivals_are_over(&mut self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
            || self.arrivals.as_mut().is_none_or(|arrivals| arrivals.peek().is_none())
    }

    /// The place may be used again, in a closed loop a little later.
    pub(super) fn rest(&mut self, index: usize, now: Instant) {
        if self.arrivals.is_some() {
            self.free.give(index, now);
        } else {
            self.timers.set(index, now + AFTER_FAILURE);
        }
    }

    /// Whether a closed loop has a place whose next connection may begin.
    pub(super) fn may_begin(&self) -> bool {
        self.arrivals.is_none()
            && self.over_at.is_none()
            && self.opening < OPENING_MAX
            && !self.free.is_empty()
    }

    fn wake_what_is_due(&mut self, now: Instant) -> Result<()> {
        while let Some(index) = self.timers.due(now) {
            match &mut self.places[index].connection {
                None => self.free.give(index, now),
                Some(connection) if connection.sleeps => {
                    connection.sleeps = false;
                    connection.times.since = now;
                    self.go_on(index, now);
                    self.advance(index)?;
                }
                // It went on by itself.
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Nothing new begins: what rests ends now, the others when they rest.
    fn end_what_rests(&mut self, now: Instant) -> Result<()> {
        let stopped = self.shared.stop.load(Ordering::Acquire);
        let from = self.ended_up_to;
        self.ended_up_to = self.places.len().min(from + ENDED_AT_ONCE);
        for index in from..self.ended_up_to {
            if let Some(connection) = &mut self.places[index].connection
                && (stopped || (connection.stage == Stage::Talking && connection.task.rests()))
            {
                connection.sleeps = false;
                if stopped {
                    self.abort(index);
                } else {
                    self.go_on(index, now);
                }
                self.advance(index)?;
            }
        }
        Ok(())
    }

    fn fail_what_is_overdue(&mut self, now: Instant) -> Result<()> {
        if now < self.overdue_seen + LOOK_AT_TIME {
            return Ok(());
        }
        self.overdue_seen = now;
        let patience = self.plan.patience;
        let hangs = self.meter.is_exceeded(now);
        for index in 0..self.places.len() {
            let Some(connection) = &self.places[index].connection else { continue };
            if connection.is_overdue(now, patience) {
                let moment = connection.moment();
                self.fail(index, &Failure::TimedOut(moment));
                self.advance(index)?;
            } else if hangs && self.plan.work.lasts() && connection.stage == Stage::Talking {
                // Bulk data on a slow line, which moves, but whose round would take too long; or messages
                // that were due before the end, and count as unanswered.
                self.abort(index);
                self.advance(index)?;
            }
        }
        Ok(())
    }
}
