//! How the control plane tells a worker to drain or to end: a state, and an eventfd that the worker's ring
//! reads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::sys::socket;

/// What is asked of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    /// To go on.
    Run,
    /// To accept no more and let what is open finish, for the time of a drain.
    Drain,
    /// To end at once.
    End,
}

/// One worker's.
#[derive(Debug)]
pub struct Stop {
    wish: AtomicU8,
    event: OwnedFd,
}

impl Stop {
    /// A running one.
    ///
    /// # Errors
    /// What eventfd(2) says: EMFILE, ENFILE, ENOMEM.
    pub fn new() -> io::Result<Self> {
        Ok(Self { wish: AtomicU8::new(Wish::Run as u8), event: socket::event()? })
    }

    /// No new connections; those that are open have the time of a drain to finish.
    pub fn drain(&self) {
        self.ask(Wish::Drain);
    }

    /// Everything ends at once.
    pub fn end(&self) {
        self.ask(Wish::End);
    }

    fn ask(&self, wish: Wish) {
        self.wish.fetch_max(wish as u8, Ordering::Release);
        self.wake();
    }

    /// Has the worker make a turn, if it is able to.
    pub fn wake(&self) {
        // It fails only if the counter is at its end, and then the worker is being woken already.
        let _ = socket::signal(self.event.as_fd());
    }

    pub(super) fn wish(&self) -> Wish {
        match self.wish.load(Ordering::Acquire) {
            0 => Wish::Run,
            1 => Wish::Drain,
            _ => Wish::End,
        }
    }

    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stronger_wish_stays() {
        let stop = Stop::new().expect("an eventfd");
        assert_eq!(stop.wish(), Wish::Run);
        stop.end();
        stop.drain();
        assert_eq!(stop.wish(), Wish::End);
    }
}
