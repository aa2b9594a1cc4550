//! The `offramp` command: arguments in, exit code out.
//!
//! Exit codes: 0 all went well, 1 the configuration or the start failed, or standard output is full; 2 the
//! command line makes no sense. A standard output that its reader has closed is no failure.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tracing::level_filters::LevelFilter;

mod command;

use command::serve::Serve;
use command::ticket_key::{self, TicketKeyTask};
use command::upgrade::Upgrade;
use offramp::config::{Listener, Raw, file};
use offramp::conformance;
use offramp::conn::policy::Legs;
use offramp::log::Log;
use offramp::supervisor::{self, StartError};
use offramp::sys::probe::{Check, Host, Verdict};
use offramp::sys::process;
use offramp::tls::ticket_keys::KeyRing;
use offramp::tls::{TlsPolicy, warnings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// TLS termination: handshake in userspace with rustls, records in kernel TLS, bytes on io_uring.
#[derive(Parser)]
#[command(name = "offramp", version, max_term_width = 110)]
struct Command {
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
    Serve(Box<Serve>),
    /// Check a configuration file and what it names, without starting
    Check {
        /// The file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Create, rotate and list the ticket keys that several hosts share
    #[command(subcommand)]
    TicketKey(TicketKeyTask),
    /// Have the running process replaced by one of the program on disk, without refusing a connection
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
    Probe {
        /// One JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
}

/// How long the end waits for a log that is slow.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // Before the first key is read.
    let hidden = process::forbid_dumps();
    let command = Command::parse();
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
        Task::Serve(serve) => run(*serve, &log),
        Task::Check { config } => check(&config),
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
        Task::Probe { json } => probe(json),
    };
    log.finish(LOG_PATIENCE);
    code
}

/// What goes wrong is said in the log: nothing else may wait for a reader of stderr that stands still.
fn run(serve: Serve, log: &Log) -> ExitCode {
    match supervisor::run(Box::new(move |sent| serve.load(sent)), log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.say(&format!("offramp: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn check(path: &std::path::Path) -> ExitCode {
    let config = match file::read(path).and_then(Raw::check) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    let mut warning = match config.ticket_keys.as_deref().map(|file| (file, KeyRing::read(file))) {
        None => String::new(),
        Some((file, Ok(ring))) => ticket_key::warning(file, &ring, ticket_key::now()),
        // Whoever checks need not be the user that runs the service.
        Some((_, Err(error))) if error.depends_on_the_user() => format!("warning: ticket_keys: {error}\n"),
        Some((_, Err(error))) => {
            return refuse(&StartError::from(error).at(&config.origins));
        }
    };
    let mut all_legs = Vec::new();
    for listener in &config.listeners {
        match listener.load(None, None) {
            Ok(legs) => all_legs.push(legs),
            Err(error) => return refuse(&StartError::from(error).at(&config.origins)),
        }
    }
    for exposed in TlsPolicy::exposed_keys(
        config.listeners.iter().flat_map(Listener::all_identities).collect::<Vec<_>>().iter(),
    ) {
        warning.push_str(&format!("warning: {exposed}\n"));
    }
    let mut identities: Vec<_> = config.listeners.iter().flat_map(Listener::all_identities).collect();
    // Listeners may have the same.
    identities.sort_by(|one, other| (&one.certificate, &one.key).cmp(&(&other.certificate, &other.key)));
    identities.dedup();
    let identities = identities.len();
    let listeners = match config.listeners.len() {
        1 => String::new(),
        count => format!("{count} listeners, "),
    };
    let plural = if identities == 1 { "y" } else { "ies" };
    let good =
        format!("offramp check: {} is good: {listeners}{identities} identit{plural}\n", path.display());
    let found = config
        .collisions()
        .into_iter()
        .chain(warnings(all_legs.iter().flat_map(Legs::policies), ticket_key::now()));
    let found: String = found.map(|line| format!("warning: {line}\n")).collect();
    print(&format!("{good}{found}{warning}"))
}

fn probe(json: bool) -> ExitCode {
    let host = Host::probe();
    if !json {
        return print(&table(&host));
    }
    print_json(&host)
}

fn print_json(value: &impl serde::Serialize) -> ExitCode {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => refuse(&error),
    }
}

fn table(host: &Host) -> String {
    let width = host.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = format!("kernel {}\n", host.kernel);
    let mut group = "";
    for check in &host.checks {
        if check.group != group {
            group = check.group;
            text.push_str(&format!("\n{group}\n"));
        }
        text.push_str(&line(check, width));
    }
    text
}

fn line(check: &Check, width: usize) -> String {
    let verdict = match check.verdict {
        Verdict::Ok => "ok",
        Verdict::Degraded => "degraded",
        Verdict::Missing => "MISSING",
        Verdict::Untried => "untried",
    };
    let remedy = check.remedy.as_ref().map_or_else(String::new, |remedy| format!("; try: {remedy}"));
    let line = format!("  {:width$}  {verdict:8}  {}{remedy}", check.name, check.detail);
    format!("{}\n", line.trim_end())
}

/// A reader that went away early (`| head`) is no failure of ours.
fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            refuse(&format_args!("standard output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Whoever closed our stderr does not want to know.
fn refuse(error: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "offramp: {error}");
    ExitCode::FAILURE
}
