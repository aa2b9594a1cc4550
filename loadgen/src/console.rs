//! Standard output and standard error, which whoever reads them may close, or keep on a full disk: neither
//! ends in a panic.

use std::fmt;
use std::io::{self, Write};

/// Standard output took no more: closed by its reader (EPIPE), on a full disk (ENOSPC), and the like.
#[derive(Debug)]
pub struct StdoutLost(io::Error);

impl StdoutLost {
    /// Whether the reader closed it, as `head` does: it wants to know no more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

impl fmt::Display for StdoutLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "standard output: {}", self.0)
    }
}

impl std::error::Error for StdoutLost {}

/// Writes a text to standard output, at once.
///
/// # Errors
/// [`StdoutLost`].
pub fn print(text: &str) -> Result<(), StdoutLost> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(StdoutLost)
}

/// Writes a line to standard error, if that takes it: progress and complaints are no reason to stop.
pub fn note(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
