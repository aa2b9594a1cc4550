//! The exposition of what is counted by listener, pool and endpoint.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::families::{self, Family, Kind};
use super::histogram::{Distribution, Histogram};
use super::listener::{Counter, HandshakeCount, ListenerCounters};
use super::pool::{PoolCounter, PoolCounters};
use super::registry::{EndpointRow, Labelled};
use crate::conn::alerts::AlertDirection;
use crate::conn::event::Leg;
use crate::conn::fault::{Fault, alert};

/// Labels of one series beside that of its listener.
type Labels = &'static [(&'static str, &'static str)];

/// Counters of listeners: their family, and its series.
const BY_LISTENER: [(Family, &[(Labels, Counter)]); 8] = [
    (families::ACCEPTED, &[(&[], Counter::Accepted)]),
    (families::CLOSED, &[(&[], Counter::Closed)]),
    (
        families::BYTES,
        &[(&[("leg", "near")], Counter::BytesFromNear), (&[("leg", "far")], Counter::BytesFromFar)],
    ),
    (families::HANDSHAKES_EVICTED, &[(&[], Counter::HandshakesEvicted)]),
    (
        families::CONTROL_RECORDS,
        &[
            (&[("type", "close_notify")], Counter::ControlCloseNotify),
            (&[("type", "alert")], Counter::ControlAlert),
            (&[("type", "key_update")], Counter::ControlKeyUpdate),
            (&[("type", "renegotiation")], Counter::ControlRenegotiation),
            (&[("type", "new_session_ticket")], Counter::ControlTickets),
            (&[("type", "unexpected")], Counter::ControlUnexpected),
        ],
    ),
    (families::KEY_UPDATES_SENT, &[(&[], Counter::KeyUpdatesSent)]),
    (
        families::OFFLOAD,
        &[
            (&[("direction", "tx"), ("path", "kernel")], Counter::OffloadedTx),
            (&[("direction", "rx"), ("path", "kernel")], Counter::OffloadedRx),
            (&[("direction", "tx"), ("path", "userspace")], Counter::UserspaceTx),
            (&[("direction", "rx"), ("path", "userspace")], Counter::UserspaceRx),
            (&[("direction", "tx"), ("path", "fallback")], Counter::FellBackTx),
            (&[("direction", "rx"), ("path", "fallback")], Counter::FellBackRx),
        ],
    ),
    (
        families::OFFLOAD_REFUSALS,
        &[
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
    ),
];

/// Limits by the keys of the configuration, and the fault of a connection that one rejects or ends.
const LIMITS: [(&str, Fault); 4] = [
    ("source_connections", Fault::SourceConnections),
    ("source_rate", Fault::SourceRate),
    ("full_handshake_rate", Fault::FullHandshakeLimit),
    ("buffer_memory", Fault::BufferMemory),
];

/// Begins a family.
pub(super) fn begin<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    family: &Family,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    let kind = match family.kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    };
    encoder.encode_descriptor(family.name, family.help, None, kind)
}

/// A gauge without labels.
pub(super) fn gauge(encoder: &mut DescriptorEncoder<'_>, family: &Family, level: u64) -> fmt::Result {
    begin(encoder, family)?.encode_gauge(&level)
}

/// One series of a counter.
pub(super) fn counter(metric: &mut MetricEncoder<'_>, labels: &[(&str, &str)], count: u64) -> fmt::Result {
    if labels.is_empty() {
        return metric.encode_counter::<NoLabelSet, _, u64>(&count, None);
    }
    metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)
}

/// One series of a histogram, unless nothing was observed.
fn histogram<'a>(
    metric: &mut MetricEncoder<'_>,
    labels: &[(&str, &str)],
    workers: impl Iterator<Item = &'a Histogram>,
) -> fmt::Result {
    let Some(Distribution { buckets, sum, count }) = Distribution::of(workers) else { return Ok(()) };
    metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

/// Of all workers.
pub(super) fn total(workers: &[Arc<ListenerCounters>], counter: Counter) -> u64 {
    sum(workers, |worker| worker.get(counter))
}

pub(super) fn sum<T>(workers: &[Arc<T>], of: impl Fn(&T) -> u64) -> u64 {
    workers.iter().fold(0, |sum: u64, worker| sum.wrapping_add(of(worker)))
}

/// What is counted by listener. `open` is how many connections each has, read before anything else.
pub(super) fn listeners(
    encoder: &mut DescriptorEncoder<'_>,
    all: &[Labelled<ListenerCounters>],
    open: &[u64],
) -> fmt::Result {
    for (family, series) in &BY_LISTENER {
        let mut metric = begin(encoder, family)?;
        for Labelled { label, workers, .. } in all {
            for (labels, of) in *series {
                let labels = [&[("listener", &**label)][..], labels].concat();
                counter(&mut metric, &labels, total(workers, *of))?;
            }
        }
    }
    let mut metric = begin(encoder, &families::OPEN)?;
    for (Labelled { label, .. }, open) in all.iter().zip(open) {
        metric.encode_family(&[("listener", &**label)])?.encode_gauge(open)?;
    }
    let mut metric = begin(encoder, &families::FAULTS)?;
    for Labelled { label, workers, .. } in all {
        for fault in Fault::ALL {
            let count = sum(workers, |worker| worker.faults(*fault));
            counter(&mut metric, &[("listener", label), ("fault", fault.label())], count)?;
        }
    }
    let mut metric = begin(encoder, &families::LIMIT_REFUSALS)?;
    for Labelled { label, workers, .. } in all {
        for (limit, fault) in LIMITS {
            let count = sum(workers, |worker| worker.faults(fault));
            counter(&mut metric, &[("listener", label), ("limit", limit)], count)?;
        }
    }
    seen(encoder, all)?;
    times(encoder, all)
}

/// Of which only what has happened is shown.
fn seen(encoder: &mut DescriptorEncoder<'_>, all: &[Labelled<ListenerCounters>]) -> fmt::Result {
    let mut metric = begin(encoder, &families::HANDSHAKES)?;
    for Labelled { label, workers, .. } in all {
        for HandshakeCount { leg, version, suite, group, resumed, count } in HandshakeCount::all(workers) {
            let labels = [
                ("listener", &**label),
                ("leg", leg_name(leg)),
                ("version", version),
                ("suite", suite),
                ("group", group),
                ("kind", kind_name(resumed)),
            ];
            counter(&mut metric, &labels, count)?;
        }
    }
    let mut metric = begin(encoder, &families::ALERTS)?;
    for Labelled { label, workers, .. } in all {
        for (leg, direction, place) in alerts() {
            let count = sum(workers, |worker| worker.alerts_of(leg, direction, place));
            let name = match direction {
                AlertDirection::Sent => "sent",
                AlertDirection::Received => "received",
            };
            let labels = [
                ("listener", &**label),
                ("leg", leg_name(leg)),
                ("direction", name),
                ("alert", alert::name_at(place)),
            ];
            if count > 0 {
                counter(&mut metric, &labels, count)?;
            }
        }
    }
    Ok(())
}

fn alerts() -> impl Iterator<Item = (Leg, AlertDirection, usize)> {
    let directions = [AlertDirection::Sent, AlertDirection::Received];
    let of = move |leg| directions.into_iter().map(move |direction| (leg, direction));
    let all = Leg::BOTH.into_iter().flat_map(of);
    all.flat_map(|(leg, direction)| (0..alert::PLACES).map(move |place| (leg, direction, place)))
}

fn times(encoder: &mut DescriptorEncoder<'_>, all: &[Labelled<ListenerCounters>]) -> fmt::Result {
    type Of = fn(&ListenerCounters) -> &Histogram;
    let by_listener: [(&Family, Of); 3] = [
        (&families::ACCEPT_TO_HELLO, |worker| &worker.times().accept_to_hello),
        (&families::FIRST_BYTE, |worker| &worker.times().first_byte),
        (&families::CONNECTION_TIME, |worker| &worker.times().connection),
    ];
    for (family, of) in by_listener {
        let mut metric = begin(encoder, family)?;
        for Labelled { label, workers, .. } in all {
            histogram(&mut metric, &[("listener", label)], workers.iter().map(|worker| of(worker)))?;
        }
    }
    let mut metric = begin(encoder, &families::HANDSHAKE_TIME)?;
    for Labelled { label, workers, .. } in all {
        for (leg, resumed) in Leg::BOTH.into_iter().flat_map(|leg| [(leg, false), (leg, true)]) {
            let labels = [("listener", &**label), ("leg", leg_name(leg)), ("kind", kind_name(resumed))];
            let of = workers.iter().map(|worker| worker.times().handshake(leg, resumed));
            histogram(&mut metric, &labels, of)?;
        }
    }
    Ok(())
}

/// Pauses because of limits: those of listeners, and those of whole workers.
pub(super) fn limit_pauses(
    encoder: &mut DescriptorEncoder<'_>,
    all: &[Labelled<ListenerCounters>],
    of_workers: &[(&str, u64)],
) -> fmt::Result {
    let mut metric = begin(encoder, &families::LIMIT_PAUSES)?;
    for Labelled { label, workers, .. } in all {
        let labels = [("listener", &**label), ("limit", "listener_connections")];
        counter(&mut metric, &labels, total(workers, Counter::ListenerLimits))?;
    }
    for (limit, count) in of_workers {
        counter(&mut metric, &[("limit", limit)], *count)?;
    }
    Ok(())
}

/// What is counted by pool.
pub(super) fn pools(encoder: &mut DescriptorEncoder<'_>, all: &[Labelled<PoolCounters>]) -> fmt::Result {
    for (family, of) in [
        (&families::POOL_ATTEMPTS, PoolCounter::Attempts),
        (&families::POOL_RETRIES, PoolCounter::Retries),
        (&families::POOL_FAILURES, PoolCounter::Failures),
    ] {
        let mut metric = begin(encoder, family)?;
        for Labelled { label, workers, .. } in all {
            counter(&mut metric, &[("pool", label)], sum(workers, |worker| worker.get(of)))?;
        }
    }
    let mut metric = begin(encoder, &families::PROBES)?;
    for Labelled { label, probes, .. } in all {
        let counts = probes.each_ref().map(|count| count.load(Ordering::Relaxed));
        for (result, count) in ["ok", "failed"].into_iter().zip(counts) {
            // A pool that is not probed has none.
            if counts != [0, 0] {
                counter(&mut metric, &[("pool", label), ("result", result)], count)?;
            }
        }
    }
    let mut metric = begin(encoder, &families::CONNECT_TIME)?;
    for Labelled { label, workers, .. } in all {
        histogram(&mut metric, &[("pool", label)], workers.iter().map(|worker| &worker.connect))?;
    }
    Ok(())
}

/// The endpoints in force; `began` is the zero of their clock.
pub(super) fn endpoints(encoder: &mut DescriptorEncoder<'_>, all: &[EndpointRow], began: u64) -> fmt::Result {
    type Of = fn(&EndpointRow, u64) -> u64;
    let gauges: [(&Family, Of); 4] = [
        (&families::ENDPOINT_UP, |row, _| u64::from(row.state.is_up())),
        (&families::ENDPOINT_CHANGED, |row, began| began.saturating_add(row.state.changed_ms() / 1000)),
        (&families::ENDPOINT_CONNECTIONS, |row, _| u64::from(row.state.connections())),
        (&families::ENDPOINT_WEIGHT, |row, _| u64::from(row.weight)),
    ];
    for (family, of) in gauges {
        let mut metric = begin(encoder, family)?;
        for row in all {
            let labels = [("pool", &*row.pool), ("endpoint", &*row.address)];
            metric.encode_family(&labels)?.encode_gauge(&of(row, began))?;
        }
    }
    Ok(())
}

fn leg_name(leg: Leg) -> &'static str {
    match leg {
        Leg::Near => "near",
        Leg::Far => "far",
    }
}

fn kind_name(resumed: bool) -> &'static str {
    if resumed { "resumed" } else { "full" }
}

#[cfg(test)]
mod tests {
    use super::super::listener::COUNTERS;
    use super::*;

    #[test]
    fn every_counter_of_a_listener_is_in_the_table_once() {
        let mut seen = [0; COUNTERS];
        for (_, counter) in BY_LISTENER.iter().flat_map(|(_, series)| *series) {
            seen[*counter as usize] += 1;
        }
        // It is shown beside the pauses of workers.
        seen[Counter::ListenerLimits as usize] += 1;
        assert_eq!(seen, [1; COUNTERS]);
    }
}
