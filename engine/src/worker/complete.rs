//! A completion of the ring, as the event that it means to its connection.

use std::io;
use std::time::Instant;

use super::owner::{Ring, SlotId};
use super::slots::{Slot, Slots};
use crate::buf::Bufs;
use crate::conn::event::{Event, Leg, Operation};
use crate::sys::errno;
use crate::sys::ring::Outcome;
use crate::sys::socket;

/// What a completion comes to.
pub(super) enum Decoded {
    /// This, to the connection.
    Event(Event),
    /// The operation was started again, or its connection or leg is gone.
    Nothing,
    /// The ring had no buffer left: to be started again when there is room.
    Again { is_handshake: bool },
}

/// Reads the completion of an operation on a connection's leg.
pub(super) fn read(
    (id, leg, operation): (SlotId, Leg, Operation),
    outcome: Outcome,
    slots: &mut Slots,
    now: Instant,
    ring: &mut Ring,
    bufs: &mut Bufs,
) -> Decoded {
    let Some(slot) = slots.get(id) else { return recycle(outcome, bufs) };
    let leg_socket = slot.leg(leg);
    leg_socket.finished(operation);
    if leg_socket.socket().is_none() {
        return recycle(outcome, bufs);
    }
    match outcome {
        Outcome::Received { buf, count, drained } => {
            leg_socket.drained = drained && !leg_socket.hintless;
            if leg == Leg::Near
                && leg_socket.max.is_none()
                && count > 0
                && let Some(took) = slot.phase.hello(now)
            {
                slot.route.counters.times().accept_to_hello.observe(took);
            }
            Decoded::Event(Event::Received { leg, buf, count, more: !drained })
        }
        Outcome::Record { record_type, buf } => Decoded::Event(Event::Record { leg, record_type, buf }),
        Outcome::Sent { buf, count } => {
            leg_socket.sealing.took(count);
            if buf.is_empty() {
                return Decoded::Event(Event::Sent { leg, buf });
            }
            leg_socket.send_rest(buf, id, leg, ring);
            Decoded::Event(Event::Moved { leg })
        }
        Outcome::Connected if leg_socket.reached_itself() => {
            slot.target.failed(&slot.route);
            Decoded::Event(Event::Failed { leg, operation, errno: libc::ECONNREFUSED })
        }
        Outcome::Connected => Decoded::Event(connected(slot, now, bufs)),
        Outcome::Failed { errno, buf: None } if operation == Operation::Connect => {
            if errno::is_ours(&io::Error::from_raw_os_error(errno)) {
                slot.target.spare();
            } else {
                slot.target.failed(&slot.route);
            }
            Decoded::Event(Event::Failed { leg, operation, errno })
        }
        Outcome::Failed { errno: libc::ENOBUFS, buf: None } if operation == Operation::Receive => {
            Decoded::Again { is_handshake: leg_socket.max.is_none() }
        }
        // What the kernel has found in what comes fails the next send, which has taken nothing of its buffer.
        Outcome::Failed {
            errno: errno @ (libc::EBADMSG | libc::EMSGSIZE | libc::EINVAL),
            buf: Some(buf),
        } if operation == Operation::Send && leg_socket.hintless && !leg_socket.unreadable => {
            leg_socket.unreadable = true;
            if let Some(socket) = leg_socket.socket() {
                socket::clear_error(socket);
            }
            leg_socket.send_rest(buf, id, leg, ring);
            Decoded::Event(Event::Unreadable { leg, errno })
        }
        Outcome::Failed { errno, buf } => {
            buf.into_iter().for_each(|buf| bufs.give(buf));
            if errno == libc::EBADMSG {
                // Kernel TLS leaves it on the socket, where the alert that says so would fail of it.
                leg_socket.socket().map(socket::clear_error);
            }
            Decoded::Event(Event::Failed { leg, operation, errno })
        }
        Outcome::Accepted { .. } | Outcome::Signalled => Decoded::Nothing,
    }
}

/// The far leg is open. Without TLS that is all that the endpoint is there for.
fn connected(slot: &mut Slot, now: Instant, bufs: &mut Bufs) -> Event {
    let Slot { route, target, about, .. } = slot;
    let proxy = target.destination(route).and_then(|destination| destination.proxy);
    let preamble = proxy.zip(about.as_deref()).map(|(proxy, about)| {
        let mut buf = bufs.take();
        proxy.write(about, &mut buf);
        buf
    });
    let has_tls = slot.conn.policy().far.tls().is_some();
    if !has_tls {
        target.succeeded(route);
    }
    if let (Some(took), Some(destination)) = (slot.phase.connected(has_tls, now), target.destination(route)) {
        destination.counters.connect.observe(took);
    }
    if let Some(timeline) = slot.timeline() {
        timeline.connected = Some(now);
        // Neither the log nor admin shows it.
        slot.about.iter_mut().for_each(|about| about.forget_large());
    } else if let Some(about) = slot.about.take() {
        // Nobody asks for the rest of it any more; the socket would say that the client is the balancer.
        let is_proxied = slot.route.accept_proxy.is_on();
        slot.client = about.client.filter(|_| is_proxied).map(Box::new);
    }
    Event::Connected { preamble }
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
