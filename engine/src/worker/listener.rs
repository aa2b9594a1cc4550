//! Accepting: one multishot operation, paused while the slots are full, single-shot where multishot does not
//! work.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::slots::accept_token;
use crate::sys::ring::Ring;

/// How long accepting rests after the system refused a descriptor or memory: what is open must end first.
const REST: Duration = Duration::from_millis(100);

/// The listening socket and whether connections are being accepted.
pub(super) struct Listener {
    /// Among those of the worker.
    index: usize,
    /// Taken away when accepting has ended for good.
    socket: Option<OwnedFd>,
    state: State,
    multishot: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Accepting,
    /// An accept was cancelled and has not yet been answered.
    Pausing,
    Resting(Instant),
    Closed,
}

impl Listener {
    pub(super) fn new(index: usize, socket: OwnedFd) -> Self {
        Self { index, socket: Some(socket), state: State::Idle, multishot: true }
    }

    /// Accepts, if it does not and may.
    pub(super) fn resume(&mut self, now: Instant, ring: &mut Ring) {
        match self.state {
            State::Accepting | State::Pausing | State::Closed => return,
            State::Resting(until) if now < until => return,
            State::Idle | State::Resting(_) => {}
        }
        let Some(socket) = &self.socket else { return };
        self.state = State::Accepting;
        let token = accept_token(self.index);
        if self.multishot {
            ring.accept(socket.as_fd(), token);
        } else {
            ring.accept_one(socket.as_fd(), token);
        }
    }

    /// Stops accepting for now; connections wait in the backlog. Says whether that is a change.
    pub(super) fn pause(&mut self, ring: &mut Ring) -> bool {
        let Some(socket) = self.socket.as_ref().filter(|_| self.state == State::Accepting) else {
            return false;
        };
        ring.cancel(socket.as_fd());
        self.state = State::Pausing;
        true
    }

    /// Stops accepting for good: who connects from here on is refused by the kernel.
    pub(super) fn close(&mut self, ring: &mut Ring) {
        self.pause(ring);
        self.state = State::Closed;
        if let Some(socket) = self.socket.take() {
            ring.close(socket);
        }
    }

    /// The operation is over: it must be started again.
    pub(super) fn finished(&mut self) {
        if self.state != State::Closed {
            self.state = State::Idle;
        }
    }

    /// An accept failed. Says whether that is worth a line in the log.
    pub(super) fn failed(&mut self, errno: i32, now: Instant) -> bool {
        self.finished();
        match errno {
            // The client was gone before it was accepted; or we were told to pause.
            libc::ECONNABORTED | libc::ECANCELED | libc::EINTR | libc::EAGAIN => false,
            libc::EINVAL if self.multishot => {
                self.multishot = false;
                true
            }
            _ => {
                if self.state != State::Closed {
                    self.state = State::Resting(now + REST);
                }
                true
            }
        }
    }

    /// How long until a rest is over.
    pub(super) fn patience(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Resting(until) => Some(until.saturating_duration_since(now)),
            _ => None,
        }
    }
}
