//! The course of a connection from one stage to the next. A stage never changes itself into another; it says
//! `Next`, and only this file acts on it.

use std::sync::Arc;
use std::time::Instant;

use super::accept::Accept;
use super::action::{Action, Evidence, Outbox, Report};
use super::busy::Busy;
use super::connect::Connect;
use super::event::{Event, Leg, Operation};
use super::fault::{Blame, Fault};
use super::handshake::{Failure, Finished, Handshake, Handshaken};
use super::hold::Hold;
use super::offload::Offload;
use super::policy::Security;
use super::record_path::{Ended, LastRecord, LegEnd, PlainEnd, TlsEnd};
use super::relay::{Cut, Ending, PlainSide, Relay, Side, TlsSide};
use super::shutdown::{Shutdown, give_back};
use super::{Next, Rules};
use crate::buf::Buf;
use crate::config::{Fingerprint, Timeouts};

/// The fingerprints of the peers' certificates, by leg, once they are known.
type Pinned = [Option<Arc<[Fingerprint]>>; 2];

/// Where a connection stands.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) stage: Stage,
    busy: Busy,
    /// The near side, ready, until the far one is.
    near: Option<Side>,
    pub(super) is_established: bool,
    pub(super) deadline: Option<Instant>,
    pub(super) drain_until: Option<Instant>,
    /// What may have been offending, for the report.
    evidence: Option<Box<Evidence>>,
    /// The fingerprints that became known while it lasted, by leg.
    pinned: Option<Box<Pinned>>,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// The near leg is not open.
    Begin,
    Accept(Accept),
    Connect(Connect),
    Handshake(Box<Handshake>),
    Hold(Box<Hold>),
    Offload(Box<Offload>),
    Relay(Box<Relay>),
    Shutdown(Box<Shutdown>),
    Closed,
}

impl Course {
    /// At its beginning.
    pub(super) fn begin() -> Self {
        Self {
            stage: Stage::Begin,
            busy: Busy::default(),
            near: None,
            is_established: false,
            deadline: None,
            drain_until: None,
            evidence: None,
            pinned: None,
        }
    }

    /// When a record that a peer has begun is to be whole.
    pub(super) fn record_until(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Relay(relay) => relay.record_until(),
            _ => None,
        }
    }

    /// Whether the time of a drain is over.
    fn is_drained(&self, now: Instant) -> bool {
        self.drain_until.is_some_and(|until| until <= now)
    }

    /// Takes one event; all that follows from it is in `out` when this returns.
    pub(super) fn step(&mut self, event: Event, now: Instant, rules: &Rules<'_>, out: &mut Outbox) {
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
        if let Event::Pinned { leg, fingerprints } = event {
            return self.pin(leg, fingerprints, now, rules, out);
        }
        // The stage that lasts is not moved for each event.
        if matches!(self.stage, Stage::Relay(_)) {
            self.relay(event, now, rules, out);
            return self.busy.give(out.actions());
        }
        self.stage = match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Begin => self.open_near(event, now, rules, out),
            Stage::Accept(stage) => self.accept(stage, event, now, rules, out),
            Stage::Connect(stage) => self.connect(stage, event, now, rules, out),
            Stage::Handshake(stage) => self.handshake(stage, event, now, rules, out),
            Stage::Hold(stage) => self.hold(stage, event, now, rules, out),
            Stage::Offload(stage) => self.offload(stage, event, now, rules, out),
            Stage::Shutdown(mut stage) => {
                stage.on(event, now, out);
                self.go_on_ending(stage, out)
            }
            Stage::Closed | Stage::Relay(_) => {
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
            Security::Tls(tls) if tls.is_client() => {
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
                let stage = Connect::begin(now, rules.policy.timeouts.connect, out);
                self.deadline = Some(stage.deadline());
                Stage::Connect(stage)
            }
            (Leg::Far, Some(near)) => {
                self.is_established = true;
                self.deadline = Some(now + rules.policy.timeouts.idle);
                let mut relay = Box::new(Relay::begin(near, side));
                match relay.start(now, rules, out) {
                    Ok(false) => Stage::Relay(relay),
                    result => self.end_relay(*relay, result.err(), now, rules, out),
                }
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
        let is_drained = matches!(event, Event::Expired) && self.is_drained(now);
        let next = if is_drained { Next::End(Fault::DrainTimeout) } else { stage.on(event, now, out) };
        match next {
            Next::End(fault @ Fault::DrainTimeout) => {
                self.fail(Cut { fault, culprit: None }, LegEnd::Closed, now, rules, out)
            }
            Next::Stay => {
                self.deadline = Some(stage.deadline());
                Stage::Connect(stage)
            }
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
        let Security::Tls(tls) = rules.policy.security(leg) else {
            out.bufs.give(first);
            return self.fail(Cut { fault: Fault::Internal, culprit: None }, LegEnd::Closed, now, rules, out);
        };
        match Handshake::begin(tls, leg, first, out) {
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
                Ok(Finished::Ready(handshaken)) => self.begin_offload(leg, handshaken, now, rules, out),
                Ok(Finished::Held(handshaken, peer, offered)) => {
                    self.deadline = Some(now + rules.policy.timeouts.handshake);
                    self.judge(Box::new(Hold::begin(leg, handshaken, peer, offered)), now, rules, out)
                }
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

    /// The fingerprints of the peer of a leg have become known. Those that come behind the hold change
    /// nothing: the peer is the one that was judged.
    fn pin(
        &mut self,
        leg: Leg,
        fingerprints: Arc<[Fingerprint]>,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) {
        self.pinned.get_or_insert_default()[leg as usize] = Some(fingerprints);
        self.stage = match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Hold(hold) => self.judge(hold, now, rules, out),
            other => other,
        };
        self.busy.give(out.actions());
    }

    /// Goes on with a held leg if its fingerprints are known.
    fn judge(&mut self, hold: Box<Hold>, now: Instant, rules: &Rules<'_>, out: &mut Outbox) -> Stage {
        let leg = hold.leg();
        let pinned = self.pinned.as_ref().and_then(|pinned| pinned[leg as usize].clone());
        let Some(pinned) = pinned else { return Stage::Hold(hold) };
        match hold.judge(&pinned, out) {
            Ok(handshaken) => self.begin_offload(leg, handshaken, now, rules, out),
            Err(failure) => self.refuse(leg, failure, now, rules, out),
        }
    }

    fn hold(
        &mut self,
        stage: Box<Hold>,
        event: Event,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) -> Stage {
        let leg = stage.leg();
        match event {
            Event::Expired => {
                let is_drained = self.is_drained(now);
                // Otherwise it ends for a newcomer, as a handshake does.
                let is_due = self.deadline.is_some_and(|deadline| deadline <= now);
                let cut = match (is_drained, is_due) {
                    (true, _) => Cut { fault: Fault::DrainTimeout, culprit: None },
                    (false, false) => Cut { fault: Fault::HandshakeTimeout, culprit: Some(leg) },
                    (false, true) => {
                        let failure = stage.expire(out);
                        return self.refuse(leg, failure, now, rules, out);
                    }
                };
                stage.release(out);
                self.fail(cut, LegEnd::Closed, now, rules, out)
            }
            Event::Drain { .. } => Stage::Hold(stage),
            other => {
                give_back(other, out);
                stage.release(out);
                self.fail(Cut { fault: Fault::Internal, culprit: None }, LegEnd::Closed, now, rules, out)
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
        self.is_established = true;
        let mut stage = Box::new(Offload::begin(handshaken, leg, rules.offer(), out));
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

    fn relay(&mut self, event: Event, now: Instant, rules: &Rules<'_>, out: &mut Outbox) {
        let Stage::Relay(relay) = &mut self.stage else { return };
        let moved = matches!(
            event,
            Event::Received { .. } | Event::Moved { .. } | Event::Sent { .. } | Event::Record { .. }
        );
        let had_lost_a_peer = !moved && relay.has_lost_a_peer();
        let is_drained = self.drain_until.is_some_and(|until| until <= now);
        let result = match event {
            Event::Expired if is_drained => Err(Cut { fault: Fault::DrainTimeout, culprit: None }),
            event => relay.on(event, now, rules, out),
        };
        let has_lost_a_peer = relay.has_lost_a_peer();
        if moved || has_lost_a_peer != had_lost_a_peer {
            let Timeouts { idle, drain, .. } = rules.policy.timeouts;
            self.deadline = Some(now + if has_lost_a_peer { drain.min(idle) } else { idle });
        }
        if let Ok(false) = result {
            return;
        }
        if let Stage::Relay(relay) = std::mem::replace(&mut self.stage, Stage::Closed) {
            self.stage = self.end_relay(*relay, result.err(), now, rules, out);
        }
    }

    /// The relay ends: cut, or because both sides have ended.
    fn end_relay(
        &mut self,
        relay: Relay,
        cut: Option<Cut>,
        now: Instant,
        rules: &Rules<'_>,
        out: &mut Outbox,
    ) -> Stage {
        let ended = match cut {
            None => relay.end_in_order(out),
            Some(cut) => relay.end(cut, out),
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
        let Some(near) = self.near.take() else {
            let (near, far) = (end, LegEnd::Closed);
            return Ended { fault: Some(fault), culprit, heard, near, far };
        };
        let near = match near {
            // Nothing of it was passed on: there is nothing to be delivered.
            Side::Plain(_) if fault.blame() == Blame::Nobody => LegEnd::Plain(PlainEnd::InOrder),
            Side::Plain(_) => LegEnd::Plain(PlainEnd::Reset),
            near => near.end(Ending { fault, culprit, is_cut: false }, None, out),
        };
        Ended { fault: Some(fault), culprit, heard, near, far: end }
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

impl From<Failure> for LegEnd {
    fn from(failure: Failure) -> Self {
        failure.alert.map_or(Self::Closed, |alert| Self::Tls(TlsEnd::saying(LastRecord::Bytes(alert))))
    }
}
