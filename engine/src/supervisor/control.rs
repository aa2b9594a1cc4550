//! What steers a running engine, from any thread.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::StartError;
use super::manager::Manager;
use super::services::Services;
use crate::admin::Siblings;
use crate::tls::Tickets;
use crate::worker::{Command, Mailbox, OffloadSwitch};

/// Stops an engine, from any thread.
#[derive(Clone)]
pub struct Control {
    /// By worker.
    pub(super) mailboxes: Arc<[Arc<Mailbox>]>,
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) offload: OffloadSwitch,
    pub(super) tickets: Arc<Tickets>,
    pub(super) services: Services,
    /// Another process is about to take over.
    pub(super) upgrading: Arc<AtomicBool>,
    pub(super) manager: Manager,
    /// Processes that this one replaces, and the one that replaces it.
    pub(super) siblings: Siblings,
}

impl Control {
    pub(super) fn new(workers: usize, tickets: Arc<Tickets>) -> Result<Self, StartError> {
        let mailboxes: io::Result<Vec<_>> = (0..workers).map(|_| Mailbox::new().map(Arc::new)).collect();
        let mailboxes = mailboxes.map_err(|error| StartError::resource("event descriptor", &error))?;
        let mailboxes: Arc<[_]> = mailboxes.into();
        let services = Services::new(Arc::clone(&mailboxes), Arc::clone(&tickets));
        let offload = OffloadSwitch::new(Arc::clone(&mailboxes));
        let (stopping, upgrading, manager, siblings) = Default::default();
        Ok(Self { mailboxes, stopping, offload, tickets, services, upgrading, manager, siblings })
    }

    /// The kill switch: while it is off the kernel is given no connection. What it has stays with it.
    pub fn allow_offload(&self, allowed: bool) {
        self.offload.allow(allowed);
    }

    /// What holds in the process that this one replaces holds here: those whose connections may be clients'
    /// own, and the kill switch.
    pub(super) fn replaces(&self, siblings: Vec<u32>, is_offload_off: bool) {
        self.siblings.extend(siblings);
        if is_offload_off {
            self.allow_offload(false);
            tracing::warn!("the offload stays off: it was turned off in the process that is replaced");
        }
    }

    /// As [`Engine::drain`](super::Engine::drain).
    pub fn drain(&self) {
        self.manager.stopping();
        self.stopping.store(true, Ordering::Relaxed);
        self.mailboxes.iter().for_each(|mailbox| mailbox.post(Command::Drain));
    }

    /// As [`Engine::end`](super::Engine::end).
    pub fn end(&self) {
        self.manager.stopping();
        self.stopping.store(true, Ordering::Relaxed);
        self.mailboxes.iter().for_each(|mailbox| mailbox.post(Command::End));
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Control({} workers, stopping: {})", self.mailboxes.len(), self.is_stopping())
    }
}
