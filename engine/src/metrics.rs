//! What is counted, and its exposition as OpenMetrics text.
//!
//! Each worker has [`Counters`] of its own, and for each listener and pool [`ListenerCounters`] and
//! [`PoolCounters`]; whoever reads sums them up. A worker is the only writer of its counters, so that adding
//! is a load and a store, without a locked instruction and without a cache line that two cores write. Names
//! and labels stand in one table, `families`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode as write_text;
use prometheus_client::registry::Registry as Collectors;

use crate::conn::fault::Fault;
use crate::tls::Tickets;
use crate::tls::ticket_keys::UnixSeconds;

mod counters;
mod encode;
mod expiries;
mod families;
mod histogram;
mod listener;
mod pool;
mod process;
mod registry;
mod ticket_keys;

pub use counters::{Counters, Gauge, Pause};
pub use expiries::Expiries;
pub use histogram::{Distribution, Histogram};
pub use listener::{Counter, HandshakeCount, ListenerCounters, Times};
pub use pool::{PoolCounter, PoolCounters};
pub use process::LogCounters;
pub use registry::{EndpointRow, Registry};

use process::ProcessFiles;

/// The counters of all workers, as one reads them: summed.
#[derive(Clone, Debug)]
pub struct Metrics {
    workers: Arc<[Arc<Counters>]>,
    registry: Arc<Registry>,
    offload_allowed: Arc<AtomicBool>,
    /// For how many seconds each worker has not turned, as the control plane sees it.
    stalled: Arc<[AtomicU64]>,
    log: Arc<LogCounters>,
    tickets: Option<Arc<Tickets>>,
    process: Arc<ProcessFiles>,
}

impl Metrics {
    /// Reads these counters, one per worker, those by listener and pool, and the kill switch.
    #[must_use]
    pub fn new(
        workers: Vec<Arc<Counters>>,
        registry: Arc<Registry>,
        offload_allowed: Arc<AtomicBool>,
    ) -> Self {
        let stalled = workers.iter().map(|_| AtomicU64::new(0)).collect();
        Self {
            workers: workers.into(),
            registry,
            offload_allowed,
            stalled,
            log: Arc::default(),
            tickets: None,
            process: Arc::new(ProcessFiles::open()),
        }
    }

    /// With these ticket keys.
    #[must_use]
    pub fn with_tickets(self, tickets: Arc<Tickets>) -> Self {
        Self { tickets: Some(tickets), ..self }
    }

    /// The sum over the workers and over the listeners that are still shown.
    #[must_use]
    pub fn total(&self, counter: Counter) -> u64 {
        let state = self.registry.lock();
        state.listeners.iter().map(|listener| encode::total(&listener.workers, counter)).sum()
    }

    /// The sum over the workers. What is read after it has all that was counted before the gauges were set.
    #[must_use]
    pub fn level(&self, gauge: Gauge) -> u64 {
        self.workers.iter().map(|worker| worker.level(gauge)).sum()
    }

    /// Connections open, of all listeners. What is read after it has all that was counted before.
    #[must_use]
    pub fn open(&self) -> u64 {
        let state = self.registry.lock();
        state.listeners.iter().map(|listener| encode::sum(&listener.workers, ListenerCounters::open)).sum()
    }

    /// How often workers paused for this reason.
    #[must_use]
    pub fn pauses(&self, pause: Pause) -> u64 {
        encode::sum(&self.workers, |worker| worker.pauses(pause))
    }

    /// Every fault and its sum over workers and listeners, those that never happened included.
    #[must_use]
    pub fn faults(&self) -> Vec<(Fault, u64)> {
        let state = self.registry.lock();
        let sum = |fault: Fault| {
            let listeners = state.listeners.iter();
            listeners.map(|listener| encode::sum(&listener.workers, |worker| worker.faults(fault))).sum()
        };
        Fault::ALL.iter().map(|fault| (*fault, sum(*fault))).collect()
    }

    /// The completed handshakes of each listener, by kind.
    #[must_use]
    pub fn handshakes(&self) -> Vec<(String, Vec<HandshakeCount>)> {
        let state = self.registry.lock();
        let listeners = state.listeners.iter();
        listeners.map(|it| (it.label.to_string(), HandshakeCount::all(&it.workers))).collect()
    }

    /// What is counted by listener and pool.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// All of it as OpenMetrics text, version 1.0.0; with what the kernel counts of TLS, by its own names,
    /// and until when the certificates are valid. By `now` it is decided what has been gone for too long to
    /// be shown once more.
    #[must_use]
    pub fn exposition(&self, kernel: Vec<(String, u64)>, expiries: Expiries, now: UnixSeconds) -> String {
        let mut collectors = Collectors::default();
        collectors.register_collector(Box::new(self.clone()));
        collectors.register_collector(Box::new(KernelStatistics(kernel)));
        collectors.register_collector(Box::new(expiries));
        let mut text = String::new();
        write_text(&mut text, &collectors).expect("writing into a string cannot fail");
        self.registry.lock().shown(now);
        text
    }

    fn encode_workers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric = encode::begin(encoder, &families::ACCEPT_PAUSES)?;
        encode::counter(&mut metric, &[], self.pauses(Pause::MaxConnections))?;
        let allowed = u64::from(self.offload_allowed.load(Ordering::Relaxed));
        encode::gauge(encoder, &families::OFFLOAD_ALLOWED, allowed)?;
        let mut metric = encode::begin(encoder, &families::RELOADS)?;
        for (result, count) in ["ok", "failed"].into_iter().zip(self.registry.reloads()) {
            encode::counter(&mut metric, &[("result", result)], count)?;
        }
        encode::gauge(encoder, &families::WORKERS, self.workers.len() as u64)
    }
}

const LEVELS: [(families::Family, Gauge); 5] = [
    (families::HANDSHAKES_UNFINISHED, Gauge::Unfinished),
    (families::BUFFERS_LENT, Gauge::BuffersLent),
    (families::BUFFER_BYTES, Gauge::BufferBytes),
    (families::OPERATIONS_IN_FLIGHT, Gauge::OperationsInFlight),
    (families::WORKERS_FULL, Gauge::Full),
];

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let state = self.registry.lock();
        // Before the counters: what is no longer open is counted as closed, and its fault with it.
        let listeners = state.listeners.iter();
        let open: Vec<u64> = listeners.map(|it| encode::sum(&it.workers, ListenerCounters::open)).collect();
        let levels = LEVELS.map(|(family, gauge)| (family, self.level(gauge)));
        encode::listeners(encoder, &state.listeners, &open)?;
        let pauses = [("connection_rate", Pause::ConnectionRate), ("buffer_memory", Pause::BufferMemory)];
        let pauses = pauses.map(|(limit, pause)| (limit, self.pauses(pause)));
        encode::limit_pauses(encoder, &state.listeners, &pauses)?;
        encode::pools(encoder, &state.pools)?;
        encode::endpoints(encoder, &state.endpoints, self.registry.began())?;
        drop(state);
        for (family, level) in levels {
            encode::gauge(encoder, &family, level)?;
        }
        self.encode_workers(encoder)?;
        if let Some(tickets) = &self.tickets {
            ticket_keys::encode(encoder, tickets)?;
        }
        self.encode_process(encoder)
    }
}

/// What the kernel counts for the whole network namespace, not for this process alone.
#[derive(Debug)]
struct KernelStatistics(Vec<(String, u64)>);

impl Collector for KernelStatistics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut metric = encode::begin(&mut encoder, &families::HOST_TLS)?;
        for (name, value) in &self.0 {
            metric.encode_family(&[("name", name.as_str())])?.encode_gauge(value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use super::*;
    use crate::conn::alerts::AlertDirection;
    use crate::conn::event::Leg;
    use crate::conn::fault::alert;
    use crate::pool::EndpointState;
    use crate::tls::TlsInfo;
    use crate::tls::secrets::Version;

    fn two_workers() -> (Metrics, [Arc<ListenerCounters>; 2]) {
        let registry = Arc::new(Registry::new(2, 0));
        let listener = [0, 1].map(|worker| registry.listener("a", worker));
        let allowed = Arc::new(AtomicBool::new(true));
        (Metrics::new(vec![Arc::default(), Arc::default()], registry, allowed), listener)
    }

    fn info(group: Option<&'static str>) -> TlsInfo {
        TlsInfo {
            version: Version::Tls13,
            suite: 0x1301,
            group,
            resumed: true,
            server_name: None,
            alpn: None,
            certificate: None,
        }
    }

    #[test]
    fn a_reader_sums_over_workers_and_listeners() {
        let (metrics, [one, two]) = two_workers();
        let other = metrics.registry().listener("b", 0);
        one.add(Counter::Accepted, 2);
        two.add(Counter::Accepted, 3);
        other.add(Counter::Accepted, 4);
        (0..3).for_each(|_| one.opened());
        one.closed(Some(Fault::BadRecord), Duration::ZERO);
        assert_eq!(metrics.open(), 0, "it is published once per turn");
        one.publish();
        assert_eq!((metrics.total(Counter::Accepted), metrics.open()), (9, 2));
        let faults: Vec<_> = metrics.faults().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(faults, [(Fault::BadRecord, 1)]);
    }

    /// All that a process may show.
    fn busy() -> String {
        let (metrics, [one, two]) = two_workers();
        one.handshake(Leg::Near, &info(Some("X25519")), Some(Duration::from_micros(300)));
        two.handshake(Leg::Near, &info(Some("X25519")), Some(Duration::from_micros(200)));
        two.handshake(Leg::Far, &info(None), None);
        two.add(Counter::FellBackRx, 9);
        one.alerts(Leg::Near, AlertDirection::Sent, alert::place(40), 2);
        one.closed(Some(Fault::SourceRate), Duration::from_secs(2));
        one.times().accept_to_hello.observe(Duration::from_millis(1));
        one.times().first_byte.observe(Duration::from_millis(1));
        let (registry, name) = (Arc::clone(metrics.registry()), Arc::from("p"));
        let pool = registry.pool("p", 1);
        pool.add(PoolCounter::Attempts);
        pool.connect.observe(Duration::from_millis(3));
        registry.probed("p", false);
        let state = Arc::new(EndpointState::new(2));
        state.set_up(false, 7000);
        let address = "127.0.0.1:1".to_owned();
        registry.set_endpoints(vec![EndpointRow { pool: name, address, weight: 3, state }]);
        let tickets = Arc::new(Tickets::generate(1, 0).expect("there is randomness"));
        let mut expiries = Expiries::default();
        expiries.add("a.pem", 1, 7);
        metrics.with_tickets(tickets).exposition(vec![("TlsTxSw".to_owned(), 12)], expiries, 0)
    }

    #[test]
    fn the_exposition_names_every_series() {
        let text = busy();
        let lines = [
            "# TYPE offramp_connections_accepted counter",
            "offramp_connections_accepted_total{listener=\"a\"} 0",
            "offramp_handshakes_total{listener=\"a\",leg=\"near\",version=\"1.3\",\
             suite=\"TLS_AES_128_GCM_SHA256\",group=\"X25519\",kind=\"resumed\"} 2",
            "offramp_handshakes_total{listener=\"a\",leg=\"far\",version=\"1.3\",\
             suite=\"TLS_AES_128_GCM_SHA256\",group=\"none\",kind=\"resumed\"} 1",
            "offramp_offload_total{listener=\"a\",direction=\"rx\",path=\"fallback\"} 9",
            "offramp_bytes_total{listener=\"a\",leg=\"near\"} 0",
            "offramp_faults_total{listener=\"a\",fault=\"bad_record\"} 0",
            "offramp_limit_refusals_total{listener=\"a\",limit=\"source_rate\"} 1",
            "offramp_alerts_total{listener=\"a\",leg=\"near\",direction=\"sent\",\
             alert=\"handshake_failure\"} 2",
            "# TYPE offramp_handshake_seconds histogram",
            "offramp_handshake_seconds_bucket{le=\"0.00025\",listener=\"a\",leg=\"near\",kind=\"resumed\"} 1",
            "offramp_handshake_seconds_bucket{le=\"+Inf\",listener=\"a\",leg=\"near\",kind=\"resumed\"} 2",
            "offramp_handshake_seconds_sum{listener=\"a\",leg=\"near\",kind=\"resumed\"} 0.0005",
            "offramp_connect_seconds_count{pool=\"p\"} 1",
            "offramp_probes_total{pool=\"p\",result=\"failed\"} 1",
            "offramp_endpoint_up{pool=\"p\",endpoint=\"127.0.0.1:1\"} 0",
            "offramp_endpoint_changed_seconds{pool=\"p\",endpoint=\"127.0.0.1:1\"} 7",
            "offramp_buffers_lent 0",
            "offramp_workers 2",
            "offramp_reloads_total{result=\"ok\"} 0",
            "offramp_offload_allowed 1",
            "offramp_host_tls{name=\"TlsTxSw\"} 12",
        ];
        for line in lines {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn exposition_and_table_of_metrics_are_the_same() {
        let text = busy();
        let typed = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let shown: BTreeMap<&str, &str> = typed.collect();
        let kind = |family: &families::Family| format!("{:?}", family.kind).to_lowercase();
        let wanted: BTreeMap<&str, String> = families::ALL.iter().map(|it| (it.name, kind(it))).collect();
        assert_eq!(
            shown.into_iter().map(|(name, kind)| (name, kind.to_owned())).collect::<BTreeMap<_, _>>(),
            wanted
        );
        for family in families::ALL {
            let suffixes = ["", "_total", "_bucket"];
            let of =
                |line: &&str| suffixes.iter().any(|it| line.starts_with(&format!("{}{it}{{", family.name)));
            let labels = text.lines().filter(of).flat_map(|line| {
                let inner = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
                inner.map_or("", |(inner, _)| inner).split("\",").filter_map(|pair| pair.split('=').next())
            });
            let labels: BTreeSet<&str> = labels.filter(|label| *label != "le").collect();
            let wanted: BTreeSet<&str> = family.labels.iter().copied().collect();
            assert_eq!(labels, wanted, "{}", family.name);
        }
    }
}
