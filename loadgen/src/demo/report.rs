//! What a run found: a table for people, JSON for programs, and whether it is what was asked.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;

use serde::Serialize;

use super::phases::Phase;
use crate::machine::Machine;
use crate::plan::{Version, Work};
use crate::tally::{Part, Tally};

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// When it began, UTC.
    pub date: String,
    /// Where it ran: client, terminator and backend alike.
    pub machine: Machine,
    /// The terminator and its version.
    pub terminator: String,
    /// Who carries the records, per direction, and why not the kernel.
    pub record_paths: String,
    /// The terminator's worker threads.
    pub workers: usize,
    /// Client threads.
    pub threads: usize,
    /// One per kind of load.
    pub phases: Vec<PhaseReport>,
    /// What is not as it was asked; nothing if all is well.
    pub problems: Vec<String>,
}

/// One kind of load.
#[derive(Clone, Debug, Serialize)]
pub struct PhaseReport {
    /// As in the table.
    pub name: String,
    /// The version of TLS.
    pub version: Version,
    /// How long it counted, in seconds.
    pub seconds: f64,
    /// Connections at once, on all threads together.
    pub connections: usize,
    /// Where handshakes are what is counted.
    pub handshakes: Option<Handshakes>,
    /// Where bytes are what is counted.
    pub bulk: Option<Bulk>,
    /// Who carried the records of this phase's connections.
    pub by_path: RecordPaths,
    /// Reasons for which connections failed, and how many did.
    pub failures: BTreeMap<String, u64>,
}

/// Handshakes, each one checked to be of the kind and version that was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Handshakes {
    /// All that began in the time that counts.
    pub count: u64,
    /// Those that were done in it, per second.
    pub per_second: f64,
    /// From the start of the TCP connect until the client's handshake was done, in µs: half were not slower.
    pub p50_us: u64,
    /// The same for nine in ten.
    pub p90_us: u64,
    /// The same for 99 in 100.
    pub p99_us: u64,
    /// `full` or `resumed`.
    pub asked: &'static str,
    /// The share, 0 to 1, that was verified as that.
    pub verified: f64,
}

/// Bulk data, each byte of which was checked.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Bulk {
    /// All in the time that counts.
    pub bytes: u64,
    /// In units of 1,000,000 bytes.
    pub megabytes_per_second: f64,
}

/// How many connections had their records carried by whom, per direction as the terminator sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RecordPaths {
    /// To the TLS leg.
    pub tx: ByPath,
    /// From the TLS leg.
    pub rx: ByPath,
}

/// Connections by who carried the records of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ByPath {
    /// By the kernel.
    pub kernel: u64,
    /// By userspace.
    pub userspace: u64,
}

impl PhaseReport {
    /// Makes the figures of a phase.
    #[must_use]
    pub fn new(phase: &Phase, tally: &Tally, by_path: RecordPaths) -> Self {
        let seconds = phase.measured.as_secs_f64();
        let handshakes = match phase.work {
            Work::Handshake(_) => Some(Handshakes {
                count: tally.handshakes(),
                per_second: tally.completed as f64 / seconds,
                p50_us: tally.latency_us(Part::Ready, 0.5),
                p90_us: tally.latency_us(Part::Ready, 0.9),
                p99_us: tally.latency_us(Part::Ready, 0.99),
                asked: if phase.resumed { "resumed" } else { "full" },
                verified: tally.as_asked() as f64 / tally.handshakes().max(1) as f64,
            }),
            _ => None,
        };
        let bulk = handshakes.is_none().then(|| Bulk {
            bytes: tally.verified_bytes(),
            megabytes_per_second: tally.verified_bytes() as f64 / seconds / 1e6,
        });
        Self {
            name: phase.label(),
            version: phase.version,
            seconds,
            connections: phase.connections * phase.threads,
            handshakes,
            bulk,
            by_path,
            failures: tally.failures().clone(),
        }
    }

    /// What is not as it was asked.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let name = &self.name;
        let mut problems: Vec<_> =
            self.failures.iter().map(|(reason, count)| format!("{name}: {count} failed: {reason}")).collect();
        match &self.handshakes {
            Some(Handshakes { count: 0, .. }) => problems.push(format!("{name}: none was done in time")),
            Some(Handshakes { asked, verified, .. }) if *verified < 1.0 => {
                problems.push(format!("{name}: only {} were verified as {asked}", percent(*verified)));
            }
            _ => {}
        }
        if self.bulk.is_some_and(|bulk| bulk.bytes == 0) {
            problems.push(format!("{name}: no byte arrived in time"));
        }
        problems
    }

    fn cells(&self) -> [String; 9] {
        let none = || "–".to_owned();
        let handshake = |cell: fn(&Handshakes) -> String| self.handshakes.as_ref().map_or_else(none, cell);
        [
            self.name.clone(),
            handshake(|h| format!("{:.0}", h.per_second)),
            handshake(|h| h.p50_us.to_string()),
            handshake(|h| h.p90_us.to_string()),
            handshake(|h| h.p99_us.to_string()),
            handshake(|h| format!("{} {}", percent(h.verified), h.asked)),
            self.bulk.map_or_else(none, |bulk| format!("{:.0}", bulk.megabytes_per_second)),
            self.by_path.tx.to_string(),
            self.by_path.rx.to_string(),
        ]
    }
}

const HEADING: [&str; 9] =
    ["load", "handshakes/s", "p50 µs", "p90 µs", "p99 µs", "verified", "MB/s", "tx records", "rx records"];

impl Report {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = vec![HEADING.map(str::to_owned)];
        lines.extend(self.phases.iter().map(PhaseReport::cells));
        let mut out = String::new();
        for line in &lines {
            for (column, cell) in line.iter().enumerate() {
                let width = lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
                // Names to the left, figures to the right.
                let _ = if column == 0 || column > 6 {
                    write!(out, "{cell:<width$}  ")
                } else {
                    write!(out, "{cell:>width$}  ")
                };
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        }
        let Self { date, machine: Machine { cpu, cores, kernel, .. }, terminator, record_paths, .. } = self;
        let _ = write!(
            out,
            "\nLatency: TCP connect to handshake done, at the client. Every handshake and byte was checked.\n\
             {terminator}, {workers} worker(s); {record_paths}.\n\
             Client ({threads} thread(s)), terminator and backend share this machine's {cores} core(s): \
             {cpu}, {kernel}, {date} UTC.\n",
            workers = self.workers,
            threads = self.threads,
        );
        out
    }

    /// For programs.
    ///
    /// # Errors
    /// A figure is not a number that JSON knows.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

impl RecordPaths {
    /// What was added since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        let less = |now: ByPath, then: ByPath| ByPath {
            kernel: now.kernel.saturating_sub(then.kernel),
            userspace: now.userspace.saturating_sub(then.userspace),
        };
        Self { tx: less(self.tx, earlier.tx), rx: less(self.rx, earlier.rx) }
    }
}

impl fmt::Display for ByPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kernel, self.userspace) {
            (0, 0) => f.write_str("nobody"),
            (_, 0) => f.write_str("kernel"),
            (0, _) => f.write_str("userspace"),
            (kernel, userspace) => {
                let share = kernel as f64 / (kernel + userspace) as f64;
                write!(f, "kernel {}, else userspace", percent(share))
            }
        }
    }
}

/// Never rounded up to all: 100 % means every one.
fn percent(share: f64) -> String {
    format!("{:.1} %", (share * 1000.0).floor() / 10.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::{CipherSuite, HandshakeKind, ProtocolVersion};

    use super::*;
    use crate::demo::phases;
    use crate::failure::Failure;
    use crate::session::Established;
    use crate::tally::Sample;

    fn handshake(tally: &mut Tally, us: u64, resumed: bool) {
        let kind = if resumed { HandshakeKind::Resumed } else { HandshakeKind::Full };
        let (version, suite) = (ProtocolVersion::TLSv1_3, CipherSuite::TLS13_AES_128_GCM_SHA256);
        let established = Established { kind, version, suite };
        tally.part(Part::Ready, Duration::from_micros(us));
        tally.handshake(&Sample { established, version: Version::Tls13, resume: true, offered: true });
    }

    fn report() -> Report {
        let phases = phases::all(Duration::from_secs(80), 1);
        let mut tally = Tally::default();
        for _ in 0..800 {
            handshake(&mut tally, 200, true);
        }
        tally.completed = 800;
        tally.down = 8_000_000_000;
        let by_path = RecordPaths { tx: ByPath { kernel: 3, userspace: 1 }, rx: ByPath::default() };
        let phases: Vec<_> = phases.iter().map(|phase| PhaseReport::new(phase, &tally, by_path)).collect();
        Report {
            date: "2026-11-23 22:49".to_owned(),
            machine: Machine { cpu: "EPYC".to_owned(), cores: 2, kernel: "Linux 6".to_owned(), load: 0.0 },
            terminator: concat!("offramp ", env!("CARGO_PKG_VERSION")).to_owned(),
            record_paths: "records tx: kernel".to_owned(),
            workers: 1,
            threads: 1,
            phases,
            problems: Vec::new(),
        }
    }

    #[test]
    fn the_json_has_every_figure_of_the_table() {
        let json: serde_json::Value = serde_json::from_str(&report().json().unwrap()).unwrap();
        let first = &json["phases"][0];
        assert_eq!(first["name"], "TLS 1.2 full handshakes");
        assert_eq!((&first["version"], &first["bulk"]), (&"TLS 1.2".into(), &serde_json::Value::Null));
        assert_eq!(first["handshakes"]["per_second"], 100.0);
        assert_eq!(first["handshakes"]["p99_us"], 200);
        assert_eq!(first["handshakes"]["verified"], 1.0);
        assert_eq!(first["by_path"]["tx"]["kernel"], 3);
        assert_eq!(json["phases"][7]["bulk"]["megabytes_per_second"], 1000.0);
        assert_eq!(json["problems"], serde_json::json!([]));
    }

    #[test]
    fn table_names_the_record_path_and_shared_cores() {
        let table = report().table();
        assert!(table.contains("kernel 75.0 %, else userspace") && table.contains("nobody"), "{table}");
        assert!(
            table.contains("100.0 % resumed") && table.contains("share this machine's 2 core(s)"),
            "{table}"
        );
        assert_eq!(table.lines().take_while(|line| !line.is_empty()).count(), 9);
    }

    #[test]
    fn what_is_not_as_asked_is_a_problem() {
        let phases = phases::all(Duration::from_secs(80), 1);
        let mut tally = Tally::default();
        let problems = |index: usize, tally: &Tally| {
            PhaseReport::new(&phases[index], tally, RecordPaths::default()).problems().join("\n")
        };
        assert!(problems(0, &tally).contains("none was done in time"));
        assert!(problems(7, &tally).contains("no byte arrived"));
        for index in 0..3000 {
            handshake(&mut tally, 1, index > 0);
        }
        assert!(problems(1, &tally).contains("only 99.9 % were verified as resumed"));
        tally.failure(&Failure::Refused);
        assert!(problems(1, &tally).contains("1 failed: refused"));
    }

    #[test]
    fn carried_is_counted_from_an_earlier_reading() {
        let at = |kernel, userspace| ByPath { kernel, userspace };
        let (then, now) =
            (RecordPaths { tx: at(1, 2), rx: at(0, 0) }, RecordPaths { tx: at(4, 2), rx: at(0, 5) });
        assert_eq!(now.since(then), RecordPaths { tx: at(3, 0), rx: at(0, 5) });
        assert_eq!([at(1, 0), at(0, 1), at(0, 0)].map(|c| c.to_string()), ["kernel", "userspace", "nobody"]);
    }
}
