//! How the peer's side ends, what a fault leaves to be said to it, and what is still to be delivered.
//!
//! Whatever the fault: what came whole and authentic before it is delivered, and only then is the plain leg
//! reset. A reset of our own throws away what is still in our socket; what the backend's TCP has acknowledged
//! it can read on Linux, before it reads ECONNRESET.

use super::half::Half;
use super::{Occupant, Relay, control};
use crate::conn::action::{Action, Outbox};
use crate::conn::carrier::{Delivery, Ended, Farewell, Flush, PlainEnd, Receiver, Transmitter};
use crate::conn::event::{Leg, Operation};
use crate::conn::fault::{Blame, Fault, alert};
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

impl Relay {
    /// The last record to the peer, if one is due and can be sent; and what becomes of the plain leg.
    pub(in crate::conn) fn farewell(&mut self, fault: Fault, out: &mut Outbox) -> Ended {
        // Under which key, and by whom, an alert would have to be sealed is open until the answer.
        let is_between_keys =
            self.down.sending && matches!(self.occupied_by, Occupant::Question | Occupant::KeyUpdate);
        let is_cut = self.owes_something();
        let farewell = match fault.alert() {
            _ if self.tx_is_lost || self.peer_gone || is_between_keys => Farewell::Silent,
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
        let plain = self.plain_end(fault, is_cut);
        Ended { fault: Some(fault), farewell, heard: self.heard, flush, plain, is_deaf: false }
    }

    fn plain_end(&mut self, fault: Fault, is_cut: bool) -> PlainEnd {
        match fault {
            // It takes nothing more, or has had its time.
            _ if fault.blame() == Blame::Plain || self.backend_broken || !self.connected => PlainEnd::Reset,
            Fault::DrainTimeout => PlainEnd::Reset,
            Fault::IdleTimeout if is_cut => PlainEnd::Reset,
            Fault::IdleTimeout => PlainEnd::InOrder,
            // Both sides have ended, and the operator takes FIN alone for an end.
            Fault::Truncated if self.is_truncated => PlainEnd::InOrder,
            _ => {
                let held = self.up.held.take();
                PlainEnd::DeliverThenReset(Delivery { sending: self.up.sending, held })
            }
        }
    }

    /// Both sides have ended. Where bytes lie behind the peer's end, the socket is not closed over them
    /// before the peer has all of ours.
    pub(in crate::conn) fn orderly_end(&self) -> Ended {
        let BehindTheEnd { bytes, is_deaf, .. } = self.behind_the_end;
        // The front of a record may lie in the socket: kernel TLS hands out whole ones.
        let is_deaf = is_deaf || self.up.receiving;
        let farewell = if bytes > 0 || is_deaf { Farewell::Said } else { Farewell::Silent };
        Ended { farewell, is_deaf, ..Ended::quietly() }
    }

    /// FIN, and the peer has not said that it is the end. Behind our close_notify that is how many end,
    /// unless it comes in the middle of a record; before, the stream may have been cut.
    pub(super) fn peer_finished(&mut self, out: &mut Outbox) -> Result<(), Fault> {
        if self.peer_gone {
            return Err(Fault::ClientReset);
        }
        let is_whole = self.down.ended && !self.is_mid_record;
        if !is_whole && !self.takes_fin_for_the_end {
            return Err(Fault::Truncated);
        }
        self.is_truncated = !is_whole;
        self.is_mid_record = false;
        self.partial.take().into_iter().for_each(|buf| out.bufs.give(buf));
        self.up.eof = true;
        Ok(())
    }

    pub(super) fn tls_failed(
        &mut self,
        operation: Operation,
        errno: i32,
        out: &mut Outbox,
    ) -> Result<(), Fault> {
        if operation == Operation::Receive {
            self.up.receiving = false;
        }
        match (operation, &self.rx) {
            (Operation::Receive, _) if self.up.eof => self.failed_behind_the_end(errno, out),
            (Operation::Receive, Receiver::Kernel(_)) => return self.kernel_receive_failed(errno, out),
            // TCP hands out what it has before it says so.
            (Operation::Receive | Operation::Connect, _) => return Err(Fault::ClientReset),
            (Operation::Send, _) => self.lose_peer(out),
        }
        Ok(())
    }

    /// The peer has reset the connection: it takes nothing more. What it sent before may still lie in the
    /// socket.
    pub(super) fn lose_peer(&mut self, out: &mut Outbox) {
        self.peer_gone = true;
        self.down.sending = false;
        self.occupied_by = Occupant::Data;
        self.down.held.take().into_iter().for_each(|buf| out.bufs.give(buf));
    }

    /// Whether only what the peer sent before it reset the connection is left to be passed on.
    pub(in crate::conn) fn has_lost_its_peer(&self) -> bool {
        self.peer_gone
    }

    /// The kernel has found that no record comes next.
    pub(super) fn unreadable(&mut self, errno: i32, out: &mut Outbox) -> Result<(), Fault> {
        if self.up.eof {
            self.behind_the_end.is_deaf = true;
            return Ok(());
        }
        self.kernel_receive_failed(errno, out)
    }

    /// While data is being sent.
    pub(super) fn listen_behind_the_end(&mut self, out: &mut Outbox) {
        let BehindTheEnd { is_over, is_deaf, .. } = self.behind_the_end;
        if self.up.eof && !self.up.receiving && !self.is_truncated && !is_over && !is_deaf {
            self.up.receiving = true;
            out.push(Action::Receive { leg: Leg::Tls, max: self.receivable_bytes() });
        }
    }

    /// `count` bytes were received and thrown away; none is the end.
    pub(super) fn received_behind_the_end(&mut self, count: usize, out: &mut Outbox) {
        self.behind_the_end.bytes += count;
        self.behind_the_end.is_over = count == 0 || self.behind_the_end.bytes > MAX_LINGER_BYTES;
        if self.down.sending {
            self.listen_behind_the_end(out);
        }
    }

    fn failed_behind_the_end(&mut self, errno: i32, out: &mut Outbox) {
        match (errno, &self.rx) {
            (libc::EIO, Receiver::Kernel(_)) => self.receive_record(out),
            (libc::EBADMSG | libc::EMSGSIZE | libc::EINVAL | libc::EKEYEXPIRED, Receiver::Kernel(_)) => {
                self.behind_the_end.is_deaf = true;
            }
            // Of a reset the next send tells.
            _ => self.behind_the_end.is_over = true,
        }
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
