//! The control plane: starts the workers, watches them, stops them.
//!
//! [`Engine`] is the whole of it for whoever embeds it: no signals, nothing printed. [`run`] is an engine
//! with the signals and the ready line of the `offramp` command around it.

mod activation;
mod admin_address;
mod control;
mod crew;
mod descriptors;
mod error;
mod files;
mod inherited;
mod key_log;
mod launch;
mod manager;
mod pool_rounds;
mod pools;
mod probe;
mod published;
mod pulse;
mod record_paths;
mod reload;
mod resolver;
mod running;
mod seen;
mod services;
mod sockets;
mod ticket_clock;
mod unix_socket;
mod upgrade;
mod watch;

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, Sender};
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::config::{Config, ConfigError, Loaded, Routes};
use crate::confine::{Cage, Confinement};
use crate::log::Log;
use crate::metrics::{Counters, Metrics};
use crate::sys::errno;
use crate::sys::socket::Address;

use admin_address::AdminAddresses;
pub use control::Control;
use crew::{Crew, Report, joined, spawn, vital};
pub use error::{StartError, ThreadLost};
use files::{Files, Obey};
use launch::{Opened, embedded, look_at_files, open, setups, submit};
use manager::Manager;
use pulse::Pulse;
pub use record_paths::{RecordPath, RecordPaths};
use reload::Reloader;
pub use reload::{Reread, SENT};
use running::Running;
pub use upgrade::launcher;
use upgrade::{Estate, Launched, Predecessor, Upgrades};

/// Runs the engine until a signal ends it: SIGTERM or SIGINT drains, a second one ends at once, SIGHUP calls
/// `reread` and puts in force what can change while it runs, SIGUSR2 has another process take over. Prints
/// one line to stdout once connections are accepted; where stdout does not take it, there is a warning in the
/// log and the engine serves.
///
/// `reread` is called for the configuration of the start, and later on a thread for which nothing else waits;
/// with a text if that is to be read in place of the file, as it was sent to admin. `log` is
/// where `tracing` writes to: its losses are counted, and without its thread the engine ends.
///
/// # Errors
/// If the engine could not start, or a thread was lost without which it does not go on.
pub fn run(reread: Reread, log: &Log) -> Result<(), RunError> {
    // Before the start, so that a signal during it is not lost.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR2]).map_err(RunError::Signals)?;
    let (predecessor, estate) = match Predecessor::from_environment().map_err(StartError::Handover)? {
        Some((predecessor, estate)) => (Some(predecessor), estate),
        None => (None, Estate { sockets: activation::from_environment()?, ..Estate::default() }),
    };
    // Before a key is read, and before what confines this process.
    let launched = Launched::start();
    let started = start(reread, log, estate).and_then(|engine| {
        let ready = predecessor.as_ref().map_or(Ok(()), Predecessor::ready);
        ready.map_err(StartError::Handover)?;
        Ok(engine)
    });
    let mut engine = started.inspect_err(|error| {
        if let Some(predecessor) = &predecessor {
            predecessor.failed(&error.to_string());
        }
    })?;
    engine.release();
    engine.serve_upgrades(launched)?;
    let (control, handle) = (engine.control(), signals.handle());
    let (files, upgrades) = (engine.files.clone(), engine.upgrades.clone());
    let obeying = vital("signals", engine.reports.clone(), move || {
        obey(&mut signals, &control, &files, &upgrades);
        Ok(())
    })?;
    engine.control.manager.ready(&format!("serving: {engine}"));
    announce(&engine)?;
    let outcome = engine.join();
    handle.close();
    // Its panics were caught.
    drop(obeying.join());
    Ok(outcome?)
}

/// An engine that is ready to accept, and does where no other process has to let it.
fn start(reread: Reread, log: &Log, estate: Estate) -> Result<Engine, RunError> {
    let Loaded { config, text } = reread(None)?;
    let origins = config.origins.clone();
    let engine = Engine::launch(config, Some((reread, text)), Some(log.clone()), estate);
    Ok(engine.map_err(|error| error.at(&origins))?)
}

/// A running engine. Dropped, it ends at once.
#[derive(Debug)]
pub struct Engine {
    /// The services of the start.
    served: Vec<Served>,
    admin_addrs: Vec<Address>,
    workers: usize,
    cage: Option<Arc<Cage>>,
    metrics: Metrics,
    control: Control,
    files: Files,
    upgrades: Upgrades,
    admin: AdminAddresses,
    /// What does upgrades, until its thread is started.
    to_upgrade: Option<Receiver<upgrade::Ask>>,
    reports: Sender<Report>,
    watch: Option<JoinHandle<Result<(), ThreadLost>>>,
}

/// What there is to show of a service; its keys stay with those who need them, until a reload.
#[derive(Debug)]
struct Served {
    listen: Address,
    routes: Routes,
    records: RecordPaths,
}

impl Served {
    fn of(running: &Running) -> Self {
        let Running { listen, listener, records, .. } = running;
        Self { listen: listen.clone(), routes: listener.routes.clone(), records: records.clone() }
    }
}

impl Engine {
    /// Starts the workers and returns once every one accepts connections.
    ///
    /// # Errors
    /// If anything is missing, in which case nothing of it is left running.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let engine = Self::launch(config, None, None, Estate::default())?;
        engine.release();
        Ok(engine)
    }

    /// Ready, and serves once it is [released](Self::release). With what reads the configuration again, and
    /// the text of the one that it starts with.
    fn launch(
        config: Config,
        reread: Option<(Reread, Option<String>)>,
        log: Option<Log>,
        estate: Estate,
    ) -> Result<Self, StartError> {
        let Estate { sockets: inherited, tickets, siblings, is_offload_off } = estate;
        let open_at_start = descriptors::open().saturating_sub(inherited.count());
        let key_log = config.key_log.as_deref().map(key_log::open).transpose()?;
        let mut cage = log.as_ref().map(|log| Cage::enter(&config, log)).transpose()?;
        key_log.map_or(Ok(()), key_log::KeyLogFile::start)?;
        let cpus = crew::cpus(&config);
        let tickets = ticket_clock::tickets(&config, tickets.as_deref().map(String::as_str))?;
        let mut control = Control::new(config.workers, Arc::clone(&tickets))?;
        control.replaces(siblings, is_offload_off);
        control.manager = reread.as_ref().map(|_| Manager::from_environment()).unwrap_or_default();
        let Opened { served, admin: admin_bound, expiries, published } =
            open(&config, &control, &cpus, open_at_start, inherited)?;
        if let Some(cage) = &mut cage {
            cage.close(&config)?;
            cage.announce();
        }
        let of_worker = cage.as_ref().map_or_else(|| embedded(&config), Cage::of_worker);
        let cage = cage.map(Arc::new);
        control.services.lock().confine(cage.clone());

        let counters: Vec<_> = control.mailboxes.iter().map(|_| Arc::new(Counters::default())).collect();
        let log_counters = log.as_ref().map(Log::counters).unwrap_or_default();
        let registry = control.services.lock().registry();
        let metrics = Metrics::new(counters.clone(), registry, control.offload.allowed())
            .with_log(log_counters)
            .with_tickets(Arc::clone(&tickets));
        let crew = Crew::start(setups(&control, counters, &of_worker)?.into_iter(), &cpus, control.clone())?;
        let (files, inbox) = Files::new();
        let (upgrades, to_upgrade) = Upgrades::new(control.clone());
        let submit = reread.is_some().then(|| submit(&files, &upgrades));
        let shown = (expiries, published);
        let service = launch::service(&config, &control, &metrics, cage.as_deref(), shown, submit);
        let (reports, rounds) = (crew.reports(), Arc::<AtomicU64>::default());
        let admin = AdminAddresses::new(service, control.services.files(), crew.reports());
        let admin_addrs = admin.prepare_all(admin_bound)?;
        let obey: Obey = match reread {
            None => Box::new(drop),
            Some((reread, text)) => {
                let mut reloader =
                    Reloader::new(config.clone(), reread, control.clone(), admin.clone(), text);
                Box::new(move |ask| reloader.obey(ask))
            }
        };
        let tick = look_at_files(tickets, control.services.clone());
        inbox.start(tick, obey, Arc::clone(&rounds), crew.reports())?;
        let pools = pool_rounds::start(control.services.clone(), crew.reports())?;
        let pulse = Pulse::new(metrics.clone(), Arc::clone(&control.mailboxes), rounds);
        let (services, watched) = (control.services.clone(), admin.clone());
        let watch = spawn("offramp-control".to_owned(), move || {
            let outcome = crew.watch(pulse, log);
            watched.stop();
            drop(pools);
            services.end();
            outcome
        })?;
        let (workers, to_upgrade, watch) = (config.workers, Some(to_upgrade), Some(watch));
        Ok(Self {
            served,
            admin_addrs,
            workers,
            cage,
            metrics,
            control,
            files,
            upgrades,
            admin,
            to_upgrade,
            reports,
            watch,
        })
    }

    /// From here on connections are accepted, and admin answers: another process does no more.
    fn release(&self) {
        self.control.services.lock().release();
        self.admin.release();
    }

    /// From here on another process can be made to take over.
    fn serve_upgrades(&mut self, launched: Launched) -> Result<(), StartError> {
        let Some(inbox) = self.to_upgrade.take() else { return Ok(()) };
        let (control, admin) = (self.control.clone(), self.admin.clone());
        upgrade::start(inbox, launched, control, admin, self.reports.clone())
    }

    /// Where the first listener of the start with a TCP address accepts connections, with the port that was
    /// bound; none if all are on Unix sockets.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addrs().find_map(Address::tcp)
    }

    /// Where each listener does, in the order of the configuration.
    pub fn local_addrs(&self) -> impl Iterator<Item = &Address> {
        self.served.iter().map(|one| &one.listen)
    }

    /// Where admin is served by TCP since the start.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addrs.iter().find_map(Address::tcp)
    }

    /// Who will carry the records of the first listener, per direction, and why the kernel will not.
    #[must_use]
    pub fn record_paths(&self) -> &RecordPaths {
        &self.served[0].records
    }

    /// What the process has given up; none in one that embeds the engine.
    #[must_use]
    pub fn confinement(&self) -> Option<&Confinement> {
        self.cage.as_deref().map(Cage::report)
    }

    /// The counters, summed over the workers when read.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// What stops this engine, to be kept by another thread.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// No new connections; those open have `timeouts.drain` to finish.
    pub fn drain(&self) {
        self.control.drain();
    }

    /// Everything ends at once.
    pub fn end(&self) {
        self.control.end();
    }

    /// Waits until all workers were drained or ended.
    ///
    /// # Errors
    /// [`ThreadLost`] if one panicked, ended without being asked to, or was given up because it stood still;
    /// the others were ended then.
    pub fn join(mut self) -> Result<(), ThreadLost> {
        self.watch.take().map_or(Ok(()), joined)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take() {
            self.control.end();
            if let Err(lost) = joined(watch) {
                tracing::error!(%lost, "the engine was dropped after a thread was lost");
            }
        }
    }
}

impl fmt::Display for Engine {
    /// The text of the ready line, behind "offramp ready: ".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.workers == 1 { "" } else { "s" };
        for (index, Served { listen, routes, records }) in self.served.iter().enumerate() {
            let between = if index == 0 { "" } else { "; " };
            write!(f, "{between}listening on {listen}, backend {routes}, ")?;
            write!(f, "{} worker{plural}; {records}", self.workers)?;
        }
        for (nth, address) in self.admin_addrs.iter().enumerate() {
            write!(f, "{}{address}", if nth == 0 { "; admin on " } else { " and " })?;
        }
        Ok(())
    }
}

/// Exactly one line, at once even into a pipe. Whoever closed our stdout does not want to know. It is written
/// by a thread for which nobody waits: the reader of our stdout may stand still.
fn announce(engine: &Engine) -> Result<(), StartError> {
    let line = format!("offramp ready: {engine}\n");
    spawn("offramp-ready".to_owned(), move || {
        let mut stdout = io::stdout().lock();
        if let Err(error) = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()) {
            tracing::warn!(error = errno::name(&error), "the ready line could not be written to stdout");
        }
    })?;
    Ok(())
}

/// Reads no file and waits for nobody but the next signal.
fn obey(signals: &mut Signals, control: &Control, files: &Files, upgrades: &Upgrades) {
    let mut drains = false;
    for signal in signals.forever() {
        match signal {
            SIGHUP => files.reload(),
            SIGUSR2 => upgrades.ask(upgrade::Ask::Signal),
            _ if drains => {
                tracing::info!("second signal: everything ends now");
                control.end();
            }
            _ => {
                drains = true;
                tracing::info!("draining: no new connections; a second signal ends at once");
                control.drain();
            }
        }
    }
}

/// Why [`run`] has ended otherwise than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The system does not let us handle signals.
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It did not go on.
    #[error(transparent)]
    Lost(#[from] ThreadLost),
}
