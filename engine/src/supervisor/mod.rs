//! The control plane: starts the workers, watches them, stops them.
//!
//! [`Engine`] is the whole of it for whoever embeds it: no signals, nothing printed. [`run`] is an engine
//! with the signals and the ready line of the `offramp` command around it.

mod carriers;
mod crew;
mod error;
mod reload;
mod ticket_clock;

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::admin;
use crate::config::limits::{LISTEN_BACKLOG, connections_within, descriptors_needed};
use crate::config::{Backend, Config, ConfigError, Pinning};
use crate::conn::fault::Fault;
use crate::metrics::{Counters, Metrics};
use crate::sys::errno;
use crate::sys::socket;
use crate::tls::{Terms, Tickets, warnings};
use crate::upstream::Upstream;
use crate::worker::{FrontSetup, Offers, Setup, Stop};

pub use carriers::{Carriage, Carriers};
use crew::{Admin, Crew, joined, spawn};
pub use error::{StartError, WorkerLost};
use ticket_clock::TicketClock;

/// Runs the engine until a signal ends it: SIGTERM or SIGINT drains, a second one ends at once, SIGHUP calls
/// `reread` and puts in force what can change while it runs. Prints one line to stdout once connections are
/// accepted. The exit code is 0 after a signal, 1 if the engine could not start or a worker was lost.
#[must_use]
pub fn run(config: Config, reread: impl Fn() -> Result<Config, ConfigError> + Send + 'static) -> ExitCode {
    match run_until_signalled(config, reread) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("offramp: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A running engine. Dropped, it ends at once.
#[derive(Debug)]
pub struct Engine {
    served: Vec<Served>,
    admin_addr: Option<SocketAddr>,
    workers: usize,
    metrics: Metrics,
    control: Control,
    watch: Option<JoinHandle<Result<(), WorkerLost>>>,
}

/// A listener as it runs.
#[derive(Debug)]
struct Served {
    local_addr: SocketAddr,
    backend: Backend,
    carriers: Carriers,
}

impl Engine {
    /// Starts the workers and returns once every one accepts connections.
    ///
    /// # Errors
    /// If anything is missing, in which case nothing of it is left running.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let max_connections = affordable_connections(&config)?;
        reload::warn(&config.collisions());
        let found = reload::find(&config);
        let mut fronts: Vec<Vec<FrontSetup>> = (0..config.workers).map(|_| Vec::new()).collect();
        let tickets = ticket_clock::tickets(&config)?;
        let (mut served, mut all_terms) = (Vec::new(), Vec::new());
        let cpus = crew::cpus(&config);
        for listener in &config.listeners {
            let terms = Arc::new(Terms::load(listener, Some(&tickets))?);
            let carriers = Carriers::choose(&listener.offload, &found)?;
            let sockets = bind_workers(listener.listen, config.workers)?;
            if config.pin_workers == Pinning::IncomingCpu {
                prefer_incoming(&sockets, &cpus);
            }
            let local_addr = bound(&sockets[0], listener.listen)?;
            for (fronts, socket) in fronts.iter_mut().zip(sockets) {
                fronts.push(FrontSetup {
                    listener: socket,
                    terms: Arc::clone(&terms),
                    upstream: Upstream { backend: listener.backend.clone() },
                    record_limit: listener.offload.record_limit,
                });
            }
            all_terms.push(terms);
            served.push(Served { local_addr, backend: listener.backend.clone(), carriers });
        }
        reload::warn(&warnings(all_terms.iter().map(Arc::as_ref), ticket_clock::now()));
        let admin_listener = config.admin.map(bind_admin).transpose()?;
        let admin_addr =
            admin_listener.as_ref().map(|listener| bound(listener, served[0].local_addr)).transpose()?;

        let offers = served.iter().map(|one| one.carriers.offer()).collect();
        let offers = Arc::new(Offers::new(offers, all_terms));
        let counters: Vec<_> = fronts.iter().map(|_| Arc::new(Counters::new(Fault::LABELS))).collect();
        let metrics = Metrics::new(counters.clone(), offers.allowed());
        let control = Control::new(fronts.len(), offers, Arc::clone(&tickets))?;
        let setups = fronts.into_iter().zip(counters).enumerate().map(|(index, (fronts, counters))| Setup {
            index,
            fronts,
            offers: Arc::clone(&control.offers),
            timeouts: config.timeouts,
            max_connections: share(max_connections, config.workers, index),
            counters,
            stop: Arc::clone(&control.stops[index]),
        });
        let crew = Crew::start(setups, &cpus, control.clone())?;
        let service = admin::Service {
            metrics: metrics.clone(),
            draining: Arc::clone(&control.stopping),
            offers: Arc::clone(&control.offers),
        };
        let admin = admin_listener.map(|listener| Admin::start(listener, service)).transpose()?;
        let mut clock = TicketClock::new(tickets);
        let watch = spawn("offramp-control".to_owned(), move || crew.watch(|| clock.tick(), admin))?;
        Ok(Self { served, admin_addr, workers: config.workers, metrics, control, watch: Some(watch) })
    }

    /// Where the first listener accepts TLS connections, with the port that was bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.served[0].local_addr
    }

    /// Where each listener does, in the order of the configuration.
    pub fn local_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.served.iter().map(|one| one.local_addr)
    }

    /// Where `/metrics` and `/healthz` are served.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// Who will carry the records of the first listener, per direction, and why the kernel will not.
    #[must_use]
    pub fn carriers(&self) -> &Carriers {
        &self.served[0].carriers
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
    /// [`WorkerLost`] if one panicked or ended untold; the others were ended then.
    pub fn join(mut self) -> Result<(), WorkerLost> {
        self.watch.take().map_or(Ok(()), joined)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take() {
            self.control.end();
            if let Err(lost) = joined(watch) {
                tracing::error!(%lost, "the engine was dropped after a worker was lost");
            }
        }
    }
}

impl fmt::Display for Engine {
    /// The text of the ready line, behind "offramp ready: ".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.workers == 1 { "" } else { "s" };
        for (index, Served { local_addr, backend, carriers }) in self.served.iter().enumerate() {
            let between = if index == 0 { "" } else { "; " };
            write!(f, "{between}listening on {local_addr}, backend {backend}, ")?;
            write!(f, "{} worker{plural}; {carriers}", self.workers)?;
        }
        self.admin_addr.map_or(Ok(()), |address| write!(f, "; admin on {address}"))
    }
}

/// Stops an engine, from any thread.
#[derive(Clone)]
pub struct Control {
    stops: Arc<[Arc<Stop>]>,
    stopping: Arc<AtomicBool>,
    offers: Arc<Offers>,
    tickets: Arc<Tickets>,
}

impl Control {
    fn new(workers: usize, offers: Arc<Offers>, tickets: Arc<Tickets>) -> Result<Self, StartError> {
        let stops: io::Result<Vec<_>> = (0..workers).map(|_| Stop::new().map(Arc::new)).collect();
        let stops = stops.map_err(|error| StartError::resource("an event descriptor", &error))?;
        Ok(Self { stops: stops.into(), stopping: Arc::new(AtomicBool::new(false)), offers, tickets })
    }

    /// The kill switch: while it is off the kernel is given no connection. What it has stays with it.
    pub fn allow_offload(&self, allowed: bool) {
        self.offers.allow(allowed);
    }

    /// As [`Engine::drain`].
    pub fn drain(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.stops.iter().for_each(|stop| stop.drain());
    }

    /// As [`Engine::end`].
    pub fn end(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.stops.iter().for_each(|stop| stop.end());
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Control({} workers, stopping: {:?})", self.stops.len(), self.stopping)
    }
}

/// As many connections as were asked for, or as many as there are descriptors for.
fn affordable_connections(config: &Config) -> Result<usize, StartError> {
    let limit =
        socket::raise_nofile_limit().map_err(|error| StartError::resource("the descriptor limit", &error))?;
    let affordable = connections_within(limit, config.workers, config.listeners.len());
    if affordable >= config.max_connections {
        return Ok(config.max_connections);
    }
    let needed = descriptors_needed(config.max_connections, config.workers, config.listeners.len());
    if affordable < config.workers {
        return Err(StartError::Descriptors { limit, needed });
    }
    tracing::warn!(
        "max_connections lowered from {} to {affordable}: it needs {needed} descriptors and RLIMIT_NOFILE is \
         {limit}; try: LimitNOFILE={needed} in the systemd unit, or ulimit -Hn {needed} as root",
        config.max_connections
    );
    Ok(affordable)
}

/// One listener a worker, all on one port.
fn bind_workers(address: SocketAddr, workers: usize) -> Result<Vec<OwnedFd>, StartError> {
    let refused = |error: io::Error| StartError::listen("listen", address, &error);
    socket::is_free(address).map_err(refused)?;
    let first = socket::listener(address, true, LISTEN_BACKLOG).map_err(refused)?;
    // Port 0 became a port: the others take the same.
    let address = bound(&first, address)?;
    let mut listeners = vec![first];
    while listeners.len() < workers {
        let listener = socket::listener(address, true, LISTEN_BACKLOG);
        listeners.push(listener.map_err(|error| StartError::listen("listen", address, &error))?);
    }
    Ok(listeners)
}

/// Each worker shall get what arrives on its CPU. One that cannot be told gets its share by the hash.
fn prefer_incoming(listeners: &[OwnedFd], cpus: &[usize]) {
    for (listener, &cpu) in listeners.iter().zip(cpus) {
        if let Err(error) = socket::prefer_incoming_cpu(listener.as_fd(), cpu) {
            tracing::warn!(cpu, error = errno::name(&error), "pin_workers: not by the incoming CPU");
        }
    }
}

fn bind_admin(address: SocketAddr) -> Result<OwnedFd, StartError> {
    if !address.ip().is_loopback() {
        tracing::warn!(
            "admin is on {address}, which is no loopback address: whoever reaches it reads the metrics"
        );
    }
    socket::listener(address, false, 64).map_err(|error| StartError::listen("admin", address, &error))
}

fn bound(listener: &OwnedFd, asked: SocketAddr) -> Result<SocketAddr, StartError> {
    socket::local_addr(listener.as_fd()).map_err(|error| StartError::listen("listen", asked, &error))
}

/// What falls to one worker of `total` connections: the first ones get what does not divide.
fn share(total: usize, workers: usize, index: usize) -> usize {
    total / workers + usize::from(index < total % workers)
}

fn run_until_signalled(
    config: Config,
    reread: impl Fn() -> Result<Config, ConfigError> + Send + 'static,
) -> Result<(), RunError> {
    // Before the start, so that a signal during it is not lost.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(RunError::Signals)?;
    let mut running = config.clone();
    let engine = Engine::start(config)?;
    announce(&engine);
    let (control, handle) = (engine.control(), signals.handle());
    let reload = move |control: &Control| reload::reload(&mut running, reread(), control);
    let obeying = spawn("offramp-signals".to_owned(), move || obey(&mut signals, &control, reload))?;
    let outcome = engine.join();
    handle.close();
    if obeying.join().is_err() {
        tracing::error!("the thread that waits for signals panicked");
    }
    Ok(outcome?)
}

/// Exactly one line, at once even into a pipe. Whoever closed our stdout does not want to know.
fn announce(engine: &Engine) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = writeln!(stdout, "offramp ready: {engine}").and_then(|()| stdout.flush()) {
        tracing::warn!(error = errno::name(&error), "the ready line could not be written to stdout");
    }
}

fn obey(signals: &mut Signals, control: &Control, mut reload: impl FnMut(&Control)) {
    let mut drains = false;
    for signal in signals.forever() {
        match signal {
            SIGHUP => reload(control),
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

#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Lost(#[from] WorkerLost),
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn shares_add_up_and_differ_by_at_most_one() {
        for (total, workers) in [(10_000, 3), (7, 7), (1000, 64)] {
            let shares: Vec<usize> = (0..workers).map(|index| share(total, workers, index)).collect();
            assert_eq!(shares.iter().sum::<usize>(), total);
            assert!(shares[0] - shares[workers - 1] <= 1);
        }
    }

    #[test]
    fn workers_share_the_port_that_was_chosen_and_nobody_else_gets_it() {
        let listeners = bind_workers((Ipv4Addr::LOCALHOST, 0).into(), 3).unwrap();
        let address = bound(&listeners[0], (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        for listener in &listeners {
            assert_eq!(bound(listener, address).unwrap(), address);
        }
        let error = bind_workers(address, 1).unwrap_err().to_string();
        assert!(error.contains("is in use") && error.contains("ss -ltnp"), "{error}");
    }

    #[test]
    fn an_address_of_another_host_is_refused_with_what_to_try() {
        let error = bind_workers("192.0.2.1:0".parse().unwrap(), 1).unwrap_err().to_string();
        assert!(
            error.contains("192.0.2.1:0 is no address of this host") && error.contains("ip addr"),
            "{error}"
        );
    }
}
