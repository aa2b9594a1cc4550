//! What happened while it counted.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustls::{CipherSuite, HandshakeKind};

use crate::failure::Failure;
use crate::plan::Version;
use crate::session::Established;

/// The longest latency that is told apart from longer ones.
const LATENCY_MAX_US: u64 = 600_000_000;
/// Different failures that are told apart; further ones count as "other".
const FAILURES_MAX: usize = 64;

/// A part of a connection that is timed for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// From the start of the TCP connect until it is done.
    Connect,
    /// From there until the client's handshake is done.
    Handshake,
    /// From there until the first byte of application data.
    FirstByte,
    /// From our close_notify until the peer's end.
    Close,
    /// From the *planned* start until the handshake is done.
    Ready,
    /// From the *planned* start until the first byte of application data.
    Total,
    /// A message, from when it was due until it was answered.
    Message,
    /// From the planned start until the start: the load generator's own delay.
    Late,
}

impl Part {
    /// All of them, in the order of a report.
    pub const ALL: [Self; 8] = [
        Self::Connect,
        Self::Handshake,
        Self::FirstByte,
        Self::Close,
        Self::Ready,
        Self::Total,
        Self::Message,
        Self::Late,
    ];

    /// As in a report.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Handshake => "handshake",
            Self::FirstByte => "first_byte",
            Self::Close => "close",
            Self::Ready => "ready",
            Self::Total => "total",
            Self::Message => "message",
            Self::Late => "late_start",
        }
    }
}

/// A histogram of latencies in µs.
pub type Latency = Histogram<u64>;

/// An empty one.
#[must_use]
pub fn latency() -> Latency {
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are in order")
}

/// An empty one to two significant figures, no larger than its longest latency asks for: for what is kept of
/// every second.
#[must_use]
pub fn coarse_latency() -> Latency {
    let mut latency = Histogram::new_with_bounds(1, 1000, 2).expect("the bounds are in order");
    latency.auto(true);
    latency
}

/// Records one in a [`coarse_latency`]; longer ones than the bound count as the bound.
pub fn record_coarse(histogram: &mut Latency, latency: Duration) {
    let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).min(LATENCY_MAX_US);
    histogram.record(latency_us).expect("it grows as far as is asked for");
}

/// Records one; longer ones than the bound count as the bound.
pub fn record(histogram: &mut Latency, latency: Duration) {
    histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
}

/// Handshakes by what they turned out to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    /// With the public-key work.
    pub full: u64,
    /// Abbreviated.
    pub resumed: u64,
    /// Full, and with a further round trip for a HelloRetryRequest.
    pub hello_retry: u64,
    /// Of TLS 1.2.
    pub tls12: u64,
    /// Of TLS 1.3.
    pub tls13: u64,
}

/// What became of the wish to resume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resumption {
    /// Handshakes that were to be resumed.
    pub asked: u64,
    /// Of these, as many were.
    pub resumed: u64,
    /// Offered a ticket and were full all the same.
    pub refused: u64,
    /// Had no ticket to offer.
    pub without_ticket: u64,
    /// Offered a ticket that came from an earlier target.
    pub foreign_offered: u64,
    /// Of these, as many were resumed.
    pub foreign_resumed: u64,
}

/// One handshake.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// What it turned out to be.
    pub established: Established,
    /// The version that was asked for.
    pub version: Version,
    /// Whether it was to be resumed.
    pub resume: bool,
    /// Whether it offered a ticket.
    pub offered: bool,
}

/// Sums over connections; tallies of several threads add up.
#[derive(Clone, Debug)]
pub struct Tally {
    parts: [Latency; Part::ALL.len()],
    /// Handshakes by kind.
    pub kinds: Kinds,
    /// Handshakes that were to be resumed.
    pub resumption: Resumption,
    suites: BTreeMap<String, u64>,
    as_asked: u64,
    /// Verified bytes of application data at the client.
    pub down: u64,
    /// Verified bytes of application data at the other side.
    pub up: u64,
    /// Connections that began while it counted.
    pub started: u64,
    /// Handshakes that were done while it counted, whenever they began: what throughput is made of.
    pub completed: u64,
    /// Connections that ended as they should.
    pub done: u64,
    /// The same with those of the warm-up: what `failed` compares with.
    pub ended: u64,
    /// Messages that were answered while it counted, whenever they were due.
    pub answered: u64,
    /// Messages that were due while it counted and were never answered.
    pub unanswered: u64,
    /// Starts that waited because the plan's most connections were open already.
    pub capped: u64,
    /// In the warm-up too: a failure is a failure.
    failures: BTreeMap<String, u64>,
    /// Failures because of changed bytes.
    pub changed: u64,
    /// HTTP status codes, of three digits.
    statuses: BTreeMap<u16, u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            parts: std::array::from_fn(|_| latency()),
            kinds: Kinds::default(),
            resumption: Resumption::default(),
            suites: BTreeMap::new(),
            as_asked: 0,
            down: 0,
            up: 0,
            started: 0,
            completed: 0,
            done: 0,
            ended: 0,
            answered: 0,
            unanswered: 0,
            capped: 0,
            failures: BTreeMap::new(),
            changed: 0,
            statuses: BTreeMap::new(),
        }
    }
}

impl Tally {
    /// A part of a connection took so long.
    pub fn part(&mut self, part: Part, latency: Duration) {
        record(&mut self.parts[part as usize], latency);
    }

    /// The latencies of a part, in µs.
    #[must_use]
    pub fn latencies(&self, part: Part) -> &Latency {
        &self.parts[part as usize]
    }

    /// A handshake was done.
    pub fn handshake(&mut self, sample: &Sample) {
        let Established { kind, version, suite } = sample.established;
        let resumed = kind == HandshakeKind::Resumed;
        let count = match kind {
            HandshakeKind::Resumed => &mut self.kinds.resumed,
            HandshakeKind::FullWithHelloRetryRequest => &mut self.kinds.hello_retry,
            HandshakeKind::Full => &mut self.kinds.full,
        };
        *count += 1;
        match sample.version {
            Version::Tls12 => self.kinds.tls12 += 1,
            Version::Tls13 => self.kinds.tls13 += 1,
        }
        let as_asked = resumed == sample.resume && version == sample.version.protocol().version;
        self.as_asked += u64::from(as_asked);
        if sample.resume {
            let resumption = &mut self.resumption;
            resumption.asked += 1;
            resumption.resumed += u64::from(resumed);
            resumption.refused += u64::from(!resumed && sample.offered);
            resumption.without_ticket += u64::from(!sample.offered);
        }
        self.suite(suite);
    }

    /// A ticket that came from an earlier target was offered. In the warm-up too: these come first, and each
    /// of them is what such a run is about.
    pub fn foreign_ticket(&mut self, resumed: bool) {
        self.resumption.foreign_offered += 1;
        self.resumption.foreign_resumed += u64::from(resumed);
    }

    fn suite(&mut self, suite: CipherSuite) {
        let name = suite.as_str().unwrap_or("unknown");
        if let Some(count) = self.suites.get_mut(name) {
            *count += 1;
        } else {
            self.suites.insert(name.to_owned(), 1);
        }
    }

    /// A connection failed.
    pub fn failure(&mut self, failure: &Failure) {
        self.changed += u64::from(failure.is_of_integrity());
        let reason = failure.to_string();
        let known = self.failures.contains_key(&reason) || self.failures.len() < FAILURES_MAX;
        let reason = if known { reason } else { "other".to_owned() };
        *self.failures.entry(reason).or_default() += 1;
    }

    /// An HTTP answer had this status.
    pub fn status(&mut self, status: u16) {
        *self.statuses.entry(status).or_default() += 1;
    }

    /// Adds what another thread saw.
    pub fn add(&mut self, other: &Self) {
        for (part, more) in self.parts.iter_mut().zip(&other.parts) {
            part.add(more).expect("all tallies have the same bounds");
        }
        let (kinds, more) = (&mut self.kinds, &other.kinds);
        kinds.full += more.full;
        kinds.resumed += more.resumed;
        kinds.hello_retry += more.hello_retry;
        kinds.tls12 += more.tls12;
        kinds.tls13 += more.tls13;
        let (resumption, more) = (&mut self.resumption, &other.resumption);
        resumption.asked += more.asked;
        resumption.resumed += more.resumed;
        resumption.refused += more.refused;
        resumption.without_ticket += more.without_ticket;
        resumption.foreign_offered += more.foreign_offered;
        resumption.foreign_resumed += more.foreign_resumed;
        self.as_asked += other.as_asked;
        self.down += other.down;
        self.up += other.up;
        self.started += other.started;
        self.completed += other.completed;
        self.done += other.done;
        self.ended += other.ended;
        self.answered += other.answered;
        self.unanswered += other.unanswered;
        self.capped += other.capped;
        self.changed += other.changed;
        add_up(&mut self.failures, &other.failures);
        add_up(&mut self.suites, &other.suites);
        add_up(&mut self.statuses, &other.statuses);
    }

    /// Handshakes that were done.
    #[must_use]
    pub fn handshakes(&self) -> u64 {
        self.kinds.full + self.kinds.resumed + self.kinds.hello_retry
    }

    /// Of these, as many were what the plan asks for.
    #[must_use]
    pub fn as_asked(&self) -> u64 {
        self.as_asked
    }

    /// Bytes that arrived and were verified.
    #[must_use]
    pub fn verified_bytes(&self) -> u64 {
        self.down + self.up
    }

    /// The latency of a part, in µs, that `quantile` (0 to 1) of the samples did not exceed; 0 if there was
    /// none.
    #[must_use]
    pub fn latency_us(&self, part: Part, quantile: f64) -> u64 {
        let latencies = self.latencies(part);
        if latencies.is_empty() { 0 } else { latencies.value_at_quantile(quantile) }
    }

    /// Handshakes by suite.
    #[must_use]
    pub fn suites(&self) -> &BTreeMap<String, u64> {
        &self.suites
    }

    /// HTTP status codes and how many answers had each.
    #[must_use]
    pub fn statuses(&self) -> &BTreeMap<u16, u64> {
        &self.statuses
    }

    /// Reasons of failures and how often they were seen.
    #[must_use]
    pub fn failures(&self) -> &BTreeMap<String, u64> {
        &self.failures
    }

    /// How many connections failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

fn add_up<K: Clone + Ord>(sums: &mut BTreeMap<K, u64>, more: &BTreeMap<K, u64>) {
    for (name, count) in more {
        *sums.entry(name.clone()).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use rustls::ProtocolVersion;

    use super::*;
    use crate::failure::Moment;

    fn sample(kind: HandshakeKind, resume: bool, offered: bool) -> Sample {
        let suite = CipherSuite::TLS13_AES_128_GCM_SHA256;
        let established = Established { kind, version: ProtocolVersion::TLSv1_3, suite };
        Sample { established, version: Version::Tls13, resume, offered }
    }

    #[test]
    fn tallies_add_up() {
        let (mut a, mut b) = (Tally::default(), Tally::default());
        assert_eq!(a.latency_us(Part::Ready, 0.5), 0);
        for us in 1..=100 {
            a.part(Part::Ready, Duration::from_micros(us));
            b.part(Part::Ready, Duration::from_micros(100 + us));
            a.handshake(&sample(HandshakeKind::Resumed, us % 2 == 0, us % 2 == 0));
            b.handshake(&sample(HandshakeKind::FullWithHelloRetryRequest, false, false));
        }
        (a.down, b.up) = (10, 5);
        b.failure(&Failure::Refused);
        b.failure(&Failure::Changed("x"));
        a.add(&b);
        assert_eq!((a.handshakes(), a.as_asked(), a.verified_bytes(), a.failed()), (200, 150, 15, 2));
        assert_eq!((a.kinds.resumed, a.kinds.hello_retry, a.kinds.tls13, a.changed), (100, 100, 200, 1));
        assert_eq!((a.latency_us(Part::Ready, 0.5), a.latency_us(Part::Ready, 1.0)), (100, 200));
        assert_eq!(a.suites().get("TLS13_AES_128_GCM_SHA256"), Some(&200));
    }

    #[test]
    fn missed_resumption_is_counted_by_its_reason() {
        let mut tally = Tally::default();
        tally.handshake(&sample(HandshakeKind::Full, true, true));
        tally.handshake(&sample(HandshakeKind::Full, true, false));
        tally.handshake(&sample(HandshakeKind::Resumed, true, true));
        tally.foreign_ticket(false);
        tally.foreign_ticket(true);
        let expected = Resumption {
            asked: 3,
            resumed: 1,
            refused: 1,
            without_ticket: 1,
            foreign_offered: 2,
            foreign_resumed: 1,
        };
        assert_eq!((tally.as_asked(), &tally.resumption), (1, &expected));
    }

    #[test]
    fn coarse_histogram_grows_on_record_and_on_add() {
        let (mut small, mut large) = (coarse_latency(), coarse_latency());
        record_coarse(&mut small, Duration::from_micros(5));
        record_coarse(&mut large, Duration::from_secs(36_000));
        small.add(&large).unwrap();
        assert_eq!((small.len(), small.min()), (2, 5));
        assert!(small.max() >= LATENCY_MAX_US);
    }

    #[test]
    fn latencies_and_failure_kinds_stay_bounded() {
        let mut tally = Tally::default();
        tally.part(Part::Ready, Duration::from_secs(36_000));
        assert!(tally.latency_us(Part::Ready, 1.0) >= LATENCY_MAX_US);
        for errno in 200..400 {
            tally.failure(&Failure::system(Moment::Data, errno));
        }
        assert_eq!((tally.failed(), tally.failures().len()), (200, FAILURES_MAX + 1));
    }
}
