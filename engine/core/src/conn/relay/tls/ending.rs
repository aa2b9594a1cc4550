//! How the peer's side ends, and what a fault leaves to be said to it.
//!
//! Whatever the fault: what came whole and authentic from the other side before it is delivered, and only
//! then does the alert say that the stream is cut.

use super::send_state::SendState;
use super::{TlsSide, control};
use crate::buf::Buf;
use crate::conn::action::{Action, Outbox};
use crate::conn::event::Operation;
use crate::conn::fault::{Fault, alert};
use crate::conn::record_path::{Flush, LastRecord, Receiver, TlsEnd, Transmitter};
use crate::conn::relay::Ending;
use crate::conn::shutdown::MAX_LINGER_BYTES;
use crate::tls::record::RecordType;

/// What came behind the peer's close_notify, which is ignored (RFC 8446 §6.1). It is received only while data
/// is sent to the peer: a socket that is closed over unread bytes resets the connection, and what the peer
/// has not got by then is lost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BehindTheEnd {
    bytes: usize,
    /// Nothing more is received.
    is_over: bool,
    /// It cannot be received, and stays in the socket.
    is_deaf: bool,
}

impl TlsSide {
    /// How this leg ends behind a fault; `held` is what it was to be sent.
    pub(in crate::conn) fn end(mut self, ending: Ending, held: Option<Buf>, out: &mut Outbox) -> TlsEnd {
        let is_of_the_other = ending.culprit.is_some_and(|leg| leg != self.leg);
        // Under which key, and by whom, a record would have to be sealed is open until the answer.
        let is_between_keys = matches!(self.sender.state, SendState::Asking | SendState::KeyUpdate);
        let is_mute = self.sender.is_lost || self.is_gone || is_between_keys;
        let delivery = match held {
            Some(buf) if is_of_the_other && !is_mute && !self.has_said_close() => self.last_data(buf, out),
            held => {
                held.into_iter().for_each(|buf| out.bufs.give(buf));
                None
            }
        };
        let description = if is_of_the_other { Some(alert::INTERNAL_ERROR) } else { ending.fault.alert() };
        let farewell = match description {
            _ if is_mute => LastRecord::Silent,
            None => LastRecord::Silent,
            Some(_) if self.has_said_close() => LastRecord::Said,
            // Behind what is lost it would say that all has come.
            Some(alert::CLOSE_NOTIFY) if ending.is_cut => self.last_alert(alert::INTERNAL_ERROR, out),
            Some(description) => self.last_alert(description, out),
        };
        let flush = match &self.sender.path {
            Transmitter::Kernel(_) if self.sender.state == SendState::Flushing => Flush::Asked,
            Transmitter::Kernel(_) if !self.sender.ended => Flush::Due,
            _ => Flush::Needless,
        };
        self.release(out);
        TlsEnd { delivery, farewell, flush, is_deaf: false }
    }

    /// Both sides have ended. Where bytes lie behind the peer's end, the socket is not closed over them
    /// before the peer has all of ours.
    pub(in crate::conn) fn end_in_order(self, out: &mut Outbox) -> TlsEnd {
        let BehindTheEnd { bytes, is_deaf, .. } = self.receiver.behind_the_end;
        // The front of a record may lie in the socket: kernel TLS hands out whole ones.
        let is_deaf = is_deaf || self.receiver.receiving;
        let farewell = if bytes > 0 || is_deaf { LastRecord::Said } else { LastRecord::Silent };
        self.release(out);
        TlsEnd { delivery: None, farewell, flush: Flush::Needless, is_deaf }
    }

    /// What was not orderly, when both sides have ended.
    pub(in crate::conn) fn cut(&self) -> Option<Fault> {
        if self.is_gone {
            return Some(Fault::TlsPeerReset);
        }
        self.receiver.is_truncated.then_some(Fault::Truncated)
    }

    /// FIN, and the peer has not said that it is the end. Behind our close_notify that is how many end,
    /// unless it comes in the middle of a record; before, the stream may have been cut.
    pub(super) fn peer_finished(&mut self, out: &mut Outbox) -> Result<(), Fault> {
        if self.is_gone {
            return Err(Fault::TlsPeerReset);
        }
        let is_whole = self.sender.ended && !self.receiver.is_mid_record;
        if !is_whole && !self.receiver.takes_fin_for_the_end {
            return Err(Fault::Truncated);
        }
        self.receiver.is_truncated = !is_whole;
        self.receiver.is_mid_record = false;
        self.receiver.partial.take().into_iter().for_each(|buf| out.bufs.give(buf));
        self.receiver.eof = true;
        Ok(())
    }

    pub(super) fn failed(&mut self, operation: Operation, errno: i32, out: &mut Outbox) -> Result<(), Fault> {
        if operation == Operation::Receive {
            self.receiver.receiving = false;
        }
        match (operation, &self.receiver.path) {
            (Operation::Receive, _) if self.receiver.eof => self.failed_behind_the_end(errno, out),
            (Operation::Receive, Receiver::Kernel(_)) => return self.kernel_receive_failed(errno, out),
            // TCP hands out what it has before it says so.
            (Operation::Receive | Operation::Connect, _) => return Err(Fault::TlsPeerReset),
            (Operation::Send, _) => self.lose_peer(),
        }
        Ok(())
    }

    /// The peer has reset the connection: it takes nothing more. What it sent before may still lie in the
    /// socket.
    pub(super) fn lose_peer(&mut self) {
        self.is_gone = true;
        self.sender.state = SendState::Idle;
    }

    /// The kernel has found that no record comes next.
    pub(super) fn unreadable(&mut self, errno: i32, out: &mut Outbox) -> Result<(), Fault> {
        if self.receiver.eof {
            self.receiver.behind_the_end.is_deaf = true;
            return Ok(());
        }
        self.kernel_receive_failed(errno, out)
    }

    /// Behind the peer's end, while data is being sent.
    pub(super) fn listen_behind_the_end(&mut self, out: &mut Outbox) {
        let BehindTheEnd { is_over, is_deaf, .. } = self.receiver.behind_the_end;
        if !self.receiver.receiving && !self.receiver.is_truncated && !is_over && !is_deaf {
            self.receiver.receiving = true;
            out.push(Action::Receive { leg: self.leg, max: self.receivable_bytes() });
        }
    }

    /// `count` bytes were received and thrown away; none is the end.
    pub(super) fn received_behind_the_end(&mut self, count: usize, out: &mut Outbox) {
        self.receiver.behind_the_end.bytes += count;
        self.receiver.behind_the_end.is_over =
            count == 0 || self.receiver.behind_the_end.bytes > MAX_LINGER_BYTES;
        if self.is_sending() {
            self.listen_behind_the_end(out);
        }
    }

    fn failed_behind_the_end(&mut self, errno: i32, out: &mut Outbox) {
        match (errno, &self.receiver.path) {
            (libc::EIO, Receiver::Kernel(_)) => self.receive_record(out),
            (libc::EBADMSG | libc::EMSGSIZE | libc::EINVAL | libc::EKEYEXPIRED, Receiver::Kernel(_)) => {
                self.receiver.behind_the_end.is_deaf = true;
            }
            // Of a reset the next send tells.
            _ => self.receiver.behind_the_end.is_over = true,
        }
    }

    /// Whether our close_notify was sent, or is being sent.
    fn has_said_close(&self) -> bool {
        self.sender.ended || matches!(self.sender.state, SendState::CloseNotify | SendState::Flushing)
    }

    /// Application data that is sent without regard to what may come of it.
    fn last_data(&mut self, buf: Buf, out: &mut Outbox) -> Option<Buf> {
        let Transmitter::Userspace(sealer) = &mut self.sender.path else { return Some(buf) };
        let mut sealed = out.bufs.take();
        let result = sealer.seal(RecordType::ApplicationData, buf.filled(), &mut sealed);
        out.bufs.give(buf);
        if result.is_ok() {
            return Some(sealed);
        }
        out.bufs.give(sealed);
        None
    }

    fn last_alert(&mut self, description: u8, out: &mut Outbox) -> LastRecord {
        let payload = control::alert_payload(description);
        let mut buf = out.bufs.take();
        match &mut self.sender.path {
            Transmitter::Kernel(_) => {
                buf.extend(&payload);
                LastRecord::Record(buf)
            }
            Transmitter::Userspace(sealer) => match sealer.seal(RecordType::Alert, &payload, &mut buf) {
                Ok(()) => LastRecord::Bytes(buf, description),
                Err(_) => {
                    out.bufs.give(buf);
                    LastRecord::Silent
                }
            },
        }
    }
}
