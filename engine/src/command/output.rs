//! Where the result of a command goes, and the reason of one that failed.

use std::io::{self, Write};
use std::process::ExitCode;

/// A reader that went away early (`| head`) is no failure of ours.
pub(super) fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            refuse(&format_args!("standard output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Whoever closed our stderr does not want to know.
pub(super) fn refuse(error: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "offramp: {error}");
    ExitCode::FAILURE
}

pub(super) fn print_json(value: &impl serde::Serialize) -> ExitCode {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => refuse(&error),
    }
}
