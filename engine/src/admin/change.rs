//! A configuration that was sent, on its way to the thread that puts it in force, and what came of it on its
//! way back.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use crate::sys::socket;

/// A configuration that somebody has sent. Dropped before it is [done](Change::done), it was not put in
/// force, and who waits learns that.
pub struct Change {
    text: String,
    outcome: Arc<Outcome>,
}

/// What came of it: that which is in force now, or why nothing has changed.
pub type Said = Result<String, String>;

struct Outcome {
    event: OwnedFd,
    said: Mutex<Option<Said>>,
}

/// Waits for what comes of a change.
pub(super) struct Waiting(Arc<Outcome>);

impl Change {
    pub(super) fn new(text: String) -> io::Result<(Self, Waiting)> {
        let outcome = Arc::new(Outcome { event: socket::event()?, said: Mutex::default() });
        Ok((Self { text, outcome: Arc::clone(&outcome) }, Waiting(outcome)))
    }

    /// As it was sent.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Answers who sent it.
    pub fn done(self, said: Said) {
        *self.outcome.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        // It fails only if the counter is at its end, and then who waits is being woken already.
        let _ = socket::signal(self.outcome.event.as_fd());
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Change({} bytes)", self.text.len())
    }
}

impl Waiting {
    /// Readable when there is something to [take](Waiting::take).
    pub(super) fn event(&self) -> io::Result<OwnedFd> {
        self.0.event.try_clone()
    }

    pub(super) fn take(&self) -> Option<Said> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The configuration of the process, as the admin address shows and changes it.
#[derive(Clone)]
pub struct Configuration {
    /// In force: as it was read or sent; none if there are flags alone.
    pub text: Arc<Mutex<Option<String>>>,
    /// Takes a change on its way; gives `false` if others are on theirs and there is no room.
    pub submit: Arc<dyn Fn(Change) -> bool + Send + Sync>,
}

impl fmt::Debug for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Configuration")
    }
}
