//! What one thread counts, and when it counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use offramp_ring::clock;
use rustls::HandshakeKind;

use super::connection::Connection;
use crate::failure::Failure;
use crate::plan::{Load, Plan, Until, Work};
use crate::schedule::{Gate, Window};
use crate::series::{Interval, Series};
use crate::session::Established;
use crate::tally::{Part, Sample, Tally, record_coarse};
use crate::task::Progress;

/// What the threads of a run share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) start: Instant,
    pub(super) gate: Gate,
    pub(super) series: Series,
    /// Connections that were counted, where a plan asks for a number of them.
    counted: AtomicU64,
    /// The run is broken off, or interrupted.
    pub(super) stop: AtomicBool,
    /// It is interrupted.
    pub(super) interrupted: AtomicBool,
}

impl Shared {
    pub(super) fn new(plan: &Plan, start: Instant) -> Self {
        let places = match plan.load {
            Load::Closed { connections } => connections,
            Load::Open { .. } => 0,
        };
        Self {
            start,
            gate: Gate::new(places, start + plan.warm_up, plan.measured()),
            series: Series::default(),
            counted: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
        }
    }
}

/// One thread's counts.
pub(super) struct Meter<'a> {
    plan: &'a Plan,
    shared: Arc<Shared>,
    window: Option<Window>,
    pub(super) tally: Tally,
    interval: Interval,
    second: u64,
    cpu_ns: u64,
    /// CPU time when counting began, and when it ended.
    counted_cpu_ns: [Option<u64>; 2],
    /// The latency that the plan is about.
    subject: Part,
}

impl<'a> Meter<'a> {
    pub(super) fn new(plan: &'a Plan, shared: Arc<Shared>) -> Self {
        // An open loop's plan says when counting begins; a closed loop's begins when all are active.
        let window = match plan.load {
            Load::Open { .. } => Some(Window::new(shared.start + plan.warm_up, plan.measured())),
            Load::Closed { .. } => None,
        };
        Self {
            plan,
            shared,
            window,
            tally: Tally::default(),
            interval: Interval::default(),
            second: 0,
            cpu_ns: cpu_ns(),
            counted_cpu_ns: [None; 2],
            subject: subject(&plan.work),
        }
    }

    /// Looks at the time: whether counting begins, whether a second is over. `open` connections are.
    pub(super) fn tick(&mut self, now: Instant, open: usize) {
        if self.window.is_none() {
            self.window = self.shared.gate.window(now);
        }
        let [begin, end] = &mut self.counted_cpu_ns;
        if begin.is_none() && self.window.is_some_and(|window| now >= window.start()) {
            *begin = Some(cpu_ns());
        }
        // A run by count counts until its last connection is done.
        if end.is_none() && matches!(self.plan.until, Until::Elapsed(_)) && self.is_over(now) {
            self.counted_cpu_ns[1] = Some(cpu_ns());
        }
        let second = now.saturating_duration_since(self.shared.start).as_secs();
        if second != self.second {
            self.flush(open);
            self.second = second;
        }
    }

    fn flush(&mut self, open: usize) {
        let cpu_ns = cpu_ns();
        self.interval.open = open as u64;
        self.interval.cpu_ns = cpu_ns.saturating_sub(self.cpu_ns);
        self.cpu_ns = cpu_ns;
        self.shared.series.add(self.second, &std::mem::take(&mut self.interval));
    }

    /// Ends the count: the tally, when counting began, and the CPU time while it counted.
    pub(super) fn finish(mut self) -> (Tally, Option<Window>, Duration) {
        self.flush(0);
        let [begin, end] = self.counted_cpu_ns;
        let cpu_ns = end.unwrap_or(self.cpu_ns).saturating_sub(begin.unwrap_or(self.cpu_ns));
        (self.tally, self.window, Duration::from_nanos(cpu_ns))
    }

    /// Whether no new work begins any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let counted = |n| self.shared.counted.load(Ordering::Acquire) >= n;
        self.shared.stop.load(Ordering::Acquire)
            || matches!(self.plan.until, Until::Counted(n) if counted(n))
            || self.window.is_some_and(|window| window.is_over(now))
    }

    /// Whether, so long after the end, what is still under way will not end by itself.
    pub(super) fn is_exceeded(&self, now: Instant) -> bool {
        self.shared.stop.load(Ordering::Acquire)
            || self.window.is_some_and(|window| window.is_exceeded(now, self.plan.patience))
    }

    /// Whether counting has begun.
    pub(super) fn counts_already(&self, now: Instant) -> bool {
        self.window.is_some_and(|window| now >= window.start())
    }

    /// When it counts, once that is known.
    pub(super) fn window(&self) -> Option<Window> {
        self.window
    }

    /// Whether a connection is a sample: it is its (planned) start that decides, and for all that becomes of
    /// it, so that none is left out because it was slow. To be asked once for each.
    pub(super) fn admit(&mut self, planned: Instant) -> bool {
        let within = self.window.is_some_and(|window| window.counts(planned));
        within
            && match self.plan.until {
                Until::Elapsed(_) => true,
                Until::Counted(n) => self.shared.counted.fetch_add(1, Ordering::AcqRel) < n,
            }
    }

    /// Whether a connection is one of those that carry what counts: one that lasts began in the warm-up, and
    /// is no sample of a handshake.
    fn carries(&self, connection: &Connection) -> bool {
        connection.wish.counts || self.plan.work.lasts()
    }

    pub(super) fn started(&mut self, connection: &Connection, held_back: bool) {
        self.interval.started += 1;
        let (times, counts) = (&connection.times, connection.wish.counts);
        self.tally.started += u64::from(self.carries(connection));
        self.tally.capped += u64::from(counts && held_back);
        if counts && !held_back && matches!(self.plan.load, Load::Open { .. }) {
            self.tally.part(Part::Late, times.started.saturating_duration_since(times.planned));
        }
    }

    /// The handshake is done.
    pub(super) fn established(&mut self, connection: &Connection, established: Established, now: Instant) {
        let (times, wish) = (&connection.times, &connection.wish);
        let ready = now.saturating_duration_since(times.planned);
        let resumed = established.kind == HandshakeKind::Resumed;
        self.interval.handshakes += 1;
        self.interval.not_resumed += u64::from(wish.choice.resume && !wish.fetches && !resumed);
        if self.subject == Part::Ready {
            record_coarse(&mut self.interval.latency, ready);
        }
        if wish.foreign {
            self.tally.foreign_ticket(resumed);
        }
        let completed = match self.plan.until {
            Until::Elapsed(_) => !wish.fetches && self.window.is_some_and(|window| window.counts(now)),
            // It ends with its last sample: others that were still on their way when it began are none.
            Until::Counted(_) => wish.counts,
        };
        self.tally.completed += u64::from(completed);
        if self.carries(connection) {
            self.tally.handshake(&Sample {
                established,
                version: wish.choice.version,
                resume: wish.choice.resume,
                offered: wish.offered.is_some(),
            });
        }
        if wish.counts {
            let connected = times.connected.unwrap_or(now);
            self.tally.part(Part::Connect, connected.saturating_duration_since(times.started));
            self.tally.part(Part::Handshake, now.saturating_duration_since(connected));
            self.tally.part(Part::Ready, ready);
        }
    }

    /// The first byte of application data came.
    pub(super) fn first_byte(&mut self, connection: &Connection, now: Instant) {
        let times = &connection.times;
        let total = now.saturating_duration_since(times.planned);
        if self.subject == Part::Total {
            record_coarse(&mut self.interval.latency, total);
        }
        if connection.wish.counts {
            let ready = times.ready.unwrap_or(now);
            self.tally.part(Part::FirstByte, now.saturating_duration_since(ready));
            self.tally.part(Part::Total, total);
        }
    }

    /// The connection ended as it should; `close` took that long where it was orderly.
    pub(super) fn done(&mut self, connection: &Connection, close: Option<Duration>) {
        self.interval.done += 1;
        self.tally.ended += 1;
        self.tally.done += u64::from(self.carries(connection));
        if let Some(close) = close.filter(|_| connection.wish.counts) {
            self.tally.part(Part::Close, close);
        }
    }

    /// A message was due then, and is never answered.
    pub(super) fn unanswered(&mut self, due: Instant) {
        if self.shared.interrupted.load(Ordering::Acquire) {
            return;
        }
        self.tally.unanswered += u64::from(self.window.is_some_and(|window| window.counts(due)));
    }

    /// From `due` to the end, a message was due every so often, and none was sent.
    pub(super) fn never_sent(&mut self, due: Instant, gap: Duration) {
        let Some(window) = self.window else { return };
        let missing = window.end().saturating_duration_since(due.max(window.start()));
        self.tally.unanswered += missing.div_duration_f64(gap).ceil() as u64;
    }

    pub(super) fn failed(&mut self, failure: &Failure) {
        self.interval.failed += 1;
        self.tally.failure(failure);
    }

    /// An HTTP answer had this status.
    pub(super) fn status(&mut self, connection: &Connection, status: u16) {
        if connection.wish.counts {
            self.tally.status(status);
        }
    }

    pub(super) fn progress(&mut self, progress: &Progress, now: Instant) {
        let counts = self.window.is_some_and(|window| window.counts(now));
        self.interval.down += progress.down;
        self.interval.up += progress.up;
        self.interval.messages += progress.messages.len() as u64;
        if counts {
            self.tally.down += progress.down;
            self.tally.up += progress.up;
            self.tally.answered += progress.messages.len() as u64;
        }
        for latency in &progress.messages {
            record_coarse(&mut self.interval.latency, *latency);
            // It is when it was due that decides, so that none is left out because it was slow.
            let due = now.checked_sub(*latency).unwrap_or(now);
            if self.window.is_some_and(|window| window.counts(due)) {
                self.tally.part(Part::Message, *latency);
            }
        }
    }
}

/// The latency that a plan is about.
pub(super) fn subject(work: &Work) -> Part {
    match work {
        Work::Handshake(crate::plan::Request::None) => Part::Ready,
        Work::Handshake(_) => Part::Total,
        Work::Message { .. } | Work::Msrp { .. } => Part::Message,
        Work::ToClient | Work::FromClient | Work::BothWays => Part::Ready,
    }
}

/// CPU time of this thread; 0 where the kernel does not count it.
fn cpu_ns() -> u64 {
    clock::thread_cpu().map_or(0, |cpu| u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX))
}
