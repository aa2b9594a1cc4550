//! `loadgen`: TLS load, verified sample by sample.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use offramp_loadgen::arguments::{Arguments, Command};
use offramp_loadgen::console::StdoutLost;
use offramp_loadgen::report::verdict::exit;
use offramp_loadgen::{command, console, demo};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run(&Arguments::parse().command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => match error.downcast_ref::<StdoutLost>() {
            // Its reader wants to know no more.
            Some(lost) if lost.is_closed() => ExitCode::from(exit::NO_STDOUT),
            lost => {
                console::note(format_args!("loadgen: {error:#}"));
                ExitCode::from(if lost.is_some() { exit::NO_STDOUT } else { exit::NOT_RUN })
            }
        },
    }
}

fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Demo { json, seconds } => run_demo(*json, Duration::from_secs(*seconds)),
        Command::Handshake(arguments) => command::handshake(arguments),
        Command::Transfer(arguments) => command::transfer(arguments),
        Command::Message(arguments) => command::message(arguments),
        Command::Latency(arguments) => command::latency(arguments),
        Command::Backend(arguments) => {
            command::backend(arguments.listen, arguments.threads).map(|()| exit::AS_ASKED)
        }
        Command::Report { a, b } => {
            console::print(&command::compare(a, b)?)?;
            Ok(exit::AS_ASKED)
        }
    }
}

fn run_demo(json: bool, total: Duration) -> Result<u8> {
    let report = demo::run(total, |phase| console::note(format_args!("{phase} …")))?;
    let printed = console::print(&if json { format!("{}\n", report.json()?) } else { report.table() });
    for problem in &report.problems {
        console::note(format_args!("loadgen: {problem}"));
    }
    if !report.problems.is_empty() {
        return Ok(exit::NOT_RUN);
    }
    printed?;
    Ok(exit::AS_ASKED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_out_of_range_are_refused() {
        assert!(Arguments::try_parse_from(["loadgen", "demo", "--seconds", "51"]).is_err());
        assert!(Arguments::try_parse_from(["loadgen", "demo", "--seconds", "0"]).is_err());
        assert!(Arguments::try_parse_from(["loadgen"]).is_err());
    }
}
