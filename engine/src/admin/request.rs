//! A request for the configuration, on its way to the thread that puts it in force, and what came of it on
//! its way back.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::reply::{Reply, Waiting, reply};

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
    /// What is asked for.
    pub task: ConfigTask,
    reply: Reply<Said>,
}

/// Why nothing came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
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

impl ConfigRequest {
    pub(super) fn new(task: ConfigTask) -> io::Result<(Self, Waiting<Said>)> {
        let (reply, waiting) = reply()?;
        Ok((Self { task, reply }, waiting))
    }

    /// Answers who has asked.
    pub fn done(self, said: Said) {
        self.reply.send(said);
    }
}

impl fmt::Debug for ConfigRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let task = match self.task {
            ConfigTask::Show => "show",
            ConfigTask::Change(_) => "change",
            ConfigTask::Upgrade => "upgrade",
        };
        write!(f, "ConfigRequest({task})")
    }
}

impl fmt::Debug for Submit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Submit")
    }
}
