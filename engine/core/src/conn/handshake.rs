//! Stage 2: bytes into a `Session` until the handshake is complete and its last flight is sent.

use super::Next;
use super::action::{Action, Evidence, Outbox};
use super::event::{Event, Leg, Operation};
use super::fault::{Fault, alert};
use crate::buf::Buf;
use crate::tls::cipher::Sealer;
use crate::tls::evidence::Offered;
use crate::tls::record::RecordType;
use crate::tls::session::{
    Established, Progress, Refusal, Session, alert_in_the_clear, description_in_the_clear,
};
use crate::tls::{PeerRefusal, PendingPeer, TlsPolicy};
use offramp_proto::alert::LEVEL_FATAL;

pub(super) const NOT_VOUCHED_FOR: &str =
    "the certificate has no fingerprint and no authority that is configured";

/// Most bytes of unfinished messages that are kept: the longest message that rustls takes (2^16 bytes), with
/// the headers of its records.
const INCOMING_BYTES_MAX: usize = (64 << 10) + 512;

/// A handshake in progress.
#[derive(Debug)]
pub(super) struct Handshake {
    leg: Leg,
    session: Session,
    /// Bytes of the peer that are not yet used, at most [`INCOMING_BYTES_MAX`], and in no larger buffer than
    /// they need while more are awaited.
    incoming: Option<Buf>,
    receiving: bool,
    sending: bool,
    complete: bool,
}

/// A complete handshake.
#[derive(Debug)]
pub(super) enum Finished {
    /// The peer is one that may connect.
    Ready(Handshaken),
    /// That is not known yet.
    Held(Handshaken, PendingPeer, Offered),
}

/// What stage 3 gets.
#[derive(Debug)]
pub(super) struct Handshaken {
    pub(super) established: Established,
    /// What came behind the client's last flight: records of the connection, the last of which may not be
    /// whole.
    pub(super) incoming: Option<Buf>,
}

/// Why it failed, with the alert to be sent.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    pub(super) alert: Option<Buf>,
    /// The description of that alert.
    pub(super) description: u8,
    /// The description of the peer's.
    pub(super) heard: Option<u8>,
    /// Where the session is gone by then.
    pub(super) evidence: Option<Evidence>,
}

impl Failure {
    fn silent(fault: Fault) -> Self {
        Self { fault, alert: None, description: alert::UNKNOWN, heard: None, evidence: None }
    }

    /// With this to be sent, whose description is read from it if it is in the clear.
    pub(super) fn with(fault: Fault, alert: Buf) -> Self {
        let description = description_in_the_clear(alert.filled()).unwrap_or(alert::UNKNOWN);
        Self { alert: Some(alert), description, ..Self::silent(fault) }
    }
}

impl Handshake {
    /// Begins with the client's first bytes; in the client's role with none, and asks for `name` where names
    /// are forwarded.
    pub(super) fn begin(
        tls: &TlsPolicy,
        leg: Leg,
        first: Buf,
        name: Option<&str>,
        out: &mut Outbox,
    ) -> Result<Self, Failure> {
        let session = match Session::begin(tls, name) {
            Ok(session) => session,
            Err(refusal) => {
                out.bufs.give(first);
                return Err(Failure::silent(refusal.into()));
            }
        };
        let mut this =
            Self { leg, session, incoming: Some(first), receiving: false, sending: false, complete: false };
        match this.feed(out) {
            Ok(()) => Ok(this),
            Err(failure) => Err(Failure { evidence: Some(this.evidence()), ..failure }),
        }
    }

    pub(super) fn on(&mut self, event: Event, out: &mut Outbox) -> Result<Next<()>, Failure> {
        match event {
            Event::Received { buf, count: 0, .. } => {
                out.bufs.give(buf);
                return Err(Failure::silent(Fault::ClosedInHandshake));
            }
            Event::Received { buf, .. } => {
                self.receiving = false;
                self.incoming = Some(out.bufs.join(self.incoming.take(), buf));
                self.feed_unless_busy(out)?;
            }
            Event::Sent { buf, .. } => {
                out.bufs.give(buf);
                self.sending = false;
                self.feed_unless_busy(out)?;
            }
            Event::Failed { operation: Operation::Receive | Operation::Send, .. } => {
                return Err(Failure::silent(Fault::ClosedInHandshake));
            }
            Event::Expired => return Err(Failure::silent(Fault::HandshakeTimeout)),
            Event::Drain { .. } => {}
            _ => return Err(Failure::silent(Fault::Internal)),
        }
        Ok(if self.complete && !self.sending { Next::Advance(()) } else { Next::Stay })
    }

    /// Leaves the session behind, once [`Next::Advance`] was said.
    ///
    /// # Errors
    /// The peer is not one that may connect, and gets an alert; nothing of it has been passed on.
    pub(super) fn finish(self, out: &mut Outbox) -> Result<Finished, Failure> {
        let Self { mut session, incoming, .. } = self;
        let offered = session.take_offered();
        let mut established = match session.establish() {
            Ok(established) => established,
            Err(refusal) => {
                incoming.into_iter().for_each(|buf| out.bufs.give(buf));
                let evidence = Some(offered.evidence(None));
                return Err(Failure { evidence, ..Failure::silent(refusal.into()) });
            }
        };
        let peer = std::mem::replace(&mut established.peer, Ok(None));
        let handshaken = Handshaken { established, incoming };
        match peer {
            Ok(None) => Ok(Finished::Ready(handshaken)),
            Ok(Some(peer)) => Ok(Finished::Held(handshaken, peer, offered)),
            Err(PeerRefusal::Missing) => {
                let evidence = offered.evidence(None);
                Err(handshaken.refuse(Fault::PeerCertificateMissing, evidence, out))
            }
            Err(PeerRefusal::Refused) => {
                let evidence = offered.evidence(Some(NOT_VOUCHED_FOR.into()));
                Err(handshaken.refuse(Fault::PeerCertificateRefused, evidence, out))
            }
        }
    }

    pub(super) fn leg(&self) -> Leg {
        self.leg
    }

    /// What is known of the client, for the log.
    pub(super) fn evidence(&self) -> Evidence {
        self.session.evidence()
    }

    /// Whether it keeps bytes of a message that is not whole.
    pub(super) fn keeps_front(&self) -> bool {
        self.incoming.is_some()
    }

    /// Gives what it holds back to the free list.
    pub(super) fn release(self, out: &mut Outbox) {
        if let Some(buf) = self.incoming {
            out.bufs.give(buf);
        }
    }

    /// A leg sends one flight at a time: what comes before it is sent waits.
    fn feed_unless_busy(&mut self, out: &mut Outbox) -> Result<(), Failure> {
        let is_busy = self.sending || self.receiving || self.complete;
        if is_busy || self.incoming.is_none() { Ok(()) } else { self.feed(out) }
    }

    fn feed(&mut self, out: &mut Outbox) -> Result<(), Failure> {
        let Some(mut incoming) = self.incoming.take() else {
            return Err(Failure::silent(Fault::Internal));
        };
        let mut outgoing = out.bufs.take();
        self.session.allow_full(out.may_begin_full);
        let progress = self.session.feed(&mut incoming, &mut outgoing);
        out.full_begun += u32::from(self.session.took_full());
        match progress {
            Err(refusal) => {
                out.bufs.give(incoming);
                if refusal == Refusal::FlightTooLong {
                    // What is there is the front of a flight, which nothing may follow.
                    outgoing.clear();
                }
                let heard = match refusal {
                    Refusal::AlertReceived(description) => Some(description),
                    _ => None,
                };
                heard.into_iter().for_each(|it| out.alerts.received(self.leg, it));
                let mut failure = Failure::with(refusal.into(), outgoing);
                if let Some(sealed) = self.session.alert().filter(|_| failure.description == alert::UNKNOWN) {
                    failure.description = sealed;
                }
                return Err(Failure { heard, ..failure });
            }
            Ok(progress) => {
                if outgoing.is_empty() {
                    out.bufs.give(outgoing);
                } else {
                    self.sending = true;
                    out.push(Action::Send { leg: self.leg, buf: outgoing });
                }
                self.complete = progress == Progress::Complete;
            }
        }
        if !self.complete {
            if incoming.len() > INCOMING_BYTES_MAX {
                incoming.clear();
                // As rustls says of a message that is longer than it takes. Later it would have to be
                // encrypted.
                if self.session.awaits_hello() {
                    incoming.extend(&alert_in_the_clear(alert::DECODE_ERROR));
                }
                return Err(Failure::with(Fault::HandshakeTooLong, incoming));
            }
            self.receiving = true;
            out.push(Action::ReceiveHandshake { leg: self.leg });
        }
        self.incoming = keep_or_give(incoming, out);
        Ok(())
    }
}

impl Handshaken {
    /// RFC 8122 §6.2: a peer whose certificate does not match, or that has none, gets bad_certificate. It is
    /// sealed in userspace: the kernel has no keys yet.
    pub(super) fn refuse(self, fault: Fault, evidence: Evidence, out: &mut Outbox) -> Failure {
        let Self { established, incoming } = self;
        incoming.into_iter().for_each(|buf| out.bufs.give(buf));
        let mut sealed = out.bufs.take();
        let alert = [LEVEL_FATAL, alert::BAD_CERTIFICATE];
        if Sealer::new(established.tx).seal(RecordType::Alert, &alert, &mut sealed).is_err() {
            sealed.clear();
        }
        let description = alert::BAD_CERTIFICATE;
        Failure { evidence: Some(evidence), description, ..Failure::with(fault, sealed) }
    }

    /// Gives what it holds back to the free list.
    pub(super) fn release(self, out: &mut Outbox) {
        self.incoming.into_iter().for_each(|buf| out.bufs.give(buf));
    }
}

fn keep_or_give(buf: Buf, out: &mut Outbox) -> Option<Buf> {
    if buf.is_empty() {
        out.bufs.give(buf);
        return None;
    }
    Some(out.bufs.fit(buf))
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::AlertReceived(_) => Self::AlertInHandshake,
            Refusal::BadRecord => Self::BadRecord,
            Refusal::RecordTooLong => Self::RecordTooLong,
            Refusal::Malformed => Self::HandshakeMalformed,
            Refusal::Unexpected => Self::HandshakeUnexpected,
            Refusal::NoCommonVersion => Self::NoCommonVersion,
            Refusal::NothingInCommon => Self::NothingInCommon,
            Refusal::NoExtendedMasterSecret => Self::NoExtendedMasterSecret,
            Refusal::RenegotiationInfo => Self::RenegotiationInfo,
            Refusal::UnknownName => Self::UnknownName,
            Refusal::MissingExtension => Self::MissingExtension,
            Refusal::PeerCertificate => Self::PeerCertificateRefused,
            Refusal::PeerChainTooLong => Self::PeerChainTooLong,
            Refusal::Closed => Self::ClosedInHandshake,
            Refusal::FlightTooLong => Self::HandshakeTooLong,
            Refusal::FullHandshakeLimit => Self::FullHandshakeLimit,
            Refusal::Internal => Self::Internal,
        }
    }
}
