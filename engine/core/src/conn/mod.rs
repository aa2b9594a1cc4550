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
mod connect;
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
use carrier::{Ended, Farewell, LegEnd, Offer, TlsEnd};
use connect::Connect;
use event::{Event, Leg, Operation};
use fault::Fault;
use handshake::{Failure, Handshake, Handshaken};
use offload::Offload;
use policy::{Policy, Security, Turn};
use relay::{Cut, Ending, PlainSide, Relay, Side, TlsSide};
use shutdown::{Shutdown, give_back};

use crate::buf::{BUF_BYTES, Buf};
use crate::config::Timeouts;
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
    /// How many endpoints the route has.
    endpoints: usize,
    /// The near side, ready, until the far one is.
    near: Option<Side>,
    is_established: bool,
    deadline: Option<Instant>,
    drain_until: Option<Instant>,
    /// What may have been offending, for the report.
    evidence: Option<Box<Evidence>>,
}

#[derive(Debug)]
enum Stage {
    /// The near leg is not open.
    Begin,
    Accept(Accept),
    Connect(Connect),
    Handshake(Box<Handshake>),
    Offload(Box<Offload>),
    Relay(Box<Relay>),
    Shutdown(Box<Shutdown>),
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

/// What is under way on the legs, whichever stage began it.
#[derive(Clone, Copy, Debug, Default)]
struct Busy {
    near: LegBusy,
    far: LegBusy,
}

#[derive(Clone, Copy, Debug, Default)]
struct LegBusy {
    receiving: bool,
    sending: bool,
}

impl Conn {
    /// A connection whose near leg was accepted and whose route has so many endpoints, at least one.
    #[must_use]
    pub fn new(policy: Arc<Policy>, endpoints: usize) -> Self {
        let course = Course {
            stage: Stage::Begin,
            busy: Busy::default(),
            endpoints,
            near: None,
            is_established: false,
            deadline: None,
            drain_until: None,
            evidence: None,
        };
        Self { policy, course }
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
        [*deadline, self.course.record_until().map(|(until, _)| until), *drain_until]
            .into_iter()
            .flatten()
            .min()
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

impl Course {
    /// When a record that a peer has begun is to be whole.
    fn record_until(&self) -> Option<(Instant, Leg)> {
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
            Event::Failed { operation: Operation::Receive, errno: libc::EIO, .. } => {}
            Event::Failed { errno, .. } => self.evidence.get_or_insert_default().errno = Some(*errno),
            _ => {}
        }
        let stage = std::mem::replace(&mut self.stage, Stage::Closed);
        self.stage = match stage {
            Stage::Begin => self.open_near(event, now, rules, out),
            Stage::Accept(stage) => self.accept(stage, event, now, rules, out),
            Stage::Connect(stage) => self.connect(stage, event, now, rules, out),
            Stage::Handshake(stage) => self.handshake(stage, event, now, rules, out),
            Stage::Offload(stage) => self.offload(stage, event, now, rules, out),
            Stage::Relay(stage) if matches!(event, Event::Expired) => {
                let late = stage.record_until().filter(|(until, _)| *until <= now);
                let cut = match late {
                    _ if self.drain_until.is_some_and(|until| until <= now) => {
                        Cut { fault: Fault::DrainTimeout, culprit: None }
                    }
                    Some((_, leg)) => Cut { fault: Fault::RecordTimeout, culprit: Some(leg) },
                    None => {
                        self.stage = self.relay(stage, event, now, rules, out);
                        return self.busy.give(out.actions());
                    }
                };
                let ended = stage.end(cut, out);
                self.end(ended, now, rules, out)
            }
            Stage::Relay(stage) => self.relay(stage, event, now, rules, out),
            Stage::Shutdown(mut stage) => {
                stage.on(event, now, out);
                self.go_on_ending(stage, out)
            }
            Stage::Closed => {
                give_back(event, out);
                Stage::Closed
            }
        };
        self.busy.give(out.actions());
    }

    /// The near leg was accepted: it is secured first.
    fn open_near(&mut self, event: Event, now: Instant, rules: &Rules<'_>, out: &mut Outbox) -> Stage {
        match event {
            Event::Opened => self.secure(Leg::Near, now, rules, out),
            Event::Drain { .. } => Stage::Begin,
            other => {
                give_back(other, out);
                self.fail(Cut { fault: Fault::Internal, culprit: None }, LegEnd::Closed, now, rules, out)
            }
        }
    }

    /// A leg is open: it is secured as its policy has it.
    fn secure(&mut self, leg: Leg, now: Instant, rules: &Rules<'_>, out: &mut Outbox) -> Stage {
        match rules.policy.security(leg) {
            Security::Plain => self.join(Side::Plain(PlainSide::new(leg)), leg, now, rules, out),
            Security::Tls(terms) if terms.originates() => {
                self.begin_handshake(leg, Buf::with_capacity(0), now, rules, out)
            }
            Security::Tls(_) => Stage::Accept(Accept::begin(leg, out)),
        }
    }

    /// A leg is ready to move bytes: the far one is connected, or the relay begins.
    fn join(&mut self, side: Side, leg: Leg, now: Instant, rules: &Rules<'_>, out: &mut Outbox) -> Stage {
        match (leg, self.near.take()) {
            (Leg::Near, _) => {
                self.near = Some(side);
                self.deadline = Some(now + rules.policy.timeouts.connect);
                Stage::Connect(Connect::begin(out))
            }
            (Leg::Far, Some(near)) => {
                self.is_established = true;
                self.deadline = Some(now + rules.policy.timeouts.idle);
                let mut relay = Box::new(Relay::begin(near, side));
                let result = relay.start(now, rules, out);
                self.after_relay(relay, result, now, rules, out)
            }
            (Leg::Far, None) => {
                self.fail(Cut { fault: Fault::Internal, culprit: None }, LegEnd::Closed, now, rules, out)
            }
        }
    }

    fn accept(
        &mut self,
        mut stage: Accept,
        event: Event,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) -> Stage {
        let leg = stage.leg();
        let (fault, end) = match stage.on(event, out) {
            Ok(Next::Stay) => return Stage::Accept(stage),
            Ok(Next::Advance(first)) => return self.begin_handshake(leg, first, now, rules, out),
            Ok(Next::End(fault)) => (fault, LegEnd::Closed),
            Err(failure) => (failure.fault, failure.into()),
        };
        if stage.first_bytes.is_some() {
            self.evidence.get_or_insert_default().reason = stage.first_bytes;
        }
        self.fail(Cut { fault, culprit: Some(leg) }, end, now, rules, out)
    }

    fn connect(
        &mut self,
        mut stage: Connect,
        event: Event,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) -> Stage {
        match stage.on(event, self.endpoints, out) {
            Next::Stay => Stage::Connect(stage),
            Next::End(fault) => {
                self.fail(Cut { fault, culprit: Some(Leg::Far) }, LegEnd::Closed, now, rules, out)
            }
            Next::Advance(()) => {
                self.deadline = Some(now + rules.policy.timeouts.handshake);
                self.secure(Leg::Far, now, rules, out)
            }
        }
    }

    fn begin_handshake(
        &mut self,
        leg: Leg,
        first: Buf,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) -> Stage {
        let Security::Tls(terms) = rules.policy.security(leg) else {
            out.bufs.give(first);
            return self.fail(Cut { fault: Fault::Internal, culprit: None }, LegEnd::Closed, now, rules, out);
        };
        match Handshake::begin(terms, leg, first, out) {
            Ok(handshake) => Stage::Handshake(Box::new(handshake)),
            Err(failure) => self.refuse(leg, failure, now, rules, out),
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
        let leg = stage.leg();
        match stage.on(event, out) {
            Ok(Next::Stay) => Stage::Handshake(stage),
            Ok(Next::Advance(())) => match stage.finish(out) {
                Ok(handshaken) => self.begin_offload(leg, handshaken, now, rules, out),
                Err(failure) => self.refuse(leg, failure, now, rules, out),
            },
            Ok(Next::End(fault)) => {
                stage.release(out);
                self.fail(Cut { fault, culprit: Some(leg) }, LegEnd::Closed, now, rules, out)
            }
            Err(failure) => {
                self.keep(Some(stage.evidence()));
                stage.release(out);
                self.refuse(leg, failure, now, rules, out)
            }
        }
    }

    fn refuse(
        &mut self,
        leg: Leg,
        mut failure: Failure,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) -> Stage {
        self.keep(failure.evidence.take());
        let (cut, heard) = (Cut { fault: failure.fault, culprit: Some(leg) }, failure.heard);
        let ended = self.ended(cut, heard, failure.into(), out);
        self.end(ended, now, rules, out)
    }

    fn begin_offload(
        &mut self,
        leg: Leg,
        handshaken: Handshaken,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) -> Stage {
        let (version, resumed) = (handshaken.established.version, handshaken.established.resumed);
        out.push(Action::Note(Milestone::Established { version, resumed }));
        self.is_established = true;
        let mut stage = Box::new(Offload::begin(handshaken, leg, rules.offer));
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
        let leg = stage.leg();
        match next {
            Next::Stay => Stage::Offload(stage),
            Next::End(fault) => {
                stage.release(out);
                self.fail(Cut { fault, culprit: Some(leg) }, LegEnd::Closed, now, rules, out)
            }
            Next::Advance(()) => {
                let side = TlsSide::new(stage.finish(out), leg, now, rules);
                self.join(Side::Tls(Box::new(side)), leg, now, rules, out)
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
            Event::Received { .. } | Event::Moved { .. } | Event::Sent { .. } | Event::Record { .. }
        );
        let had_lost_a_peer = stage.has_lost_a_peer();
        let result = stage.on(event, now, rules, out);
        if moved || stage.has_lost_a_peer() != had_lost_a_peer {
            let Timeouts { idle, drain, .. } = rules.policy.timeouts;
            self.deadline = Some(now + if stage.has_lost_a_peer() { drain.min(idle) } else { idle });
        }
        self.after_relay(stage, result, now, rules, out)
    }

    fn after_relay(
        &mut self,
        stage: Box<Relay>,
        result: Result<bool, Cut>,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) -> Stage {
        let ended = match result {
            Ok(false) => return Stage::Relay(stage),
            Ok(true) => stage.end_in_order(out),
            Err(cut) => stage.end(cut, out),
        };
        self.end(ended, now, rules, out)
    }

    /// Keeps what a stage knows beside what the system said.
    fn keep(&mut self, evidence: Option<Evidence>) {
        if let Some(evidence) = evidence {
            let errno = self.evidence.take().and_then(|before| before.errno);
            self.evidence = Some(Box::new(Evidence { errno, ..evidence }));
        }
    }

    /// Before the relay: the leg that is being opened ends like this, and the near one, if it is ready, too.
    fn fail(&mut self, cut: Cut, end: LegEnd, now: Instant, rules: &Rules<'_>, out: &mut Outbox) -> Stage {
        let ended = self.ended(cut, None, end, out);
        self.end(ended, now, rules, out)
    }

    fn ended(&mut self, cut: Cut, heard: Option<u8>, end: LegEnd, out: &mut Outbox) -> Ended {
        let Cut { fault, culprit } = cut;
        let (near, far) = match self.near.take() {
            None => (end, LegEnd::Closed),
            // Nothing of it was passed on: there is nothing to be delivered.
            Some(Side::Plain(_)) => (LegEnd::plain(fault.is_somebodys()), end),
            Some(near) => (near.end(Ending { fault, culprit, is_cut: false }, None, out), end),
        };
        Ended { fault: Some(fault), culprit, heard, near, far }
    }

    /// Into the last stage, from wherever.
    fn end(&mut self, ended: Ended, now: Instant, rules: &Rules<'_>, out: &mut Outbox) -> Stage {
        // What this very event has begun counts too.
        self.busy.give(out.actions());
        let mut stage = Box::new(Shutdown::begin(ended, now, rules.policy.timeouts, out));
        if let Some(until) = self.drain_until.take() {
            stage.on(Event::Drain { until }, now, out);
        }
        self.go_on_ending(stage, out)
    }

    fn go_on_ending(&mut self, mut stage: Box<Shutdown>, out: &mut Outbox) -> Stage {
        self.busy.give(out.actions());
        match stage.advance(self.busy, out) {
            None => {
                (self.deadline, self.drain_until) = (stage.deadline(), None);
                Stage::Shutdown(stage)
            }
            Some(report) => {
                (self.deadline, self.drain_until) = (None, None);
                let evidence = self.evidence.take().filter(|_| report.fault.is_some());
                out.push(Action::Close(Report { evidence, ..report }));
                Stage::Closed
            }
        }
    }
}

impl Busy {
    fn leg(&mut self, leg: Leg) -> &mut LegBusy {
        match leg {
            Leg::Near => &mut self.near,
            Leg::Far => &mut self.far,
        }
    }

    fn is_sending(mut self, leg: Leg) -> bool {
        self.leg(leg).sending
    }

    fn is_receiving(mut self, leg: Leg) -> bool {
        self.leg(leg).receiving
    }

    fn take(&mut self, event: &Event) {
        use event::Operation as O;
        match event {
            Event::Received { leg, .. }
            | Event::Record { leg, .. }
            | Event::Failed { leg, operation: O::Receive, .. } => self.leg(*leg).receiving = false,
            Event::Sent { leg, .. } | Event::Failed { leg, operation: O::Send, .. } => {
                self.leg(*leg).sending = false;
            }
            _ => {}
        }
    }

    fn give(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Receive { leg, .. }
                | Action::ReceiveInto { leg, .. }
                | Action::ReceiveHandshake { leg }
                | Action::ReceiveRecord { leg, .. } => self.leg(*leg).receiving = true,
                Action::Send { leg, .. } | Action::SendRecord { leg, .. } => self.leg(*leg).sending = true,
                _ => {}
            }
        }
    }
}

impl From<Failure> for LegEnd {
    fn from(failure: Failure) -> Self {
        failure.alert.map_or(Self::Closed, |alert| Self::Tls(TlsEnd::saying(Farewell::Bytes(alert))))
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
