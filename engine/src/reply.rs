//! An answer on its way from one thread to another, which awaits it by an event descriptor.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use crate::sys::socket;

/// The end of who answers. Dropped without an answer, it wakes who waits all the same.
pub struct Reply<T>(Arc<Shared<T>>);

/// The end of who has asked.
pub struct Waiting<T>(Arc<Shared<T>>);

struct Shared<T> {
    event: OwnedFd,
    answer: Mutex<Option<T>>,
}

/// Both ends.
///
/// # Errors
/// What eventfd(2) says: EMFILE, ENFILE, ENOMEM.
pub fn reply<T>() -> io::Result<(Reply<T>, Waiting<T>)> {
    let shared = Arc::new(Shared { event: socket::event()?, answer: Mutex::new(None) });
    Ok((Reply(Arc::clone(&shared)), Waiting(shared)))
}

impl<T> Reply<T> {
    /// Answers.
    pub fn send(self, answer: T) {
        *self.0.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        // It fails only if the counter is at its end, and then who waits is being woken already.
        let _ = socket::signal(self.0.event.as_fd());
    }
}

impl<T> Waiting<T> {
    /// Readable when there is something to [take](Waiting::take).
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn event(&self) -> io::Result<OwnedFd> {
        self.0.event.try_clone()
    }

    /// The answer; none if none came.
    #[must_use]
    pub fn take(&self) -> Option<T> {
        self.0.answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}
