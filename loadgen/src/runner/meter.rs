//! What one thread counts, and when it counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use offramp::sys::clock;
use rustls::HandshakeKind;

use super::connection::{Connection, Times};
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
    /// The run is broken off.
    pub(super) stop: AtomicBool,
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
        if end.is_none() && self.is_over(now) {
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

    /// Whether a connection counts: in an open loop it is its planned start that decides, so that none is
    /// left out because it was slow. One that serves for the whole run counts in any case: it begins in the
    /// warm-up.
    fn counts(&self, times: &Times, now: Instant) -> bool {
        if self.plan.work.lasts() {
            return true;
        }
        let moment = match self.plan.load {
            Load::Open { .. } => times.planned,
            Load::Closed { .. } => now,
        };
        self.window.is_some_and(|window| window.counts(moment))
    }

    pub(super) fn started(&mut self, times: &Times, capped: bool) {
        self.interval.started += 1;
        if self.counts(times, times.started) {
            self.tally.started += 1;
            self.tally.capped += u64::from(capped);
            if !capped && matches!(self.plan.load, Load::Open { .. }) {
                self.tally.part(Part::Late, times.started.saturating_duration_since(times.planned));
            }
        }
    }

    /// The handshake is done.
    pub(super) fn established(&mut self, connection: &Connection, established: Established, now: Instant) {
        self.interval.handshakes += 1;
        let (times, wish) = (&connection.times, connection.wish);
        let ready = now - times.planned;
        if self.subject == Part::Ready {
            record_coarse(&mut self.interval.latency, ready);
        }
        if wish.foreign {
            self.tally.foreign_ticket(established.kind == HandshakeKind::Resumed);
        }
        if wish.fetches || !self.counts(times, now) {
            return;
        }
        if let Until::Counted(n) = self.plan.until
            && self.shared.counted.fetch_add(1, Ordering::AcqRel) >= n
        {
            return;
        }
        let connected = times.connected.unwrap_or(now);
        self.tally.part(Part::Connect, connected.saturating_duration_since(times.started));
        self.tally.part(Part::Handshake, now.saturating_duration_since(connected));
        self.tally.part(Part::Ready, ready);
        self.tally.handshake(&Sample {
            established,
            version: wish.version,
            resume: wish.resume,
            offered: wish.offered,
        });
    }

    /// The first byte of application data came.
    pub(super) fn first_byte(&mut self, connection: &Connection, now: Instant) {
        let times = &connection.times;
        let total = now - times.planned;
        if self.subject == Part::Total {
            record_coarse(&mut self.interval.latency, total);
        }
        if !connection.wish.fetches && self.counts(times, now) {
            self.tally.part(Part::FirstByte, now - times.ready.unwrap_or(now));
            self.tally.part(Part::Total, total);
        }
    }

    /// The connection ended as it should; `close` took that long where it was orderly.
    pub(super) fn done(&mut self, times: &Times, close: Option<Duration>, now: Instant) {
        self.interval.done += 1;
        if self.counts(times, now) {
            self.tally.done += 1;
            if let Some(close) = close {
                self.tally.part(Part::Close, close);
            }
        }
    }

    pub(super) fn failed(&mut self, failure: &Failure) {
        self.interval.failed += 1;
        self.tally.failure(failure);
    }

    pub(super) fn progress(&mut self, progress: &Progress, now: Instant) {
        let counts = self.window.is_some_and(|window| window.counts(now));
        self.interval.down += progress.down;
        self.interval.up += progress.up;
        self.interval.messages += progress.messages.len() as u64;
        if counts {
            self.tally.down += progress.down;
            self.tally.up += progress.up;
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
