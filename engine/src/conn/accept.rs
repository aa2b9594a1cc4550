//! Stage 1: the first bytes. Is it TLS at all? No state of the handshake is spent before that is known.

use super::Next;
use super::action::{Action, Outbox};
use super::event::Event;
use super::fault::Fault;
use crate::buf::Buf;
use crate::tls::record::{Header, RecordType};

/// Waits for the first bytes of the client.
#[derive(Debug)]
pub(super) struct Accept;

impl Accept {
    /// 1. The leg is open: receive. 2. The first bytes decide.
    pub(super) fn on(&mut self, event: Event, out: &mut Outbox) -> Next<Buf> {
        match event {
            Event::Opened => {
                out.push(Action::ReceiveHandshake);
                Next::Stay
            }
            Event::Received { buf, count: 0, .. } => {
                out.bufs.give(buf);
                Next::End(Fault::ClosedBeforeHello)
            }
            Event::Received { buf, .. } if starts_a_handshake(buf.filled()) => Next::Advance(buf),
            Event::Received { buf, .. } => {
                out.bufs.give(buf);
                Next::End(Fault::NotTls)
            }
            Event::Failed { .. } | Event::Drain { .. } => Next::End(Fault::ClosedBeforeHello),
            Event::Expired => Next::End(Fault::HandshakeTimeout),
            _ => Next::End(Fault::Internal),
        }
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
}
