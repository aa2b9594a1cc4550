//! The key log of the process: whoever debugs may have the secrets of every handshake written down. It is set
//! before the first policy is loaded, or never.

use std::sync::{Arc, OnceLock};

pub use rustls::KeyLog;
use rustls::NoKeyLog;

static KEY_LOG: OnceLock<Arc<dyn KeyLog>> = OnceLock::new();

/// Gives the secrets of every handshake of this process to `log`, which must not block: workers call it.
/// Whether that is possible: there is one key log at most.
pub fn set(log: Arc<dyn KeyLog>) -> bool {
    KEY_LOG.set(log).is_ok()
}

/// Where the secrets of handshakes go: nowhere, unless one was set.
pub(super) fn current() -> Arc<dyn KeyLog> {
    KEY_LOG.get().map_or_else(|| Arc::new(NoKeyLog {}) as Arc<dyn KeyLog>, Arc::clone)
}
