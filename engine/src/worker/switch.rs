//! The kill switch of all workers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::mailbox::{Command, Mailbox};

/// Whether the kernel may be given further directions, in all workers. What it has stays with it: that cannot
/// be taken back.
#[derive(Clone, Debug)]
pub struct OffloadSwitch {
    allowed: Arc<AtomicBool>,
    mailboxes: Arc<[Arc<Mailbox>]>,
    /// Held while it is turned, so that every worker gets the commands in the same order.
    turning: Arc<Mutex<()>>,
}

impl OffloadSwitch {
    /// Allowed, as in a worker that has just started.
    #[must_use]
    pub fn new(mailboxes: Arc<[Arc<Mailbox>]>) -> Self {
        Self { allowed: Arc::new(AtomicBool::new(true)), mailboxes, turning: Arc::default() }
    }

    /// In force from the next turn of every worker. Whether that changes anything.
    pub fn allow(&self, allowed: bool) -> bool {
        let _turning = self.turning.lock().unwrap_or_else(PoisonError::into_inner);
        let has_changed = self.allowed.swap(allowed, Ordering::Relaxed) != allowed;
        if has_changed {
            self.mailboxes.iter().for_each(|mailbox| mailbox.post(Command::Offload(allowed)));
        }
        has_changed
    }

    /// How it stands, for who wants to watch it.
    #[must_use]
    pub fn allowed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.allowed)
    }

    /// Whether the kernel may be given further directions.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.allowed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_gets_a_change_and_nothing_else() {
        let mailboxes: Arc<[_]> =
            (0..2).map(|_| Arc::new(Mailbox::new().expect("an eventfd"))).collect::<Vec<_>>().into();
        let switch = OffloadSwitch::new(Arc::clone(&mailboxes));
        assert!(!switch.allow(true) && mailboxes.iter().all(|mailbox| mailbox.take().is_empty()));
        assert!(switch.allow(false) && !switch.is_allowed());
        for mailbox in &*mailboxes {
            assert!(matches!(mailbox.take().make_contiguous(), [Command::Offload(false)]));
        }
    }
}
