//! The value of `/v1/state`. Its shape is described in `docs/operate/admin.md`; times are seconds since 1970.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::{Certificate, Endpoint, InForce, Listener, Pool, Published, RecordPath};
use crate::confine::{Confinement, Layer};
use crate::conn::fault::Fault;
use crate::metrics::{Counter, Gauge, Metrics, Pause};
use crate::pool::Probed;
use crate::sys::probe;
use crate::tls::Tickets;
use crate::tls::ticket_keys::UnixSeconds;

/// What does not change as long as the process runs, and where to read what does.
#[derive(Clone, Copy, Debug)]
pub struct Process<'a> {
    /// When it was started.
    pub started: UnixSeconds,
    /// Whether it accepts nothing any more.
    pub is_draining: bool,
    /// The kill switch.
    pub is_offload_allowed: bool,
    /// All counters.
    pub metrics: &'a Metrics,
    /// The ticket keys, and the clock.
    pub tickets: &'a Tickets,
    /// What is in force.
    pub published: &'a Published,
    /// Where the secrets of every connection are written, if they are.
    pub key_log: Option<&'a Path>,
    /// What the process gave up.
    pub confinement: &'a Confinement,
}

#[derive(Serialize)]
struct State<'a> {
    version: &'static str,
    pid: u32,
    time: UnixSeconds,
    started: UnixSeconds,
    uptime_seconds: u64,
    draining: bool,
    offload_allowed: bool,
    key_log: Option<String>,
    confinement: &'a [Layer],
    warnings: &'a [String],
    workers: Vec<WorkerState>,
    connections: Connections,
    handshakes: Handshakes,
    bytes: Bytes,
    record_paths: [Paths; 2],
    listeners: Vec<ListenerState<'a>>,
    pools: Vec<PoolState<'a>>,
    certificates: Vec<CertificateState<'a>>,
    ticket_keys: TicketKeys,
    faults: Vec<FaultState>,
    limits: Vec<Limit>,
    memory: Memory,
    log: LogState,
    kernel_tls: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct WorkerState {
    worker: usize,
    connections: u64,
    stalled_seconds: u64,
    full: bool,
}

#[derive(Serialize)]
struct Connections {
    open: u64,
    unfinished_handshakes: u64,
    accepted: u64,
    closed: u64,
    faulted: u64,
}

#[derive(Serialize)]
struct Handshakes {
    tls12_full: u64,
    tls12_resumed: u64,
    tls13_full: u64,
    tls13_resumed: u64,
    evicted: u64,
}

/// Plaintext.
#[derive(Serialize)]
struct Bytes {
    from_clients: u64,
    from_backends: u64,
}

/// Directions of TLS legs since the start, by who carries their records.
#[derive(Serialize)]
struct Paths {
    direction: &'static str,
    kernel: u64,
    userspace: u64,
    fallback: u64,
}

#[derive(Serialize)]
struct ListenerState<'a> {
    address: &'a str,
    mode: &'a str,
    connections: u32,
    pools: &'a [String],
    offload: &'a str,
    tx: PathState<'a>,
    rx: PathState<'a>,
    client_auth: Option<&'a str>,
    alpn: &'a [String],
    tickets: bool,
    accept_proxy: bool,
}

#[derive(Serialize)]
struct PathState<'a> {
    path: &'a str,
    detail: &'a str,
}

#[derive(Serialize)]
struct PoolState<'a> {
    name: &'a str,
    balance: &'a str,
    health_check: &'a str,
    endpoints: Vec<EndpointReport<'a>>,
}

#[derive(Serialize)]
struct EndpointReport<'a> {
    address: &'a str,
    weight: u32,
    backup: bool,
    max_connections: Option<u32>,
    connections: u32,
    consecutive_failures: u32,
    /// `up`; `down`, until probes succeed; `paused`, until its pause is over.
    state: &'static str,
    since: Option<UnixSeconds>,
    reason: Option<String>,
    last_probe: Option<ProbeState>,
}

#[derive(Serialize)]
struct ProbeState {
    at: UnixSeconds,
    problem: Option<String>,
}

#[derive(Serialize)]
struct CertificateState<'a> {
    file: String,
    nth: usize,
    names: &'a [String],
    not_after: i64,
}

#[derive(Serialize)]
struct TicketKeys {
    file: Option<String>,
    keys: Vec<TicketKeyState>,
}

/// Of a key there is its name, which every ticket shows; never the key.
#[derive(Serialize)]
struct TicketKeyState {
    id: String,
    state: String,
    seals_from: UnixSeconds,
    opens_until: UnixSeconds,
}

#[derive(Serialize)]
struct FaultState {
    fault: &'static str,
    count: u64,
    level: String,
    meaning: &'static str,
    remedy: &'static str,
}

#[derive(Serialize)]
struct Limit {
    limit: &'static str,
    value: Option<u64>,
    /// How often something waited or was refused because of it.
    reached: u64,
}

#[derive(Serialize)]
struct Memory {
    resident_bytes: Option<u64>,
    buffer_bytes: u64,
    buffers_lent: u64,
}

#[derive(Serialize)]
struct LogState {
    lines_dropped: u64,
    write_errors: u64,
}

/// All of it as JSON.
#[must_use]
pub fn report(process: &Process<'_>) -> String {
    let Process { metrics, tickets, .. } = *process;
    let (in_force, warnings) = process.published.read();
    // Before the counters: what is no longer open is counted as closed.
    let open = metrics.open();
    let levels = [Gauge::Unfinished, Gauge::BufferBytes, Gauge::BuffersLent];
    let [unfinished_handshakes, buffer_bytes, buffers_lent] = levels.map(|level| metrics.level(level));
    let total = |counter| metrics.total(counter);
    let faults = faults(metrics);
    let counts: Vec<_> = metrics.handshakes().into_iter().flat_map(|(_, counts)| counts).collect();
    let handshakes = |version, resumed| {
        let of_kind = counts.iter().filter(|it| (it.version, it.resumed) == (version, resumed));
        of_kind.map(|it| it.count).sum()
    };
    let state = State {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        time: tickets.now(),
        started: process.started,
        uptime_seconds: tickets.now().saturating_sub(process.started),
        draining: process.is_draining,
        offload_allowed: process.is_offload_allowed,
        key_log: process.key_log.map(|file| file.display().to_string()),
        confinement: &process.confinement.layers,
        warnings: &warnings,
        workers: workers(metrics),
        connections: Connections {
            open,
            unfinished_handshakes,
            accepted: total(Counter::Accepted),
            closed: total(Counter::Closed),
            faulted: faults.iter().map(|fault| fault.count).sum(),
        },
        handshakes: Handshakes {
            tls12_full: handshakes("1.2", false),
            tls12_resumed: handshakes("1.2", true),
            tls13_full: handshakes("1.3", false),
            tls13_resumed: handshakes("1.3", true),
            evicted: total(Counter::HandshakesEvicted),
        },
        bytes: Bytes {
            from_clients: total(Counter::BytesFromNear),
            from_backends: total(Counter::BytesFromFar),
        },
        record_paths: record_paths(metrics),
        listeners: in_force.listeners.iter().map(ListenerState::of).collect(),
        pools: in_force.pools.iter().map(PoolState::of).collect(),
        certificates: in_force.certificates.iter().map(CertificateState::of).collect(),
        ticket_keys: TicketKeys::of(tickets),
        limits: limits(&in_force, metrics, &faults),
        faults,
        memory: Memory { resident_bytes: metrics.resident_bytes(), buffer_bytes, buffers_lent },
        log: LogState {
            lines_dropped: metrics.log_lines_dropped(),
            write_errors: metrics.log_write_errors(),
        },
        kernel_tls: probe::tls_statistics().into_iter().collect(),
    };
    serde_json::to_string(&state).unwrap_or_default()
}

fn workers(metrics: &Metrics) -> Vec<WorkerState> {
    let state = |(worker, stalled_seconds)| WorkerState {
        worker,
        connections: metrics.level_of(worker, Gauge::Connections),
        stalled_seconds,
        full: metrics.level_of(worker, Gauge::Full) > 0,
    };
    metrics.stalled().enumerate().map(state).collect()
}

fn record_paths(metrics: &Metrics) -> [Paths; 2] {
    use Counter as C;
    let paths = |direction, [kernel, userspace, fallback]: [Counter; 3]| Paths {
        direction,
        kernel: metrics.total(kernel),
        userspace: metrics.total(userspace),
        fallback: metrics.total(fallback),
    };
    [
        paths("tx", [C::OffloadedTx, C::UserspaceTx, C::FellBackTx]),
        paths("rx", [C::OffloadedRx, C::UserspaceRx, C::FellBackRx]),
    ]
}

/// Those that happened.
fn faults(metrics: &Metrics) -> Vec<FaultState> {
    let counted = metrics.faults().into_iter().filter(|(_, count)| *count > 0);
    let state = |(fault, count): (Fault, u64)| {
        let (meaning, remedy) = fault.explanation();
        let level = format!("{:?}", fault.level()).to_lowercase();
        FaultState { fault: fault.label(), count, level, meaning, remedy }
    };
    counted.map(state).collect()
}

fn limits(in_force: &InForce, metrics: &Metrics, faults: &[FaultState]) -> Vec<Limit> {
    let rules = &in_force.limits;
    let small = |value: Option<std::num::NonZeroU32>| value.map(|value| u64::from(value.get()));
    let large = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    let paused = |pause| metrics.pauses(pause);
    let refused = |fault: Fault| faults.iter().find(|it| it.fault == fault.label()).map_or(0, |it| it.count);
    let limit = |limit, value, reached| Limit { limit, value, reached };
    vec![
        limit("max_connections", Some(large(in_force.max_connections)), paused(Pause::MaxConnections)),
        limit(
            "limits.listener_connections",
            small(rules.listener_connections),
            metrics.total(Counter::ListenerLimits),
        ),
        limit("limits.connection_rate", small(rules.connection_rate), paused(Pause::ConnectionRate)),
        limit(
            "limits.buffer_memory",
            rules.buffer_memory.map(|value| large(value.get())),
            paused(Pause::BufferMemory),
        ),
        limit(
            "limits.source_connections",
            small(rules.sources.connections),
            refused(Fault::SourceConnections),
        ),
        limit("limits.source_rate", small(rules.sources.rate), refused(Fault::SourceRate)),
        limit(
            "limits.full_handshake_rate",
            small(rules.full_handshake_rate),
            refused(Fault::FullHandshakeLimit),
        ),
    ]
}

impl<'a> ListenerState<'a> {
    fn of(listener: &'a Listener) -> Self {
        let [tx, rx] = &listener.record_paths;
        Self {
            address: &listener.address,
            mode: listener.mode,
            connections: listener.connections.sum(),
            pools: &listener.pools,
            offload: &listener.offload,
            tx: PathState::of(tx),
            rx: PathState::of(rx),
            client_auth: listener.client_auth,
            alpn: &listener.alpn,
            tickets: listener.tickets,
            accept_proxy: listener.accept_proxy,
        }
    }
}

impl<'a> PathState<'a> {
    fn of(path: &'a RecordPath) -> Self {
        Self { path: path.path, detail: &path.detail }
    }
}

impl<'a> PoolState<'a> {
    fn of(pool: &'a Pool) -> Self {
        let is_probed = pool.health_check != "off";
        let endpoints = pool.endpoints.iter().map(|endpoint| EndpointReport::of(endpoint, is_probed));
        Self {
            name: &pool.name,
            balance: pool.balance,
            health_check: pool.health_check,
            endpoints: endpoints.collect(),
        }
    }
}

impl<'a> EndpointReport<'a> {
    fn of(endpoint: &'a Endpoint, is_probed: bool) -> Self {
        let state = match (endpoint.state.is_up(), is_probed) {
            (true, _) => "up",
            (false, true) => "down",
            (false, false) => "paused",
        };
        let note = endpoint.state.note();
        let last_probe = note.probe.map(|Probed { at, problem }| ProbeState { at, problem });
        Self {
            address: &endpoint.address,
            weight: endpoint.weight,
            backup: endpoint.is_backup,
            max_connections: endpoint.max_connections,
            connections: endpoint.state.connections(),
            consecutive_failures: endpoint.state.failures(),
            state,
            since: note.since,
            reason: note.reason,
            last_probe,
        }
    }
}

impl<'a> CertificateState<'a> {
    fn of(certificate: &'a Certificate) -> Self {
        let Certificate { file, nth, names, not_after } = certificate;
        Self { file: file.display().to_string(), nth: *nth, names, not_after: *not_after }
    }
}

impl TicketKeys {
    fn of(tickets: &Tickets) -> Self {
        let keys = tickets.keys().into_iter().map(|key| TicketKeyState {
            id: key.id,
            state: key.purpose.to_string(),
            seals_from: key.from,
            opens_until: key.until,
        });
        Self { file: tickets.file().map(|file| file.display().to_string()), keys: keys.collect() }
    }
}
