//! What is particular to a direction whose records the kernel carries.
//!
//! A plain receive that meets a record other than application data fails with EIO until a receive with room
//! for the record type has taken that record. An empty record of application data in front of such a one
//! reads as the end of file: what that was, only a receive with room for the type tells.

use super::TlsSide;
use crate::buf::Buf;
use crate::conn::action::{Action, ControlKind, Outbox};
use crate::conn::fault::Fault;
use crate::conn::record_path::Receiver;
use crate::conn::shutdown::MIN_RECORD_BYTES;
use crate::tls::record::{MAX_PLAINTEXT_BYTES, RecordType};

impl TlsSide {
    /// Asks for one record with its type.
    pub(super) fn receive_record(&mut self, out: &mut Outbox) {
        let buf = out.bufs.take();
        self.receiver.receiving = true;
        out.push(Action::ReceiveRecord { leg: self.leg, buf });
    }

    /// One record that the kernel opened, of any type, or the end of file.
    pub(super) fn record(
        &mut self,
        record_type: Option<u8>,
        buf: Buf,
        received: &mut Option<Buf>,
        out: &mut Outbox,
    ) -> Result<(), Fault> {
        self.receiver.receiving = false;
        if self.receiver.eof {
            let count = record_type.map_or(0, |_| MIN_RECORD_BYTES + buf.len());
            out.bufs.give(buf);
            self.received_behind_the_end(count, out);
            return Ok(());
        }
        let Some(record_type) = record_type else {
            out.bufs.give(buf);
            // The kernel does not tell a half record at the end from none.
            return self.peer_finished(out);
        };
        if let Receiver::Kernel(records) = &mut self.receiver.path {
            records.add(1 + buf.len() as u64);
        }
        match RecordType::from_number(record_type) {
            Some(RecordType::ApplicationData) if buf.is_empty() => {
                out.bufs.give(buf);
                self.receiver.control_records_in_a_row = self.count_empty_record()?;
                Ok(())
            }
            Some(RecordType::ApplicationData) => {
                out.count(self.leg, buf.len());
                *received = Some(buf);
                self.receiver.control_records_in_a_row = 0;
                self.no_message_is_cut()
            }
            Some(other) => {
                let result = self.control(other, buf.filled(), out);
                out.bufs.give(buf);
                result
            }
            None => {
                self.seen.add(ControlKind::Unexpected);
                out.bufs.give(buf);
                Err(Fault::UnexpectedRecord)
            }
        }
    }

    /// The kernel's errors on receiving, by what they mean (`Documentation/networking/tls.rst`).
    pub(super) fn kernel_receive_failed(&mut self, errno: i32, out: &mut Outbox) -> Result<(), Fault> {
        match errno {
            libc::EIO => {
                self.receive_record(out);
                Ok(())
            }
            libc::EBADMSG => Err(Fault::BadRecord),
            libc::EMSGSIZE => Err(Fault::RecordTooLong),
            libc::EINVAL => Err(Fault::Malformed),
            // Nothing is received between a KeyUpdate and the key that follows it.
            libc::EKEYEXPIRED => Err(Fault::Internal),
            // It may say so before it hands out all records that it has.
            libc::ECONNRESET | libc::EPIPE | libc::ETIMEDOUT | libc::ENOTCONN if !self.is_gone => {
                self.lose_peer();
                Ok(())
            }
            libc::ECONNRESET | libc::EPIPE | libc::ETIMEDOUT | libc::ENOTCONN => Err(Fault::TlsPeerReset),
            _ => Err(Fault::TlsLegFailed),
        }
    }
}

/// Most records that the kernel makes of `bytes` sent at once: one more than they need. Each short send adds
/// one, which `Event::Moved` reports.
pub(super) fn records_of(bytes: usize) -> u64 {
    bytes.div_ceil(MAX_PLAINTEXT_BYTES) as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_bounded_from_above() {
        assert_eq!([1, 16_384, 16_385, 65_536].map(records_of), [2, 2, 3, 5]);
    }
}
