//! SIGINT and SIGTERM: the first one ends what counts, and it is reported; the second one ends the process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether a run is to end now. The default is never set.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Set by this process's first SIGINT or SIGTERM. From then on either ends the process at once, with 128
    /// and the signal's number as its exit code.
    ///
    /// # Errors
    /// Those of `sigaction(2)`: none for these signals.
    pub fn by_signal() -> io::Result<Self> {
        let set = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset here, and sets it then.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&set))?;
            flag::register(signal, Arc::clone(&set))?;
        }
        Ok(Self(set))
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
