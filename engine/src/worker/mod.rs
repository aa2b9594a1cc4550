//! The shell: one thread, one ring, the services that the control plane gives it. Every system call of a
//! connection is made here, no decision.
//!
//! A turn waits for completions, reads each as an [`Event`], steps the connection, carries out its actions,
//! and submits all that with the next wait: one system call a turn, whatever the number of connections in it.

mod about;
mod admission;
mod apply;
mod bulk;
mod cage;
mod complete;
mod connection_log;
mod faults;
#[cfg(test)]
mod fixtures;
mod flush;
mod inquiry;
mod leg_socket;
mod listener;
mod listing;
mod mailbox;
mod memory;
mod owner;
mod phase;
mod proxy;
mod route;
mod sealing;
mod served;
mod slots;
mod switch;
mod target;
mod timers;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::conn::action::{Action, Outbox, Report};
use crate::conn::event::{Event, Leg, Operation};
use crate::conn::fault::Fault;
use crate::conn::policy::Turn;
use crate::limit::Limits;
use crate::metrics::{Counter, Counters, Gauge, ListenerCounters};
use crate::sys::heap;
use crate::sys::ring::{self, Outcome};
use apply::{Applied, Executor};
pub use cage::WorkerCage;
use complete::Decoded;
use faults::{FaultLog, Kind};
pub use inquiry::{
    ConnectionFilter, ConnectionInfo, ConnectionName, Inquiry, InquiryAnswer, InquiryTask, NoName,
};
pub use listener::set_inherited;
pub use mailbox::{Command, INQUIRIES_MAX, Lent, Mailbox, Service, ServiceId};
use owner::{Completion, Owner, Ring, SlotId};
pub use proxy::ProxyHeader;
pub use route::{Destination, Route, Rule};
use served::Served;
use slots::Slots;
pub use switch::OffloadSwitch;
use timers::Timers;

/// Completions of transfers taken in one turn: what they cause is submitted before more are taken.
const TURN_COMPLETIONS: usize = 256;
/// How long a turn goes on with handshakes that wait, one at least: the bytes of established connections wait
/// for so long, and for one handshake more. A full handshake takes 0.05 to 0.3 ms with ECDSA, and several
/// times that with RSA.
const TURN_HANDSHAKING: Duration = Duration::from_micros(500);
/// How long freed memory may stay with the worker, and how often it looks for buffers that nobody needs.
const TIDY_EVERY: Duration = Duration::from_secs(1);
/// Furthest that a timer is set ahead: a connection that ends leaves its timer behind, and no longer than
/// this.
const TIMER_MAX: Duration = Duration::from_secs(60);
/// Free buffers that a worker keeps.
const FREE_BUFFERS: usize = 64;

/// All that a worker is made of.
pub struct Setup {
    /// 0-based.
    pub index: usize,
    /// Drawn at random: in front of the names of its connections.
    pub name: u64,
    /// How many workers there are.
    pub workers: usize,
    /// This worker's share of the connection cap.
    pub max_connections: usize,
    /// What it gives up.
    pub cage: WorkerCage,
    /// This worker's counters.
    pub counters: Arc<Counters>,
    /// What clients may use.
    pub limits: Arc<Limits>,
    /// What the control plane tells it, with the services of the start in it.
    pub mailbox: Arc<Mailbox>,
}

/// Why a worker could not start; the text names the likely cause and the command to try.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no ring to be had.
    #[error("io_uring cannot be set up ({source}): {hint}")]
    Ring {
        /// What the system says.
        source: io::Error,
        /// The likely cause and what to do.
        hint: &'static str,
    },
    /// Its system calls cannot be filtered, though those of other threads are.
    #[error("the system calls of the worker cannot be filtered ({0}); try: confine = \"off\"")]
    Filter(io::Error),
}

/// Runs a worker on the calling thread until it was drained or ended. `ready` is called once, when
/// connections are being accepted, or with the reason why that will not happen.
pub fn run(setup: Setup, ready: impl FnOnce(Result<(), StartError>)) {
    let _open = Open(Arc::clone(&setup.mailbox));
    match Worker::new(setup) {
        Err(error) => ready(Err(error)),
        Ok(mut worker) => {
            worker.set_memory_ceiling();
            worker.obey();
            ready(Ok(()));
            worker.run();
        }
    }
}

/// A mailbox of which somebody takes the commands. Dropped, also by a panic, it is closed.
struct Open(Arc<Mailbox>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Worker {
    index: usize,
    /// How many there are.
    workers: usize,
    /// In front of the names of its connections.
    name: u64,
    /// Counts them.
    next_connection: u64,
    ring: Ring,
    outbox: Outbox,
    slots: Slots,
    timers: Timers,
    services: BTreeMap<ServiceId, Served>,
    /// The kill switch.
    may_offload: bool,
    limits: Arc<Limits>,
    /// Connections that are over and had no line in the log.
    unlogged: u64,
    counters: Arc<Counters>,
    /// Those of the services that it has, or of which it has connections.
    counted: Vec<Arc<ListenerCounters>>,
    faults: FaultLog,
    mailbox: Arc<Mailbox>,
    now: Instant,
    max_connections: usize,
    /// Completions of many bytes: they wait for those of few.
    bulk: VecDeque<Completion>,
    /// No slot was free at the end of the last turn.
    is_full: bool,
    /// Until then no connection is accepted: there were as many as the rate allows.
    rated_until: Option<Instant>,
    /// A backend found no descriptor.
    is_short: bool,
    /// Until then connections are accepted by few.
    flooded_until: Option<Instant>,
    /// Receives that found no buffer, in order: of connections, and of handshakes.
    parked: VecDeque<(SlotId, Leg)>,
    parked_handshakes: VecDeque<(SlotId, Leg)>,
    /// Receives of connections with bytes on their way, while memory is short.
    held_back: VecDeque<(SlotId, Leg)>,
    /// This worker's share of `limits.buffer_memory`, in bytes.
    memory_ceiling: usize,
    /// When to end connections for those that wait for memory; none while none waits.
    memory_look_at: Option<Instant>,
    /// When to look for memory that nobody needs; none while there cannot be any.
    tidy_at: Option<Instant>,
    /// Events that an action caused at once.
    events: VecDeque<Event>,
    draining: bool,
    ending: bool,
}

impl Worker {
    fn new(setup: Setup) -> Result<Self, StartError> {
        let ring = if setup.cage.restricts_ring { Ring::restricted() } else { Ring::new() };
        let mut ring = ring.map_err(|source| StartError::Ring { hint: ring::hint(&source), source })?;
        setup.cage.close().map_err(StartError::Filter)?;
        ring.await_event(setup.mailbox.event(), Owner::Mailbox);
        let now = clock();
        Ok(Self {
            index: setup.index,
            workers: setup.workers,
            name: setup.name,
            next_connection: 0,
            ring,
            outbox: Outbox::new(FREE_BUFFERS, now),
            slots: Slots::new(),
            timers: Timers::default(),
            services: BTreeMap::new(),
            may_offload: true,
            limits: setup.limits,
            unlogged: 0,
            rated_until: None,
            counters: setup.counters,
            counted: Vec::new(),
            faults: FaultLog::new(setup.index),
            mailbox: setup.mailbox,
            now,
            max_connections: setup.max_connections,
            bulk: VecDeque::new(),
            is_full: false,
            is_short: false,
            flooded_until: None,
            parked: VecDeque::new(),
            parked_handshakes: VecDeque::new(),
            held_back: VecDeque::new(),
            memory_ceiling: usize::MAX,
            memory_look_at: None,
            tidy_at: None,
            events: VecDeque::new(),
            draining: false,
            ending: false,
        })
    }

    fn run(&mut self) {
        while !(self.ending || self.draining && self.slots.len() == 0 && self.accepts_nobody()) {
            if let Err(error) = self.turn() {
                tracing::error!("the ring cannot be waited on: {error}; the worker ends");
                return;
            }
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        let patience = self.patience();
        self.ring.wait(&mut self.outbox.bufs, patience)?;
        self.now = clock();
        self.counters.turn();
        let has_waited = !self.bulk.is_empty();
        let little = self.take_completions();
        // What little there was of others is submitted first: bulk waits for that once, and not again.
        if has_waited || !self.is_of_others(little) {
            self.run_bulk();
        }
        self.run_handshakes();
        self.relieve_memory();
        self.receive_parked();
        while let Some(id) = self.timers.fired(self.now) {
            self.timer_fired(id);
        }
        self.admit();
        self.tidy();
        self.report();
        Ok(())
    }

    /// How long the next wait may last; none at all while something is left to be done.
    fn patience(&mut self) -> Option<Duration> {
        let has_waiting = !self.bulk.is_empty() || !self.parked_handshakes.is_empty();
        if has_waiting || self.may_receive() || self.may_admit() {
            return Some(Duration::ZERO);
        }
        let own = [self.tidy_at, self.next_eviction(), self.rated_until, self.next_memory_look()];
        let of_services = self.services.values().flat_map(Served::wakes_at);
        // What is over by now was looked at in this turn: there was nothing to be done.
        let to_come = own.into_iter().flatten().chain(of_services).filter(|at| *at > self.now);
        let to_come = to_come.map(|at| at.saturating_duration_since(self.now));
        to_come.chain(self.timers.patience(self.now)).chain(self.faults.patience(self.now)).min()
    }

    /// What came for handshakes, which are the costly part, in the order in which it came, until the turn's
    /// time for them is over.
    fn run_handshakes(&mut self) {
        while let Some(completion) = self.ring.next_handshake() {
            self.complete(completion);
            if clock().duration_since(self.now) > TURN_HANDSHAKING {
                return;
            }
        }
    }

    /// Starts as many of the receives that found no buffer as will find one now.
    fn receive_parked(&mut self) {
        let (room, handshakes) = self.ring.room();
        if self.outbox.bufs.is_full() {
            self.receive_into_reserve();
        } else {
            for _ in 0..room {
                let next = self.parked.pop_front().or_else(|| self.held_back.pop_front());
                let Some((id, leg)) = next else { break };
                self.receive_again(id, leg);
            }
        }
        for _ in 0..handshakes {
            let Some((id, leg)) = self.parked_handshakes.pop_front() else { break };
            self.receive_again(id, leg);
        }
    }

    /// Returns memory that nobody needs: buffers by halves, and to the system what was freed.
    fn tidy(&mut self) {
        let Some(at) = self.tidy_at else {
            if self.outbox.bufs.free() > 0 {
                self.tidy_at = Some(self.now + TIDY_EVERY);
            }
            return;
        };
        if at <= self.now {
            let has_more = self.outbox.bufs.trim() | self.ring.shrink();
            heap::give_back();
            self.tidy_at = has_more.then_some(self.now + TIDY_EVERY);
        }
    }

    fn complete(&mut self, completion: Completion) {
        match completion.user_data {
            Owner::Accept(_) => {}
            Owner::Mailbox => {
                // Before the look into it: what is posted after that wakes the next turn.
                self.ring.await_event(self.mailbox.event(), Owner::Mailbox);
                self.obey();
            }
            Owner::Connect(id, attempt) => {
                // What was given up was cancelled, and is answered nonetheless.
                if self.slots.get(id).is_some_and(|slot| slot.far.is_attempt(attempt)) {
                    self.completed((id, Leg::Far, Operation::Connect), completion.outcome);
                }
            }
            Owner::Leg(id, leg, operation) => self.completed((id, leg, operation), completion.outcome),
        }
    }

    fn completed(&mut self, (id, leg, operation): (SlotId, Leg, Operation), outcome: Outcome) {
        let decoded = complete::read(
            (id, leg, operation),
            outcome,
            &mut self.slots,
            self.now,
            &mut self.ring,
            &mut self.outbox.bufs,
        );
        match decoded {
            Decoded::Event(event) => self.step(id, event),
            Decoded::Again { is_handshake: false } => self.park(id, leg),
            Decoded::Again { is_handshake: true } => self.parked_handshakes.push_back((id, leg)),
            Decoded::Nothing => {}
        }
    }

    /// One event in, all its actions out; then the events that these caused at once, in the same way.
    fn step(&mut self, id: SlotId, event: Event) {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            let Some(slot) = self.slots.get(id) else { continue };
            let (now, may_offload) = (self.now, self.may_offload);
            let turn = Turn { now, may_offload, may_begin_full: self.limits.may_begin_full(now) };
            slot.conn.step(event, turn, &mut self.outbox);
            let [near, far] = std::mem::take(&mut self.outbox.received);
            if near > 0 {
                slot.route.counters.add(Counter::BytesFromNear, near);
            }
            if far > 0 {
                slot.route.counters.add(Counter::BytesFromFar, far);
                if let Some(took) = slot.phase.first_byte(now) {
                    slot.route.counters.times().first_byte.observe(took);
                }
            }
            let counters = &slot.route.counters;
            self.outbox.alerts.take(|leg, direction, place, count| {
                counters.alerts(leg, direction, place, u64::from(count));
            });
            if let Some(timeline) = slot.timeline() {
                timeline.bytes[0] += near;
                timeline.bytes[1] += far;
            }
            for _ in 0..std::mem::take(&mut self.outbox.full_begun) {
                self.limits.began_full(now);
            }
            let mut executor = Executor {
                slots: &mut self.slots,
                ring: &mut self.ring,
                timers: &mut self.timers,
                limits: &self.limits,
                worker: self.index,
                now: self.now,
            };
            for action in self.outbox.drain() {
                if let Action::Close(Report { fault: Some(fault), .. }) = &action {
                    self.faults.take(Kind::Fault(*fault), self.now, || executor.circumstances(id, &action));
                }
                if let Action::Close(report) = &action
                    && self.limits.logs_connections()
                {
                    executor.log(id, report, &mut self.unlogged);
                }
                match executor.apply(id, action) {
                    Applied::Started => {}
                    Applied::Event(event) => self.events.push_back(event),
                    Applied::Closed(report) => {
                        self.tidy_at.get_or_insert(self.now + TIDY_EVERY);
                        self.is_short |= report.fault == Some(Fault::NoDescriptor);
                    }
                }
            }
        }
        if self.slots.get(id).is_some_and(|slot| slot.conn.is_established()) {
            self.slots.finished(id);
        }
        self.set_timer(id);
    }

    fn set_timer(&mut self, id: SlotId) {
        let Some(slot) = self.slots.get(id) else { return };
        let Some(deadline) = slot.conn.deadline() else { return };
        let at = deadline.min(self.now + TIMER_MAX);
        if slot.timer.is_none_or(|set| at < set) {
            slot.timer = Some(at);
            self.timers.set(at, id);
        }
    }

    fn timer_fired(&mut self, id: SlotId) {
        let now = self.now;
        let Some(slot) = self.slots.get(id) else { return };
        let is_due = |leg: &Leg| slot.leg(*leg).look.as_ref().is_some_and(|look| look.at <= now);
        if let Some(leg) = Leg::BOTH.into_iter().find(is_due) {
            return self.look_again(id, leg);
        }
        if slot.timer.is_some_and(|set| set > now) {
            return;
        }
        slot.timer = None;
        if slot.conn.deadline().is_some_and(|deadline| deadline <= now) {
            self.step(id, Event::Expired);
        } else {
            self.set_timer(id);
        }
    }

    fn report(&mut self) {
        self.counters.set(Gauge::Connections, self.slots.len() as u64);
        self.counters.set(Gauge::Unfinished, self.slots.unfinished() as u64);
        let lent = self.outbox.bufs.lent().saturating_sub(self.ring.provided());
        self.counters.set(Gauge::BuffersLent, lent as u64);
        self.counters.set(Gauge::BufferBytes, self.outbox.bufs.held_bytes() as u64);
        self.counters.set(Gauge::Full, u64::from(self.is_full));
        self.faults.catch_up(self.now);
        // Beside those of connections there are the accept and the wait for the control plane.
        self.counters.set(Gauge::OperationsInFlight, self.ring.in_flight() as u64);
        // The last: whoever sees that none is open sees the rest.
        self.counted.retain(|counters| {
            counters.publish();
            // The registry has it, and this list.
            counters.has_open() || Arc::strong_count(counters) > 2
        });
    }

    fn look_again(&mut self, id: SlotId, leg: Leg) {
        let mut executor = Executor {
            slots: &mut self.slots,
            ring: &mut self.ring,
            timers: &mut self.timers,
            limits: &self.limits,
            worker: self.index,
            now: self.now,
        };
        if let Applied::Event(event) = executor.look_again(id, leg) {
            self.step(id, event);
        }
    }

    fn receive_again(&mut self, id: SlotId, leg: Leg) {
        if let Some(slot) = self.slots.get(id) {
            slot.leg(leg).receive_again(id, leg, &mut self.ring);
        }
    }
}

/// The one place of the data plane that reads the clock: once a turn, and between handshakes that wait.
#[expect(clippy::disallowed_methods, reason = "the worker owns the data plane's clock")]
fn clock() -> Instant {
    Instant::now()
}
