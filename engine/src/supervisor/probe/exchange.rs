//! What a probe says to an endpoint, and what it has to answer. No socket and no clock.

use std::fmt;
use std::sync::Arc;

use crate::buf::{BUF_BYTES, Buf, SMALL_BYTES};
use crate::config::HealthSend;
use crate::config::limits::{HEALTH_ANSWER_BYTES_MAX, PROBE_DEADLINE};
use crate::conn::fault::{Fault, alert};
use crate::sys::errno;
use crate::tls::cipher::{Opener, Sealer};
use crate::tls::evidence::first_bytes;
use crate::tls::record::{Header, RecordType};
use crate::tls::session::{Progress, Refusal, Session};
use crate::tls::{PeerRefusal, TlsPolicy};

/// Most bytes of a handshake that wait for the rest of their message, as of a connection.
const TLS_BYTES_MAX: usize = BUF_BYTES + 512;
/// Most bytes that a probe reads with TLS: tickets and what else comes in front of the answer included.
const RECEIVED_BYTES_MAX: usize = 2 * TLS_BYTES_MAX;

/// How the endpoints of a pool are probed.
#[derive(Debug, Default)]
pub(in crate::supervisor) struct Check {
    /// A PROXY header without addresses, if the endpoints want one.
    pub(in crate::supervisor) header: Vec<u8>,
    /// In the client's role, without sessions; none without TLS.
    pub(in crate::supervisor) tls: Option<TlsPolicy>,
    /// What is sent first; nothing if empty.
    pub(in crate::supervisor) send: HealthSend,
    /// What the answer has to contain; anything if empty.
    pub(in crate::supervisor) expect: Vec<u8>,
}

impl Check {
    /// Whether it is over once the endpoint is connected.
    pub(super) fn only_connects(&self) -> bool {
        self.tls.is_none() && self.send.0.is_empty() && self.expect.is_empty()
    }
}

/// Why a probe has failed, for the log.
pub(super) type Problem = String;

/// What is said on one connection.
pub(super) struct Exchange {
    check: Arc<Check>,
    layer: Layer,
    /// What has come and was not used yet.
    incoming: Buf,
    received: usize,
    /// What is to be sent.
    pub(super) outgoing: Vec<u8>,
    /// Its first bytes, in plaintext.
    answer: Vec<u8>,
}

enum Layer {
    Plain,
    /// None once it has failed.
    Handshake(Option<Box<Session>>),
    Records(Box<(Sealer, Opener)>),
}

impl Exchange {
    /// Begins on a connection that is open.
    pub(super) fn begin(check: Arc<Check>) -> Result<Self, Problem> {
        let session = check.tls.as_ref().map(|tls| Session::begin(tls, None)).transpose();
        let session = session.map_err(|refusal| failed(refusal.into(), None))?;
        let has_tls = session.is_some();
        let mut this = Self {
            layer: session.map_or(Layer::Plain, |session| Layer::Handshake(Some(Box::new(session)))),
            incoming: Buf::with_capacity(if has_tls { TLS_BYTES_MAX } else { SMALL_BYTES }),
            received: 0,
            outgoing: check.header.clone(),
            answer: Vec::new(),
            check,
        };
        if has_tls {
            this.advance()?
        } else {
            this.ask()?
        }
        Ok(this)
    }

    /// Where the next bytes go; never empty.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.incoming.compact();
        self.incoming.spare_mut()
    }

    /// Takes the bytes that were put there.
    ///
    /// # Errors
    /// Why the probe has failed. `outgoing` ends with the alert, if one is due.
    pub(super) fn received(&mut self, count: usize) -> Result<(), Problem> {
        self.incoming.commit(count);
        self.received += count;
        self.advance()?;
        if self.is_complete() {
            return Ok(());
        }
        if self.incoming.spare_len() == 0 || self.received > RECEIVED_BYTES_MAX {
            return Err(match self.layer {
                Layer::Handshake(_) => failed(Fault::HandshakeTooLong, None),
                _ => self.unanswered("it sends too much"),
            });
        }
        Ok(())
    }

    /// Whether the endpoint has done all that it has to, once `outgoing` is sent.
    pub(super) fn is_complete(&self) -> bool {
        let expect = &self.check.expect;
        let has_answered = expect.is_empty() || self.answer.windows(expect.len()).any(|part| part == expect);
        has_answered && !matches!(self.layer, Layer::Handshake(_))
    }

    /// Appends what ends it in order.
    pub(super) fn close(&mut self) {
        // A new key has room for one more record.
        let _ = self.seal(RecordType::Alert, &[alert::LEVEL_WARNING, alert::CLOSE_NOTIFY]);
    }

    /// What is missing, where nothing more comes: `how` it ended.
    pub(super) fn ended(&self, how: &str) -> Problem {
        match self.layer {
            Layer::Handshake(_) => failed(Fault::ClosedInHandshake, Some(how)),
            _ => self.unanswered(how),
        }
    }

    /// What is missing when the time is over.
    pub(super) fn late(&self) -> Problem {
        let how = format!("after {} s", PROBE_DEADLINE.as_secs());
        match self.layer {
            Layer::Handshake(_) => failed(Fault::HandshakeTimeout, Some(&how)),
            _ => self.unanswered(&how),
        }
    }

    fn unanswered(&self, how: &str) -> Problem {
        if self.answer.is_empty() {
            return format!("no answer to the health check ({how})");
        }
        if !self.check.send.0.is_empty() {
            // It may repeat what was sent, and a password may be in that.
            return format!("its answer does not contain health_expect ({how})");
        }
        let begin = first_bytes(&self.answer);
        format!("its answer does not contain health_expect ({how}): it begins with \"{begin}\"")
    }

    fn advance(&mut self) -> Result<(), Problem> {
        if matches!(self.layer, Layer::Handshake(_)) {
            self.shake_hands()?;
        }
        match self.layer {
            Layer::Handshake(_) => Ok(()),
            Layer::Plain => {
                let bytes = self.incoming.filled().to_vec();
                self.incoming.clear();
                self.take(&bytes)
            }
            Layer::Records(_) => self.open(),
        }
    }

    fn shake_hands(&mut self) -> Result<(), Problem> {
        let Layer::Handshake(session) = &mut self.layer else { return Ok(()) };
        let Some(mut session) = session.take() else { return Err(failed(Fault::Internal, None)) };
        let mut flight = Buf::with_capacity(BUF_BYTES);
        let progress = session.feed(&mut self.incoming, &mut flight);
        if progress != Err(Refusal::FlightTooLong) {
            self.outgoing.extend_from_slice(flight.filled());
        }
        match progress {
            Ok(Progress::NeedsMore) => {
                self.layer = Layer::Handshake(Some(session));
                return Ok(());
            }
            Ok(Progress::Complete) => {}
            Err(Refusal::AlertReceived(description)) => {
                return Err(failed(Fault::AlertInHandshake, Some(alert::name(description))));
            }
            Err(refusal) => return Err(failed(refusal.into(), session.evidence().reason.as_deref())),
        }
        let established = session.establish().map_err(|refusal| failed(refusal.into(), None))?;
        self.layer = Layer::Records(Box::new((Sealer::new(established.tx), Opener::new(established.rx))));
        let fault = match established.peer {
            Ok(_) => return self.ask(),
            Err(PeerRefusal::Missing) => Fault::PeerCertificateMissing,
            Err(PeerRefusal::Refused) => Fault::PeerCertificateRefused,
        };
        // As a connection does; it is refused whether the alert is sent or not.
        let _ = self.seal(RecordType::Alert, &[alert::LEVEL_FATAL, alert::BAD_CERTIFICATE]);
        Err(failed(fault, Some("the certificate has none of the fingerprints")))
    }

    /// Appends what is to be sent to the endpoint.
    fn ask(&mut self) -> Result<(), Problem> {
        let check = Arc::clone(&self.check);
        self.seal(RecordType::ApplicationData, &check.send.0)
    }

    fn seal(&mut self, record_type: RecordType, plaintext: &[u8]) -> Result<(), Problem> {
        match &mut self.layer {
            Layer::Records(records) => {
                let mut sealed = Buf::with_capacity(records.0.sealed_bytes(plaintext.len()));
                let is_sealed = records.0.seal(record_type, plaintext, &mut sealed);
                is_sealed.map_err(|_| failed(Fault::Internal, None))?;
                self.outgoing.extend_from_slice(sealed.filled());
            }
            Layer::Plain if record_type == RecordType::ApplicationData => {
                self.outgoing.extend_from_slice(plaintext);
            }
            Layer::Plain | Layer::Handshake(_) => {}
        }
        Ok(())
    }

    /// Opens the records that are whole. Tickets are not kept.
    fn open(&mut self) -> Result<(), Problem> {
        let mut opened = Buf::with_capacity(SMALL_BYTES);
        while !self.is_complete() {
            let Layer::Records(records) = &mut self.layer else { return Ok(()) };
            let header = Header::read(self.incoming.filled()).map_err(|error| broken(error.into()))?;
            let Some(header) = header.filter(|it| it.record_bytes() <= self.incoming.len()) else {
                return Ok(());
            };
            if opened.capacity() < header.record_bytes() {
                opened = Buf::with_capacity(header.record_bytes());
            }
            opened.clear();
            let record = &self.incoming.filled()[..header.record_bytes()];
            let record_type = records.1.open(header, record, &mut opened);
            let record_type = record_type.map_err(|error| broken(error.into()))?;
            self.incoming.consume(header.record_bytes());
            match (record_type, opened.filled()) {
                (RecordType::ApplicationData, bytes) => self.take(bytes)?,
                (RecordType::Alert, [_, description]) => {
                    return Err(self.unanswered(alert::name(*description)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let room = HEALTH_ANSWER_BYTES_MAX - self.answer.len();
        self.answer.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if self.answer.len() == HEALTH_ANSWER_BYTES_MAX && !self.is_complete() {
            let how = format!("in its first {HEALTH_ANSWER_BYTES_MAX} bytes");
            return Err(self.unanswered(&how));
        }
        Ok(())
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("received", &self.received).finish_non_exhaustive()
    }
}

/// The endpoint cannot be connected, or is lost.
pub(super) fn unreachable(error: &std::io::Error) -> Problem {
    format!("it does not answer ({})", errno::name(error))
}

fn failed(fault: Fault, why: Option<&str>) -> Problem {
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    format!("its TLS handshake has failed: {}{why}", fault.label())
}

fn broken(fault: Fault) -> Problem {
    format!("its answer cannot be read: {}", fault.label())
}
