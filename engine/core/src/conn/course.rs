//! The course of a connection from one stage to the next. A stage never changes itself into another; it says
//! `Next`, and only this file acts on it.

use std::sync::Arc;
use std::time::Instant;

mod ending;
mod stage;

use super::Next;
use super::accept::Accept;
use super::action::{Evidence, Outbox};
use super::busy::Busy;
use super::connect::Connect;
use super::event::{Event, Leg, Operation};
use super::fault::Fault;
use super::handshake::{Finished, Handshake, Handshaken};
use super::hold::Hold;
use super::offload::Offload;
use super::peek::Peek;
use super::policy::{Policy, Security};
use super::proxied::Proxied;
use super::record_path::LegEnd;
use super::relay::{Cut, PlainSide, Relay, Side, TlsSide};
use super::shutdown::{Shutdown, give_back};
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
    /// The name that the near peer has asked for, if the server of the far leg is to be asked for it.
    asked_name: Option<Box<str>>,
    pub(super) is_established: bool,
    pub(super) deadline: Option<Instant>,
    /// When it is ended: its lifetime is over, or a drain.
    pub(super) ends_at: Option<Instant>,
    is_draining: bool,
    /// What may have been offending, for the report.
    evidence: Option<Box<Evidence>>,
    /// The fingerprints that became known while it lasted, by leg.
    pinned: Option<Box<Pinned>>,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// The near leg is not open.
    Begin,
    Proxied(Box<Proxied>),
    Peek(Box<Peek>),
    Accept(Accept),
    Connect(Box<Connect>),
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
            asked_name: None,
            is_established: false,
            deadline: None,
            ends_at: None,
            is_draining: false,
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

    /// Whether it keeps what came first on a near leg without TLS.
    pub(super) fn keeps_first(&self) -> bool {
        matches!(&self.near, Some(Side::Plain(side)) if side.keeps_first())
    }

    /// Why it is ended now, if its lifetime is over or a drain.
    fn overdue(&self, now: Instant) -> Option<Fault> {
        let fault = if self.is_draining { Fault::DrainTimeout } else { Fault::LifetimeOver };
        self.ends_at.is_some_and(|until| until <= now).then_some(fault)
    }

    /// Takes one event; all that follows from it is in `out` when this returns.
    pub(super) fn step(&mut self, event: Event, policy: &Policy, out: &mut Outbox) {
        let mut has_moved = false;
        match event {
            Event::Received { leg, .. } | Event::Record { leg, .. } => {
                self.busy.end_receive(leg);
                has_moved = true;
            }
            Event::Sent { leg, .. } => {
                self.busy.end_send(leg);
                has_moved = true;
            }
            Event::Moved { .. } | Event::Unreadable { .. }
                if !matches!(self.stage, Stage::Relay(_) | Stage::Shutdown(_)) =>
            {
                return;
            }
            Event::Moved { .. } => has_moved = true,
            Event::Failed { leg, operation, errno } => self.note_failure(leg, operation, errno),
            Event::Opened => {
                self.deadline = Some(out.now + policy.timeouts.handshake);
                self.ends_at = policy.timeouts.lifetime.map(|lifetime| out.now + lifetime);
            }
            Event::Drain { until } => {
                self.is_draining = true;
                self.ends_at = Some(self.ends_at.map_or(until, |earlier| earlier.min(until)));
            }
            Event::Pinned { leg, fingerprints } => return self.pin(leg, fingerprints, policy, out),
            Event::TurnedAway(fault) => return self.turn_away(fault, policy, out),
            Event::Expired => {
                if let Some(fault) = self.overdue(out.now) {
                    return self.turn_away(fault, policy, out);
                }
            }
            _ => {}
        }
        // The stage that lasts is not moved for each event.
        if matches!(self.stage, Stage::Relay(_)) {
            self.relay(event, has_moved, policy, out);
        } else {
            self.pass_stage(event, policy, out);
        }
        self.busy.add(&mut out.begun);
    }

    /// Any stage but the relay. Not inlined: the relay needs less of the stack.
    #[inline(never)]
    fn pass_stage(&mut self, event: Event, policy: &Policy, out: &mut Outbox) {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Begin => self.open_near(event, policy, out),
            Stage::Proxied(stage) => self.proxied(stage, event, policy, out),
            Stage::Peek(stage) => self.peek(stage, event, policy, out),
            Stage::Accept(stage) => self.accept(stage, event, policy, out),
            Stage::Connect(stage) => self.connect(stage, event, policy, out),
            Stage::Handshake(stage) => self.handshake(stage, event, policy, out),
            Stage::Hold(stage) => self.hold(stage, event, policy, out),
            Stage::Offload(stage) => self.offload(stage, event, policy, out),
            Stage::Shutdown(mut stage) => {
                stage.on(event, out.now, out);
                self.go_on_ending(stage, out)
            }
            Stage::Closed | Stage::Relay(_) => {
                give_back(event, out);
                Stage::Closed
            }
        };
    }

    fn note_failure(&mut self, leg: Leg, operation: Operation, errno: i32) {
        match operation {
            Operation::Receive => self.busy.end_receive(leg),
            Operation::Send => self.busy.end_send(leg),
            Operation::Connect => {}
        }
        // The kernel opens what comes, and what comes is a record that is not data.
        if (operation, errno) != (Operation::Receive, libc::EIO) {
            self.evidence.get_or_insert_default().errno = Some(errno);
        }
    }

    /// The near leg was accepted: it is secured first.
    fn open_near(&mut self, event: Event, policy: &Policy, out: &mut Outbox) -> Stage {
        match event {
            Event::Opened if policy.accepts_proxy => Stage::Proxied(Box::new(Proxied::begin(out))),
            Event::Opened => self.secure(Leg::Near, None, policy, out),
            Event::Drain { .. } => Stage::Begin,
            other => {
                give_back(other, out);
                self.fail(Cut { fault: Fault::Internal, culprit: None }, LegEnd::Closed, policy, out)
            }
        }
    }

    /// The near leg has a balancer in front of it.
    fn proxied(&mut self, mut stage: Box<Proxied>, event: Event, policy: &Policy, out: &mut Outbox) -> Stage {
        match stage.on(event, out) {
            Next::Stay => Stage::Proxied(stage),
            Next::Advance(first) => self.secure(Leg::Near, first, policy, out),
            Next::End(fault) => {
                stage.release(out);
                if stage.first_bytes.is_some() {
                    self.evidence.get_or_insert_default().reason = stage.first_bytes;
                }
                self.fail(Cut { fault, culprit: Some(Leg::Near) }, LegEnd::Closed, policy, out)
            }
        }
    }

    /// A leg is open: it is secured as its policy has it. `first` has come already.
    fn secure(&mut self, leg: Leg, first: Option<Buf>, policy: &Policy, out: &mut Outbox) -> Stage {
        let received = |buf: Buf| Event::Received { leg, count: buf.len(), buf, more: false };
        match (policy.security(leg), first) {
            (Security::Plain, first) if leg == Leg::Near && policy.passes_tls_through => match first {
                Some(buf) => self.peek(Box::new(Peek::new()), received(buf), policy, out),
                None => Stage::Peek(Box::new(Peek::begin(out))),
            },
            (Security::Plain, first) => self.join(Side::Plain(PlainSide::new(leg, first)), leg, policy, out),
            (Security::Tls(tls), first) if tls.is_client() => {
                let first = first.unwrap_or_else(|| Buf::with_capacity(0));
                self.begin_handshake(leg, first, policy, out)
            }
            (Security::Tls(_), Some(buf)) => self.accept(Accept::new(leg), received(buf), policy, out),
            (Security::Tls(_), None) => Stage::Accept(Accept::begin(leg, out)),
        }
    }

    /// The TLS of the near leg is passed through.
    fn peek(&mut self, mut stage: Box<Peek>, event: Event, policy: &Policy, out: &mut Outbox) -> Stage {
        let (fault, end) = match stage.on(event, out) {
            Ok(Next::Stay) => return Stage::Peek(stage),
            Ok(Next::Advance(hello)) => {
                let side = Side::Plain(PlainSide::new(Leg::Near, Some(hello)));
                return self.join(side, Leg::Near, policy, out);
            }
            Ok(Next::End(fault)) => (fault, LegEnd::Closed),
            Err(failure) => (failure.fault, failure.into()),
        };
        stage.release(out);
        if stage.first_bytes.is_some() {
            self.evidence.get_or_insert_default().reason = stage.first_bytes;
        }
        self.fail(Cut { fault, culprit: Some(Leg::Near) }, end, policy, out)
    }

    /// A leg is ready to move bytes: the far one is connected, or the relay begins.
    fn join(&mut self, side: Side, leg: Leg, policy: &Policy, out: &mut Outbox) -> Stage {
        match (leg, self.near.take()) {
            (Leg::Near, _) => {
                self.near = Some(side);
                let stage = Box::new(Connect::begin(out.now, policy.timeouts.connect, out));
                self.deadline = Some(stage.deadline());
                Stage::Connect(stage)
            }
            (Leg::Far, Some(near)) => {
                self.is_established = true;
                self.deadline = Some(out.now + policy.timeouts.idle);
                let mut relay = Box::new(Relay::begin(near, side, out));
                match relay.start(out) {
                    Ok(false) => Stage::Relay(relay),
                    result => self.end_relay(*relay, result.err(), policy, out),
                }
            }
            (Leg::Far, None) => {
                self.fail(Cut { fault: Fault::Internal, culprit: None }, LegEnd::Closed, policy, out)
            }
        }
    }

    fn accept(&mut self, mut stage: Accept, event: Event, policy: &Policy, out: &mut Outbox) -> Stage {
        let leg = stage.leg();
        let (fault, end) = match stage.on(event, out) {
            Ok(Next::Stay) => return Stage::Accept(stage),
            Ok(Next::Advance(first)) => return self.begin_handshake(leg, first, policy, out),
            Ok(Next::End(fault)) => (fault, LegEnd::Closed),
            Err(failure) => (failure.fault, failure.into()),
        };
        if stage.first_bytes.is_some() {
            self.evidence.get_or_insert_default().reason = stage.first_bytes;
        }
        self.fail(Cut { fault, culprit: Some(leg) }, end, policy, out)
    }

    fn connect(&mut self, mut stage: Box<Connect>, event: Event, policy: &Policy, out: &mut Outbox) -> Stage {
        match stage.on(event, out.now, out) {
            Next::Stay => {
                self.deadline = Some(stage.deadline());
                Stage::Connect(stage)
            }
            Next::End(fault) => {
                self.fail(Cut { fault, culprit: Some(Leg::Far) }, LegEnd::Closed, policy, out)
            }
            Next::Advance(()) => {
                self.deadline = Some(out.now + policy.timeouts.handshake);
                self.secure(Leg::Far, None, policy, out)
            }
        }
    }

    fn begin_handshake(&mut self, leg: Leg, first: Buf, policy: &Policy, out: &mut Outbox) -> Stage {
        let Security::Tls(tls) = policy.security(leg) else {
            out.bufs.give(first);
            return self.fail(Cut { fault: Fault::Internal, culprit: None }, LegEnd::Closed, policy, out);
        };
        match Handshake::begin(tls, leg, first, self.asked_name.take().as_deref(), out) {
            Ok(handshake) => Stage::Handshake(Box::new(handshake)),
            Err(failure) => self.refuse(leg, failure, policy, out),
        }
    }

    fn handshake(
        &mut self,
        mut stage: Box<Handshake>,
        event: Event,
        policy: &Policy,
        out: &mut Outbox,
    ) -> Stage {
        let leg = stage.leg();
        match stage.on(event, out) {
            Ok(Next::Stay) => Stage::Handshake(stage),
            Ok(Next::Advance(())) => match stage.finish(out) {
                Ok(Finished::Ready(handshaken)) => self.begin_offload(leg, handshaken, policy, out),
                Ok(Finished::Held(handshaken, peer, offered)) => {
                    self.deadline = Some(out.now + policy.timeouts.handshake);
                    self.judge(Box::new(Hold::begin(leg, handshaken, peer, offered)), policy, out)
                }
                Err(failure) => self.refuse(leg, failure, policy, out),
            },
            Ok(Next::End(fault)) => {
                stage.release(out);
                self.fail(Cut { fault, culprit: Some(leg) }, LegEnd::Closed, policy, out)
            }
            Err(failure) => {
                self.keep(Some(stage.evidence()));
                stage.release(out);
                self.refuse(leg, failure, policy, out)
            }
        }
    }

    /// The fingerprints of the peer of a leg have become known. Those that come behind the hold change
    /// nothing: the peer is the one that was judged.
    fn pin(&mut self, leg: Leg, fingerprints: Arc<[Fingerprint]>, policy: &Policy, out: &mut Outbox) {
        self.pinned.get_or_insert_default()[leg as usize] = Some(fingerprints);
        self.stage = match std::mem::replace(&mut self.stage, Stage::Closed) {
            Stage::Hold(hold) => self.judge(hold, policy, out),
            other => other,
        };
        self.busy.add(&mut out.begun);
    }

    /// Goes on with a held leg if its fingerprints are known.
    fn judge(&mut self, hold: Box<Hold>, policy: &Policy, out: &mut Outbox) -> Stage {
        let leg = hold.leg();
        let pinned = self.pinned.as_ref().and_then(|pinned| pinned[leg as usize].clone());
        let Some(pinned) = pinned else { return Stage::Hold(hold) };
        match hold.judge(&pinned, out) {
            Ok(handshaken) => self.begin_offload(leg, handshaken, policy, out),
            Err(failure) => self.refuse(leg, failure, policy, out),
        }
    }

    fn hold(&mut self, stage: Box<Hold>, event: Event, policy: &Policy, out: &mut Outbox) -> Stage {
        let leg = stage.leg();
        match event {
            Event::Expired => {
                let failure = stage.expire(out);
                self.refuse(leg, failure, policy, out)
            }
            Event::Drain { .. } => Stage::Hold(stage),
            other => {
                give_back(other, out);
                stage.release(out);
                self.fail(Cut { fault: Fault::Internal, culprit: None }, LegEnd::Closed, policy, out)
            }
        }
    }

    fn begin_offload(
        &mut self,
        leg: Leg,
        handshaken: Handshaken,
        policy: &Policy,
        out: &mut Outbox,
    ) -> Stage {
        self.is_established = true;
        if leg == Leg::Near && policy.far.tls().is_some_and(|tls| tls.forwards_server_name()) {
            self.asked_name.clone_from(&handshaken.established.info.server_name);
        }
        let mut stage = Box::new(Offload::begin(handshaken, leg, policy.offload, out));
        let next = stage.advance(out);
        self.after_offload(stage, next, policy, out)
    }

    fn offload(&mut self, mut stage: Box<Offload>, event: Event, policy: &Policy, out: &mut Outbox) -> Stage {
        let next = stage.on(event, out);
        self.after_offload(stage, next, policy, out)
    }

    fn after_offload(
        &mut self,
        stage: Box<Offload>,
        next: Next<()>,
        policy: &Policy,
        out: &mut Outbox,
    ) -> Stage {
        let leg = stage.leg();
        match next {
            Next::Stay => Stage::Offload(stage),
            Next::End(fault) => {
                stage.release(out);
                self.fail(Cut { fault, culprit: Some(leg) }, LegEnd::Closed, policy, out)
            }
            Next::Advance(()) => {
                let side = TlsSide::new(stage.finish(out), leg, out.now, policy);
                self.join(Side::Tls(Box::new(side)), leg, policy, out)
            }
        }
    }

    /// `has_moved`: bytes have, and the idle time begins again.
    fn relay(&mut self, event: Event, has_moved: bool, policy: &Policy, out: &mut Outbox) {
        let Stage::Relay(relay) = &mut self.stage else { return };
        let had_lost_a_peer = !has_moved && relay.has_lost_a_peer();
        let result = relay.on(event, out);
        let has_lost_a_peer = relay.has_lost_a_peer();
        if has_moved || has_lost_a_peer != had_lost_a_peer {
            let Timeouts { idle, drain, .. } = policy.timeouts;
            self.deadline = Some(out.now + if has_lost_a_peer { drain.min(idle) } else { idle });
        }
        if let Ok(false) = result {
            return;
        }
        if let Stage::Relay(relay) = std::mem::replace(&mut self.stage, Stage::Closed) {
            self.stage = self.end_relay(*relay, result.err(), policy, out);
        }
    }
}
