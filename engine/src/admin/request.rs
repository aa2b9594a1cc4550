//! A request for the configuration, on its way to the thread that puts it in force, and what came of it on
//! its way back.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use super::sender::Sender;
use crate::sys::socket;

/// What is asked for.
pub enum ConfigTask {
    /// The configuration in force, as it was read or sent.
    Show,
    /// To put this one in force.
    Change(String),
    /// That the program on disk takes over, in a process of its own.
    Upgrade,
}

/// Somebody's request. Dropped before it is [done](ConfigRequest::done), nothing came of it, and who waits
/// learns that.
pub struct ConfigRequest {
    sender: Sender,
    /// What is asked for.
    pub task: ConfigTask,
    outcome: Arc<Outcome>,
}

/// Why nothing came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Who asks may not.
    Forbidden(String),
    /// There is no configuration to show: no file, only flags.
    FlagsAlone,
    /// The configuration is wrong, and nothing has changed.
    Wrong(String),
}

/// What came of it: a text to show, or why there is none.
pub type Said = Result<String, Refusal>;

/// Takes a request on its way; gives `false` if there are too many.
#[derive(Clone)]
pub struct Submit(pub Arc<dyn Fn(ConfigRequest) -> bool + Send + Sync>);

struct Outcome {
    event: OwnedFd,
    said: Mutex<Option<Said>>,
}

/// Waits for what comes of a request.
pub(super) struct Waiting(Arc<Outcome>);

impl ConfigRequest {
    pub(super) fn new(sender: Sender, task: ConfigTask) -> io::Result<(Self, Waiting)> {
        let outcome = Arc::new(Outcome { event: socket::event()?, said: Mutex::default() });
        Ok((Self { sender, task, outcome: Arc::clone(&outcome) }, Waiting(outcome)))
    }

    /// Whether who asks may: root, or the user of this process, who may send it SIGHUP too. To be called
    /// where nobody is kept waiting: the kernel lists all of its connections for it.
    ///
    /// # Errors
    /// [`Refusal::Forbidden`].
    pub fn permitted(&self) -> Result<(), Refusal> {
        let path = match self.task {
            ConfigTask::Show | ConfigTask::Change(_) => "/v1/config",
            ConfigTask::Upgrade => "/v1/upgrade",
        };
        match self.sender.may_change() {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::Forbidden(format!(
                "{path} is for processes of root and of the user that Offramp runs as, and for no client of \
                 a listener; try: sudo"
            ))),
            Err(error) => Err(Refusal::Forbidden(format!(
                "{path}: nobody knows who asks: /proc/self/net/tcp cannot be read: {error}"
            ))),
        }
    }

    /// Answers who has asked.
    pub fn done(self, said: Said) {
        *self.outcome.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
    }
}

impl Drop for ConfigRequest {
    fn drop(&mut self) {
        // It fails only if the counter is at its end, and then who waits is being woken already.
        let _ = socket::signal(self.outcome.event.as_fd());
    }
}

impl fmt::Debug for ConfigRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigRequest({:?})", self.sender)
    }
}

impl fmt::Debug for Submit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Submit")
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
