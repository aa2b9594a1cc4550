//! Latency as a client sees it, by `loadgen`, at a rate that every terminator can sustain.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use offramp_loadgen::backend;
use offramp_loadgen::plan::Version;
use rustls::HandshakeKind;
use serde_json::Value;

use crate::client::Client;
use crate::generator::SUITES;
use crate::suite::Suite;
use crate::workload::{Bench, more_to_client};

/// The share of the slowest terminator's rate at which all are measured.
pub const LOAD_SHARE: f64 = 0.7;
/// Connections at once where the highest rate is looked for.
const CONNECTIONS: &str = "16";
/// What the other connection moves, a MiB at a time: the same for all, which each of them can. As much as it
/// takes would burden the clients' CPU by how fast a terminator is, and they would measure that.
const BULK_MIB_PER_SECOND: u32 = 256;
/// Connections with a message due each 10 ms while another one moves bulk.
const TALKERS: &str = "8";

/// One line of the table; its figure is the 99th percentile in µs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// From the planned start of a connection until its handshake is complete and a byte has come back.
    Handshake {
        /// On which version of TLS.
        version: Version,
        /// Whether it is abbreviated.
        resumed: bool,
    },
    /// From when a message of 1 KiB is due until its answer is there, while another connection moves bulk
    /// to its client.
    MessageBesideBulk {
        /// On which version of TLS.
        version: Version,
    },
}

/// How long each run of `loadgen` counts.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// To find the highest rate.
    pub search_s: u32,
    /// For a sample.
    pub sample_s: u32,
}

impl Span {
    /// For a result.
    pub const FULL: Self = Self { search_s: 3, sample_s: 8 };
    /// For a look.
    pub const QUICK: Self = Self { search_s: 1, sample_s: 2 };
}

impl Latency {
    /// All lines in the order of the table.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let versions = [Version::Tls12, Version::Tls13];
        let handshakes = versions
            .into_iter()
            .flat_map(|version| [false, true].map(|resumed| Self::Handshake { version, resumed }));
        handshakes.chain(versions.map(|version| Self::MessageBesideBulk { version })).collect()
    }

    /// As in the table, but for the rate.
    #[must_use]
    pub fn label(self) -> String {
        match self {
            Self::Handshake { version, resumed } => {
                let kind = if resumed { "resumed" } else { "full" };
                format!("{} {kind} connection, p99 to its first byte", version.label())
            }
            Self::MessageBesideBulk { version } => {
                format!(
                    "{} 1 KiB round trip beside {BULK_MIB_PER_SECOND} MiB/s of bulk, p99",
                    version.label()
                )
            }
        }
    }

    /// Connections a second that this terminator makes when it is asked for as many as it can; `None` where
    /// no rate is needed.
    ///
    /// # Errors
    /// `loadgen` failed: the text has what it said.
    pub fn highest_rate(self, bench: &Bench<'_>, span: Span) -> Result<Option<f64>> {
        let Self::Handshake { version, resumed } = self else { return Ok(None) };
        let mut arguments = handshake(version, resumed, span.search_s);
        arguments.extend(["--connections", CONNECTIONS].map(str::to_owned));
        let report = loadgen(bench, &arguments)?;
        let rate = report["runs"][0]["handshakes"]["per_second"].as_f64();
        Ok(Some(rate.context("the report has a rate")?))
    }

    /// The 99th percentile in µs; handshakes at so many a second.
    ///
    /// # Errors
    /// `loadgen` failed, or data came changed.
    pub fn sample(self, bench: &Bench<'_>, rate: Option<f64>, span: Span) -> Result<f64> {
        match self {
            Self::Handshake { version, resumed } => {
                let rate = format!("{:.0}", rate.context("handshakes are measured at a rate")?);
                let mut arguments = handshake(version, resumed, span.sample_s);
                arguments.extend(["--rate".to_owned(), rate]);
                p99(&loadgen(bench, &arguments)?, "total")
            }
            Self::MessageBesideBulk { version } => beside_bulk(bench, version, span),
        }
    }
}

fn handshake(version: Version, resumed: bool, seconds: u32) -> Vec<String> {
    let resume = if resumed { "1" } else { "0" };
    let duration = format!("{seconds}s");
    let rest =
        ["--request", "echo", "--rst", "--warm-up", "500ms", "--resume", resume, "--duration", &duration];
    let mut arguments = vec!["handshake".to_owned(), "--tls".to_owned(), number(version).to_owned()];
    arguments.extend(rest.map(str::to_owned));
    arguments
}

fn number(version: Version) -> &'static str {
    match version {
        Version::Tls12 => "1.2",
        Version::Tls13 => "1.3",
    }
}

fn beside_bulk(bench: &Bench<'_>, version: Version, span: Span) -> Result<f64> {
    let duration = format!("{}s", span.sample_s);
    let words = [
        "message",
        "--tls",
        number(version),
        "--connections",
        TALKERS,
        "--every",
        "10ms",
        "--warm-up",
        "500ms",
        "--duration",
        &duration,
    ];
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let bulk = scope.spawn(|| move_bulk(bench, version, &over));
        let report = loadgen(bench, &words.map(str::to_owned));
        over.store(true, Ordering::Relaxed);
        let mib = bulk.join().map_err(|_| anyhow!("the bulk client panicked"))??;
        ensure!(mib > 0, "no bulk was moved beside the messages");
        p99(&report?, "message")
    })
}

/// Moves bulk to the client until it is over, a MiB whenever one is due.
#[expect(clippy::disallowed_methods, reason = "a client of its own, which sends when it is planned")]
fn move_bulk(bench: &Bench<'_>, version: Version, over: &AtomicBool) -> Result<u32> {
    yield_to_others()?;
    let client = Client::new(bench.terminator, bench.trusted, Suite::usual(version), false)?;
    let mut connection = client.open(backend::SOURCE, HandshakeKind::Full)?;
    let mut mib = 0;
    let began = Instant::now();
    while !over.load(Ordering::Relaxed) {
        more_to_client(&mut connection, mib, 1)?;
        mib += 1;
        let due = began + Duration::from_secs(mib.into()) / BULK_MIB_PER_SECOND;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let planned = began.elapsed().as_secs_f64() * f64::from(BULK_MIB_PER_SECOND);
    ensure!(f64::from(mib) > 0.8 * planned, "{mib} MiB of bulk were moved where {planned:.0} were planned");
    Ok(mib)
}

/// Lowers the calling thread's priority as far as it goes. Who opens the bulk shares a CPU with who measures
/// the messages: a burst that a fast terminator hands over at once would keep that CPU, and be measured.
fn yield_to_others() -> Result<()> {
    let thread = fs::read_link("/proc/thread-self").context("/proc is mounted")?;
    let id = thread.file_name().context("/proc/thread-self names the thread")?;
    let output = Command::new("renice").args(["-n", "19", "-p"]).arg(id).output();
    let output = output.context("renice (util-linux) could not be started")?;
    ensure!(output.status.success(), "renice: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn p99(report: &Value, part: &str) -> Result<f64> {
    let p99 = report["runs"][0]["latency_us"][part]["p99"].as_f64();
    p99.with_context(|| format!("the report has no p99 of {part}"))
}

/// Runs `loadgen`, which is beside this program, with one thread, and reads its report.
fn loadgen(bench: &Bench<'_>, arguments: &[String]) -> Result<Value> {
    let program = program()?;
    let output = Command::new(&program)
        .args(arguments)
        .args([
            "--target",
            &bench.terminator.address.to_string(),
            "--insecure",
            "--groups",
            "X25519,secp256r1",
        ])
        // Some servers go by the client's preference, which would be AES-256-GCM.
        .args(["--suites", SUITES])
        .args(["--threads", "1", "--quiet", "--json"])
        .output()
        .with_context(|| program.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "loadgen {}: {}\n{said}", arguments.join(" "), output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("loadgen's report; it said: {said}"))
}

fn program() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("loadgen");
    ensure!(path.exists(), "{} does not exist: run `cargo build --release` first", path.display());
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn labels_are_distinct() {
        let labels: HashSet<_> = Latency::all().into_iter().map(Latency::label).collect();
        assert_eq!(labels.len(), 6);
    }

    #[test]
    fn a_percentile_is_read_and_its_absence_is_named() {
        let report = serde_json::json!({"runs": [{"latency_us": {"total": {"p99": 1234}}}]});
        assert_eq!(p99(&report, "total").unwrap(), 1234.0);
        assert!(p99(&report, "message").unwrap_err().to_string().contains("message"));
    }
}
