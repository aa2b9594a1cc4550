//! One thread's part of a run: its ring, its places, and what is due on each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::iter::Peekable;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use offramp::buf::{Buf, Bufs};
use offramp::sys::ring::{Ring, Token};
use offramp::sys::socket::{self, Address};

use super::connection::{Connection, Stage, Times, Wish};
use super::meter::{Meter, Shared};
use super::now;
use crate::failure::{Failure, Moment};
use crate::plan::{Ending, Load, Plan, Target, Version};
use crate::schedule::{Arrivals, Window};
use crate::session::Session;
use crate::tally::Tally;
use crate::task::Task;
use crate::terms::{Choice, Profiles};
use crate::tickets::Origin;

/// How long the ring waits at most before the time is looked at.
pub(super) const LOOK_AT_TIME: Duration = Duration::from_millis(100);
/// Free buffers that are kept.
const BUFFERS_KEPT: usize = 64;
/// Completions that are taken before what they led to is submitted: a full handshake is 0.1 ms of work, and
/// what is due meanwhile waits.
const TURN: usize = 16;
/// Connections of a closed loop that are on their way for the first time at once.
const OPENING_MAX: usize = 64;
/// How long a place of a closed loop rests after a failure.
const AFTER_FAILURE: Duration = Duration::from_millis(10);
/// TLS 1.3 tickets of a name that the warm-up of an open loop collects: each serves one connection, and a
/// busy moment takes many at once.
const TICKETS_IN_HAND: usize = 64;
/// Connections that are ended in one turn when a run is over: thousands at once would want as many buffers.
const ENDED_AT_ONCE: usize = 256;
/// The errno for which a receive is simply started again (ENOBUFS): the ring has no buffer to give at this
/// moment.
pub(super) const NO_BUFFER: i32 = 105;

/// What an operation was, in the lowest bit of its token; the place is in the others. The connect counts as
/// a send.
pub(super) const RECEIVE: Token = 0;
pub(super) const SEND: Token = 1;

pub(super) struct Worker<'a> {
    pub(super) plan: &'a Plan,
    address: Address,
    profiles: &'a mut Profiles,
    /// Where new tickets come from.
    origin: Origin,
    pub(super) shared: Arc<Shared>,
    pub(super) ring: Ring,
    /// For what is received and for bulk data.
    pub(super) bufs: Bufs,
    /// Free ones for everything else that is sent.
    pub(super) small: Vec<Buf>,
    pub(super) places: Vec<Place>,
    /// Places without a connection.
    pub(super) free: Vec<usize>,
    /// Planned starts; none in a closed loop.
    pub(super) arrivals: Option<Peekable<Arrivals>>,
    /// When a start was last due and there was no place for it.
    starved_at: Option<Instant>,
    /// When what rests goes on.
    pub(super) timers: BinaryHeap<Reverse<(Instant, usize)>>,
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
    dice: fastrand::Rng,
    connections: usize,
    pub(super) plaintext: Vec<u8>,
}

/// One of the connections at once, and its successors.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) connection: Option<Connection>,
    /// Whether it had an established connection, ever.
    pub(super) active: bool,
    /// Whether an earlier connection has left a ticket that was not lost.
    pub(super) primed: bool,
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
            shared: Arc::clone(shared),
            ring: Ring::new().context("the load generator has no io_uring (see `offramp probe`)")?,
            bufs: Bufs::new(BUFFERS_KEPT),
            small: Vec::new(),
            places: std::iter::repeat_with(Place::default).take(places).collect(),
            free: (0..places).rev().collect(),
            arrivals,
            starved_at: None,
            timers: BinaryHeap::new(),
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
        let over_at = self.over_at.unwrap_or_else(now);
        if !self.shared.stop.load(Ordering::Acquire) {
            for _ in self.arrivals.take().into_iter().flatten() {
                self.meter.failed(&Failure::NeverStarted);
            }
        }
        let (tally, window, cpu) = self.meter.finish();
        Ok(End { tally, window, over_at, cpu, broken_off: self.broken_off })
    }

    /// How long nothing of its own is due.
    fn patience(&mut self, now: Instant) -> Duration {
        if self.over_at.is_some() && self.ended_up_to < self.places.len() {
            return Duration::ZERO;
        }
        let start = self.shared.start;
        let arrival = self.arrivals.as_mut().and_then(Peekable::peek).map(|planned| start + *planned);
        // What waits for a free place is woken by the completion that makes one.
        let arrival = arrival.filter(|_| !self.free.is_empty());
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let due = [arrival, timer].into_iter().flatten().min();
        due.map_or(LOOK_AT_TIME, |due| due.saturating_duration_since(now).min(LOOK_AT_TIME))
    }

    fn arrivals_are_over(&mut self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
            || self.arrivals.as_mut().is_none_or(|arrivals| arrivals.peek().is_none())
    }

    fn begin_what_is_due(&mut self, now: Instant) -> Result<()> {
        if self.shared.stop.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.arrivals.is_none() {
            while self.over_at.is_none() && self.opening < OPENING_MAX {
                let Some(place) = self.free.pop() else { break };
                self.begin(place, now, now, false)?;
            }
            return Ok(());
        }
        let start = self.shared.start;
        while let Some(planned) = self.arrivals.as_mut().and_then(Peekable::peek) {
            let planned = start + *planned;
            if planned > now || self.meter.is_exceeded(now) {
                break;
            }
            let Some(place) = self.free.pop() else {
                self.starved_at = Some(now);
                break;
            };
            if let Some(arrivals) = &mut self.arrivals {
                arrivals.next();
            }
            // Late because there was no place, not because of us.
            let capped = self.starved_at.is_some_and(|at| planned <= at);
            self.begin(place, planned, super::now(), capped)?;
        }
        Ok(())
    }

    fn begin(&mut self, index: usize, planned: Instant, now: Instant, capped: bool) -> Result<()> {
        let choice = self.profiles.next(self.plan.resume);
        let fetches = choice.resume && self.fetches(index, &choice, planned);
        let choice = if fetches { choice.fetching(self.profiles) } else { choice };
        let session = Session::new(&choice.config, choice.name.clone())?;
        let offered = choice.tickets.take_offered();
        let wish = Wish {
            version: choice.version,
            resume: choice.resume,
            offered: offered.is_some(),
            foreign: offered.is_some_and(|origin| origin != self.origin),
            fetches,
        };
        let times = Times::new(planned, now);
        self.meter.started(&times, capped);
        self.connections += 1;
        self.opening += usize::from(!self.places[index].active);
        let socket = match self.socket() {
            Ok(socket) => socket,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or_default();
                self.opening -= usize::from(!self.places[index].active);
                self.meter.failed(&Failure::system(Moment::Connect, errno));
                self.count_failure(&Failure::system(Moment::Connect, errno));
                self.rest(index, now);
                return Ok(());
            }
        };
        self.ring.connect(socket.as_fd(), self.address.to_sockaddr()?, token(index, SEND));
        let task = Task::new(&self.plan.work, &choice.name.to_str(), self.dice.fork());
        self.open += 1;
        self.places[index].connection = Some(Connection {
            socket,
            session,
            task,
            wish,
            stage: Stage::Connecting,
            times,
            // The connect is in flight, in place of a send.
            sending: true,
            receiving: false,
            sleeps: false,
        });
        Ok(())
    }

    /// Whether a connection that shall be resumed only fetches a ticket, because there is none yet or too
    /// few: in the warm-up, and as the first one of a place of a closed loop.
    fn fetches(&self, index: usize, choice: &Choice, planned: Instant) -> bool {
        let tickets = choice.tickets.count(&choice.name);
        let warm_up = !self.meter.counts_already(planned);
        let open = self.arrivals.is_some();
        // Tickets of an earlier target are there to be offered.
        let collects = open && warm_up && self.origin == 0 && choice.version == Version::Tls13;
        let first = !open && !self.places[index].primed;
        (tickets == 0 && (warm_up || first)) || (collects && tickets < TICKETS_IN_HAND)
    }

    fn socket(&self) -> std::io::Result<std::os::fd::OwnedFd> {
        let source = match self.plan.sources.as_slice() {
            [] => None,
            sources => Some(sources[self.connections % sources.len()]),
        };
        let socket = match source {
            None => socket::outgoing(&self.address)?,
            Some(source) => socket::outgoing_from(&self.address, source)?,
        };
        if self.plan.ending == Ending::Reset {
            socket::abort_on_close(socket.as_fd())?;
        }
        Ok(socket)
    }

    /// The place may be used again, in a closed loop a little later.
    pub(super) fn rest(&mut self, index: usize, now: Instant) {
        if self.arrivals.is_some() {
            self.free.push(index);
        } else {
            self.timers.push(Reverse((now + AFTER_FAILURE, index)));
        }
    }

    fn wake_what_is_due(&mut self, now: Instant) -> Result<()> {
        while let Some(Reverse((at, index))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            match &mut self.places[index].connection {
                None => self.free.push(index),
                Some(connection) if connection.sleeps => {
                    connection.sleeps = false;
                    connection.times.since = now;
                    self.go_on(index, now);
                    self.advance(index, now)?;
                }
                // It went on by itself, or is another one.
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
                    self.close(index, now);
                }
                self.advance(index, now)?;
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
                self.advance(index, now)?;
            } else if hangs && self.plan.work.lasts() && connection.stage == Stage::Talking {
                // Bulk data on a slow line: it moves, but its round would take too long.
                self.abort(index);
                self.advance(index, now)?;
            }
        }
        Ok(())
    }
}

pub(super) fn token(place: usize, operation: Token) -> Token {
    (place as Token) << 1 | operation
}
