//! A side with TLS: records in and out of a leg, whoever carries them, plaintext on the other side.
//!
//! What either record path finds beside application data goes through `control`, and in TLS 1.3 through
//! `messages`; what differs between the record paths is in `kernel` and `userspace`. A direction changes its
//! record path in `handover`; how many records its key may protect is in `limit`; what is sent next is in
//! `sending`; what a fault leaves to be said is in `ending`.

mod control;
mod ending;
mod handover;
mod kernel;
mod limit;
mod messages;
mod send_state;
mod sending;
mod userspace;

use std::time::{Duration, Instant};

use super::note;
use crate::buf::Buf;
use crate::conn::action::{Action, Outbox, RecordPath};
use crate::conn::event::{Event, Leg};
use crate::conn::fault::Fault;
use crate::conn::policy::Policy;
use crate::conn::record_path::{self, Offer, SecuredLeg, Transmitter};
use crate::tls::record::RecordType;
use crate::tls::secrets::{Cipher, Direction, Version};
use crate::tls::session::Rekey;
use control::{Control, Counts, RateLimit};
use ending::BehindTheEnd;
use messages::Messages;
use sending::Sender;

/// Records in a row that are not application data before the peer is thought to mean harm.
const MAX_CONTROL_RECORDS_IN_A_ROW: u32 = 32;

/// An established side with TLS, in either role.
#[derive(Debug)]
pub(in crate::conn) struct TlsSide {
    leg: Leg,
    cipher: Cipher,
    sender: Sender,
    receiver: Receiver,
    /// Makes the keys that follow a KeyUpdate; TLS 1.3 only.
    rekey: Option<Rekey>,
    /// What the policy lets the kernel be asked to carry.
    offer: Offer,
    /// Most records that a key may protect.
    record_limit: u64,
    /// A key is spent: nothing more is received, what was is passed on.
    winding_up: bool,
    /// The peer takes no more; what it sent before is passed on to its end.
    is_gone: bool,
    /// Records that are not application data, not yet counted.
    seen: Counts,
    /// The description of the peer's fatal alert.
    heard: Option<u8>,
}

/// What comes from the peer.
#[derive(Debug)]
struct Receiver {
    path: record_path::Receiver,
    /// Bytes until the kernel is offered the direction; `None` if that is settled. With 0 it is offered at
    /// the next record boundary: until then nothing is received beyond the record that it is in.
    left: Option<u64>,
    /// A receive is under way.
    receiving: bool,
    /// The kernel was asked something of this direction: nothing is received until it has answered.
    is_asking: bool,
    /// The peer has said that it sends no more.
    eof: bool,
    /// Records that userspace has not opened, the last of which may not be whole. While the rest of it is
    /// awaited, in no larger buffer than it needs.
    partial: Option<Buf>,
    /// The front of a record came, and a receive waits for the rest.
    is_mid_record: bool,
    /// Since when a receive waits for the rest of the record that has begun.
    record_since: Option<Instant>,
    /// How long that may last.
    record_time: Duration,
    /// The socket has more (a hint).
    has_more: bool,
    takes_fin_for_the_end: bool,
    /// The peer's FIN came without close_notify and was passed on as an end.
    is_truncated: bool,
    /// What came behind the peer's close_notify.
    behind_the_end: BehindTheEnd,
    messages: Messages,
    control_records_in_a_row: u32,
    key_updates: RateLimit,
    /// The peer was asked to change its key and has not yet.
    update_asked: bool,
}

impl TlsSide {
    /// With what the handshake and the hand-over have left.
    pub(in crate::conn) fn new(secured: SecuredLeg, leg: Leg, now: Instant, policy: &Policy) -> Self {
        let SecuredLeg { cipher, tx, rx, tx_left, rx_left, rekey, partial } = secured;
        Self {
            leg,
            cipher,
            sender: Sender::new(tx, tx_left),
            receiver: Receiver {
                path: rx,
                left: rx_left,
                receiving: false,
                is_asking: false,
                eof: false,
                partial,
                is_mid_record: false,
                record_since: None,
                record_time: policy.timeouts.handshake,
                has_more: false,
                takes_fin_for_the_end: policy.takes_fin_for_the_end,
                is_truncated: false,
                behind_the_end: BehindTheEnd::default(),
                messages: Messages::default(),
                control_records_in_a_row: 0,
                key_updates: RateLimit::new(now),
                update_asked: false,
            },
            rekey,
            offer: policy.offload,
            record_limit: policy.record_limit.min(cipher.aead.record_limit()),
            winding_up: false,
            is_gone: false,
            seen: Counts::default(),
            heard: None,
        }
    }

    /// What happened on this leg; application data that was received is `received` afterwards.
    pub(super) fn on(
        &mut self,
        event: Event,
        received: &mut Option<Buf>,
        out: &mut Outbox,
    ) -> Result<(), Fault> {
        match event {
            Event::Received { buf, count, more, .. } => {
                self.receiver.has_more = more;
                let result = self.received(buf, count, received, out);
                self.seen.note(out);
                return result;
            }
            Event::Record { record_type, buf, .. } => {
                let result = self.record(record_type, buf, received, out);
                self.seen.note(out);
                return result;
            }
            Event::Moved { .. } => {
                // It is taken up again at a place that may be no record boundary.
                if let Transmitter::Kernel(records) = &mut self.sender.path {
                    records.add(1);
                }
            }
            Event::Settled { .. } => {}
            Event::Unread { bytes, .. } => self.receiver.is_mid_record = bytes > 0,
            Event::Unreadable { errno, .. } => return self.unreadable(errno, out),
            Event::Flushed { .. } => self.end_sending(out),
            Event::Sent { buf, .. } => {
                out.bufs.give(buf);
                return self.sent(out);
            }
            Event::Keyed { direction, .. } => self.keyed(direction, out),
            Event::Refused { direction, errno, .. } => return self.keys_refused(direction, errno, out),
            Event::Sequence { direction, sequence, .. } => self.told_sequence(direction, sequence),
            Event::Failed { operation, errno, .. } => return self.failed(operation, errno, out),
            _ => return Err(Fault::Internal),
        }
        Ok(())
    }

    fn received(
        &mut self,
        buf: Buf,
        count: usize,
        received: &mut Option<Buf>,
        out: &mut Outbox,
    ) -> Result<(), Fault> {
        self.receiver.receiving = false;
        if count == 0 && matches!(self.receiver.path, record_path::Receiver::Kernel(_)) {
            out.bufs.give(buf);
            self.receive_record(out);
            return Ok(());
        }
        if self.receiver.eof {
            out.bufs.give(buf);
            self.received_behind_the_end(count, out);
            return Ok(());
        }
        if count == 0 {
            out.bufs.give(buf);
            return self.peer_finished(out);
        }
        self.receiver.is_mid_record = false;
        match &mut self.receiver.path {
            record_path::Receiver::Kernel(records) => {
                // As many as there can be, but for empty ones, which nobody counts for us.
                records.add(count as u64);
                out.count(self.leg, buf.len());
                *received = Some(buf);
                self.receiver.control_records_in_a_row = 0;
                self.no_message_is_cut()
            }
            record_path::Receiver::Userspace(_) => {
                let sealed = match self.receiver.partial.take() {
                    None => buf,
                    Some(front) => userspace::join(front, buf, out),
                };
                self.open(sealed, received, out)
            }
        }
    }

    /// A record that is not application data.
    fn control(&mut self, record_type: RecordType, payload: &[u8], out: &mut Outbox) -> Result<(), Fault> {
        self.receiver.control_records_in_a_row += 1;
        let is_flood = self.receiver.control_records_in_a_row > MAX_CONTROL_RECORDS_IN_A_ROW;
        if record_type == RecordType::Handshake && self.cipher.version == Version::Tls13 {
            return self.messages(payload, is_flood, out);
        }
        if let (RecordType::Alert, &[_, description]) = (record_type, payload) {
            out.alerts.received(self.leg, description);
        }
        let control = control::read(self.cipher.version, record_type, payload);
        self.seen.add(control::kind(record_type, control));
        if control == Err(Fault::AlertReceived) {
            self.heard = payload.get(1).copied();
        }
        match control? {
            Control::CloseNotify => self.receiver.eof = true,
            Control::Renegotiation => self.sender.refuse_renegotiation()?,
            Control::Ignore if is_flood => return Err(Fault::UnexpectedRecord),
            Control::Ignore => {}
        }
        Ok(())
    }

    /// Receives the next bytes, for at most `max` of plaintext, if it `may`. Returns whether it is to be
    /// called again: something was there already, or is settled.
    pub(super) fn receive_next(
        &mut self,
        received: &mut Option<Buf>,
        may: bool,
        max: usize,
        out: &mut Outbox,
    ) -> Result<bool, Fault> {
        let Receiver { receiving, eof, is_asking, .. } = self.receiver;
        if !may || receiving || eof || is_asking || !self.has_room_to_receive(out) {
            self.keep_partial(out);
            return Ok(false);
        }
        match self.receiver.partial.take() {
            Some(buf) if userspace::starts_with_a_whole_record(&buf) => {
                let result = self.open(buf, received, out);
                self.seen.note(out);
                result.map(|()| true)
            }
            None if self.receiver.left == Some(0) => Ok(!self.offer_rx(out)),
            partial => {
                self.receiver.receiving = true;
                self.receive(partial, max, out);
                Ok(false)
            }
        }
    }

    fn receive(&mut self, partial: Option<Buf>, max: usize, out: &mut Outbox) {
        self.receiver.is_mid_record = partial.is_some();
        let Some(front) = partial else {
            let max = self.receivable_bytes().min(max);
            out.push(Action::Receive { leg: self.leg, max });
            return;
        };
        self.receiver.record_since.get_or_insert(out.now);
        self.receive_rest(front, out);
    }

    pub(super) fn leg(&self) -> Leg {
        self.leg
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.receiver.eof
    }

    pub(super) fn is_winding_up(&self) -> bool {
        self.winding_up
    }

    pub(super) fn has_lost_its_peer(&self) -> bool {
        self.is_gone
    }

    pub(super) fn has_half_a_record(&self) -> bool {
        self.receiver.partial.is_some() || self.receiver.is_mid_record
    }

    /// Whether the front of a record may lie with the kernel, which hands out whole ones.
    pub(super) fn may_have_unread(&self) -> bool {
        self.receiver.receiving
            && !self.receiver.eof
            && matches!(self.receiver.path, record_path::Receiver::Kernel(_))
    }

    pub(super) fn heard(&self) -> Option<u8> {
        self.heard
    }

    /// When a record that the peer has begun is to be whole; not while nothing is received.
    pub(super) fn record_until(&self) -> Option<Instant> {
        self.receiver.record_since.map(|since| since + self.receiver.record_time)
    }

    /// Gives what it holds back to the free list.
    fn release(self, out: &mut Outbox) {
        if self.sender.left.is_some() {
            note(self.leg, Direction::Tx, RecordPath::Userspace, out);
        }
        if self.receiver.left.is_some() {
            note(self.leg, Direction::Rx, RecordPath::Userspace, out);
        }
        self.receiver.partial.into_iter().for_each(|buf| out.bufs.give(buf));
    }
}
