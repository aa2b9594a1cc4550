//! What is particular to a direction whose records userspace carries.

use super::TlsSide;
use super::send_state::SendState;
use crate::buf::{BUF_BYTES, Buf};
use crate::conn::action::{Action, ControlKind, Outbox};
use crate::conn::fault::Fault;
use crate::conn::record_path::{Receiver, Transmitter};
use crate::tls::cipher::{self, OpenError};
use crate::tls::record::{self, Header, RecordType};
use crate::tls::secrets::Version;

impl TlsSide {
    /// Receives behind the front of a record. What is in the socket already comes right behind it; for what
    /// is not, the front waits in a buffer of its own size.
    pub(super) fn receive_rest(&mut self, front: Buf, out: &mut Outbox) {
        let is_aligning = self.receiver.left == Some(0);
        let room = if is_aligning {
            missing_bytes(&front)
        } else {
            self.bulk_bytes().saturating_sub(front.len()).max(1)
        };
        if self.receiver.has_more {
            let buf = if front.capacity() == BUF_BYTES { front } else { join(front, out.bufs.take(), out) };
            out.push(Action::ReceiveInto { leg: self.leg, buf: compacted(buf), max: room });
        } else {
            self.receiver.partial = Some(out.bufs.fit(front));
            out.push(Action::Receive { leg: self.leg, max: room });
        }
    }

    /// Bytes of the full records that a buffer holds: received so, bulk leaves no front of a record behind.
    pub(super) fn bulk_bytes(&self) -> usize {
        match &self.receiver.path {
            Receiver::Userspace(opener) => BUF_BYTES - BUF_BYTES % cipher::full_record_bytes(opener.keys()),
            Receiver::Kernel(_) => BUF_BYTES,
        }
    }

    /// Nothing is received now: what is left waits for as long as that takes.
    pub(super) fn keep_partial(&mut self, out: &mut Outbox) {
        if !self.receiver.receiving {
            self.receiver.record_since = None;
        }
        if self.receiver.partial.as_ref().is_some_and(Buf::is_loose) {
            self.receiver.partial = self.receiver.partial.take().map(|front| out.bufs.fit(front));
        }
    }

    /// Opens the whole records in `sealed`; what is left of it waits for the rest.
    pub(super) fn open(
        &mut self,
        mut sealed: Buf,
        received: &mut Option<Buf>,
        out: &mut Outbox,
    ) -> Result<(), Fault> {
        let mut opened = out.bufs.take();
        let result = self.open_records(&mut sealed, &mut opened, out);
        if sealed.is_empty() || result.is_err() {
            out.bufs.give(sealed);
        } else {
            self.receiver.partial = Some(sealed);
        }
        if opened.is_empty() {
            out.bufs.give(opened);
        } else {
            // What was opened before a fault is delivered before the plain leg is reset.
            out.count(self.leg, opened.len());
            *received = Some(opened);
        }
        result
    }

    fn open_records(&mut self, sealed: &mut Buf, opened: &mut Buf, out: &mut Outbox) -> Result<(), Fault> {
        while !self.receiver.eof
            && let Some(header) = Header::read(sealed.filled())?
        {
            let Some(record) = sealed.filled().get(..header.record_bytes()) else { break };
            if self.cipher.version == Version::Tls13 && header.record_type != RecordType::ApplicationData {
                // In the clear: a ChangeCipherSpec that is late (RFC 8446 §5), or a forged alert.
                self.seen.add(ControlKind::Unexpected);
                return Err(Fault::UnexpectedRecord);
            }
            let Receiver::Userspace(opener) = &mut self.receiver.path else { return Err(Fault::Internal) };
            if opener.keys().sequence() >= self.record_limit {
                self.winding_up = true;
                break;
            }
            let before = opened.len();
            let record_type = opener.open(header, record, opened)?;
            sealed.consume(header.record_bytes());
            self.receiver.record_since = None;
            if record_type == RecordType::ApplicationData {
                self.no_message_is_cut()?;
                Self::carried_in_userspace(&mut self.receiver.left, opened.len() - before);
                self.receiver.control_records_in_a_row =
                    if opened.len() > before { 0 } else { self.count_empty_record()? };
                continue;
            }
            // Out of the way of the data, and seldom enough for an allocation.
            let payload = opened.filled()[before..].to_vec();
            opened.truncate(before);
            self.control(record_type, &payload, out)?;
        }
        if self.receiver.eof {
            // Whatever follows a close_notify is ignored (RFC 8446 §6.1).
            sealed.clear();
        }
        Ok(())
    }

    /// Empty records of application data are allowed, but not a stream of nothing else.
    pub(super) fn count_empty_record(&self) -> Result<u32, OpenError> {
        let count = self.receiver.control_records_in_a_row + 1;
        if count > super::MAX_CONTROL_RECORDS_IN_A_ROW { Err(OpenError::UnexpectedType) } else { Ok(count) }
    }

    /// Seals what came from the plain leg and sends it, all records at once.
    pub(super) fn seal_data(&mut self, buf: Buf, out: &mut Outbox) -> Result<(), Fault> {
        let Transmitter::Userspace(sealer) = &mut self.sender.path else { return Err(Fault::Internal) };
        let mut sealed = out.bufs.take();
        let result = sealer.seal(RecordType::ApplicationData, buf.filled(), &mut sealed);
        Self::carried_in_userspace(&mut self.sender.left, buf.len());
        out.bufs.give(buf);
        if result.is_err() {
            out.bufs.give(sealed);
            return Err(Fault::Internal);
        }
        self.sender.state = SendState::Data;
        out.push(Action::Send { leg: self.leg, buf: sealed });
        Ok(())
    }
}

/// `front` and behind it what is in the window of `buf`, which has room for both.
pub(super) fn join(front: Buf, mut buf: Buf, out: &mut Outbox) -> Buf {
    buf.prepend(front.filled());
    out.bufs.give(front);
    buf
}

fn compacted(mut buf: Buf) -> Buf {
    buf.compact();
    buf
}

/// The bytes to the end of the record at the front, or of its header if that is not whole; at least one. The
/// front was looked at before: it is no malformed one.
pub(super) fn missing_bytes(sealed: &Buf) -> usize {
    record::missing_bytes(sealed.filled()).unwrap_or(0).max(1)
}

/// Whether there is something to open, or to refuse, without a further byte.
pub(super) fn starts_with_a_whole_record(sealed: &Buf) -> bool {
    Header::read(sealed.filled())
        .map_or(true, |header| header.is_some_and(|it| it.record_bytes() <= sealed.len()))
}
