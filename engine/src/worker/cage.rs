//! What a worker gives up once it has its ring.

use std::io;
use std::sync::Arc;

use crate::sys::seccomp;

/// What a worker gives up, for good.
#[derive(Clone, Default)]
pub struct WorkerCage {
    /// Whether its ring refuses operations that it does not use.
    pub restricts_ring: bool,
    /// A filter of the system calls of its thread, once it has its ring; empty for none.
    pub filter: Arc<[libc::sock_filter]>,
}

impl WorkerCage {
    /// As far as the ring.
    #[must_use]
    pub fn of_ring(restricts_ring: bool) -> Self {
        Self { restricts_ring, filter: Arc::default() }
    }

    pub(super) fn close(&self) -> io::Result<()> {
        if self.filter.is_empty() {
            return Ok(());
        }
        seccomp::filter(&self.filter, seccomp::Threads::Own, seccomp::Refusals::Logged)
    }
}
