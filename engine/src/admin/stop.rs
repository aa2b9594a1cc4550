//! What ends the serving of an admin address, from another thread.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys::{errno, socket};

/// Ends the serving.
#[derive(Clone, Debug)]
pub struct Stop(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    event: OwnedFd,
    lets_finish: AtomicBool,
}

impl Stop {
    /// One that has not been asked for.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Shared { event: socket::event()?, lets_finish: AtomicBool::new(false) })))
    }

    /// Closes everything.
    pub fn at_once(&self) {
        self.0.lets_finish.store(false, Ordering::Relaxed);
        self.wake();
    }

    /// Accepts nobody any more, and ends when those who are connected have their answers.
    pub fn when_answered(&self) {
        self.0.lets_finish.store(true, Ordering::Relaxed);
        self.wake();
    }

    pub(super) fn lets_finish(&self) -> bool {
        self.0.lets_finish.load(Ordering::Relaxed)
    }

    pub(super) fn wake(&self) {
        if let Err(error) = socket::signal(self.0.event.as_fd()) {
            tracing::error!(error = errno::name(&error), "admin cannot be asked to stop");
        }
    }

    pub(super) fn event(&self) -> io::Result<OwnedFd> {
        self.0.event.try_clone()
    }
}
