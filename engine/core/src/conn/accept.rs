//! Stage 1: the first bytes. Is it TLS at all? No state of the handshake is spent before that is known.

use super::Next;
use super::action::{Action, Outbox};
use super::event::{Event, Leg};
use super::fault::{Fault, alert};
use super::handshake::Failure;
use crate::buf::Buf;
use crate::tls::evidence::first_bytes;
use crate::tls::record::{Header, RecordType};
use crate::tls::session::alert_in_the_clear;
use offramp_proto::handshake::CLIENT_HELLO;

/// Waits for the first bytes of the client.
#[derive(Debug)]
pub(super) struct Accept {
    leg: Leg,
    /// What came in place of TLS, for the log.
    pub(super) first_bytes: Option<Box<str>>,
}

impl Accept {
    /// The leg is open: receive.
    pub(super) fn begin(leg: Leg, out: &mut Outbox) -> Self {
        out.push(Action::ReceiveHandshake { leg });
        Self::new(leg)
    }

    /// The first bytes are there.
    pub(super) fn new(leg: Leg) -> Self {
        Self { leg, first_bytes: None }
    }

    pub(super) fn leg(&self) -> Leg {
        self.leg
    }

    /// The first bytes decide.
    ///
    /// # Errors
    /// A hello in the framing of SSL 2.0, which is answered by an alert.
    pub(super) fn on(&mut self, event: Event, out: &mut Outbox) -> Result<Next<Buf>, Failure> {
        Ok(match event {
            Event::Received { buf, count: 0, .. } => {
                out.bufs.give(buf);
                Next::End(Fault::ClosedBeforeHello)
            }
            Event::Received { buf, .. } if starts_a_handshake(buf.filled()) => Next::Advance(buf),
            Event::Received { buf, .. } => {
                self.first_bytes = Some(first_bytes(buf.filled()));
                let refused = refused_in_sslv2_framing(buf.filled());
                out.bufs.give(buf);
                let Some((fault, alert)) = refused else { return Ok(Next::End(Fault::NotTls)) };
                let mut told = out.bufs.take();
                told.extend(&alert_in_the_clear(alert));
                return Err(Failure::with(fault, told));
            }
            Event::Failed { .. } => Next::End(Fault::ClosedBeforeHello),
            // It was accepted, and its hello may be on its way.
            Event::Drain { .. } => Next::Stay,
            Event::Expired => Next::End(Fault::HandshakeTimeout),
            _ => Next::End(Fault::Internal),
        })
    }
}

/// A ClientHello in the framing of SSL 2.0 (RFC 5246 Appendix E.2), which RFC 6176 §3 lets a server refuse:
/// why, and the alert, as OpenSSL's server of TLS 1.2 has it. It has no extensions, and so offers neither TLS
/// 1.3 nor the extended_master_secret that TLS 1.2 has to have. `None` for anything else, and for fewer bytes
/// than the five that tell.
fn refused_in_sslv2_framing(bytes: &[u8]) -> Option<(Fault, u8)> {
    const TLS_1_2: u16 = 0x0303;
    let &[length, _, CLIENT_HELLO, major, minor] = bytes.first_chunk()? else { return None };
    match u16::from_be_bytes([major, minor]) {
        _ if length & 0x80 == 0 => None,
        TLS_1_2.. => Some((Fault::NoExtendedMasterSecret, alert::HANDSHAKE_FAILURE)),
        _ => Some((Fault::NoCommonVersion, alert::PROTOCOL_VERSION)),
    }
}

/// As far as the bytes tell, which may be the first alone.
fn starts_a_handshake(bytes: &[u8]) -> bool {
    match Header::read(bytes) {
        Ok(Some(header)) => header.record_type == RecordType::Handshake,
        Ok(None) => bytes.first() == Some(&RecordType::Handshake.number()),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_is_enough_to_refuse_and_to_hope() {
        assert!(starts_a_handshake(&[22]));
        assert!(starts_a_handshake(&[22, 3, 1, 2, 0, 1]));
        assert!(!starts_a_handshake(b"GET / HTTP/1.1\r\n"));
        assert!(!starts_a_handshake(&[23, 3, 3, 0, 5]));
        assert!(!starts_a_handshake(&[0; 64]));
        assert!(!starts_a_handshake(&[0x80, 0x2e, 1, 0, 2]), "an SSL 2.0 hello");
    }

    #[test]
    fn a_hello_in_sslv2_framing_is_refused_by_its_version() {
        let of = |version: [u8; 2]| refused_in_sslv2_framing(&[0x80, 0x2e, 1, version[0], version[1], 0, 3]);
        for old in [[0, 2], [3, 0], [3, 1], [3, 2]] {
            assert_eq!(of(old), Some((Fault::NoCommonVersion, alert::PROTOCOL_VERSION)), "{old:?}");
        }
        for new in [[3, 3], [3, 4], [0xff, 0xff]] {
            let refusal = (Fault::NoExtendedMasterSecret, alert::HANDSHAKE_FAILURE);
            assert_eq!(of(new), Some(refusal), "{new:?}");
        }
        for other in [&[0x80, 0x2e, 1, 3][..], &[0x80, 0x2e, 4, 3, 3], &[0x00, 0x2e, 1, 3, 3], b"GET / HTTP"]
        {
            assert_eq!(refused_in_sslv2_framing(other), None, "{other:?}");
        }
    }
}
