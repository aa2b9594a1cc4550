//! A demonstration by itself: engine, client and backend in this process, over loopback.
//!
//! With its parts, the only module that knows the engine. Its records are checked by the client's own TLS,
//! its counters only say who carried them.

mod phases;
pub mod report;

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use offramp::config::{Config, IdentityFiles, Listener, Routes};
use offramp::metrics::{Counter, Metrics};
use offramp::supervisor::Engine;
use offramp::sys::socket::Address;

use crate::backend::Backend;
use crate::identity::{Identity, SERVER_NAME};
use crate::interrupt::Interrupt;
use crate::machine::{self, Machine};
use crate::plan::Target;
use crate::profiles::ClientProfile;
use crate::runner::Clients;

use report::{ByPath, PhaseReport, RecordPaths, Report};

/// Seconds of load that may be asked for: at most so many that all ends within a minute.
pub const SECONDS: std::ops::RangeInclusive<u64> = 2..=50;
/// Seconds of load unless told otherwise.
pub const SECONDS_DEFAULT: u64 = 20;

/// One worker: the client needs more CPU for its side of a handshake than the engine for its own.
const WORKERS: usize = 1;
/// Client threads at most.
const THREADS_MAX: usize = 4;
/// Connections at once that the engine has to expect, with room for those that are being closed.
const CONNECTIONS_MAX: usize = 256;

/// Starts an engine, puts every kind of load on it for `total` together, and ends it. `progress` hears the
/// name of each phase before it begins.
///
/// # Errors
/// The engine did not start or was lost, or a phase could not be run at all. What merely is not as it was
/// asked is in [`Report::problems`].
pub fn run(total: Duration, mut progress: impl FnMut(&str)) -> Result<Report> {
    let machine = Machine::this();
    let threads = thread::available_parallelism().map_or(1, usize::from).saturating_sub(WORKERS);
    let threads = threads.clamp(1, THREADS_MAX);
    let terminator = Terminator::start()?;
    let engine = &terminator.engine;
    let interrupt = Interrupt::by_signal()?;
    let mut report = Report {
        date: machine::date(),
        machine,
        terminator: format!("offramp {}", env!("CARGO_PKG_VERSION")),
        record_paths: engine.record_paths().to_string(),
        workers: WORKERS,
        threads,
        phases: Vec::new(),
        problems: Vec::new(),
    };
    let metrics = engine.metrics();
    for phase in phases::all(total, threads) {
        progress(&phase.label());
        let before = by_path(&metrics);
        let profile = ClientProfile::equal(phase.version, SERVER_NAME, &terminator.identity.certificate)?;
        let plan = phase.plan();
        let outcome = Clients::new(&plan, &profile)?
            .interrupted_by(interrupt.clone())
            .run(&plan, &terminator.target(), |_| {})
            .with_context(|| phase.label())?;
        if outcome.interrupted {
            bail!("{}: a signal ended the demo", phase.label());
        }
        if let Some(reason) = outcome.broken_off {
            bail!("{}: {reason}", phase.label());
        }
        let phase = PhaseReport::new(&phase, &outcome.tally, by_path(&metrics).since(before));
        report.problems.extend(phase.problems());
        report.phases.push(phase);
    }
    terminator.end()?;
    Ok(report)
}

/// An engine on loopback with a fresh certificate and a backend.
#[derive(Debug)]
pub struct Terminator {
    engine: Engine,
    address: SocketAddr,
    /// What it presents.
    pub identity: Identity,
    // Ends after the engine, whose plain legs it serves.
    _backend: Backend,
}

impl Terminator {
    /// Starts one.
    ///
    /// # Errors
    /// It did not start.
    pub fn start() -> Result<Self> {
        let identity = Identity::generate()?;
        let backend = Backend::start(1).context("the backend did not start")?;
        let engine =
            Engine::start(config(backend.address(), &identity)).context("the engine did not start")?;
        let address = engine.local_addr().context("the engine listens on no TCP address")?;
        Ok(Self { engine, address, identity, _backend: backend })
    }

    /// Where it listens.
    #[must_use]
    pub fn target(&self) -> Target {
        Target { host: SERVER_NAME.to_owned(), address: self.address }
    }

    /// Ends it.
    ///
    /// # Errors
    /// It did not end as it should.
    pub fn end(self) -> Result<()> {
        self.engine.end();
        self.engine.join().context("the engine did not end as it should")
    }
}

fn config(backend: SocketAddr, identity: &Identity) -> Config {
    let files =
        IdentityFiles { certificate: identity.certificate_file(), key: identity.key_file(), ocsp: None };
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let routes = Routes::to(Address::Tcp(backend));
    let listener = Listener::new(listen, routes, vec![files]);
    Config { workers: WORKERS, max_connections: CONNECTIONS_MAX, ..Config::new(vec![listener]) }
}

fn by_path(metrics: &Metrics) -> RecordPaths {
    let sum = |counters: [Counter; 2]| counters.into_iter().map(|counter| metrics.total(counter)).sum();
    RecordPaths {
        tx: ByPath {
            kernel: metrics.total(Counter::OffloadedTx),
            userspace: sum([Counter::UserspaceTx, Counter::FellBackTx]),
        },
        rx: ByPath {
            kernel: metrics.total(Counter::OffloadedRx),
            userspace: sum([Counter::UserspaceRx, Counter::FellBackRx]),
        },
    }
}
