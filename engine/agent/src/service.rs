//! What the service manager is notified of, where one asks for it (systemd's `Type=notify`).
//!
//! The agent is ready as soon as the file has keys, be they those of an earlier run: a service that is
//! ordered behind the agent starts then, and finds the file. How the agent stands is the status.

use offramp_files::notify::{self, Notifier};

/// The service manager, and what it knows.
#[derive(Debug, Default)]
pub(crate) struct Service {
    manager: Option<Notifier>,
    is_ready: bool,
    status: String,
}

impl Service {
    /// The manager that the environment names, if it names one. What is wrong with it is logged, and keeps no
    /// agent from running.
    pub(crate) fn from_environment() -> Self {
        let manager = Notifier::from_environment().unwrap_or_else(|error| {
            tracing::warn!("{error}");
            None
        });
        Self { manager, ..Self::default() }
    }

    /// After each round: whether the file has keys, and how the agent stands.
    pub(crate) fn stands(&mut self, has_keys: bool, status: &str) {
        let becomes_ready = has_keys && !self.is_ready;
        if !becomes_ready && status == self.status {
            return;
        }
        let ready = if becomes_ready { "READY=1\n" } else { "" };
        // A message that is lost is sent again after the next round.
        if self.send(&format!("{ready}{}", notify::status(status))) {
            self.is_ready |= has_keys;
            status.clone_into(&mut self.status);
        }
    }

    /// The agent ends.
    pub(crate) fn stopping(&mut self) {
        self.send("STOPPING=1\nSTATUS=stopping");
    }

    /// Whether it was taken, or nobody asks for it.
    fn send(&self, message: &str) -> bool {
        let sent = self.manager.as_ref().map_or(Ok(()), |manager| manager.send(message));
        sent.inspect_err(|error| tracing::debug!(%error, "the service manager was not notified")).is_ok()
    }
}
