//! `offramp-ticket-key-agent`: keeps the file of ticket keys in step with etcd on every host, and rotates
//! the keys.
//!
//! The file stays the engine's only input; the agent is a program of its own, so that its dependencies stay
//! out of the engine. `offramp ticket-key agent` runs it.
//!
//! ```text
//! etcd ──value──► seal (opens, judges) ──ring──► file ──► the engine
//!   ▲                                      │
//!   └──── transaction ◄── rotation ◄── leader (if this agent is the one)
//! ```
#![forbid(unsafe_code)]

mod agent;
mod alarm;
mod clock;
mod etcd;
mod file;
mod leader;
mod options;
mod pace;
mod rotation;
mod seal;
mod service;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use agent::{Agent, Event};
use alarm::{Alarms, State};
use etcd::Etcd;
use file::{FileError, KeyFile};
use leader::Candidate;
use options::{OptionError, Options};
use seal::{KekError, Sealer};
use service::Service;

/// After a watch that failed, before the next.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// Events that wait; more say nothing new.
const EVENTS_MAX: usize = 4;

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Option(#[from] OptionError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("--kek: {0}")]
    Kek(#[from] KekError),
    #[error("the agent cannot be started: {0}")]
    System(#[from] io::Error),
}

/// The command line as clap knows it, for man pages and completions.
#[must_use]
pub fn command_line() -> clap::Command {
    Options::command()
}

/// Runs the command line of this process until SIGTERM or SIGINT, and returns its exit code.
pub fn run() -> ExitCode {
    // Before the first key is read.
    let hidden = prctl::set_dumpable(false).and_then(|()| setrlimit(Resource::RLIMIT_CORE, 0, 0));
    let options = Options::parse();
    // What ureq and rustls have to say is none of the operator's business, below a warning.
    let ours = Targets::new().with_target(env!("CARGO_CRATE_NAME"), options.log_level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .log_internal_errors(false);
    tracing_subscriber::registry().with(lines).with(ours).init();
    if let Err(error) = hidden {
        tracing::warn!(%error, "a core dump or another process of this user may show ticket keys");
    }
    match start(&options) {
        Ok((mut agent, events)) => {
            agent.run(&events);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "offramp-ticket-key-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(options: &Options) -> Result<(Agent, Receiver<Event>), StartError> {
    let schedule = options.schedule()?;
    options.check_keks()?;
    let prefix = options.prefix()?;
    let place = format!("{prefix}/ring");
    let sealer = Sealer::read(&options.kek, &place)?;
    let etcd = options.etcd()?;
    let file = KeyFile::claim(&options.file, options.group()?)?;
    if !file.is_in_memory() {
        tracing::warn!(
            "{}: is not on a tmpfs, so that ticket keys reach the disk; put the file below /run",
            options.file.display()
        );
    }
    let in_force = match file.read() {
        Ok(in_force) => in_force,
        Err(error) => {
            tracing::error!("{error}; the file will be replaced when etcd has a ring");
            None
        }
    };
    let candidate = Candidate::new(format!("{prefix}/leader"), options.name(), options.lease);
    let events = listen(&etcd, prefix)?;
    tracing::info!(
        "keeps {} in step with {place} (key-encryption key {})",
        options.file.display(),
        sealer.id()
    );
    let agent = Agent {
        etcd,
        sealer,
        file,
        candidate,
        schedule,
        place,
        interval: options.interval(),
        alarms: Alarms::new(options.alarm_every),
        metrics_file: options.metrics_file.clone(),
        service: Service::from_environment(),
        state: State::default(),
        in_force,
        vacant: 0,
    };
    Ok((agent, events))
}

/// Two threads, for signals and for changes in etcd; they end with the process.
fn listen(etcd: &Etcd, prefix: &str) -> io::Result<Receiver<Event>> {
    let (sender, events) = sync_channel(EVENTS_MAX);
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let stop = sender.clone();
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(move || {
        for _ in signals.forever() {
            if stop.send(Event::Stop).is_err() {
                return;
            }
        }
    })?;
    let (etcd, prefix) = (etcd.clone(), prefix.to_owned());
    let thread = std::thread::Builder::new().name("watch".to_owned());
    thread.spawn(move || watch(etcd, &prefix, &sender))?;
    Ok(events)
}

fn watch(mut etcd: Etcd, prefix: &str, changed: &SyncSender<Event>) {
    loop {
        // Where the queue is full, a round is due anyway.
        let watched = etcd.watch(prefix, || drop(changed.try_send(Event::Changed)));
        if let Err(error) = watched {
            tracing::debug!(%error, "no watch");
            etcd.turn();
        }
        std::thread::park_timeout(WATCH_PAUSE);
    }
}
