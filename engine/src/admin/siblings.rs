//! Processes that listen on the same sockets as this one, or did: what connects from them may be a client of
//! a listener, as what connects from this process may be.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Those that are remembered.
const SIBLINGS_MAX: usize = 64;

/// Their process numbers; the latest, if there are more than 64.
#[derive(Clone, Debug, Default)]
pub struct Siblings(Arc<Mutex<Vec<u32>>>);

impl Siblings {
    /// Adds these.
    pub fn extend(&self, pids: impl IntoIterator<Item = u32>) {
        let mut all = self.lock();
        all.extend(pids);
        let too_many = all.len().saturating_sub(SIBLINGS_MAX);
        all.drain(..too_many);
    }

    /// One has ended: its number may become that of any process.
    pub fn remove(&self, pid: u32) {
        self.lock().retain(|it| *it != pid);
    }

    /// All that there are.
    #[must_use]
    pub fn all(&self) -> Vec<u32> {
        self.lock().clone()
    }

    /// Whether it is this process or one of them.
    pub(super) fn is_one(&self, pid: u32) -> bool {
        pid == std::process::id() || self.lock().contains(&pid)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_are_this_process_and_the_latest_others() {
        let siblings = Siblings::default();
        assert!(siblings.is_one(std::process::id()) && !siblings.is_one(u32::MAX));
        siblings.extend([u32::MAX]);
        assert!(siblings.clone().is_one(u32::MAX));
        siblings.remove(u32::MAX);
        assert!(!siblings.is_one(u32::MAX) && siblings.is_one(std::process::id()));
        siblings.extend(1..=64);
        assert!(siblings.all().len() == SIBLINGS_MAX && !siblings.is_one(u32::MAX));
    }
}
