//! The `offramp-ticket-key-agent` program; all of it is in the library beside it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    offramp_ticket_key_agent::run()
}
