//! The `offramp` command: arguments in, exit code out.
//!
//! Exit codes: 0 all went well, 1 the configuration or the start failed, or standard output is full; 2 the
//! command line makes no sense. A standard output that its reader has closed is no failure.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

mod command;

use command::ticket_key::{self, TicketKeyTask};
use offramp::config::{Config, ConfigError, Key, Raw, file};
use offramp::conn::policy::Legs;
use offramp::log::Log;
use offramp::supervisor;
use offramp::sys::probe::{Check, Host, Verdict};
use offramp::sys::process;
use offramp::tls::ticket_keys::KeyRing;
use offramp::tls::{TlsPolicy, conformance, warnings};

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
    /// Accept TLS connections and pass what is in them on to the backend, until SIGTERM or SIGINT
    Serve(Box<Serve>),
    /// Check a configuration file and what it names, without starting
    Check {
        /// The file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// The ticket keys that several hosts share
    #[command(subcommand)]
    TicketKey(TicketKeyTask),
    /// What the 3GPP TLS profile asks for, clause by clause, and what Offramp does
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

/// A flag replaces the same key at the top of the file, not one below [[listener]]. offramp.example.toml
/// lists what is allowed for each.
#[derive(Args)]
struct Serve {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address on which connections are accepted; with port 0 the kernel chooses the port
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Address to which each accepted connection is passed on
    #[arg(long, value_name = "ADDR:PORT|unix:PATH|unix:@NAME")]
    backend: Option<String>,
    /// Which leg has TLS: the accepted one (terminate), the one to the backend (originate), both, or none
    /// [default: terminate]
    #[arg(long, value_name = "terminate|originate|reencrypt|plain")]
    mode: Option<String>,
    /// With originate and reencrypt: the name that the server's certificate must have
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// With originate and reencrypt: the authorities that issue the server's certificate, unless
    /// --fingerprints names it
    #[arg(long, value_name = "PEM")]
    server_ca: Option<String>,
    /// A certificate chain; repeat with --key, paired in order
    #[arg(long, value_name = "PEM")]
    cert: Vec<PathBuf>,
    /// The private key of the certificate in the same place
    #[arg(long, value_name = "PEM")]
    key: Vec<PathBuf>,
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Whether each stays on a CPU of its own, and takes the connections that arrive there [default: off]
    #[arg(long, value_name = "off|on|incoming-cpu")]
    pin_workers: Option<String>,
    /// Whether the kernel carries the records [default: auto]
    #[arg(long, value_name = "auto|always|never|after-bytes(N)")]
    offload: Option<String>,
    /// Which directions it may carry [default: both]
    #[arg(long, value_name = "both|tx|rx")]
    offload_directions: Option<String>,
    /// Who carries TLS 1.3 where the kernel cannot replace keys [default: offload]
    #[arg(long, value_name = "offload|userspace")]
    keyupdate: Option<String>,
    /// Whether the kernel decrypts TLS 1.3 records directly into the receive buffer; a padded record is
    /// decrypted twice [default: off]
    #[arg(long, value_name = "on|off")]
    expect_no_pad: Option<String>,
    /// Records that one key may protect [default: what the cipher allows]
    #[arg(long, value_name = "N")]
    record_limit: Option<String>,
    /// Session tickets [default: on]
    #[arg(long, value_name = "on|off")]
    tickets: Option<String>,
    /// Whether TCP keepalive probes silent peers of either leg [default: on]
    #[arg(long, value_name = "on|off")]
    keepalive: Option<String>,
    /// The ticket keys that several hosts share [default: keys of this process alone]
    #[arg(long, value_name = "FILE")]
    ticket_keys: Option<String>,
    /// From the first full handshake until the session can no longer be resumed [default: 24h]
    #[arg(long, value_name = "TIME")]
    session_lifetime: Option<String>,
    /// Whether clients are asked for a certificate [default: none]
    #[arg(long, value_name = "none|request|require")]
    client_auth: Option<String>,
    /// The authorities that issue clients' certificates
    #[arg(long, value_name = "PEM")]
    client_ca: Option<String>,
    /// The certificates that the peer may have, by their fingerprints as in SDP, separated by commas:
    /// servers' with originate and reencrypt, otherwise clients'
    #[arg(long, value_name = "HASH AA:BB:…")]
    fingerprints: Option<String>,
    /// Application protocols, separated by commas [default: none is negotiated]
    #[arg(long, value_name = "NAME,…")]
    alpn: Option<String>,
    /// What becomes of a client that asks for a name that no certificate has [default: first]
    #[arg(long, value_name = "first|refuse")]
    unknown_name: Option<String>,
    /// How the backend's connection ends where a peer's FIN comes without close_notify [default: reset]
    #[arg(long, value_name = "reset|fin")]
    truncation: Option<String>,
    /// Address on which /metrics, /healthz and /offload are served [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT")]
    admin: Option<String>,
    /// Connections open at once [default: 10000]
    #[arg(long, value_name = "N")]
    max_connections: Option<String>,
    /// From accept until the handshake is complete [default: 10s]
    #[arg(long, value_name = "TIME")]
    handshake_timeout: Option<String>,
    /// From the start of the connect until the leg to the backend is open [default: 5s]
    #[arg(long, value_name = "TIME")]
    connect_timeout: Option<String>,
    /// From the last byte in either direction [default: 1h]
    #[arg(long, value_name = "TIME")]
    idle_timeout: Option<String>,
    /// From our last byte until the peer has closed too [default: 2s]
    #[arg(long, value_name = "TIME")]
    linger_timeout: Option<String>,
    /// From SIGTERM until what is still open is ended [default: 30s]
    #[arg(long, value_name = "TIME")]
    drain_timeout: Option<String>,
}

/// How long the end waits for a log that is slow.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // Before the first key is read.
    let hidden = process::forbid_dumps();
    let command = Command::parse();
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
        Task::TicketKey(task) => match task.run() {
            Ok(text) => print(&text),
            Err(error) => refuse(&error),
        },
        Task::Conformance { json: false } => print(&conformance::markdown()),
        Task::Conformance { json: true } => print_json(&conformance::rows()),
        Task::Probe { json } => probe(json),
    };
    log.finish(LOG_PATIENCE);
    code
}

/// What goes wrong is said in the log: nothing else may wait for a reader of stderr that stands still.
fn run(serve: Serve, log: &Log) -> ExitCode {
    let config = match serve.checked() {
        Ok(config) => config,
        Err(error) => {
            log.say(&format!("offramp: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match supervisor::run(config, move || serve.checked(), log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.say(&format!("offramp: {error}"));
            ExitCode::FAILURE
        }
    }
}

impl Serve {
    /// As often as it is asked: the file may have changed.
    fn checked(&self) -> Result<Config, ConfigError> {
        let file = self.config.as_deref().map_or_else(|| Ok(Raw::default()), file::read)?;
        let mut flags = Raw::default();
        let values = [
            (Key::Listen, &self.listen),
            (Key::Backend, &self.backend),
            (Key::Mode, &self.mode),
            (Key::ServerName, &self.server_name),
            (Key::ServerCa, &self.server_ca),
            (Key::Workers, &self.workers),
            (Key::PinWorkers, &self.pin_workers),
            (Key::Offload, &self.offload),
            (Key::OffloadDirections, &self.offload_directions),
            (Key::KeyUpdate, &self.keyupdate),
            (Key::ExpectNoPad, &self.expect_no_pad),
            (Key::RecordLimit, &self.record_limit),
            (Key::Tickets, &self.tickets),
            (Key::Keepalive, &self.keepalive),
            (Key::TicketKeys, &self.ticket_keys),
            (Key::SessionLifetime, &self.session_lifetime),
            (Key::ClientAuth, &self.client_auth),
            (Key::ClientCa, &self.client_ca),
            (Key::Fingerprints, &self.fingerprints),
            (Key::Alpn, &self.alpn),
            (Key::UnknownName, &self.unknown_name),
            (Key::Truncation, &self.truncation),
            (Key::Admin, &self.admin),
            (Key::MaxConnections, &self.max_connections),
            (Key::Handshake, &self.handshake_timeout),
            (Key::Connect, &self.connect_timeout),
            (Key::Idle, &self.idle_timeout),
            (Key::Linger, &self.linger_timeout),
            (Key::Drain, &self.drain_timeout),
        ];
        for (key, value) in values {
            flags.give_flag(key, value.clone());
        }
        flags.give_identities(&self.cert, &self.key)?;
        file.overridden_by(flags).check()
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
        Some((_, Err(error))) => {
            return refuse(&format_args!("{}: ticket_keys: {error}", path.display()));
        }
    };
    let mut all_legs = Vec::new();
    for listener in &config.listeners {
        match listener.load(None, None) {
            Ok(legs) => all_legs.push(legs),
            Err(error) => return refuse(&format_args!("{}: identity: {error}", path.display())),
        }
    }
    for exposed in TlsPolicy::exposed_keys(config.listeners.iter().flat_map(|listener| &listener.identities))
    {
        warning.push_str(&format!("warning: {exposed}\n"));
    }
    let identities: usize = config.listeners.iter().map(|listener| listener.identities.len()).sum();
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
        .chain(warnings(all_legs.iter().flat_map(Legs::terms), ticket_key::now()));
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
