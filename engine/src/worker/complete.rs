//! A completion of the ring, as the event that it means to its connection.

use super::slots::{Purpose, Slot, SlotId, Slots, token};
use crate::buf::{Buf, Bufs};
use crate::conn::event::{Event, Leg, Operation};
use crate::metrics::{Counter, Counters};
use crate::sys::ring::{Outcome, Ring};
use crate::sys::socket;

/// What a completion comes to.
pub(super) enum Decoded {
    /// This, to the connection.
    Event(Event),
    /// The operation was started again, or its connection or leg is gone.
    Nothing,
    /// The ring had no buffer left: to be started again when there is room.
    Again { leg: Leg, is_handshake: bool },
}

/// Reads the completion of an operation on a connection's leg.
pub(super) fn read(
    purpose: Purpose,
    id: SlotId,
    outcome: Outcome,
    slots: &mut Slots,
    ring: &mut Ring,
    bufs: &mut Bufs,
    counters: &Counters,
) -> Decoded {
    let (leg, operation) = match purpose {
        Purpose::Connect(leg) => (leg, Operation::Connect),
        Purpose::Receive(leg) => (leg, Operation::Receive),
        Purpose::ReceiveRecord(leg) => (leg, Operation::Receive),
        Purpose::Send(leg) => (leg, Operation::Send),
        Purpose::Accept | Purpose::Mailbox => return Decoded::Nothing,
    };
    let Some(slot) = slots.get(id) else { return recycle(outcome, bufs) };
    let line = slot.line(leg);
    line.finished(purpose);
    if line.socket().is_none() {
        return recycle(outcome, bufs);
    }
    match outcome {
        Outcome::Received { buf, count, drained } => {
            line.drained = drained && !line.hintless;
            if line.is_plain {
                counters.add(Counter::BytesToTls, count as u64);
            }
            Decoded::Event(Event::Received { leg, buf, count, more: !drained })
        }
        Outcome::Record { record_type, buf } => Decoded::Event(Event::Record { leg, record_type, buf }),
        Outcome::Sent { buf, count } => {
            if line.is_plain {
                counters.add(Counter::BytesToPlain, count as u64);
            }
            line.sealing.took(count);
            if buf.is_empty() {
                line.record_type = None;
                return Decoded::Event(Event::Sent { leg, buf });
            }
            send_rest(slot, leg, buf, id, ring);
            Decoded::Event(Event::Moved { leg })
        }
        Outcome::Connected if line.reached_itself() => {
            Decoded::Event(Event::Failed { leg, operation, errno: libc::ECONNREFUSED })
        }
        Outcome::Connected => Decoded::Event(Event::Connected),
        Outcome::Failed { errno: libc::ENOBUFS, buf: None } if operation == Operation::Receive => {
            Decoded::Again { leg, is_handshake: line.max.is_none() }
        }
        // What the kernel has found in what comes fails the next send, which has taken nothing of its buffer.
        Outcome::Failed {
            errno: errno @ (libc::EBADMSG | libc::EMSGSIZE | libc::EINVAL),
            buf: Some(buf),
        } if operation == Operation::Send && line.hintless && !line.unreadable => {
            line.unreadable = true;
            if let Some(socket) = line.socket() {
                socket::clear_error(socket);
            }
            send_rest(slot, leg, buf, id, ring);
            Decoded::Event(Event::Unreadable { leg, errno })
        }
        Outcome::Failed { errno, buf } => {
            buf.into_iter().for_each(|buf| bufs.give(buf));
            if errno == libc::EBADMSG {
                // Kernel TLS leaves it on the socket, where the alert that says so would fail of it.
                line.socket().map(socket::clear_error);
            }
            Decoded::Event(Event::Failed { leg, operation, errno })
        }
        Outcome::Accepted { .. } | Outcome::Signalled => Decoded::Nothing,
    }
}

/// A send took only the front; the rest follows. (No MSG_WAITALL: kernel TLS refuses it.)
fn send_rest(slot: &mut Slot, leg: Leg, buf: Buf, id: SlotId, ring: &mut Ring) {
    let line = slot.line(leg);
    let record_type = line.record_type;
    let Some(socket) = line.socket() else { return };
    let purpose = Purpose::Send(leg);
    let token = token(purpose, id);
    let started = match record_type {
        Some(record_type) => ring.send_record(socket, record_type, buf, token),
        _ => ring.send(socket, buf, token),
    };
    line.started(purpose, started);
}

fn recycle(outcome: Outcome, bufs: &mut Bufs) -> Decoded {
    match outcome {
        Outcome::Received { buf, .. } | Outcome::Record { buf, .. } | Outcome::Sent { buf, .. } => {
            bufs.give(buf)
        }
        Outcome::Failed { buf: Some(buf), .. } => bufs.give(buf),
        _ => {}
    }
    Decoded::Nothing
}
