//! The control plane: starts the workers, watches them, stops them.
//!
//! [`Engine`] is the whole of it for whoever embeds it: no signals, nothing printed. [`run`] is an engine
//! with the signals and the ready line of the `offramp` command around it.

mod admin_address;
mod control;
mod crew;
mod descriptors;
mod error;
mod files;
mod key_log;
mod pool_rounds;
mod pools;
mod probe;
mod published;
mod pulse;
mod record_paths;
mod reload;
mod resolver;
mod seen;
mod services;
mod sockets;
mod ticket_clock;
mod unix_socket;
mod watch;

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::admin;
use crate::config::{Config, Confine, Loaded, Pinning, Routes};
use crate::confine::{Cage, Confinement};
use crate::log::Log;
use crate::metrics::{Counters, Expiries, Metrics};
use crate::state::Published;
use crate::sys::socket::Address;
use crate::sys::{errno, operations};
use crate::tls::Tickets;
use crate::tls::ticket_keys::NoRandomness;
use crate::worker::{Setup, WorkerCage};

use admin_address::{AdminAddresses, Bound};
pub use control::Control;
use crew::{Crew, Report, joined, spawn, vital};
pub use error::{StartError, ThreadLost};
use files::{Files, Obey};
use pulse::Pulse;
pub use record_paths::{RecordPath, RecordPaths};
use reload::Reloader;
pub use reload::{Reread, SENT};
use services::{Running, Services};
use sockets::note_ipv6_alone;
use ticket_clock::TicketClock;
use watch::Watch;

/// Runs the engine until a signal ends it: SIGTERM or SIGINT drains, a second one ends at once, SIGHUP calls
/// `reread` and puts in force what can change while it runs. Prints one line to stdout once connections are
/// accepted; where stdout does not take it, there is a warning in the log and the engine serves.
///
/// `reread` is called on a thread for which nothing else waits; with a text if that is to be read in place of
/// the file, as it was sent to admin. `log` is where `tracing` writes to: its losses are counted,
/// and without its thread the engine ends.
///
/// # Errors
/// If the engine could not start, or a thread was lost without which it does not go on.
pub fn run(loaded: Loaded, reread: Reread, log: &Log) -> Result<(), RunError> {
    // Before the start, so that a signal during it is not lost.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(RunError::Signals)?;
    let Loaded { config, text } = loaded;
    let origins = config.origins.clone();
    let engine = Engine::launch(config, Some((reread, text)), Some(log.clone()));
    let engine = engine.map_err(|error| error.at(&origins))?;
    let (control, handle, files) = (engine.control(), signals.handle(), engine.files.clone());
    let obeying = vital("signals", engine.reports.clone(), move || {
        obey(&mut signals, &control, &files);
        Ok(())
    })?;
    announce(&engine)?;
    let outcome = engine.join();
    handle.close();
    // Its panics were caught.
    drop(obeying.join());
    Ok(outcome?)
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
        Self::launch(config, None, None)
    }

    /// With what reads the configuration again, and the text of the one that it starts with.
    fn launch(
        config: Config,
        reread: Option<(Reread, Option<String>)>,
        log: Option<Log>,
    ) -> Result<Self, StartError> {
        let inherited = descriptors::open();
        config.key_log.as_deref().map_or(Ok(()), key_log::start)?;
        let mut cage = log.as_ref().map(|log| Cage::enter(&config, log)).transpose()?;
        reload::warn(&config.collisions());
        note_ipv6_alone(&config);
        let cpus = crew::cpus(&config);
        let tickets = ticket_clock::tickets(&config)?;
        let control = Control::new(config.workers, Arc::clone(&tickets))?;
        let (served, expiries, published) = first_services(&control, &config, &cpus, inherited)?;
        let admin_bound = Bound::all(config.admin_addresses(), Cage::owner(&config))?;
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
        let service = admin::Service {
            metrics: metrics.clone(),
            draining: Arc::clone(&control.stopping),
            offload: control.offload.clone(),
            expiries,
            submit: reread.is_some().then(|| submit(&files)),
            started: ticket_clock::now(),
            tickets: Arc::clone(&tickets),
            published,
            key_log: config.key_log.clone(),
            confinement: cage.as_deref().map(Cage::report).cloned().unwrap_or_default(),
            mailboxes: Arc::clone(&control.mailboxes),
        };
        let reports = crew.reports();
        let admin = AdminAddresses::new(service, crew.reports());
        let admin_addrs = admin.serve_all(admin_bound)?;
        let rounds: Arc<AtomicU64> = Arc::default();
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
        let services = control.services.clone();
        let watch = spawn("offramp-control".to_owned(), move || {
            let outcome = crew.watch(pulse, log);
            admin.stop();
            drop(pools);
            services.end();
            outcome
        })?;
        let (workers, watch) = (config.workers, Some(watch));
        Ok(Self { served, admin_addrs, workers, cage, metrics, control, files, reports, watch })
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

/// What is known of the services of the start, and what of it changes later.
type FirstServices = (Vec<Served>, Arc<Mutex<Expiries>>, Published);

/// Binds and reads what the configuration of the start needs, and puts it in force.
fn first_services(
    control: &Control,
    config: &Config,
    cpus: &[usize],
    inherited: u64,
) -> Result<FirstServices, StartError> {
    let incoming_cpus = if config.pin_workers == Pinning::IncomingCpu { cpus.to_vec() } else { Vec::new() };
    let mut in_force = control.services.lock();
    in_force.begin(incoming_cpus, inherited, Cage::owner(config));
    let next = in_force.prepare(config, &reload::find(config))?;
    reload::warn(next.warning.as_slice());
    in_force.commit(next);
    watch::warn_of_exposed_keys(in_force.listeners());
    let served = in_force.running().iter().map(Served::of).collect();
    Ok((served, in_force.expiries(), in_force.published()))
}

/// In a process of which we are a part: the rings are ours.
fn embedded(config: &Config) -> WorkerCage {
    WorkerCage::of_ring(config.confine != Confine::Off && operations::can_be_restricted().is_ok())
}

/// What each worker is made of.
fn setups(
    control: &Control,
    counters: Vec<Arc<Counters>>,
    cage: &WorkerCage,
) -> Result<Vec<Setup>, StartError> {
    let names = connection_names(counters.len())?;
    let in_force = control.services.lock();
    let setup = |(index, counters): (usize, _)| Setup {
        index,
        name: names[index],
        workers: control.mailboxes.len(),
        cage: cage.clone(),
        max_connections: in_force.max_connections_of(index),
        counters,
        limits: in_force.limits(),
        mailbox: Arc::clone(&control.mailboxes[index]),
    };
    Ok(counters.into_iter().enumerate().map(setup).collect())
}

/// Where admin hands over what is asked of the configuration.
fn submit(files: &Files) -> admin::Submit {
    let files = files.clone();
    admin::Submit(Arc::new(move |request| files.request(request)))
}

/// What is done each TICK: ticket keys, certificates and authorities are read again when they have changed.
fn look_at_files(tickets: Arc<Tickets>, services: Services) -> impl FnMut() + Send + 'static {
    let (mut clock, mut watch) = (TicketClock::new(tickets), Watch::new(services));
    move || {
        clock.tick();
        watch.tick();
    }
}

/// What is in front of the names of each worker's connections.
fn connection_names(workers: usize) -> Result<Vec<u64>, StartError> {
    let mut bytes = vec![0; workers * size_of::<u64>()];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| u64::from_ne_bytes(*bytes)).collect())
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
fn obey(signals: &mut Signals, control: &Control, files: &Files) {
    let mut drains = false;
    for signal in signals.forever() {
        match signal {
            SIGHUP => files.reload(),
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
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It did not go on.
    #[error(transparent)]
    Lost(#[from] ThreadLost),
}
