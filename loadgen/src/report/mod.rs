//! What runs found, for people and programs, and whether it is what was asked.
//!
//! The JSON is this module's types; `format` grows when a field changes its meaning or goes.

pub mod compare;
pub mod csv;
pub mod html;
pub mod table;
pub mod verdict;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::machine::{self, Machine};
use crate::plan::{Ending, Load, Plan, Version, Work};
use crate::runner::{Outcome, subject};
use crate::schedule::{Rate, Spacing};
use crate::tally::{Latency as Histogram, Part};

/// The version of the JSON's shape.
pub const FORMAT: u32 = 2;

/// A whole invocation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// The command line.
    pub command: String,
    /// Where and with what.
    pub environment: Environment,
    /// One for each target, in order; of a search, its best one.
    pub runs: Vec<Run>,
    /// The steps of a search for the highest rate.
    pub search: Option<Vec<SearchStep>>,
    /// What makes the figures doubtful.
    pub warnings: Vec<String>,
    /// What is not as it was asked; nothing if all is well.
    pub problems: Vec<String>,
}

/// Where and with what figures were taken.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Environment {
    /// The generator's machine.
    pub machine: Machine,
    /// Of this program.
    pub loadgen: String,
    /// Of the client's TLS.
    pub rustls: String,
    /// Whether it was built without optimisation: no figure of such a build is worth anything.
    pub debug_build: bool,
}

/// One step of a search.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SearchStep {
    /// Connections a second.
    pub rate: f64,
    /// Connections a second that were done.
    pub achieved: f64,
    /// Of the latency that the plan is about.
    pub p99_us: u64,
    /// Why it is more than can be sustained; nothing if it is not.
    pub refused: Option<String>,
}

/// What one target did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// The target as it was written, and its address.
    pub target: String,
    /// What was asked.
    pub asked: Asked,
    /// When it began: UTC, RFC 3339.
    pub began: String,
    /// The same in milliseconds since 1970.
    pub began_unix_ms: u64,
    /// Load before anything counted.
    pub warm_up_seconds: f64,
    /// Load that counted.
    pub seconds: f64,
    /// Connections.
    pub connections: Connections,
    /// Handshakes.
    pub handshakes: Handshakes,
    /// Application data, every byte of which was checked.
    pub data: Data,
    /// By part of a connection; parts that did not happen are missing.
    pub latency_us: BTreeMap<String, Latency>,
    /// Reasons for which connections failed, and how many did; the warm-up's too.
    pub failures: BTreeMap<String, u64>,
    /// Failures because of changed bytes.
    pub changed: u64,
    /// HTTP status codes of connections that began while it counted, and how many answers had each.
    #[serde(default)]
    pub http_statuses: BTreeMap<u16, u64>,
    /// The load generator itself.
    pub generator: Generator,
    /// Second by second from the beginning.
    pub series: Vec<Second>,
    /// Why it was broken off, if it was.
    pub broken_off: Option<String>,
    /// Whether a signal ended it before its time. What was under way then is in no count.
    #[serde(default)]
    pub interrupted: bool,
}

/// What a run was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// What connections are for.
    pub work: String,
    /// Versions, in turn.
    pub versions: Vec<Version>,
    /// The share of handshakes that shall be resumed, 0 to 1.
    pub resume: f64,
    /// Connections at once; in an open loop at most.
    pub connections: usize,
    /// In an open loop: connections a second.
    pub rate: Option<Rate>,
    /// In an open loop: how they are spread.
    pub spacing: Option<Spacing>,
    /// How connections end.
    pub ending: Ending,
    /// The part whose latency the plan is about.
    pub subject: String,
}

/// Connections while it counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connections {
    /// Begun.
    pub started: u64,
    /// Ended as they should.
    pub done: u64,
    /// Failed; the warm-up's too.
    pub failed: u64,
    /// As `done`, with the warm-up's: what `failed` compares with.
    pub ended: u64,
    /// Planned, but held back because the most that the plan allows were open.
    pub capped: u64,
}

/// Handshakes of connections that began while it counted, or that carry what counts; each one checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Handshakes {
    /// All of them.
    pub count: u64,
    /// Those that were done while it counted, per second: the throughput. 0 where connections last.
    pub per_second: f64,
    /// The same per second of CPU time of the generator's threads.
    pub per_cpu_second: f64,
    /// Full ones.
    pub full: u64,
    /// Resumed ones.
    pub resumed: u64,
    /// Full ones with a HelloRetryRequest.
    pub hello_retry: u64,
    /// Of TLS 1.2.
    pub tls12: u64,
    /// Of TLS 1.3.
    pub tls13: u64,
    /// Of the kind and version that was asked for.
    pub as_asked: u64,
    /// Were to be resumed.
    pub resume_asked: u64,
    /// Offered a ticket and were full all the same.
    pub resume_refused: u64,
    /// Were to be resumed and had no ticket to offer.
    pub resume_without_ticket: u64,
    /// Offered a ticket that came from an earlier target; the warm-up's too, for they come first.
    pub foreign_tickets_offered: u64,
    /// Of these, were resumed.
    pub foreign_tickets_resumed: u64,
    /// By suite.
    pub suites: BTreeMap<String, u64>,
}

/// Application data while it counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Data {
    /// Messages that were due and answered.
    pub messages: u64,
    /// Those that were answered while it counted, per second: the throughput.
    pub messages_per_second: f64,
    /// Messages that were due and never answered.
    pub messages_unanswered: u64,
    /// Bytes that arrived at the other side.
    pub up_bytes: u64,
    /// Bytes that arrived at the client.
    pub down_bytes: u64,
    /// Of both, in units of 1,000,000 bytes.
    pub megabytes_per_second: f64,
}

/// The distribution of a latency, in µs, to three significant figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Samples.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// The smallest.
    pub min: u64,
    /// Half were not longer.
    pub p50: u64,
    /// Nine in ten.
    pub p90: u64,
    /// 99 in 100.
    pub p99: u64,
    /// 999 in 1,000.
    pub p99_9: u64,
    /// 9,999 in 10,000.
    pub p99_99: u64,
    /// The longest.
    pub max: u64,
    /// Points of the distribution: a share of the samples, 0 to 1, and what it did not exceed.
    pub cdf: Vec<(f64, u64)>,
}

/// The load generator itself: whether the figures are its own limit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Generator {
    /// Client threads.
    pub threads: usize,
    /// CPU time of these while it counted.
    pub cpu_seconds: f64,
    /// The same as a share of what they could have had, 0 to 1.
    pub cpu_share: f64,
}

/// One second.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Second {
    /// When it began, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Whether it counts; the seconds at either edge may do so in part.
    pub counts: bool,
    /// Connections that began.
    pub started: u64,
    /// Handshakes that were done.
    pub handshakes: u64,
    /// Of these, were to be resumed, and were not.
    pub not_resumed: u64,
    /// Connections that ended as they should.
    pub done: u64,
    /// Connections that failed.
    pub failed: u64,
    /// Connections open at its end.
    pub open: u64,
    /// Messages that were answered.
    pub messages: u64,
    /// Verified bytes at the other side.
    pub up_bytes: u64,
    /// Verified bytes at the client.
    pub down_bytes: u64,
    /// Of the latency that the plan is about, in µs, to two significant figures; 0 without a sample.
    pub p50_us: u64,
    /// The same.
    pub p99_us: u64,
    /// The same.
    pub max_us: u64,
    /// CPU time of the client threads, as a share of one core.
    pub cpu_cores: f64,
}

impl Environment {
    /// This machine and this build.
    #[must_use]
    pub fn this() -> Self {
        Self {
            machine: Machine::this(),
            loadgen: env!("CARGO_PKG_VERSION").to_owned(),
            rustls: RUSTLS.to_owned(),
            debug_build: cfg!(debug_assertions),
        }
    }
}

/// As the workspace asks for it; a test compares it with what was built.
const RUSTLS: &str = "0.23.46";

impl Latency {
    /// Of a histogram with samples in µs.
    #[must_use]
    pub fn of(histogram: &Histogram) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile);
        let hundredths = (0..99).map(|n| f64::from(n) / 100.0);
        let thousandths = (990..999).map(|n| f64::from(n) / 1000.0);
        let finest = (9990..=10_000).map(|n| f64::from(n) / 10_000.0);
        let quantiles = hundredths.chain(thousandths).chain(finest);
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            mean: histogram.mean(),
            min: histogram.min(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: histogram.max(),
            cdf: quantiles.map(|quantile| (quantile, at(quantile))).collect(),
        })
    }
}

impl Asked {
    fn new(plan: &Plan, versions: &[Version]) -> Self {
        let (connections, rate, spacing) = match plan.load {
            Load::Closed { connections } => (connections, None, None),
            Load::Open { rate, spacing, connections_max } => (connections_max, Some(rate), Some(spacing)),
        };
        Self {
            work: plan.work.label().to_owned(),
            versions: versions.to_vec(),
            resume: plan.resume,
            connections,
            rate,
            spacing,
            ending: plan.ending,
            subject: subject(&plan.work).label().to_owned(),
        }
    }
}

impl Run {
    /// The figures of a run.
    #[must_use]
    pub fn new(target: String, plan: &Plan, versions: &[Version], outcome: &Outcome) -> Self {
        let Outcome { tally, began, warm_up, measured, cpu, broken_off, .. } = outcome;
        let seconds = measured.as_secs_f64();
        let cpu_seconds = cpu.as_secs_f64();
        let per = |count: u64, seconds: f64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let messages = tally.latencies(Part::Message).len();
        let (kinds, resumption) = (&tally.kinds, &tally.resumption);
        let latency =
            |part: Part| Latency::of(tally.latencies(part)).map(|latency| (part.label().to_owned(), latency));
        Self {
            target,
            asked: Asked::new(plan, versions),
            began: machine::utc(*began),
            began_unix_ms: millis(*began),
            warm_up_seconds: warm_up.as_secs_f64(),
            seconds,
            connections: Connections {
                started: tally.started,
                done: tally.done,
                failed: tally.failed(),
                ended: tally.ended,
                capped: tally.capped,
            },
            handshakes: Handshakes {
                count: tally.handshakes(),
                per_second: per(tally.completed, seconds),
                per_cpu_second: per(tally.completed, cpu_seconds),
                full: kinds.full,
                resumed: kinds.resumed,
                hello_retry: kinds.hello_retry,
                tls12: kinds.tls12,
                tls13: kinds.tls13,
                as_asked: tally.as_asked(),
                resume_asked: resumption.asked,
                resume_refused: resumption.refused,
                resume_without_ticket: resumption.without_ticket,
                foreign_tickets_offered: resumption.foreign_offered,
                foreign_tickets_resumed: resumption.foreign_resumed,
                suites: tally.suites().clone(),
            },
            data: Data {
                messages,
                messages_per_second: per(tally.answered, seconds),
                messages_unanswered: tally.unanswered,
                up_bytes: tally.up,
                down_bytes: tally.down,
                megabytes_per_second: per(tally.up + tally.down, seconds) / 1e6,
            },
            latency_us: Part::ALL.into_iter().filter_map(latency).collect(),
            failures: tally.failures().clone(),
            changed: tally.changed,
            http_statuses: tally.statuses().clone(),
            generator: Generator {
                threads: plan.threads,
                cpu_seconds,
                cpu_share: per_core(cpu_seconds, seconds, plan.threads),
            },
            series: series(outcome),
            broken_off: broken_off.clone(),
            interrupted: outcome.interrupted,
        }
    }

    /// The latency that the plan is about.
    #[must_use]
    pub fn subject(&self) -> Option<&Latency> {
        self.latency_us.get(&self.asked.subject)
    }
}

/// Threads cannot have more CPUs than this process may use.
fn per_core(cpu_seconds: f64, seconds: f64, threads: usize) -> f64 {
    let cores = std::thread::available_parallelism().map_or(threads, usize::from);
    if seconds > 0.0 { cpu_seconds / seconds / threads.min(cores) as f64 } else { 0.0 }
}

fn series(outcome: &Outcome) -> Vec<Second> {
    let seconds = |time: Duration| time.as_secs_f64();
    let (from, to) = (seconds(outcome.warm_up), seconds(outcome.warm_up + outcome.measured));
    let second = |(index, interval): (&u64, &crate::series::Interval)| {
        let at = |quantile| {
            if interval.latency.is_empty() { 0 } else { interval.latency.value_at_quantile(quantile) }
        };
        Second {
            unix_ms: millis(outcome.began + Duration::from_secs(*index)),
            counts: (*index + 1) as f64 > from && (*index as f64) < to,
            started: interval.started,
            handshakes: interval.handshakes,
            not_resumed: interval.not_resumed,
            done: interval.done,
            failed: interval.failed,
            open: interval.open,
            messages: interval.messages,
            up_bytes: interval.up,
            down_bytes: interval.down,
            p50_us: at(0.5),
            p99_us: at(0.99),
            max_us: at(1.0),
            cpu_cores: interval.cpu_ns as f64 / 1e9,
        }
    };
    outcome.seconds.iter().map(second).collect()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Report {
    /// For programs.
    ///
    /// # Errors
    /// A figure is not a number that JSON knows.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

/// What work was: handshakes, or something that lasts.
#[must_use]
pub fn is_about_handshakes(run: &Run) -> bool {
    run.asked.work == Work::Handshake(crate::plan::Request::None).label()
}
