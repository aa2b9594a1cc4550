//! Load generators: what one handshake costs the client that makes it.
//!
//! loadgen beside `openssl s_time`, a plain blocking client that makes one connection after the other. The
//! CPU time is all of the process's, start-up and the check of every handshake's kind included.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use offramp_loadgen::identity::{Identity, SERVER_NAME};
use offramp_loadgen::plan::Version;
use offramp_loadgen::report::Report;

use crate::process;

/// What both may negotiate, by its names in TLS 1.2 and in TLS 1.3; s_time takes the first from OpenSSL.
pub(crate) const SUITES: &str = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS13_AES_128_GCM_SHA256";
const OPENSSL_SUITE: [&str; 4] =
    ["-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256", "-ciphersuites", "TLS_AES_128_GCM_SHA256"];
/// Connections that loadgen has open at once: s_time has one.
const AT_ONCE: &str = "8";

/// A client that makes load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generator {
    /// Ours.
    Loadgen,
    /// `openssl s_time`.
    STime,
}

/// Load on a terminator.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// The terminator.
    pub target: SocketAddr,
    /// Whom it shows.
    pub identity: &'a Identity,
    /// What is asked of it.
    pub wanted: Handshakes,
    /// For how long.
    pub seconds: u32,
    /// Where the generator runs.
    pub cpu: usize,
}

/// What handshakes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshakes {
    /// The version, the only one offered.
    pub version: Version,
    /// With a ticket of an earlier one.
    pub resumed: bool,
}

impl Handshakes {
    /// What both generators can make. Without TLS 1.3 resumed: s_time reads nothing after the handshake, and
    /// so never sees a ticket of TLS 1.3.
    pub const ALL: [Self; 3] = [
        Self { version: Version::Tls12, resumed: true },
        Self { version: Version::Tls12, resumed: false },
        Self { version: Version::Tls13, resumed: false },
    ];

    /// Its name in the table.
    #[must_use]
    pub fn label(self) -> String {
        let version = match self.version {
            Version::Tls12 => "1.2",
            Version::Tls13 => "1.3",
        };
        format!("TLS {version} {} handshake", if self.resumed { "resumed" } else { "full" })
    }
}

impl Generator {
    /// Its name in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Loadgen => "loadgen",
            Self::STime => "openssl s_time",
        }
    }

    /// CPU time of one handshake, in microseconds, and how many there were.
    ///
    /// # Errors
    /// It could not be started, or it ended in failure, or handshakes were not of the kind that was wanted.
    pub fn sample(self, program: &Path, load: &Load<'_>) -> Result<(f64, u32)> {
        let before = process::ended_children()?;
        let output =
            self.command(program, load).output().context("taskset (util-linux) could not be started")?;
        let spent = process::ended_children()?.saturating_sub(before);
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} ended with {}: {said}", self.name(), output.status);
        let done = self.count(&output, load.wanted)?;
        ensure!(done > 0, "{} made no handshake: {said}", self.name());
        let done = u32::try_from(done)?;
        Ok((spent.as_secs_f64() * 1e6 / f64::from(done), done))
    }

    fn command(self, program: &Path, load: &Load<'_>) -> Command {
        let Load { target, identity, wanted, seconds, cpu } = *load;
        let mut command = Command::new("taskset");
        command.stdin(Stdio::null()).args(["-c", &cpu.to_string()]).arg(program);
        let (target, certificate) = (target.to_string(), identity.certificate_file());
        match self {
            Self::Loadgen => {
                let version = if wanted.version == Version::Tls12 { "1.2" } else { "1.3" };
                let resume = if wanted.resumed { "1" } else { "0" };
                command.args(["handshake", "--target", &target, "--tls", version, "--resume", resume]);
                command.arg("--ca").arg(certificate).args(["--sni", SERVER_NAME, "--suites", SUITES]);
                command.args(["--groups", "X25519,secp256r1", "-t", "1", "-c", AT_ONCE, "--warm-up", "0s"]);
                command.args(["-d", &format!("{seconds}s"), "--json", "-q"]);
            }
            Self::STime => {
                let version = if wanted.version == Version::Tls12 { "-tls1_2" } else { "-tls1_3" };
                let kind = if wanted.resumed { "-reuse" } else { "-new" };
                command.args(["s_time", "-connect", &target, version, kind, "-time", &seconds.to_string()]);
                command.args(OPENSSL_SUITE).arg("-CAfile").arg(certificate);
            }
        }
        command
    }

    /// How many handshakes there were, all of them as wanted.
    fn count(self, output: &Output, wanted: Handshakes) -> Result<u64> {
        match self {
            // Its exit code says that all were as asked.
            Self::Loadgen => {
                let report: Report = serde_json::from_slice(&output.stdout).context("loadgen's report")?;
                Ok(report.runs.iter().map(|run| run.connections.ended).sum())
            }
            Self::STime => s_time_count(&String::from_utf8_lossy(&output.stdout), wanted),
        }
    }
}

/// s_time prints a character for each handshake, `r` for a resumed one, `*` for any other; and then the sum,
/// of which the first of those that are to be resumed is no part.
fn s_time_count(printed: &str, wanted: Handshakes) -> Result<u64> {
    let kind = if wanted.resumed { 'r' } else { '*' };
    let (mut seen, mut sum) = (0, None);
    for line in printed.lines() {
        let rest = line.trim_start_matches(['r', '*']);
        seen += line[..line.len() - rest.len()].matches(kind).count() as u64;
        sum = sum.or_else(|| rest.split_once(" connections in ")?.0.parse::<u64>().ok());
    }
    let sum = sum.context("openssl s_time gives no sum")?;
    ensure!(seen >= sum, "of {sum} handshakes of openssl s_time {seen} were as wanted ({wanted:?})");
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESUMED: Handshakes = Handshakes::ALL[0];
    const FULL: Handshakes = Handshakes::ALL[1];

    #[test]
    fn handshakes_of_s_time_are_counted_by_their_kind() {
        let sums = "2 connections in 0.50s; 4.00 connections/user sec, bytes read 0\n\
                    2 connections in 5 real seconds, 0 bytes read per connection\n";
        let printed = format!("starting\nrr\n\n{sums}");
        assert_eq!(s_time_count(&printed, RESUMED).unwrap(), 2);
        assert!(s_time_count(&printed, FULL).is_err(), "all were resumed");
        assert!(s_time_count(&format!("r*\n{sums}"), RESUMED).is_err(), "one was full");
        assert_eq!(s_time_count(&format!("**{sums}"), FULL).unwrap(), 2);
        assert!(s_time_count("**", FULL).is_err(), "no sum");
    }
}
