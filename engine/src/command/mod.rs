//! The command line of `offramp`: arguments in, exit code out.

mod check;
mod output;
mod probe;
mod serve;
mod ticket_key;
mod upgrade;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::conformance;
use crate::log::Log;
use crate::supervisor;
use crate::sys::process;

use output::{print, print_json, refuse};
use serve::Serve;
use ticket_key::TicketKeyTask;
use upgrade::Upgrade;

/// The exit codes, for `--help` and the man pages.
const EXIT_CODES: &str = "\
Exit codes:
  0  the command did what was asked; serve: SIGTERM or SIGINT ended it
  1  the configuration, the start or the command failed, a thread was lost, or standard output is full;
     the last line on stderr has the reason
  2  the command line is wrong";

/// What the process that serves does on signals, for the same.
const SIGNALS: &str = "\
Signals:
  SIGTERM, SIGINT  stop accepting, serve open connections for timeouts.drain, end; a second one ends at once
  SIGHUP           read the configuration again and put it in force; if anything is wrong, nothing changes
  SIGUSR2          start the program that is on disk in place of this process, as `offramp upgrade` does";

/// TLS termination: handshake in userspace with rustls, records in kernel TLS, bytes on io_uring
///
/// Offramp accepts connections, does their TLS handshake in userspace under the 3GPP TLS profile, has the
/// kernel encrypt and decrypt the records where that costs less, and relays the bytes to a backend. It also
/// adds TLS to plain connections, re-encrypts, passes TLS through by name, and relays plain bytes. `offramp
/// serve` runs it; the other commands check a configuration and the host, and help to operate it.
#[derive(Parser)]
#[command(name = "offramp", version, max_term_width = 110, after_help = EXIT_CODES)]
struct Arguments {
    /// What is written to stderr: error, warn, info, debug or trace, and everything more severe
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info")]
    log_level: LevelFilter,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Accept connections, add or remove TLS as the mode says, and relay to the backend, until SIGTERM or
    /// SIGINT
    #[command(after_help = SIGNALS)]
    Serve(Box<Serve>),
    /// Check a configuration file and what it names, without starting
    ///
    /// Reads the file and all files that it names, as a start would; opens no socket and does not try the
    /// kernel. Prints what is wrong with file, line and key. Warnings do not change the exit code.
    Check {
        /// The configuration file; offramp.toml(5) describes it
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Create, rotate and list the ticket keys that several hosts share
    #[command(subcommand)]
    TicketKey(TicketKeyTask),
    /// Replace the running process by a new one of the program on disk, without refusing a connection
    ///
    /// Starts the program that is on disk now, with the path, arguments and environment of the running
    /// process. The new process reads its files, takes over the listening sockets and accepts; the old one
    /// drains. If the new one does not start, the old one goes on, and the exit code is 1. The same as
    /// SIGUSR2, with the outcome.
    Upgrade(Upgrade),
    /// Starts the program again when the process that serves asks for it
    #[command(hide = true)]
    Launcher { program: PathBuf, arguments: Vec<OsString> },
    /// Print what the 3GPP TLS profile requires, clause by clause, and what Offramp does
    Conformance {
        /// A JSON array of rows instead of Markdown
        #[arg(long)]
        json: bool,
    },
    /// Find out, by trying, what this host can do and what would make it do more
    ///
    /// Each line has a verdict, what was found, and the command that fixes it. MISSING: Offramp cannot run;
    /// degraded: it runs with less; untried: something else that is needed for the trial is missing. The
    /// exit code is 0 in either case; scripts read `verdict` of --json.
    Probe {
        /// One JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
}

/// How long the end waits for a log that is slow.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// The command line as clap knows it, for man pages and completions.
#[must_use]
pub fn command_line() -> clap::Command {
    Arguments::command()
}

/// Runs the command line of this process, and returns its exit code.
pub fn run() -> ExitCode {
    // Before the first key is read.
    let hidden = process::forbid_dumps();
    let command = Arguments::parse();
    if let Task::Launcher { program, arguments } = &command.task {
        return supervisor::launcher(program, arguments);
    }
    let log = match Log::to_stderr() {
        Ok(log) => log,
        Err(error) => return refuse(&format_args!("the log cannot be started: {error}; try: ulimit -a")),
    };
    let lines = log.clone();
    tracing_subscriber::fmt()
        .with_writer(move || lines.clone())
        .with_ansi(io::stderr().is_terminal())
        .with_max_level(command.log_level)
        .with_target(false)
        // They would be printed to stderr, which panics where stderr is what has failed.
        .log_internal_errors(false)
        .init();
    // The hook of the standard library writes to stderr, and waits for a reader that stands still.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    if let Err(error) = hidden {
        tracing::warn!(%error, "a core dump or another process of this user may show private keys");
    }
    let code = match command.task {
        Task::Serve(serve) => run_serve(*serve, &log),
        Task::Check { config } => check::check(&config),
        Task::TicketKey(task) => match task.run(command.log_level) {
            Ok(text) => print(&text),
            Err(error) => refuse(&error),
        },
        Task::Upgrade(upgrade) => match upgrade.run() {
            Ok(text) => print(&text),
            Err(error) => refuse(&error),
        },
        Task::Launcher { .. } => ExitCode::SUCCESS,
        Task::Conformance { json: false } => print(&conformance::markdown()),
        Task::Conformance { json: true } => print_json(&conformance::rows()),
        Task::Probe { json } => probe::probe(json),
    };
    log.finish(LOG_PATIENCE);
    code
}

/// What goes wrong is said in the log: nothing else may wait for a reader of stderr that stands still.
fn run_serve(serve: Serve, log: &Log) -> ExitCode {
    match supervisor::run(Box::new(move |sent| serve.load(sent)), log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.say(&format!("offramp: {error}"));
            ExitCode::FAILURE
        }
    }
}
