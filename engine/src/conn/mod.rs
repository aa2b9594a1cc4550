//! The data path: what happens to one connection, decided without a socket, a clock, a lock or a counter.
//!
//! ```text
//! accept → handshake → offload → relay → shutdown
//! dial ───↗
//! ```
//!
//! [`Conn::step`] takes one [`Event`], appends the [`Action`]s that follow from it, and cannot fail: a
//! failure is the shutdown stage with a [`Fault`]. A stage never changes itself into another; it says
//! `Next`, and only this file acts on it. No arrow points back.

use std::time::Instant;

mod accept;
pub mod action;
pub mod carrier;
mod dial;
pub mod event;
pub mod fault;
mod handshake;
mod offload;
pub mod policy;
mod relay;
mod shutdown;

use std::sync::Arc;

use accept::Accept;
use action::{Action, Evidence, Milestone, Outbox, Report};
use carrier::{Ended, Farewell, Offer, PlainEnd};
use dial::Dial;
use event::{Event, Leg, Operation};
use fault::Fault;
use handshake::{Failure, Handshake, Handshaken};
use offload::Offload;
use policy::{Policy, Security, Turn};
use relay::Relay;
use shutdown::Shutdown;

use crate::buf::{BUF_BYTES, Buf};
use crate::config::limits::Timeouts;
use crate::tls::Terms;
use crate::tls::cipher::MAX_OVERHEAD_BYTES;
use crate::tls::record::MAX_PLAINTEXT_BYTES;

/// Most bytes received at once from the TLS leg: a whole buffer.
const RECEIVE_BYTES: usize = BUF_BYTES;
/// Most records that are made of what is received at once from the plain leg.
const RECORDS: usize = BUF_BYTES.div_ceil(MAX_PLAINTEXT_BYTES);
/// Most bytes received at once from the plain leg: what fits into one buffer when it is sealed.
const PLAINTEXT_BYTES: usize = BUF_BYTES - RECORDS * MAX_OVERHEAD_BYTES;

/// One connection: a TLS leg and a plain leg. Which of them was accepted is a matter of its policy.
#[derive(Debug)]
pub struct Conn {
    policy: Arc<Policy>,
    course: Course,
}

/// Where a connection stands.
#[derive(Debug)]
struct Course {
    stage: Stage,
    busy: Busy,
    is_established: bool,
    deadline: Option<Instant>,
    drain_until: Option<Instant>,
    /// What may have been offending, for the report.
    evidence: Option<Box<Evidence>>,
}

#[derive(Debug)]
enum Stage {
    Accept(Accept),
    Dial(Dial),
    Handshake(Box<Handshake>),
    Offload(Box<Offload>),
    Relay(Box<Relay>),
    Shutdown(Shutdown),
    Closed,
}

/// What a stage says after an event.
#[derive(Debug)]
enum Next<T> {
    /// It goes on.
    Stay,
    /// It is complete; the stage after it gets this.
    Advance(T),
    /// It cannot go on.
    End(Fault),
}

/// What is under way on the TLS leg, whichever stage began it.
#[derive(Clone, Copy, Debug, Default)]
struct Busy {
    tls_receiving: bool,
    tls_sending: bool,
}

impl Conn {
    /// A connection whose near leg was accepted.
    #[must_use]
    pub fn new(policy: Arc<Policy>) -> Self {
        let (stage, busy) = (Stage::Accept(Accept::default()), Busy::default());
        let (is_established, deadline, drain_until, evidence) = (false, None, None, None);
        Self { policy, course: Course { stage, busy, is_established, deadline, drain_until, evidence } }
    }

    /// The policy under which it began.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// When it wants [`Event::Expired`], if nothing happens before; asked again after every step.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let Course { deadline, drain_until, .. } = &self.course;
        [*deadline, self.course.record_until(), *drain_until].into_iter().flatten().min()
    }

    /// Whether its handshake was completed.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.course.is_established
    }

    /// Whether it has asked to be closed; events after that are ignored.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.course.stage, Stage::Closed)
    }

    /// Takes one event; all that follows from it is in `out` when this returns.
    pub fn step(&mut self, event: Event, turn: Turn, out: &mut Outbox) {
        let Turn { now, may_offload } = turn;
        let offer = if may_offload { self.policy.offload } else { self.policy.offload.without_new() };
        self.course.step(event, now, &Rules { policy: &self.policy, offer }, out);
    }
}

/// The policy, and what of it holds in this turn.
struct Rules<'a> {
    policy: &'a Policy,
    /// What the kernel may be asked to carry.
    offer: Offer,
}

impl Rules<'_> {
    /// The terms of the leg with TLS.
    fn terms(&self) -> Option<&Terms> {
        [&self.policy.near, &self.policy.far].into_iter().find_map(Security::terms).map(Arc::as_ref)
    }

    fn originates(&self) -> bool {
        self.policy.far.terms().is_some()
    }
}

impl Course {
    /// When a record that the peer has begun is to be whole.
    fn record_until(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Relay(relay) => relay.record_until(),
            _ => None,
        }
    }

    fn step(&mut self, event: Event, now: Instant, rules: &Rules<'_>, out: &mut Outbox) {
        let is_news = matches!(event, Event::Moved { .. } | Event::Unreadable { .. });
        if is_news && !matches!(self.stage, Stage::Relay(_) | Stage::Shutdown(_)) {
            return;
        }
        self.busy.take(&event);
        match &event {
            Event::Opened => self.deadline = Some(now + rules.policy.timeouts.handshake),
            Event::Drain { until } => {
                self.drain_until = Some(self.drain_until.map_or(*until, |earlier| earlier.min(*until)));
            }
            // The kernel opens what comes, and what comes is a record that is not data.
            Event::Failed { leg: Leg::Tls, operation: Operation::Receive, errno: libc::EIO } => {}
            Event::Failed { errno, .. } => self.evidence.get_or_insert_default().errno = Some(*errno),
            _ => {}
        }
        let is_over = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        let drained = matches!(event, Event::Expired) && is_over(self.drain_until);
        let is_late = matches!(event, Event::Expired) && is_over(self.record_until());
        let stage = std::mem::replace(&mut self.stage, Stage::Closed);
        self.stage = match stage {
            Stage::Accept(_) if matches!(event, Event::Opened) && rules.originates() => {
                self.deadline = Some(now + rules.policy.timeouts.connect);
                self.dial(Dial, event, now, rules, out)
            }
            Stage::Accept(stage) => self.accept(stage, event, now, rules, out),
            Stage::Dial(stage) => self.dial(stage, event, now, rules, out),
            Stage::Handshake(stage) => self.handshake(stage, event, now, rules, out),
            Stage::Offload(stage) => self.offload(stage, event, now, rules, out),
            Stage::Relay(stage) if drained => self.end_relay(stage, Fault::DrainTimeout, now, rules, out),
            Stage::Relay(stage) if is_late => self.end_relay(stage, Fault::RecordTimeout, now, rules, out),
            Stage::Relay(stage) => self.relay(stage, event, now, rules, out),
            Stage::Shutdown(mut stage) => {
                if matches!(event, Event::Expired) {
                    // Of the TLS leg; what the plain leg is to get has a time of its own.
                    self.deadline = None;
                }
                let next = stage.on(event, drained, self.busy, out);
                self.close_or(stage, next, out)
            }
            Stage::Closed => {
                if let Event::Received { buf, .. } | Event::Sent { buf, .. } | Event::Record { buf, .. } =
                    event
                {
                    out.bufs.give(buf);
                }
                Stage::Closed
            }
        };
        self.busy.give(out.actions());
    }

    fn accept(
        &mut self,
        mut stage: Accept,
        event: Event,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) -> Stage {
        let ended = match stage.on(event, out) {
            Ok(Next::Stay) => return Stage::Accept(stage),
            Ok(Next::Advance(first)) => return self.begin_handshake(first, now, rules, out),
            Ok(Next::End(fault)) => Ended::silently(fault),
            Err(failure) => failure.into(),
        };
        if stage.first_bytes.is_some() {
            self.evidence.get_or_insert_default().reason = stage.first_bytes;
        }
        self.end(ended, now, rules, out)
    }

    fn dial(
        &mut self,
        mut stage: Dial,
        event: Event,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) -> Stage {
        match stage.on(event, out) {
            Next::Stay => Stage::Dial(stage),
            Next::End(fault) => self.end(Ended::silently(fault), now, rules, out),
            Next::Advance(()) => {
                self.deadline = Some(now + rules.policy.timeouts.handshake);
                self.begin_handshake(Buf::with_capacity(0), now, rules, out)
            }
        }
    }

    fn begin_handshake(&mut self, first: Buf, now: Instant, rules: &Rules<'_>, out: &mut Outbox) -> Stage {
        let Some(terms) = rules.terms() else {
            out.bufs.give(first);
            return self.end(Ended::silently(Fault::Internal), now, rules, out);
        };
        match Handshake::begin(terms, first, out) {
            Ok(handshake) => Stage::Handshake(Box::new(handshake)),
            Err(mut failure) => {
                self.keep(failure.evidence.take());
                self.end(failure.into(), now, rules, out)
            }
        }
    }

    fn handshake(
        &mut self,
        mut stage: Box<Handshake>,
        event: Event,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) -> Stage {
        match stage.on(event, out) {
            Ok(Next::Stay) => Stage::Handshake(stage),
            Ok(Next::Advance(())) => match stage.finish(out) {
                Ok(handshaken) => self.begin_offload(handshaken, now, rules, out),
                Err(mut failure) => {
                    self.keep(failure.evidence.take());
                    self.end(failure.into(), now, rules, out)
                }
            },
            Ok(Next::End(fault)) => {
                stage.release(out);
                self.end(Ended::silently(fault), now, rules, out)
            }
            Err(failure) => {
                self.keep(Some(stage.evidence()));
                stage.release(out);
                self.end(failure.into(), now, rules, out)
            }
        }
    }

    fn begin_offload(
        &mut self,
        handshaken: Handshaken,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) -> Stage {
        let (version, resumed) = (handshaken.established.version, handshaken.established.resumed);
        out.push(Action::Note(Milestone::Established { version, resumed }));
        self.is_established = true;
        let mut stage = Box::new(Offload::begin(handshaken, rules.offer));
        let next = stage.advance(out);
        self.after_offload(stage, next, now, rules, out)
    }

    fn offload(
        &mut self,
        mut stage: Box<Offload>,
        event: Event,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) -> Stage {
        let next = stage.on(event, out);
        self.after_offload(stage, next, now, rules, out)
    }

    fn after_offload(
        &mut self,
        stage: Box<Offload>,
        next: Next<()>,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) -> Stage {
        match next {
            Next::Stay => Stage::Offload(stage),
            Next::End(fault) => {
                stage.release(out);
                self.end(Ended::silently(fault), now, rules, out)
            }
            Next::Advance(()) => {
                self.deadline = Some(now + rules.policy.timeouts.connect);
                let relay = Box::new(Relay::begin(stage.finish(out), now, rules, out));
                if rules.originates() {
                    return self.relay(relay, Event::Connected, now, rules, out);
                }
                Stage::Relay(relay)
            }
        }
    }

    fn relay(
        &mut self,
        mut stage: Box<Relay>,
        event: Event,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) -> Stage {
        let moved = matches!(
            event,
            Event::Connected
                | Event::Received { .. }
                | Event::Moved { .. }
                | Event::Sent { .. }
                | Event::Record { .. }
        );
        let had_lost_its_peer = stage.has_lost_its_peer();
        match stage.on(event, now, rules.offer, out) {
            Next::Stay => {
                if moved && stage.is_connected() || stage.has_lost_its_peer() != had_lost_its_peer {
                    let Timeouts { idle, drain, .. } = rules.policy.timeouts;
                    self.deadline =
                        Some(now + if stage.has_lost_its_peer() { drain.min(idle) } else { idle });
                }
                Stage::Relay(stage)
            }
            Next::End(fault) => self.end_relay(stage, fault, now, rules, out),
            Next::Advance(()) => {
                let ended = stage.orderly_end();
                stage.release(out);
                self.end(ended, now, rules, out)
            }
        }
    }

    fn end_relay(
        &mut self,
        mut stage: Box<Relay>,
        fault: Fault,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) -> Stage {
        let ended = stage.farewell(fault, out);
        stage.release(out);
        self.end(ended, now, rules, out)
    }

    /// Keeps what a stage knows beside what the system said.
    fn keep(&mut self, evidence: Option<Evidence>) {
        if let Some(evidence) = evidence {
            let errno = self.evidence.take().and_then(|before| before.errno);
            self.evidence = Some(Box::new(Evidence { errno, ..evidence }));
        }
    }

    /// Into the last stage, from wherever.
    fn end(&mut self, ended: Ended, now: Instant, rules: &Rules<'_>, out: &mut Outbox) -> Stage {
        let Timeouts { linger, drain, .. } = rules.policy.timeouts;
        self.deadline = Some(now + if ended.is_deaf { drain } else { linger });
        self.drain_until = match &ended.plain {
            PlainEnd::DeliverThenReset(_) => {
                let until = now + drain;
                Some(self.drain_until.map_or(until, |earlier| earlier.min(until)))
            }
            PlainEnd::InOrder | PlainEnd::Reset => None,
        };
        // What this very event has begun on the TLS leg counts too.
        self.busy.give(out.actions());
        let (stage, next) = Shutdown::begin(ended, self.busy, out);
        self.close_or(stage, next, out)
    }

    fn close_or(&mut self, stage: Shutdown, next: Next<Report>, out: &mut Outbox) -> Stage {
        match next {
            Next::Advance(report) => {
                (self.deadline, self.drain_until) = (None, None);
                let evidence = self.evidence.take().filter(|_| report.fault.is_some());
                out.push(Action::Close(Report { evidence, ..report }));
                Stage::Closed
            }
            Next::Stay | Next::End(_) => Stage::Shutdown(stage),
        }
    }
}

impl Busy {
    fn take(&mut self, event: &Event) {
        use event::Operation as O;
        match event {
            Event::Received { leg: Leg::Tls, .. }
            | Event::Record { .. }
            | Event::Failed { leg: Leg::Tls, operation: O::Receive, .. } => self.tls_receiving = false,
            Event::Sent { leg: Leg::Tls, .. } | Event::Failed { leg: Leg::Tls, operation: O::Send, .. } => {
                self.tls_sending = false;
            }
            _ => {}
        }
    }

    fn give(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Receive { leg: Leg::Tls, .. }
                | Action::ReceiveInto { leg: Leg::Tls, .. }
                | Action::ReceiveHandshake
                | Action::ReceiveRecord { .. } => self.tls_receiving = true,
                Action::Send { leg: Leg::Tls, .. } | Action::SendRecord { .. } => self.tls_sending = true,
                _ => {}
            }
        }
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        let farewell = failure.alert.map_or(Farewell::Silent, Farewell::Bytes);
        Self { farewell, heard: failure.heard, ..Self::silently(failure.fault) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_connection_is_small() {
        // Resident memory of an idle connection is this, its stage, and the kernel's.
        assert!(size_of::<Conn>() <= 160, "{} bytes", size_of::<Conn>());
        assert!(size_of::<Relay>() <= 2048, "{} bytes", size_of::<Relay>());
    }
}
