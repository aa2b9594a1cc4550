//! What goes to the peer, one thing at a time: records that are due, application data, the end.

use super::limit::KeyBudget;
use super::send_state::SendState;
use super::{TlsSide, control, kernel};
use crate::buf::Buf;
use crate::conn::action::{Action, Outbox};
use crate::conn::fault::{Fault, alert};
use crate::conn::record_path::Transmitter;
use crate::tls::record::RecordType;

/// What goes to the peer.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) path: Transmitter,
    /// Bytes until the kernel is offered the direction; `None` if that is settled.
    pub(super) left: Option<u64>,
    pub(super) state: SendState,
    pub(super) pending: Pending,
    /// close_notify and FIN were sent.
    pub(super) ended: bool,
    /// The kernel did not take our own next key: nothing can be sent any more.
    pub(super) is_lost: bool,
}

/// Records that we owe the peer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pending {
    pub(super) key_update: bool,
    /// One that asks for one in return.
    pub(super) key_update_request: bool,
    no_renegotiation: bool,
    /// The one warning was given.
    renegotiation_refused: bool,
}

impl Sender {
    pub(super) fn new(path: Transmitter, left: Option<u64>) -> Self {
        let (state, pending) = (SendState::Idle, Pending::default());
        Self { path, left, state, pending, ended: false, is_lost: false }
    }

    /// RFC 5246 §7.2.2: one warning.
    pub(super) fn refuse_renegotiation(&mut self) -> Result<(), Fault> {
        if self.pending.renegotiation_refused {
            return Err(Fault::Renegotiation);
        }
        (self.pending.no_renegotiation, self.pending.renegotiation_refused) = (true, true);
        Ok(())
    }
}

impl TlsSide {
    /// Whether a record other than application data and the end is due.
    pub(in crate::conn::relay) fn owes_a_record(&self) -> bool {
        let Pending { key_update, key_update_request, no_renegotiation, .. } = self.sender.pending;
        key_update | key_update_request | no_renegotiation
    }

    /// Sends what comes next, if it can be sent now: of what is `held`, or behind it all the end.
    pub(in crate::conn::relay) fn send_next(
        &mut self,
        held: &mut Option<Buf>,
        is_at_end: bool,
        out: &mut Outbox,
    ) -> Result<(), Fault> {
        if self.sender.state != SendState::Idle
            || self.sender.ended
            || self.is_gone
            || (self.sender.left == Some(0) && self.offer_tx(out))
        {
            return Ok(());
        }
        // An answer is due before the next application data and not sooner: one does for all requests that
        // came while we were silent (RFC 8446 §4.6.3), and no peer gets more in a row than it takes.
        if self.sender.pending.key_update_request || self.sender.pending.key_update && held.is_some() {
            return if self.receiver.is_asking { Ok(()) } else { self.send_key_update(out) };
        }
        if self.sender.pending.no_renegotiation {
            self.sender.pending.no_renegotiation = false;
            let payload = control::alert_payload(alert::NO_RENEGOTIATION);
            return self.send_record(RecordType::Alert, &payload, SendState::Data, out);
        }
        if held.is_some() {
            match self.room_to_send(out) {
                KeyBudget::Asked => return Ok(()),
                KeyBudget::AfterKeyUpdate => return self.send_key_update(out),
                KeyBudget::LastOnes => self.winding_up = true,
                KeyBudget::Plenty => {}
            }
        }
        if let Some(buf) = held.take() {
            return self.send_data(buf, out);
        }
        if is_at_end {
            let payload = control::alert_payload(alert::CLOSE_NOTIFY);
            return self.send_record(RecordType::Alert, &payload, SendState::CloseNotify, out);
        }
        Ok(())
    }

    fn send_data(&mut self, buf: Buf, out: &mut Outbox) -> Result<(), Fault> {
        if self.receiver.eof {
            self.listen_behind_the_end(out);
        }
        match &mut self.sender.path {
            Transmitter::Kernel(records) => {
                records.add(kernel::records_of(buf.len()));
                self.sender.state = SendState::Data;
                out.push(Action::Send { leg: self.leg, buf });
                Ok(())
            }
            Transmitter::Userspace(_) => self.seal_data(buf, out),
        }
    }

    /// Sends a record other than application data.
    pub(super) fn send_record(
        &mut self,
        record_type: RecordType,
        payload: &[u8],
        state: SendState,
        out: &mut Outbox,
    ) -> Result<(), Fault> {
        if let (RecordType::Alert, &[_, description]) = (record_type, payload) {
            out.alerts.sent(self.leg, description);
        }
        let mut buf = out.bufs.take();
        match &mut self.sender.path {
            Transmitter::Kernel(records) => {
                records.add(1);
                buf.extend(payload);
                out.push(Action::SendRecord { leg: self.leg, record_type: record_type.number(), buf });
            }
            Transmitter::Userspace(sealer) => {
                if sealer.seal(record_type, payload, &mut buf).is_err() {
                    out.bufs.give(buf);
                    return Err(Fault::RecordLimit);
                }
                out.push(Action::Send { leg: self.leg, buf });
            }
        }
        self.sender.state = state;
        Ok(())
    }

    /// What was being sent is sent.
    pub(super) fn sent(&mut self, out: &mut Outbox) -> Result<(), Fault> {
        match std::mem::take(&mut self.sender.state) {
            SendState::Data => {}
            SendState::KeyUpdate => self.install_next_tx_key(out)?,
            SendState::CloseNotify if matches!(self.sender.path, Transmitter::Kernel(_)) => {
                self.sender.state = SendState::Flushing;
                out.push(Action::Flush { leg: self.leg });
            }
            SendState::CloseNotify => self.end_sending(out),
            // The peer is gone: what it does not take any more is over.
            SendState::Idle if self.is_gone => {}
            SendState::Idle | SendState::Asking | SendState::Flushing => return Err(Fault::Internal),
        }
        Ok(())
    }

    pub(super) fn end_sending(&mut self, out: &mut Outbox) {
        self.sender.state = SendState::Idle;
        self.sender.ended = true;
        out.push(Action::ShutdownWrite { leg: self.leg });
    }

    pub(in crate::conn::relay) fn is_sending(&self) -> bool {
        self.sender.state != SendState::Idle
    }

    /// Nothing more can be sent, or is to be.
    pub(in crate::conn::relay) fn has_ended(&self) -> bool {
        self.sender.ended || self.is_gone
    }
}
