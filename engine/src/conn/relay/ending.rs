//! What a fault leaves to be said to the peer, and whether anything is lost by it.

use super::half::Half;
use super::{Occupant, Relay, control};
use crate::conn::action::Outbox;
use crate::conn::carrier::{Ended, Farewell, Flush, Transmitter};
use crate::conn::fault::{Fault, alert};
use crate::tls::record::RecordType;

impl Relay {
    /// The last record to the peer, if one is due and can be sent.
    pub(in crate::conn) fn farewell(&mut self, fault: Fault, out: &mut Outbox) -> Ended {
        // Under which key, and by whom, an alert would have to be sealed is open until the answer.
        let is_between_keys =
            self.down.sending && matches!(self.occupied_by, Occupant::Question | Occupant::KeyUpdate);
        let is_cut = self.owes_something();
        let farewell = match fault.alert() {
            _ if self.tx_is_lost || is_between_keys => Farewell::Silent,
            None => Farewell::Silent,
            Some(_) if self.has_said_close() => Farewell::Said,
            // Behind what is lost it would say that all has come.
            Some(alert::CLOSE_NOTIFY) if is_cut => self.last_alert(alert::INTERNAL_ERROR, out),
            Some(description) => self.last_alert(description, out),
        };
        let flush = match &self.tx {
            Transmitter::Kernel(_) if self.occupied_by == Occupant::Flush => Flush::Asked,
            Transmitter::Kernel(_) if !self.down.ended => Flush::Due,
            _ => Flush::Needless,
        };
        Ended { fault: Some(fault), farewell, heard: self.heard, flush, is_cut }
    }

    /// Whether our close_notify was sent, or is being sent.
    fn has_said_close(&self) -> bool {
        self.down.ended || matches!(self.occupied_by, Occupant::CloseNotify | Occupant::Flush)
    }

    /// Whether something was received, or its front, that has not been passed on.
    fn owes_something(&self) -> bool {
        let is_owing = |half: &Half| half.sending || half.held.is_some();
        is_owing(&self.up) || is_owing(&self.down) || self.partial.is_some() || self.is_mid_record
    }

    fn last_alert(&mut self, description: u8, out: &mut Outbox) -> Farewell {
        let payload = control::alert_payload(description);
        let mut buf = out.bufs.take();
        match &mut self.tx {
            Transmitter::Kernel(_) => {
                buf.extend(&payload);
                Farewell::Record(buf)
            }
            Transmitter::Userspace(sealer) => match sealer.seal(RecordType::Alert, &payload, &mut buf) {
                Ok(()) => Farewell::Bytes(buf),
                Err(_) => {
                    out.bufs.give(buf);
                    Farewell::Silent
                }
            },
        }
    }
}
