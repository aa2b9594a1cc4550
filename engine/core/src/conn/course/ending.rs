//! How a connection ends, from whatever stage of its course.

use super::{Course, Stage};
use crate::conn::action::{Action, Evidence, Outbox, Report};
use crate::conn::event::{Event, Leg};
use crate::conn::fault::alert::CLOSE_NOTIFY;
use crate::conn::fault::{Blame, Fault};
use crate::conn::handshake::Failure;
use crate::conn::policy::Policy;
use crate::conn::record_path::{Ended, LastRecord, LegEnd, PlainEnd, TlsEnd};
use crate::conn::relay::{Cut, Ending, Relay, Side};
use crate::conn::shutdown::Shutdown;
use crate::tls::session::alert_in_the_clear;

impl Course {
    /// It ends wherever it stands; what ends already goes on ending, unless its memory or its slot is wanted.
    pub(super) fn turn_away(&mut self, fault: Fault, policy: &Policy, out: &mut Outbox) {
        let cut = Cut { fault, culprit: None };
        self.stage = match std::mem::replace(&mut self.stage, Stage::Closed) {
            stage @ (Stage::Shutdown(_) | Stage::Closed) => stage,
            Stage::Relay(relay) => self.end_relay(*relay, Some(cut), policy, out),
            stage => {
                stage.release(out);
                self.fail(cut, LegEnd::Closed, policy, out)
            }
        };
        if matches!(fault, Fault::BufferMemory | Fault::HandshakeTimeout)
            && let Stage::Shutdown(mut stage) = std::mem::replace(&mut self.stage, Stage::Closed)
        {
            stage.abandon(fault, out);
            self.stage = self.go_on_ending(stage, out);
        }
        self.busy.add(&mut out.begun);
    }

    pub(super) fn refuse(
        &mut self,
        leg: Leg,
        mut failure: Failure,
        policy: &Policy,
        out: &mut Outbox,
    ) -> Stage {
        self.keep(failure.evidence.take());
        let (cut, heard) = (Cut { fault: failure.fault, culprit: Some(leg) }, failure.heard);
        let ended = self.ended(cut, heard, failure.into(), policy, out);
        self.end(ended, policy, out)
    }

    /// The relay ends: cut, or because both sides have ended.
    #[cold]
    pub(super) fn end_relay(
        &mut self,
        relay: Relay,
        cut: Option<Cut>,
        policy: &Policy,
        out: &mut Outbox,
    ) -> Stage {
        let ended = match cut {
            None => relay.end_in_order(out),
            Some(cut) => relay.end(cut, out),
        };
        self.end(ended, policy, out)
    }

    /// Keeps what a stage knows beside what the system said.
    pub(super) fn keep(&mut self, evidence: Option<Evidence>) {
        if let Some(evidence) = evidence {
            let errno = self.evidence.take().and_then(|before| before.errno);
            self.evidence = Some(Box::new(Evidence { errno, ..evidence }));
        }
    }

    /// Before the relay: the leg that is being opened ends like this, and the near one, if it is ready, too.
    pub(super) fn fail(&mut self, cut: Cut, end: LegEnd, policy: &Policy, out: &mut Outbox) -> Stage {
        let ended = self.ended(cut, None, end, policy, out);
        self.end(ended, policy, out)
    }

    fn ended(
        &mut self,
        cut: Cut,
        heard: Option<u8>,
        end: LegEnd,
        policy: &Policy,
        out: &mut Outbox,
    ) -> Ended {
        let Cut { fault, culprit } = cut;
        let Some(near) = self.near.take() else {
            let (near, far) = (end, LegEnd::Closed);
            return Ended { fault: Some(fault), culprit, heard, near, far };
        };
        let near = match near {
            // Nothing of it was passed on: there is nothing to be delivered.
            Side::Plain(side) => {
                side.release(out);
                let alert = fault.alert().filter(|description| *description != CLOSE_NOTIFY);
                if let Some(description) = alert.filter(|_| policy.passes_tls_through) {
                    // The client has sent its hello, and no server has answered.
                    let mut alert = out.bufs.take();
                    alert.extend(&alert_in_the_clear(description));
                    let near = LegEnd::Tls(TlsEnd::saying(LastRecord::Bytes(alert, description)));
                    return Ended { fault: Some(fault), culprit, heard, near, far: end };
                }
                let is_orderly = fault.blame() == Blame::Nobody;
                LegEnd::Plain(if is_orderly { PlainEnd::InOrder } else { PlainEnd::Reset })
            }
            near => near.end(Ending { fault, culprit, is_cut: false }, None, out),
        };
        Ended { fault: Some(fault), culprit, heard, near, far: end }
    }

    /// Into the last stage, from wherever.
    pub(super) fn end(&mut self, ended: Ended, policy: &Policy, out: &mut Outbox) -> Stage {
        // What this very event has begun counts too.
        self.busy.add(&mut out.begun);
        let mut stage = Box::new(Shutdown::begin(ended, out.now, policy.timeouts, out));
        if let Some(until) = self.ends_at.take().filter(|_| self.is_draining) {
            stage.on(Event::Drain { until }, out.now, out);
        }
        self.go_on_ending(stage, out)
    }

    pub(super) fn go_on_ending(&mut self, mut stage: Box<Shutdown>, out: &mut Outbox) -> Stage {
        self.busy.add(&mut out.begun);
        match stage.advance(self.busy, out) {
            None => {
                (self.deadline, self.ends_at) = (stage.deadline(), None);
                Stage::Shutdown(stage)
            }
            Some(report) => {
                (self.deadline, self.ends_at) = (None, None);
                let evidence = self.evidence.take().filter(|_| report.fault.is_some());
                out.push(Action::Close(Report { evidence, ..report }));
                Stage::Closed
            }
        }
    }
}

impl Stage {
    /// Gives what it holds back to the free list.
    fn release(self, out: &mut Outbox) {
        match self {
            Self::Proxied(mut stage) => stage.release(out),
            Self::Peek(mut stage) => stage.release(out),
            Self::Handshake(stage) => stage.release(out),
            Self::Hold(stage) => stage.release(out),
            Self::Offload(stage) => stage.release(out),
            Self::Begin | Self::Accept(_) | Self::Connect(_) => {}
            Self::Relay(_) | Self::Shutdown(_) | Self::Closed => {}
        }
    }
}

impl From<Failure> for LegEnd {
    fn from(failure: Failure) -> Self {
        let Some(alert) = failure.alert else { return Self::Closed };
        Self::Tls(TlsEnd::saying(LastRecord::Bytes(alert, failure.description)))
    }
}
