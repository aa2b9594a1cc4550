//! Accepting: one multishot operation while there is room for a whole backlog, which one wait may bring; a
//! few single ones for what room there is otherwise, and where multishot does not work; none while the slots
//! are full.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::mailbox::ServiceId;
use super::owner::{Owner, Ring};
use crate::config::limits::LISTEN_BACKLOG;
use crate::sys::{errno, tcp};

/// How long accepting rests after the system refused a descriptor or memory: what is open must end first.
const REST: Duration = Duration::from_millis(100);
/// Connections that a multishot accept may deliver in one wait.
const BURST: usize = LISTEN_BACKLOG as usize + 1;
/// Room that makes it worthwhile to go back to multishot: some way off, for each change costs a cancellation.
const AMPLE: usize = BURST + BURST / 4;
/// Most single accepts under way at once.
pub(super) const SINGLES: usize = 16;

/// The listening socket and whether connections are being accepted.
pub(super) struct Listener {
    /// Of the service that it accepts for.
    id: ServiceId,
    /// Taken away when accepting has ended for good.
    socket: Option<OwnedFd>,
    state: State,
    /// Accepts that are under way.
    started: usize,
    multishot: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// By single accepts, or not at all.
    Single,
    Multishot,
    /// What was started was cancelled and has not yet been answered.
    Pausing,
    Resting(Instant),
    Closed,
}

impl Listener {
    /// One whose socket other workers accept on too is accepted on one by one: with multishot, the worker
    /// that waits first stays first in the socket's queue, and gets all connections.
    pub(super) fn new(id: ServiceId, socket: OwnedFd, is_shared: bool) -> Self {
        Self { id, socket: Some(socket), state: State::Single, started: 0, multishot: !is_shared }
    }

    /// What the connections that come from now on inherit.
    pub(super) fn set_inherited(&self, keepalive: bool, tcp_user_timeout: Duration) {
        if let Some(socket) = &self.socket {
            set_inherited(socket.as_fd(), keepalive, tcp_user_timeout);
        }
    }

    /// A duplicate of its socket, for another process; none once it is closed.
    pub(super) fn duplicate(&self) -> Option<io::Result<OwnedFd>> {
        self.socket.as_ref().map(OwnedFd::try_clone)
    }

    /// Accepts as many as there is room for, if it may.
    pub(super) fn accept(&mut self, room: usize, now: Instant, ring: &mut Ring) {
        match self.state {
            State::Closed => return,
            State::Pausing if self.started > 0 => return,
            State::Resting(until) if now < until => return,
            State::Multishot if self.started > 0 && room >= BURST => return,
            State::Multishot if self.started > 0 => return self.pause(ring),
            State::Single if self.started > 0 && self.multishot && room >= AMPLE => return self.pause(ring),
            // Others have used the room.
            State::Single if self.started > room => return self.pause(ring),
            _ => {}
        }
        let Some(socket) = &self.socket else { return };
        let owner = Owner::Accept(self.id);
        if self.multishot && self.started == 0 && room >= BURST {
            self.state = State::Multishot;
            self.started = 1;
            ring.accept(socket.as_fd(), owner);
            return;
        }
        self.state = State::Single;
        while self.started < room.min(SINGLES) {
            self.started += 1;
            ring.accept_one(socket.as_fd(), owner);
        }
    }

    /// Stops accepting for now; connections wait in the backlog.
    pub(super) fn pause(&mut self, ring: &mut Ring) {
        if let Some(socket) = self.socket.as_ref().filter(|_| self.started > 0)
            && matches!(self.state, State::Single | State::Multishot)
        {
            ring.cancel_all(socket.as_fd());
            self.state = State::Pausing;
        }
    }

    /// Stops accepting for good: who connects from here on is refused by the kernel.
    pub(super) fn close(&mut self, ring: &mut Ring) {
        self.pause(ring);
        self.state = State::Closed;
        if let Some(socket) = self.socket.take() {
            ring.close(socket);
        }
    }

    /// Whether it accepts nothing any more; what it had started may still be under way.
    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether it is closed, and what it had started is over.
    pub(super) fn is_over(&self) -> bool {
        self.is_closed() && self.started == 0
    }

    /// An accept is over.
    pub(super) fn finished(&mut self) {
        self.started = self.started.saturating_sub(1);
    }

    /// An accept failed. Where that is worth a line in the log, what there is to say of it.
    pub(super) fn failed(&mut self, errno: i32, now: Instant, ring: &mut Ring) -> Option<&'static str> {
        match errno {
            // The client was gone before it was accepted; or we were told to pause.
            libc::ECONNABORTED | libc::ECANCELED | libc::EINTR | libc::EAGAIN => None,
            // Another result of an operation that is being cancelled for the first wrong one.
            libc::EBADF if self.state == State::Pausing => None,
            // Not known here, or what was reported cannot be a descriptor (Linux 6.6 to 6.8).
            libc::EINVAL | libc::EBADF if self.multishot => {
                self.multishot = false;
                self.pause(ring);
                Some("multishot accept does not work on this kernel: one by one from now on")
            }
            _ => {
                self.rest(now, ring);
                Some("for EMFILE raise LimitNOFILE")
            }
        }
    }

    /// Accepts nothing for a while: the system has no descriptor or no memory to spare, and what there is is
    /// needed by what was accepted before.
    pub(super) fn rest(&mut self, now: Instant, ring: &mut Ring) {
        if self.state != State::Closed {
            self.pause(ring);
            self.state = State::Resting(now + REST);
        }
    }

    /// The end of a rest.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        match self.state {
            State::Resting(until) => Some(until),
            _ => None,
        }
    }
}

/// Sets what the connections of a listening socket inherit. They work without.
pub fn set_inherited(listener: BorrowedFd<'_>, keepalive: bool, tcp_user_timeout: Duration) {
    if let Err(error) = tcp::keep_alive(listener, keepalive) {
        tracing::warn!(error = errno::name(&error), "keepalive: not for what is accepted");
    }
    if let Err(error) = tcp::give_up_after(listener, tcp_user_timeout) {
        tracing::warn!(error = errno::name(&error), "tcp_user_timeout: not for what is accepted");
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use socket2::SockRef;

    use super::*;
    use crate::buf::Bufs;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn listener_takes_back_accepts_without_room() {
        let mut ring = Ring::new().expect("a ring");
        let mut bufs = Bufs::new(1);
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut listener = Listener::new(ServiceId(1), socket.into(), false);
        let now = Instant::now();
        listener.accept(SINGLES, now, &mut ring);
        assert_eq!(listener.started, SINGLES);
        listener.accept(1, now, &mut ring);
        assert_eq!(listener.state, State::Pausing);
        for _ in 0..SINGLES {
            if listener.started == 0 {
                break;
            }
            ring.wait(&mut bufs, Some(Duration::from_secs(60))).expect("a ring");
            while ring.next_accept().is_some() {
                listener.finished();
            }
        }
        assert_eq!(listener.started, 0, "what was cancelled is answered");
        listener.accept(1, now, &mut ring);
        assert_eq!(listener.started, 1);
    }

    #[test]
    fn listener_changes_what_is_accepted_from_then_on() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        let listener = Listener::new(ServiceId(1), socket.try_clone().expect("a descriptor").into(), false);
        let mut held = Vec::new();
        for (keepalive, seconds) in [(true, 7), (false, 9), (true, 11)] {
            let time = Duration::from_secs(seconds);
            listener.set_inherited(keepalive, time);
            held.push((
                TcpStream::connect(address).expect("it listens"),
                socket.accept().expect("it comes").0,
            ));
            let accepted = SockRef::from(&held[held.len() - 1].1);
            assert_eq!(accepted.keepalive().expect("it is TCP"), keepalive);
            assert_eq!(accepted.tcp_user_timeout().expect("it is TCP"), Some(time));
            assert_eq!(
                SockRef::from(&held[0].1).tcp_user_timeout().expect("it is TCP").map(|it| it.as_secs()),
                Some(7)
            );
        }
    }

    /// The kernel goes on with the operation, which is cancelled, and no other begins before it is over.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn listener_cancels_an_accept_with_a_wrong_descriptor() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut listener = Listener::new(ServiceId(1), socket.into(), false);
        let (mut ring, mut bufs, now) = (Ring::new().expect("io_uring"), Bufs::new(8), Instant::now());
        listener.accept(BURST, now, &mut ring);
        assert_eq!((listener.state, listener.started), (State::Multishot, 1));
        assert!(listener.failed(libc::EBADF, now, &mut ring).is_some());
        assert!(listener.failed(libc::EBADF, now, &mut ring).is_none(), "the log has it");
        listener.accept(BURST, now, &mut ring);
        assert_eq!((listener.state, listener.started), (State::Pausing, 1));
        ring.wait(&mut bufs, Some(Duration::from_secs(10))).expect("a ring");
        let completion = ring.next_accept().expect("it was cancelled");
        let is_over = matches!(
            completion.outcome,
            crate::sys::ring::Outcome::Accepted { socket: Err(libc::ECANCELED), more: false }
        );
        assert!(is_over, "{completion:?}");
        listener.finished();
        listener.accept(BURST, now, &mut ring);
        assert_eq!((listener.state, listener.started), (State::Single, SINGLES));
    }
}
