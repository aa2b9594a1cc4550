//! What is counted: one `Counters` a worker, summed by whoever reads.
//!
//! A worker is the only writer of its counters, so that adding is a load and a store, without a locked
//! instruction and without a cache line that two cores write. Names and labels stand in one table,
//! `FAMILIES`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

mod expiries;
mod process;

pub use expiries::Expiries;
pub use process::LogCounters;

/// Kinds of fault that can be told apart.
pub const FAULTS_MAX: usize = 64;

/// What is counted. Every variant has a metric name and labels in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Connections accepted.
    Accepted,
    /// Connections whose slot was freed.
    Closed,
    /// Times that accepting paused because the connection cap was reached.
    AcceptPaused,
    /// Times that a listener paused because of `limits.listener_connections`.
    ListenerLimits,
    /// Times that accepting paused because of `limits.connection_rate`.
    RateLimits,
    /// Times that receives began to wait because of `limits.buffer_memory`.
    MemoryPauses,
    /// Handshakes ended before their time because no slot was free for a newcomer.
    HandshakesEvicted,
    /// Handshakes: version, full.
    FullTls12,
    /// Handshakes: version, resumed.
    ResumedTls12,
    /// Handshakes: version, full.
    FullTls13,
    /// Handshakes: version, resumed.
    ResumedTls13,
    /// Connections whose transmit direction the kernel carries.
    OffloadedTx,
    /// Connections whose receive direction the kernel carries.
    OffloadedRx,
    /// Connections whose transmit direction userspace carries by policy (or for want of a kernel that can).
    UserspaceTx,
    /// The same, receive.
    UserspaceRx,
    /// Connections whose transmit direction the kernel was asked to carry and refused.
    FellBackTx,
    /// The same, receive.
    FellBackRx,
    /// Why the kernel refused keys: not ESTABLISHED any more.
    RefusedTxEnotconn,
    /// The same, receive.
    RefusedRxEnotconn,
    /// Why the kernel refused keys: no memory.
    RefusedTxEnomem,
    /// The same, receive.
    RefusedRxEnomem,
    /// Why the kernel refused keys: it has some, or another upper-layer protocol.
    RefusedTxEbusy,
    /// The same, receive.
    RefusedRxEbusy,
    /// Why the kernel refused keys: the protocol or the algorithm is not there (any more).
    RefusedTxEnoent,
    /// The same, receive.
    RefusedRxEnoent,
    /// Why the kernel refused keys: anything else.
    RefusedTxOther,
    /// The same, receive.
    RefusedRxOther,
    /// Plaintext bytes received from near legs.
    BytesFromNear,
    /// Plaintext bytes received from far legs.
    BytesFromFar,
    /// Records received that are not application data: close_notify.
    ControlCloseNotify,
    /// The same: any other alert.
    ControlAlert,
    /// The same: KeyUpdate.
    ControlKeyUpdate,
    /// The same: attempts to renegotiate.
    ControlRenegotiation,
    /// The same: tickets, in the client's role.
    ControlTickets,
    /// The same: what does not belong there.
    ControlUnexpected,
    /// KeyUpdate messages sent.
    KeyUpdatesSent,
}

const COUNTERS: usize = Counter::KeyUpdatesSent as usize + 1;

/// What is set rather than added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gauge {
    /// Slots in use.
    Connections,
    /// Connections whose handshake is not complete.
    Unfinished,
    /// Buffers lent out of the free list and not returned.
    BuffersLent,
    /// Bytes of all buffers in use, those included that wait in the ring for what is received.
    BufferBytes,
    /// Ring operations in flight.
    OperationsInFlight,
    /// 1 while no slot is free.
    Full,
}

const GAUGES: usize = Gauge::Full as usize + 1;

/// One worker's counters: written by that worker alone (relaxed load + store, no locked instruction), read by
/// anyone.
///
/// Aligned to two cache lines: no two workers' counters share one, nor a pair that is fetched together.
#[repr(align(128))]
pub struct Counters {
    counters: [AtomicU64; COUNTERS],
    gauges: [AtomicU64; GAUGES],
    faults: [AtomicU64; FAULTS_MAX],
    turns: AtomicU64,
    fault_labels: &'static [&'static str],
}

impl Counters {
    /// `fault_labels`: the metric label of each fault, by index.
    ///
    /// # Panics
    /// If there are more than [`FAULTS_MAX`] of them.
    #[must_use]
    pub fn new(fault_labels: &'static [&'static str]) -> Self {
        assert!(fault_labels.len() <= FAULTS_MAX, "more kinds of fault than FAULTS_MAX");
        Self {
            counters: [const { AtomicU64::new(0) }; COUNTERS],
            gauges: [const { AtomicU64::new(0) }; GAUGES],
            faults: [const { AtomicU64::new(0) }; FAULTS_MAX],
            turns: AtomicU64::new(0),
            fault_labels,
        }
    }

    /// The heartbeat, once a turn. Only the worker that the counters belong to may call this.
    pub fn turn(&self) {
        bump(&self.turns, 1);
    }

    /// Adds. Only the worker that the counters belong to may call this.
    pub fn add(&self, counter: Counter, count: u64) {
        bump(&self.counters[counter as usize], count);
    }

    /// Counts the fault with this index; one without a label is nobody's and is not counted. Only the worker
    /// that the counters belong to may call this.
    pub fn fault(&self, index: usize) {
        debug_assert!(index < self.fault_labels.len(), "a fault without a label");
        if let Some(fault) = self.faults.get(index) {
            bump(fault, 1);
        }
    }

    /// Sets. Only the worker that the counters belong to may call this. Whoever sees the value sees all that
    /// was counted before.
    pub fn set(&self, gauge: Gauge, value: u64) {
        self.gauges[gauge as usize].store(value, Ordering::Release);
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").field("counters", &self.counters).field("gauges", &self.gauges).finish()
    }
}

/// One writer: what it loads is what it stored.
fn bump(slot: &AtomicU64, count: u64) {
    slot.store(slot.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

/// The counters of all workers, as one reads them: summed.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    workers: Arc<[Arc<Counters>]>,
    offload_allowed: Arc<AtomicBool>,
    /// For how many seconds each worker has not turned, as the control plane sees it.
    stalled: Arc<[AtomicU64]>,
    log: Arc<LogCounters>,
}

impl Metrics {
    /// Reads these counters, one a worker, and the kill switch.
    #[must_use]
    pub fn new(workers: Vec<Arc<Counters>>, offload_allowed: Arc<AtomicBool>) -> Self {
        let stalled = workers.iter().map(|_| AtomicU64::new(0)).collect();
        Self { workers: workers.into(), offload_allowed, stalled, log: Arc::default() }
    }

    /// The sum over the workers.
    #[must_use]
    pub fn total(&self, counter: Counter) -> u64 {
        self.sum(|worker| &worker.counters[counter as usize])
    }

    /// The sum over the workers. What is read after it has all that was counted before the gauges were set.
    #[must_use]
    pub fn level(&self, gauge: Gauge) -> u64 {
        self.workers.iter().map(|worker| worker.gauges[gauge as usize].load(Ordering::Acquire)).sum()
    }

    /// Every fault's label and its sum over the workers, those that never happened included.
    pub fn faults(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let labels = self.workers.first().map_or(&[][..], |worker| worker.fault_labels);
        labels.iter().enumerate().map(|(index, label)| (*label, self.sum(|worker| &worker.faults[index])))
    }

    /// All of it as OpenMetrics text, version 1.0.0; with what the kernel counts of TLS, by its own names,
    /// and until when the certificates are valid.
    #[must_use]
    pub fn exposition(&self, kernel: Vec<(String, u64)>, expiries: Expiries) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        registry.register_collector(Box::new(KernelStatistics(kernel)));
        registry.register_collector(Box::new(expiries));
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing into a string cannot fail");
        text
    }

    fn sum(&self, slot: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.workers.iter().fold(0, |sum, worker| sum.wrapping_add(slot(worker).load(Ordering::Relaxed)))
    }
}

type Labels = &'static [(&'static str, &'static str)];

/// A metric: name without the `_total` that the encoder appends, help, and its series.
struct Family {
    name: &'static str,
    help: &'static str,
    series: &'static [(Labels, Counter)],
}

const FAMILIES: [Family; 11] = [
    Family {
        name: "offramp_connections_accepted",
        help: "Connections accepted",
        series: &[(&[], Counter::Accepted)],
    },
    Family {
        name: "offramp_connections_closed",
        help: "Connections closed",
        series: &[(&[], Counter::Closed)],
    },
    Family {
        name: "offramp_accept_pauses",
        help: "Times that accepting paused because max_connections was reached",
        series: &[(&[], Counter::AcceptPaused)],
    },
    Family {
        name: "offramp_limit_pauses",
        help: "Times that a worker stopped accepting (buffer_memory: receiving) because of a limit",
        series: &[
            (&[("limit", "listener_connections")], Counter::ListenerLimits),
            (&[("limit", "connection_rate")], Counter::RateLimits),
            (&[("limit", "buffer_memory")], Counter::MemoryPauses),
        ],
    },
    Family {
        name: "offramp_handshakes_evicted",
        help: "Handshakes ended before timeouts.handshake because a newcomer found no slot",
        series: &[(&[], Counter::HandshakesEvicted)],
    },
    Family {
        name: "offramp_handshakes",
        help: "Handshakes completed",
        series: &[
            (&[("version", "1.2"), ("kind", "full")], Counter::FullTls12),
            (&[("version", "1.2"), ("kind", "resumed")], Counter::ResumedTls12),
            (&[("version", "1.3"), ("kind", "full")], Counter::FullTls13),
            (&[("version", "1.3"), ("kind", "resumed")], Counter::ResumedTls13),
        ],
    },
    Family {
        name: "offramp_offload",
        help: "Directions of TLS legs, by record path; fallback is userspace after the kernel refused",
        series: &[
            (&[("direction", "tx"), ("path", "kernel")], Counter::OffloadedTx),
            (&[("direction", "rx"), ("path", "kernel")], Counter::OffloadedRx),
            (&[("direction", "tx"), ("path", "userspace")], Counter::UserspaceTx),
            (&[("direction", "rx"), ("path", "userspace")], Counter::UserspaceRx),
            (&[("direction", "tx"), ("path", "fallback")], Counter::FellBackTx),
            (&[("direction", "rx"), ("path", "fallback")], Counter::FellBackRx),
        ],
    },
    Family {
        name: "offramp_bytes",
        help: "Plaintext bytes received, by leg: near from who connected, far from the backend",
        series: &[(&[("leg", "near")], Counter::BytesFromNear), (&[("leg", "far")], Counter::BytesFromFar)],
    },
    Family {
        name: "offramp_offload_refusals",
        help: "Keys that the kernel refused, by error",
        series: &[
            (&[("direction", "tx"), ("error", "enotconn")], Counter::RefusedTxEnotconn),
            (&[("direction", "rx"), ("error", "enotconn")], Counter::RefusedRxEnotconn),
            (&[("direction", "tx"), ("error", "enomem")], Counter::RefusedTxEnomem),
            (&[("direction", "rx"), ("error", "enomem")], Counter::RefusedRxEnomem),
            (&[("direction", "tx"), ("error", "ebusy")], Counter::RefusedTxEbusy),
            (&[("direction", "rx"), ("error", "ebusy")], Counter::RefusedRxEbusy),
            (&[("direction", "tx"), ("error", "enoent")], Counter::RefusedTxEnoent),
            (&[("direction", "rx"), ("error", "enoent")], Counter::RefusedRxEnoent),
            (&[("direction", "tx"), ("error", "other")], Counter::RefusedTxOther),
            (&[("direction", "rx"), ("error", "other")], Counter::RefusedRxOther),
        ],
    },
    Family {
        name: "offramp_control_records",
        help: "Records received after the handshake that are not application data, by type",
        series: &[
            (&[("type", "close_notify")], Counter::ControlCloseNotify),
            (&[("type", "alert")], Counter::ControlAlert),
            (&[("type", "key_update")], Counter::ControlKeyUpdate),
            (&[("type", "renegotiation")], Counter::ControlRenegotiation),
            (&[("type", "new_session_ticket")], Counter::ControlTickets),
            (&[("type", "unexpected")], Counter::ControlUnexpected),
        ],
    },
    Family {
        name: "offramp_key_updates_sent",
        help: "KeyUpdate messages sent",
        series: &[(&[], Counter::KeyUpdatesSent)],
    },
];

const LEVELS: [(&str, &str, Gauge); GAUGES] = [
    ("offramp_connections_open", "Connections open", Gauge::Connections),
    ("offramp_handshakes_unfinished", "Connections open whose handshake is not complete", Gauge::Unfinished),
    ("offramp_buffers_lent", "Buffers in use", Gauge::BuffersLent),
    (
        "offramp_buffer_bytes",
        "Bytes of buffers that hold what was received or wait for it",
        Gauge::BufferBytes,
    ),
    ("offramp_operations_in_flight", "Ring operations in flight", Gauge::OperationsInFlight),
    ("offramp_workers_full", "Workers without a free slot: connections wait in the backlog", Gauge::Full),
];

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Before the counters: what is no longer open is counted as closed, and its fault with it.
        let levels = LEVELS.map(|(name, help, gauge)| (name, help, self.level(gauge)));
        for family in &FAMILIES {
            let mut metric =
                encoder.encode_descriptor(family.name, family.help, None, MetricType::Counter)?;
            for (labels, counter) in family.series {
                write_counter(&mut metric, labels, self.total(*counter))?;
            }
        }
        let help = "Connections that ended with a fault";
        let mut metric = encoder.encode_descriptor("offramp_faults", help, None, MetricType::Counter)?;
        for (label, count) in self.faults() {
            write_counter(&mut metric, &[("fault", label)], count)?;
        }
        for (name, help, level) in levels {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&level)?;
        }
        let workers = self.workers.len() as u64;
        encoder
            .encode_descriptor("offramp_workers", "Worker threads", None, MetricType::Gauge)?
            .encode_gauge(&workers)?;
        let help = "1 if the kernel may be given records, 0 if the kill switch forbids it";
        let allowed = u64::from(self.offload_allowed.load(Ordering::Relaxed));
        encoder
            .encode_descriptor("offramp_offload_allowed", help, None, MetricType::Gauge)?
            .encode_gauge(&allowed)?;
        self.encode_process(&mut encoder)
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
        let help = "Kernel TLS in this network namespace, by the names of /proc/net/tls_stat";
        let mut metric = encoder.encode_descriptor("offramp_host_tls", help, None, MetricType::Gauge)?;
        for (name, value) in &self.0 {
            metric.encode_family(&[("name", name.as_str())])?.encode_gauge(value)?;
        }
        Ok(())
    }
}

fn write_counter(metric: &mut MetricEncoder<'_>, labels: &[(&str, &str)], count: u64) -> fmt::Result {
    if labels.is_empty() {
        return metric.encode_counter::<NoLabelSet, _, u64>(&count, None);
    }
    metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_workers() -> (Metrics, Arc<Counters>, Arc<Counters>) {
        const LABELS: &[&str] = &["bad_record", "truncated"];
        let (one, two) = (Arc::new(Counters::new(LABELS)), Arc::new(Counters::new(LABELS)));
        let allowed = Arc::new(AtomicBool::new(true));
        (Metrics::new(vec![Arc::clone(&one), Arc::clone(&two)], allowed), one, two)
    }

    #[test]
    fn a_reader_sums_over_the_workers() {
        let (metrics, one, two) = two_workers();
        one.add(Counter::Accepted, 2);
        two.add(Counter::Accepted, 3);
        one.set(Gauge::Connections, 7);
        one.set(Gauge::Connections, 4);
        two.fault(1);
        assert_eq!((metrics.total(Counter::Accepted), metrics.level(Gauge::Connections)), (5, 4));
        assert_eq!(metrics.faults().collect::<Vec<_>>(), [("bad_record", 0), ("truncated", 1)]);
    }

    #[test]
    fn the_exposition_names_every_series() {
        let (metrics, one, two) = two_workers();
        one.add(Counter::ResumedTls13, 8);
        two.add(Counter::FellBackRx, 9);
        two.set(Gauge::BuffersLent, 3);
        one.fault(0);
        let text = metrics.exposition(vec![("TlsTxSw".to_owned(), 12)], Expiries::default());
        let lines = [
            "# TYPE offramp_connections_accepted counter",
            "offramp_connections_accepted_total 0",
            "offramp_handshakes_total{version=\"1.3\",kind=\"resumed\"} 8",
            "offramp_offload_total{direction=\"rx\",path=\"fallback\"} 9",
            "# TYPE offramp_bytes counter",
            "offramp_bytes_total{leg=\"near\"} 0",
            "offramp_faults_total{fault=\"bad_record\"} 1",
            "offramp_buffers_lent 3",
            "offramp_workers 2",
            "offramp_offload_allowed 1",
            "offramp_host_tls{name=\"TlsTxSw\"} 12",
        ];
        for line in lines {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_counter_and_gauge_is_in_the_table_once() {
        let mut seen = [0; COUNTERS];
        for (_, counter) in FAMILIES.iter().flat_map(|family| family.series) {
            seen[*counter as usize] += 1;
        }
        assert_eq!(seen, [1; COUNTERS]);
        let gauges: Vec<usize> = LEVELS.iter().map(|(_, _, gauge)| *gauge as usize).collect();
        assert_eq!(gauges, (0..GAUGES).collect::<Vec<_>>());
    }

    #[test]
    fn workers_share_no_cache_line() {
        assert_eq!((align_of::<Counters>(), size_of::<Counters>() % 128), (128, 0));
    }
}
