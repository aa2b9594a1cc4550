//! What resumption saves over a long line, as an experiment: predicted beside measured.
//!
//! The claim is that of the contribution which asked for resumption: a full TLS 1.2 handshake takes four
//! messages and two round trips, an abbreviated one three and one, which almost halves the time until a
//! client may speak. How much of it is left depends on what else is counted, so all of it is: with and
//! without TCP's own round trip, at the client and at the server, and in TLS 1.3, where resumption saves no
//! round trip at all.

mod flights;
mod relay;

use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::ServerName;
use serde::Serialize;

use crate::interrupt::Interrupt;
use crate::machine;
use crate::plan::{Ending, Load, Pin, Plan, Request, Target, Until, Version, Work};
use crate::profiles::{ClientProfile, default_groups, default_suites};
use crate::report::Environment;
use crate::report::table::aligned;
use crate::runner::{Clients, time_of_day};
use crate::tally::{Part, Tally};
use crate::trust::Trust;

use relay::{Line, Passed, Relay};

/// Handshakes at once: few enough that their public-key work does not delay the others by a millisecond.
const AT_ONCE: usize = 5;
/// Beyond the line's own delays, each part of a connection has this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// The experiment.
#[derive(Debug)]
pub struct Experiment {
    /// The terminator.
    pub target: Target,
    /// Whom to ask for.
    pub names: Vec<ServerName<'static>>,
    /// Which certificate is accepted.
    pub trust: Trust,
    /// The delay of the line.
    pub one_way: Duration,
    /// Handshakes of each kind.
    pub samples: u64,
    /// What the client says first.
    pub request: Request,
    /// Ends it before its time: with the rows that are there.
    pub interrupt: Interrupt,
}

/// One kind of connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// Of TLS.
    pub version: Version,
    /// Whether TCP's own round trip counts.
    pub tcp: bool,
    /// Whether the handshake is abbreviated.
    pub resumed: bool,
}

/// The figures of one kind, predicted or measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Handshake messages.
    pub messages: u32,
    /// Round trips until the client may speak.
    pub round_trips: f64,
    /// Until the client may speak, in ms.
    pub ready_ms: f64,
    /// Until its first byte is at the server, in ms.
    pub first_byte_ms: f64,
}

/// One line of the table.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Row {
    /// What was done.
    #[serde(flatten)]
    pub kind: Kind,
    /// By counting messages and delays.
    pub predicted: Figures,
    /// Medians.
    pub measured: Figures,
    /// Handshakes, each of which was verified as full or resumed.
    pub samples: u64,
}

/// The whole table.
#[derive(Clone, Debug, Serialize)]
pub struct LatencyReport {
    /// When it began, UTC.
    pub began: String,
    /// Where and with what.
    pub environment: Environment,
    /// The terminator.
    pub target: String,
    /// The delay of the line, in ms.
    pub one_way_ms: f64,
    /// One for each kind: a full one and, behind it, the resumed one.
    pub rows: Vec<Row>,
    /// What resumption saves: one for each pair of rows.
    pub savings: Vec<Saving>,
    /// What makes the figures doubtful.
    pub warnings: Vec<String>,
    /// What is not as it was asked.
    pub problems: Vec<String>,
    /// Whether a connection failed.
    pub failed: bool,
    /// Whether a signal ended it before its time.
    pub interrupted: bool,
}

/// What a resumed handshake saves of the full one's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Saving {
    /// Of TLS.
    pub version: Version,
    /// Whether TCP's own round trip counts.
    pub tcp: bool,
    /// By counting.
    pub predicted: Saved,
    /// Of the medians.
    pub measured: Saved,
}

/// Shares, 0 to 1, but for the round trips.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Saved {
    /// So many.
    pub round_trips: f64,
    /// Of the time until the client may speak.
    pub ready: f64,
    /// Of the time until its first byte is at the server.
    pub first_byte: f64,
}

impl Saved {
    fn of(full: &Figures, resumed: &Figures) -> Self {
        Self {
            round_trips: full.round_trips - resumed.round_trips,
            ready: 1.0 - resumed.ready_ms / full.ready_ms,
            first_byte: 1.0 - resumed.first_byte_ms / full.first_byte_ms,
        }
    }
}

impl Saving {
    fn of(full: &Row, resumed: &Row) -> Self {
        let Kind { version, tcp, .. } = full.kind;
        Self {
            version,
            tcp,
            predicted: Saved::of(&full.predicted, &resumed.predicted),
            measured: Saved::of(&full.measured, &resumed.measured),
        }
    }
}

impl Kind {
    /// All kinds, in the order of the table.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let versions = Version::BOTH.into_iter();
        let lines = versions.flat_map(|version| [false, true].map(|tcp| (version, tcp)));
        let kinds =
            lines.flat_map(|(version, tcp)| [false, true].map(|resumed| Self { version, tcp, resumed }));
        kinds.collect()
    }

    /// As in the table.
    #[must_use]
    pub fn label(self) -> String {
        let (tcp, kind) =
            (if self.tcp { "with" } else { "without" }, if self.resumed { "resumed" } else { "full" });
        format!("{} {kind}, {tcp} TCP", self.version.label())
    }

    /// By counting: RFC 5246 §7.3 has four messages in a full handshake and three in an abbreviated one, RFC
    /// 8446 §2 three in both, and the client may speak with the last one that it sends, or behind the last
    /// one that it receives.
    #[must_use]
    pub fn predicted(self, one_way: Duration) -> Figures {
        let (messages, round_trips) = match (self.version, self.resumed) {
            (Version::Tls12, false) => (4, 2.0),
            (Version::Tls12, true) | (Version::Tls13, _) => (3, 1.0),
        };
        let one_way_ms = one_way.as_secs_f64() * 1e3;
        let round_trips = round_trips + f64::from(u8::from(self.tcp));
        let ready_ms = round_trips * 2.0 * one_way_ms;
        Figures { messages, round_trips, ready_ms, first_byte_ms: ready_ms + one_way_ms }
    }
}

/// The share by which a measured time may differ from a predicted one: processing takes time, too.
const DEVIATION_MAX: f64 = 0.05;

impl Row {
    /// What the prediction does not account for.
    fn deviation(&self) -> Option<String> {
        let Self { kind, predicted, measured, .. } = self;
        let differ = |a: f64, b: f64| (a / b - 1.0).abs() > DEVIATION_MAX;
        let differs = differ(measured.ready_ms, predicted.ready_ms)
            || differ(measured.first_byte_ms, predicted.first_byte_ms);
        differs.then(|| {
            format!(
                "{}: more than 5 % from what was predicted: a busy machine, a server that works long, or a \
                 line as short as its processing",
                kind.label()
            )
        })
    }
}

/// What came of one kind.
struct Made {
    /// None if too many connections failed.
    row: Option<Row>,
    /// What is not as it was asked.
    problem: Option<String>,
    /// Whether a connection failed.
    failed: bool,
}

impl Experiment {
    /// Makes it; `progress` hears the name of each kind before it begins.
    ///
    /// # Errors
    /// The line or the clients cannot be made. What merely went wrong is in the report.
    pub fn run(&self, mut progress: impl FnMut(&str)) -> Result<LatencyReport> {
        let mut report = LatencyReport {
            began: machine::utc(time_of_day()),
            environment: Environment::this(),
            target: format!("{} ({})", self.target.host, self.target.address),
            one_way_ms: self.one_way.as_secs_f64() * 1e3,
            rows: Vec::new(),
            savings: Vec::new(),
            warnings: Vec::new(),
            problems: Vec::new(),
            failed: false,
            interrupted: false,
        };
        for kind in Kind::all() {
            progress(&kind.label());
            let Made { row, problem, failed } = self.row(kind).with_context(|| kind.label())?;
            report.problems.extend(problem);
            report.failed |= failed;
            // What fails here fails in the other rows, too.
            report.interrupted = self.interrupt.is_set();
            let Some(row) = row else { break };
            report.warnings.extend(row.deviation());
            report.rows.push(row);
        }
        report.savings = report.rows.chunks_exact(2).map(|pair| Saving::of(&pair[0], &pair[1])).collect();
        Ok(report)
    }

    fn row(&self, kind: Kind) -> Result<Made> {
        let line = Line {
            one_way: self.one_way,
            tcp_round_trip: kind.tcp,
            sealed_handshake_records: u32::from(kind.version == Version::Tls13),
        };
        let relay = Relay::start(self.target.address, line).context("the delaying relay")?;
        let profile = ClientProfile {
            versions: vec![kind.version],
            suites: default_suites(),
            groups: default_groups(),
            names: self.names.clone(),
            trust: self.trust.clone(),
            clients: Vec::new(),
        };
        let plan = self.plan(kind);
        let target = Target { host: self.target.host.clone(), address: relay.address() };
        let mut clients = Clients::new(&plan, &profile)?.interrupted_by(self.interrupt.clone());
        let outcome = clients.run(&plan, &target, |_| {})?;
        if outcome.interrupted {
            let problem = Some(format!("{}: a signal ended the experiment", kind.label()));
            return Ok(Made { row: None, problem, failed: false });
        }
        if let Some(reason) = outcome.broken_off {
            let problem = Some(format!("{}: {reason}", kind.label()));
            return Ok(Made { row: None, problem, failed: true });
        }
        let tally = outcome.tally;
        let not = tally.handshakes() - tally.as_asked();
        let problem = (not > 0 || tally.failed() > 0).then(|| {
            format!("{}: {not} handshakes NOT AS ASKED, failures: {:?}", kind.label(), tally.failures())
        });
        let measured = self.measured(&tally, &relay.passed(), plan.places(0))?;
        let row =
            Row { kind, predicted: kind.predicted(self.one_way), measured, samples: tally.handshakes() };
        Ok(Made { row: Some(row), problem, failed: tally.failed() > 0 })
    }

    fn plan(&self, kind: Kind) -> Plan {
        Plan {
            work: Work::Handshake(self.request.clone()),
            load: Load::Closed { connections: AT_ONCE.min(usize::try_from(self.samples).unwrap_or(AT_ONCE)) },
            resume: if kind.resumed { 1.0 } else { 0.0 },
            ending: Ending::Reset,
            sources: Vec::new(),
            threads: 1,
            pin: Pin::Off,
            warm_up: Duration::ZERO,
            until: Until::Counted(self.samples),
            patience: PATIENCE + 8 * self.one_way,
            give_up_after: 10,
            seed: 1,
        }
    }

    /// Medians; of what passed, without the connections that only fetched tickets, which came first.
    fn measured(&self, tally: &Tally, passed: &[Passed], first: usize) -> Result<Figures> {
        let mut passed: Vec<_> = passed.iter().skip(first).collect();
        passed.sort_by_key(|passed| passed.first_byte);
        let median =
            passed.get(passed.len().saturating_sub(1) / 2).context("no connection reached the server")?;
        let messages = passed.iter().map(|passed| passed.messages).max().unwrap_or_default();
        let ready_ms = tally.latency_us(Part::Ready, 0.5) as f64 / 1e3;
        Ok(Figures {
            messages,
            round_trips: ready_ms / (2.0 * self.one_way.as_secs_f64() * 1e3),
            ready_ms,
            first_byte_ms: median.first_byte.as_secs_f64() * 1e3,
        })
    }
}

impl LatencyReport {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let heading = ["", "messages", "round trips", "client ready", "first byte at the server", "samples"];
        let mut lines = vec![heading.map(str::to_owned).to_vec()];
        for row in &self.rows {
            let Row { kind, predicted, measured, samples } = row;
            lines.push(vec![
                kind.label(),
                format!("{} | {}", predicted.messages, measured.messages),
                format!("{:.0} | {:.2}", predicted.round_trips, measured.round_trips),
                format!("{:.0} | {:.1} ms", predicted.ready_ms, measured.ready_ms),
                format!("{:.0} | {:.1} ms", predicted.first_byte_ms, measured.first_byte_ms),
                samples.to_string(),
            ]);
        }
        let mut savings = vec![
            ["resumption saves", "client ready", "first byte at the server"].map(str::to_owned).to_vec(),
        ];
        for Saving { version, tcp, predicted, measured } in &self.savings {
            let saved = |share: fn(&Saved) -> f64| {
                format!("{:.0} | {:.1} %", 100.0 * share(predicted), 100.0 * share(measured))
            };
            savings.push(vec![
                format!("{}, {} TCP", version.label(), if *tcp { "with" } else { "without" }),
                saved(|saved| saved.ready),
                saved(|saved| saved.first_byte),
            ]);
        }
        format!(
            "{}, {} ms one way, {}; predicted | measured (medians)\n\n{}\n{}\n\
             The line is a relay in this process. TCP's round trip is played by it: a client's first bytes \
             wait as\nlong as a SYN and its answer would take. Every handshake was verified to be of its \
             kind.\n",
            self.target,
            self.one_way_ms,
            self.began,
            aligned(&lines),
            aligned(&savings),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prediction_is_the_contribution_s() {
        let figure = |version, tcp, resumed| {
            let figures = Kind { version, tcp, resumed }.predicted(Duration::from_millis(50));
            (figures.messages, figures.ready_ms, figures.first_byte_ms)
        };
        assert_eq!(figure(Version::Tls12, false, false), (4, 200.0, 250.0));
        assert_eq!(figure(Version::Tls12, false, true), (3, 100.0, 150.0));
        assert_eq!(figure(Version::Tls12, true, false), (4, 300.0, 350.0));
        assert_eq!(figure(Version::Tls12, true, true), (3, 200.0, 250.0));
        assert_eq!(figure(Version::Tls13, false, false), figure(Version::Tls13, false, true));
        assert_eq!(Kind::all().len(), 8);
    }

    #[test]
    fn what_the_prediction_does_not_account_for_is_told() {
        let kind = Kind { version: Version::Tls12, tcp: false, resumed: false };
        let predicted = kind.predicted(Duration::from_millis(50));
        let row = |first_byte_ms| Row {
            kind,
            predicted,
            measured: Figures { first_byte_ms, ..predicted },
            samples: 1,
        };
        assert_eq!(row(252.0).deviation(), None);
        assert!(row(444.0).deviation().unwrap().starts_with("TLS 1.2 full, without TCP: more than"));
    }
}
