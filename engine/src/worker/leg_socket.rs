//! The socket of a leg, and what is under way on it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use super::owner::{Owner, Ring, SlotId};
use super::route::Route;
use super::sealing::{Look, Sealing};
use crate::buf::Buf;
use crate::conn::action::Action;
use crate::conn::event::{Leg, Operation};
use crate::pool::Endpoint;
use crate::sys::ring::Started;
use crate::sys::socket;
use crate::sys::tcp;

/// The socket of a leg.
#[derive(Default)]
pub(super) struct LegSocket {
    socket: Option<OwnedFd>,
    /// The receive that is under way.
    receiving: Option<Started>,
    /// The send, or the connect.
    sending: Option<Started>,
    /// When the send was begun, of which a rest may be under way; if one is.
    sending_since: Option<Instant>,
    /// The last receive left nothing to read.
    pub(super) drained: bool,
    /// The receive that is under way, or was last, waits for bytes before it takes a buffer.
    polls_first: bool,
    /// The kernel opens its records: what it says of more to read means nothing (Linux 6.1 to 6.12).
    pub(super) hintless: bool,
    /// It was found that no record comes next, and told.
    pub(super) unreadable: bool,
    /// Most bytes of the receive that is under way, or was last; none if it is of a handshake.
    pub(super) max: Option<usize>,
    /// When to look again whether what was sent is with TCP, or acknowledged.
    pub(super) look: Option<Look>,
    /// It has no TLS.
    pub(super) is_plain: bool,
    /// What was given to the socket.
    pub(super) sealing: Sealing,
    /// The record type of the send that is under way, or was last; none if it is of no single record.
    pub(super) record_type: Option<u8>,
    /// The port that it is being connected to; 0 for none.
    port: u16,
    /// Attempts to connect it.
    attempts: u8,
}

impl LegSocket {
    pub(super) fn new(is_plain: bool) -> Self {
        Self { is_plain, ..Self::default() }
    }

    /// The socket, unless the leg is closed.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Takes the socket away, and cancels what is under way on it: the leg is closed.
    pub(super) fn close(&mut self, ring: &mut Ring) -> Option<OwnedFd> {
        for operation in [self.receiving.take(), self.sending.take()].into_iter().flatten() {
            ring.cancel(operation);
        }
        self.socket.take()
    }

    /// Starts a receive or a send, unless the leg is closed. `since` is when the bytes to be sent were there.
    pub(super) fn start(&mut self, action: Action, id: SlotId, since: Option<Instant>, ring: &mut Ring) {
        let Some(socket) = self.socket.as_ref().map(AsFd::as_fd) else { return };
        let receive = |leg| Owner::Leg(id, leg, Operation::Receive);
        let send = |leg| Owner::Leg(id, leg, Operation::Send);
        match action {
            Action::Receive { leg, max } => {
                (self.max, self.polls_first) = (Some(max), self.drained);
                self.receiving = Some(ring.receive(socket, max, self.drained, receive(leg)));
            }
            Action::ReceiveHandshake { leg } => {
                self.max = None;
                self.receiving = Some(ring.receive_small(socket, self.drained, receive(leg)));
            }
            Action::ReceiveInto { leg, buf, max } => {
                self.receiving = Some(ring.receive_into(socket, buf, max, receive(leg)));
            }
            Action::ReceiveRecord { leg, buf } => {
                self.receiving = Some(ring.receive_record(socket, buf, receive(leg)));
            }
            Action::Send { leg, buf } => {
                (self.record_type, self.sending_since) = (None, since);
                self.sending = Some(ring.send(socket, buf, send(leg)));
            }
            Action::SendRecord { leg, record_type, buf } => {
                (self.record_type, self.sending_since) = (Some(record_type), since);
                self.sending = Some(ring.send_record(socket, record_type, buf, send(leg)));
            }
            _ => {}
        }
    }

    /// Starts the receive again that found no buffer.
    pub(super) fn receive_again(&mut self, id: SlotId, leg: Leg, ring: &mut Ring) {
        let action = match self.max {
            Some(max) => Action::Receive { leg, max },
            None => Action::ReceiveHandshake { leg },
        };
        self.start(action, id, None, ring);
    }

    /// Starts the receive again that found no buffer, if it may have looked for one before there were bytes:
    /// now it waits for bytes first. Returns whether it did.
    pub(super) fn poll_first(&mut self, id: SlotId, leg: Leg, ring: &mut Ring) -> bool {
        let (Some(socket), Some(max), false) = (&self.socket, self.max, self.polls_first) else {
            return false;
        };
        self.polls_first = true;
        let owner = Owner::Leg(id, leg, Operation::Receive);
        self.receiving = Some(ring.receive(socket.as_fd(), max, true, owner));
        true
    }

    /// Starts the receive again that found no buffer, into this one; it comes back if the leg is closed.
    pub(super) fn receive_into(&mut self, buf: Buf, id: SlotId, leg: Leg, ring: &mut Ring) -> Option<Buf> {
        let Some(max) = self.max.filter(|_| self.socket.is_some()) else { return Some(buf) };
        self.start(Action::ReceiveInto { leg, buf, max }, id, None, ring);
        None
    }

    /// Sends what a send has left of its buffer. (No MSG_WAITALL: kernel TLS refuses it.)
    pub(super) fn send_rest(&mut self, buf: Buf, id: SlotId, leg: Leg, ring: &mut Ring) {
        let action = match self.record_type {
            Some(record_type) => Action::SendRecord { leg, record_type, buf },
            None => Action::Send { leg, buf },
        };
        self.start(action, id, self.sending_since, ring);
    }

    /// Connects the leg to `endpoint`; an attempt before is given up. TCP asks an endpoint on another
    /// host if it is still there, as the route says: on this one it cannot vanish without a word.
    ///
    /// # Errors
    /// No socket is to be had: EMFILE, ENFILE, ENOBUFS, ENOMEM.
    pub(super) fn connect(
        &mut self,
        endpoint: &Endpoint,
        route: &Route,
        id: SlotId,
        ring: &mut Ring,
    ) -> io::Result<()> {
        if let Some(socket) = self.close(ring) {
            ring.close(socket);
        }
        self.attempts = self.attempts.wrapping_add(1);
        let socket: &OwnedFd = self.socket.insert(socket::outgoing(&endpoint.address)?);
        let socket = socket.as_fd();
        if !endpoint.address.is_local() {
            // It is a TCP socket, which is all that could fail here.
            let _ = tcp::give_up_after(socket, route.tcp_user_timeout);
            let _ = if route.keepalive { tcp::keep_alive(socket, true) } else { Ok(()) };
        }
        self.port = endpoint.address.port().unwrap_or(0);
        let owner = Owner::Connect(id, self.attempts);
        self.sending = Some(ring.connect(socket, endpoint.sockaddr.clone(), owner));
        Ok(())
    }

    /// Since when the bytes wait that are being sent, if any are.
    pub(super) fn sending_since(&self) -> Option<Instant> {
        self.sending_since.filter(|_| self.sending.is_some())
    }

    /// Whether this is the attempt that is under way.
    pub(super) fn is_attempt(&self, attempt: u8) -> bool {
        self.attempts == attempt && self.socket.is_some()
    }

    /// An operation is complete.
    pub(super) fn finished(&mut self, operation: Operation) {
        match operation {
            Operation::Receive => self.receiving = None,
            Operation::Connect | Operation::Send => self.sending = None,
        }
    }

    /// Opens the leg.
    pub(super) fn open(&mut self, socket: OwnedFd) {
        self.socket = Some(socket);
    }

    /// Whether the connect that has succeeded reached its own socket: nobody listens there. Then its close is
    /// a reset, which leaves no TIME_WAIT on a port that the backend wants.
    pub(super) fn reached_itself(&self) -> bool {
        let itself = |socket: &BorrowedFd<'_>| socket::is_self_connected(*socket, self.port);
        let Some(socket) = self.socket().filter(itself) else { return false };
        // It is a socket, which is all that could fail here.
        let _ = socket::abort_on_close(socket);
        true
    }
}
