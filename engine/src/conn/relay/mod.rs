//! Stage 4: the plain leg is connected, then two halves pump, each at its own pace.
//!
//! `up` goes from the TLS leg to the plain leg, `down` the other way. Each ends for itself: close_notify
//! becomes FIN on the plain leg, FIN from there becomes close_notify. FIN without close_notify is truncation
//! (RFC 8446 §6.1). What either carrier finds beside application data goes through `control`, and in TLS 1.3
//! through `messages`; what differs between the carriers is in `kernel` and `userspace`. A direction changes
//! its carrier in `handover`; how many records its key may protect is in `limit`; what a fault leaves to be
//! said is in `ending`.

mod control;
mod ending;
mod half;
mod handover;
mod kernel;
mod limit;
mod messages;
mod userspace;

use std::time::{Duration, Instant};

use super::action::{Action, Carriage, Outbox};
use super::carrier::{Carried, Offer, Receiver, Transmitter};
use super::event::{Event, Leg, Operation};
use super::fault::{Fault, alert};
use super::{Next, PLAINTEXT_BYTES, Rules};
use crate::buf::Buf;
use crate::tls::record::RecordType;
use crate::tls::secrets::{Aead, Direction, Version};
use crate::tls::session::Rekey;
use control::{Allowance, Control, Counts};
use ending::BehindTheEnd;
use half::Half;
use limit::Room;
use messages::Messages;

/// Records in a row that are not application data before the peer is thought to mean harm.
const MAX_CONTROL_RECORDS_IN_A_ROW: u32 = 32;

/// The two legs joined.
#[derive(Debug)]
pub(super) struct Relay {
    version: Version,
    aead: Aead,
    tx: Transmitter,
    rx: Receiver,
    /// What the kernel may be asked to carry, as of this event.
    offer: Offer,
    /// Bytes until the kernel is offered what goes to the peer; `None` if that is settled.
    tx_left: Option<u64>,
    /// The same for what comes from the peer. With 0 it is offered at the next record boundary: until then
    /// nothing is received beyond the record that it is in.
    rx_left: Option<u64>,
    rekey: Option<Rekey>,
    up: Half,
    down: Half,
    /// Records that userspace has not opened, the last of which may not be whole. While the rest of it is
    /// awaited, in no larger buffer than it needs.
    partial: Option<Buf>,
    /// The front of a record came, and a receive waits for the rest.
    is_mid_record: bool,
    /// Since when a receive waits for the rest of the record that has begun.
    record_since: Option<Instant>,
    /// How long that may last.
    record_time: Duration,
    /// The TLS leg's socket has more (a hint).
    has_more: bool,
    connected: bool,
    /// The plain leg takes no more; what still comes from it is passed on.
    backend_broken: bool,
    /// The TLS leg takes no more; what came before is passed on to its end.
    peer_gone: bool,
    /// The peer's FIN came without close_notify and was passed on as an end.
    is_truncated: bool,
    takes_fin_for_the_end: bool,
    /// What came behind the peer's close_notify.
    behind_the_end: BehindTheEnd,
    /// What occupies the sending side of the TLS leg: `down.sending` says that something does.
    occupied_by: Occupant,
    pending: Pending,
    /// The kernel was asked something of what comes from the peer: nothing is received until it has answered.
    asking_rx: bool,
    /// The kernel did not take our own next key.
    tx_is_lost: bool,
    /// Most records that a key may protect.
    record_limit: u64,
    /// The peer was asked to change its key and has not yet.
    rx_update_asked: bool,
    /// A key is spent: nothing more is received, what was is passed on.
    winding_up: bool,
    control_records_in_a_row: u32,
    messages: Messages,
    seen: Counts,
    /// The description of the peer's fatal alert.
    heard: Option<u8>,
    key_updates: Allowance,
    now: Instant,
}

/// What is being sent on the TLS leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Occupant {
    /// Application data, or a record after which nothing changes.
    #[default]
    Data,
    /// A KeyUpdate that the kernel seals: our next key follows it.
    KeyUpdate,
    /// Our close_notify.
    CloseNotify,
    /// Nothing: the kernel was asked something of what goes to the peer.
    Question,
    /// Nothing: our close_notify is sealed, and FIN waits until it is with TCP.
    Flush,
}

/// Records that we owe the peer.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    key_update: bool,
    /// One that asks for one in return.
    key_update_request: bool,
    no_renegotiation: bool,
    /// The one warning was given.
    renegotiation_refused: bool,
}

impl Relay {
    /// Connects the plain leg, unless it is the one that was accepted: then [`Event::Connected`] is due at
    /// once.
    pub(super) fn begin(carried: Carried, now: Instant, rules: &Rules<'_>, out: &mut Outbox) -> Self {
        let Carried { version, aead, tx, rx, tx_left, rx_left, rekey, partial } = carried;
        if !rules.originates() {
            out.push(Action::Connect { leg: Leg::Plain });
        }
        Self {
            version,
            aead,
            tx,
            rx,
            offer: rules.offer,
            tx_left,
            rx_left,
            rekey,
            up: Half::default(),
            down: Half::default(),
            partial,
            is_mid_record: false,
            record_since: None,
            record_time: rules.policy.timeouts.handshake,
            has_more: false,
            connected: false,
            backend_broken: false,
            peer_gone: false,
            is_truncated: false,
            takes_fin_for_the_end: rules.policy.takes_fin_for_the_end,
            behind_the_end: BehindTheEnd::default(),
            occupied_by: Occupant::default(),
            pending: Pending::default(),
            asking_rx: false,
            tx_is_lost: false,
            record_limit: rules.policy.record_limit.min(aead.record_limit()),
            rx_update_asked: false,
            winding_up: false,
            control_records_in_a_row: 0,
            messages: Messages::default(),
            seen: Counts::default(),
            heard: None,
            key_updates: Allowance::new(now),
            now,
        }
    }

    /// Whether the plain leg is open.
    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    /// When a record that the peer has begun is to be whole; not while we receive nothing.
    pub(super) fn record_until(&self) -> Option<Instant> {
        self.record_since.map(|since| since + self.record_time)
    }

    pub(super) fn on(&mut self, event: Event, now: Instant, offer: Offer, out: &mut Outbox) -> Next<()> {
        (self.now, self.offer) = (now, offer);
        let result = self.take(event, out).and_then(|()| self.pump(out));
        self.seen.note(out);
        match result {
            Err(fault) => Next::End(fault),
            Ok(()) if self.winding_up && self.has_passed_all_on() => Next::End(Fault::RecordLimit),
            Ok(()) if !(self.up.ended && (self.down.ended || self.peer_gone)) => Next::Stay,
            Ok(()) if self.backend_broken => Next::End(Fault::BackendReset),
            Ok(()) if self.peer_gone => Next::End(Fault::ClientReset),
            Ok(()) if self.is_truncated => Next::End(Fault::Truncated),
            Ok(()) => Next::Advance(()),
        }
    }

    /// Gives what it holds back to the free list.
    pub(super) fn release(self, out: &mut Outbox) {
        if self.tx_left.is_some() {
            handover::note(Direction::Tx, Carriage::Userspace, out);
        }
        if self.rx_left.is_some() {
            handover::note(Direction::Rx, Carriage::Userspace, out);
        }
        for buf in [self.up.held, self.down.held, self.partial].into_iter().flatten() {
            out.bufs.give(buf);
        }
    }

    fn take(&mut self, event: Event, out: &mut Outbox) -> Result<(), Fault> {
        match event {
            Event::Connected => self.connected = true,
            Event::Received { leg: Leg::Plain, buf, count, .. } => {
                self.down.receiving = false;
                if count == 0 {
                    out.bufs.give(buf);
                    self.down.eof = true;
                } else {
                    self.down.held = Some(buf);
                }
            }
            Event::Received { leg: Leg::Tls, buf, count, more } => {
                self.has_more = more;
                return self.received(buf, count, out);
            }
            Event::Record { record_type, buf } => return self.record(record_type, buf, out),
            Event::Moved { leg: Leg::Tls } => {
                // It is taken up again at a place that may be no record boundary.
                if let Transmitter::Kernel(records) = &mut self.tx {
                    records.add(1);
                }
            }
            Event::Moved { leg: Leg::Plain } | Event::Settled { .. } => {}
            Event::Unreadable { errno } => return self.unreadable(errno, out),
            Event::Flushed => self.end_down(out),
            Event::Sent { leg: Leg::Plain, buf } => {
                out.bufs.give(buf);
                self.up.sending = false;
            }
            Event::Sent { leg: Leg::Tls, buf } => {
                out.bufs.give(buf);
                return self.sent(out);
            }
            Event::Keyed { direction } => self.keyed(direction, out),
            Event::Refused { direction, errno } => return self.keys_refused(direction, errno, out),
            Event::Sequence { direction, sequence } => self.told_sequence(direction, sequence),
            Event::Failed { leg: Leg::Plain, operation, errno } => {
                return self.plain_failed(operation, errno, out);
            }
            Event::Failed { leg: Leg::Tls, operation, errno } => {
                return self.tls_failed(operation, errno, out);
            }
            Event::Expired if self.peer_gone => return Err(Fault::ClientReset),
            Event::Expired if self.connected => return Err(Fault::IdleTimeout),
            Event::Expired => return Err(Fault::ConnectTimeout),
            Event::Drain { .. } => {}
            Event::Opened => return Err(Fault::Internal),
        }
        Ok(())
    }

    fn received(&mut self, buf: Buf, count: usize, out: &mut Outbox) -> Result<(), Fault> {
        self.up.receiving = false;
        if count == 0 && matches!(self.rx, Receiver::Kernel(_)) {
            out.bufs.give(buf);
            self.receive_record(out);
            return Ok(());
        }
        if self.up.eof {
            out.bufs.give(buf);
            self.received_behind_the_end(count, out);
            return Ok(());
        }
        if count == 0 {
            out.bufs.give(buf);
            return self.peer_finished(out);
        }
        self.is_mid_record = false;
        match &mut self.rx {
            Receiver::Kernel(records) => {
                // As many as there can be, but for empty ones, which nobody counts for us.
                records.add(count as u64);
                self.up.held = Some(buf);
                self.control_records_in_a_row = 0;
                self.no_message_is_cut()
            }
            Receiver::Userspace(_) => {
                let sealed = userspace::join(self.partial.take(), buf, out);
                self.open(sealed, out)
            }
        }
    }

    fn sent(&mut self, out: &mut Outbox) -> Result<(), Fault> {
        match std::mem::take(&mut self.occupied_by) {
            Occupant::Data => self.down.sending = false,
            Occupant::KeyUpdate => self.install_next_tx_key(out)?,
            Occupant::CloseNotify if matches!(self.tx, Transmitter::Kernel(_)) => {
                self.occupied_by = Occupant::Flush;
                out.push(Action::Flush);
            }
            Occupant::CloseNotify => self.end_down(out),
            Occupant::Question | Occupant::Flush => return Err(Fault::Internal),
        }
        Ok(())
    }

    fn end_down(&mut self, out: &mut Outbox) {
        self.occupied_by = Occupant::Data;
        self.down.sending = false;
        self.down.ended = true;
        out.push(Action::ShutdownWrite { leg: Leg::Tls });
    }

    fn plain_failed(&mut self, operation: Operation, errno: i32, out: &mut Outbox) -> Result<(), Fault> {
        match operation {
            Operation::Connect => Err(Fault::of_connect(errno)),
            Operation::Receive => Err(Fault::BackendReset),
            // It takes no more, but what it sent before may still be on the way: a server that answers early.
            Operation::Send => {
                self.backend_broken = true;
                self.up.sending = false;
                self.up.ended = true;
                if let Some(buf) = self.up.held.take() {
                    out.bufs.give(buf);
                }
                Ok(())
            }
        }
    }

    /// A record that is not application data.
    fn control(&mut self, record_type: RecordType, payload: &[u8], out: &mut Outbox) -> Result<(), Fault> {
        self.control_records_in_a_row += 1;
        let is_flood = self.control_records_in_a_row > MAX_CONTROL_RECORDS_IN_A_ROW;
        if record_type == RecordType::Handshake && self.version == Version::Tls13 {
            return self.messages(payload, is_flood, out);
        }
        let control = control::read(self.version, record_type, payload);
        self.seen.add(control::kind(record_type, control));
        if control == Err(Fault::AlertReceived) {
            self.heard = payload.get(1).copied();
        }
        match control? {
            Control::CloseNotify => self.up.eof = true,
            Control::Renegotiation if self.pending.renegotiation_refused => return Err(Fault::Renegotiation),
            Control::Renegotiation => {
                self.pending.no_renegotiation = true;
                self.pending.renegotiation_refused = true;
            }
            Control::Ignore if is_flood => return Err(Fault::UnexpectedRecord),
            Control::Ignore => {}
        }
        Ok(())
    }

    fn pump(&mut self, out: &mut Outbox) -> Result<(), Fault> {
        self.pump_up(out)?;
        self.pump_down(out)
    }

    fn pump_up(&mut self, out: &mut Outbox) -> Result<(), Fault> {
        if !self.connected {
            return Ok(());
        }
        loop {
            if !self.up.sending
                && let Some(buf) = self.up.held.take()
            {
                self.up.sending = true;
                out.push(Action::Send { leg: Leg::Plain, buf });
            }
            if self.up.is_at_its_end() {
                self.up.ended = true;
                out.push(Action::ShutdownWrite { leg: Leg::Plain });
            }
            if !self.up.wants_more() || self.asking_rx || !self.has_room_to_receive(out) {
                self.keep_partial(out);
                return Ok(());
            }
            match self.partial.take() {
                Some(buf) if userspace::starts_with_a_whole_record(&buf) => self.open(buf, out)?,
                None if self.rx_left == Some(0) => {
                    if self.offer_rx(out) {
                        return Ok(());
                    }
                }
                partial => {
                    self.up.receiving = true;
                    self.receive(partial, out);
                    return Ok(());
                }
            }
        }
    }

    fn receive(&mut self, partial: Option<Buf>, out: &mut Outbox) {
        self.is_mid_record = partial.is_some();
        let Some(front) = partial else {
            out.push(Action::Receive { leg: Leg::Tls, max: self.receivable_bytes() });
            return;
        };
        self.record_since.get_or_insert(self.now);
        self.receive_rest(front, out);
    }

    fn pump_down(&mut self, out: &mut Outbox) -> Result<(), Fault> {
        self.send_next(out)?;
        if self.connected && self.down.wants_more() && !self.winding_up && !self.peer_gone {
            self.down.receiving = true;
            out.push(Action::Receive { leg: Leg::Plain, max: PLAINTEXT_BYTES });
        }
        Ok(())
    }

    /// What goes to the peer next, if it can go now.
    fn send_next(&mut self, out: &mut Outbox) -> Result<(), Fault> {
        if self.down.sending
            || self.down.ended
            || self.peer_gone
            || (self.tx_left == Some(0) && self.offer_tx(out))
        {
            return Ok(());
        }
        // An answer is due before the next application data and not sooner: one does for all requests that
        // came while we were silent (RFC 8446 §4.6.3), and no peer gets more in a row than it takes.
        if self.pending.key_update_request || self.pending.key_update && self.down.held.is_some() {
            return if self.asking_rx { Ok(()) } else { self.send_key_update(out) };
        }
        if std::mem::take(&mut self.pending.no_renegotiation) {
            let payload = control::alert_payload(alert::NO_RENEGOTIATION);
            return self.send_record(RecordType::Alert, &payload, Occupant::Data, out);
        }
        if self.down.held.is_some() {
            match self.room_to_send(out) {
                Room::Asked => return Ok(()),
                Room::AfterKeyUpdate => return self.send_key_update(out),
                Room::LastOnes => self.winding_up = true,
                Room::Plenty => {}
            }
        }
        if let Some(buf) = self.down.held.take() {
            return self.send_data(buf, out);
        }
        if self.down.is_at_its_end() {
            let payload = control::alert_payload(alert::CLOSE_NOTIFY);
            return self.send_record(RecordType::Alert, &payload, Occupant::CloseNotify, out);
        }
        Ok(())
    }

    fn send_data(&mut self, buf: Buf, out: &mut Outbox) -> Result<(), Fault> {
        self.listen_behind_the_end(out);
        match &mut self.tx {
            Transmitter::Kernel(records) => {
                records.add(kernel::records_of(buf.len()));
                self.down.sending = true;
                out.push(Action::Send { leg: Leg::Tls, buf });
                Ok(())
            }
            Transmitter::Userspace(_) => self.seal_data(buf, out),
        }
    }

    /// Sends a record other than application data.
    fn send_record(
        &mut self,
        record_type: RecordType,
        payload: &[u8],
        occupant: Occupant,
        out: &mut Outbox,
    ) -> Result<(), Fault> {
        let mut buf = out.bufs.take();
        match &mut self.tx {
            Transmitter::Kernel(records) => {
                records.add(1);
                buf.extend(payload);
                out.push(Action::SendRecord { record_type: record_type.number(), buf });
            }
            Transmitter::Userspace(sealer) => {
                if sealer.seal(record_type, payload, &mut buf).is_err() {
                    out.bufs.give(buf);
                    return Err(Fault::RecordLimit);
                }
                out.push(Action::Send { leg: Leg::Tls, buf });
            }
        }
        self.down.sending = true;
        self.occupied_by = occupant;
        Ok(())
    }
}
