//! Where and with what a figure was taken.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use serde::{Deserialize, Serialize};

/// The machine, as it describes itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Model name of the first CPU.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cores: usize,
    /// Release of the running kernel.
    pub kernel: String,
    /// Load average of the last minute before: what else was running. Above 0.5 the figures are not to be
    /// trusted.
    pub load: f64,
}

impl Machine {
    /// This machine. Call before the process is pinned, or `cores` is one.
    #[must_use]
    pub fn this() -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            load: parse_load(&load).unwrap_or(f64::NAN),
            cpu: model_name(&cpus).unwrap_or("unknown").to_owned(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            kernel: format!("Linux {}", release.trim()),
        }
    }
}

/// The time now, in UTC, as `2026-11-23 22:49`.
#[must_use]
pub fn date() -> String {
    says(Path::new("date"), &["-u", "+%Y-%m-%d %H:%M"])
}

/// A time since 1970 in UTC, as RFC 3339 has it, to the second.
#[must_use]
pub fn utc(since_1970: std::time::Duration) -> String {
    let (days, second) = (since_1970.as_secs() / 86_400, since_1970.as_secs() % 86_400);
    // Howard Hinnant's civil_from_days: years begin in March, so that a leap day is a year's last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The Rust compiler in the path, which is the one that built this if cargo started it.
#[must_use]
pub fn rustc() -> String {
    says(Path::new("rustc"), &["--version"])
}

/// The commit that the working tree is at, with `-dirty` if it was changed since.
#[must_use]
pub fn commit() -> String {
    says(Path::new("git"), &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"])
}

/// The first line that a program prints, on standard output or else on standard error; `unknown` if there is
/// none.
#[must_use]
pub fn says(program: &Path, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else { return "unknown".to_owned() };
    let both = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    version_line(&both.join("\n")).unwrap_or_else(|| "unknown".to_owned())
}

/// The first line with a version in it: some say what they are about to do before.
fn version_line(text: &str) -> Option<String> {
    let has_version = |line: &&str| {
        line.split_ascii_whitespace().any(|word| {
            let digits = word.trim_start_matches(|c: char| !c.is_ascii_digit());
            digits.split_once('.').is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    let first = |line: &&str| !line.trim().is_empty();
    let line = text.lines().find(has_version).or_else(|| text.lines().find(first))?;
    Some(line.trim().to_owned())
}

fn model_name(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

fn parse_load(loadavg: &str) -> Option<f64> {
    loadavg.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_with_the_version_is_found_among_others() {
        let stunnel = "\nInitializing inetd mode configuration\nstunnel 5.68 on x86_64-pc-linux-gnu\n";
        assert_eq!(version_line(stunnel).as_deref(), Some("stunnel 5.68 on x86_64-pc-linux-gnu"));
        assert_eq!(
            version_line("nginx version: nginx/1.22.1\n").as_deref(),
            Some("nginx version: nginx/1.22.1")
        );
        assert_eq!(version_line("a tool\nof ours\n").as_deref(), Some("a tool"));
        assert_eq!(version_line(""), None);
    }

    #[test]
    fn the_model_name_and_the_load_are_found_or_not() {
        assert_eq!(model_name("processor\t: 0\nmodel name\t: AMD EPYC\n"), Some("AMD EPYC"));
        assert_eq!(model_name("processor\t: 0\n"), None);
        assert_eq!(parse_load("1.52 1.12 0.67 2/101 20392\n"), Some(1.52));
        assert_eq!(parse_load(""), None);
    }

    #[test]
    fn a_day_is_the_one_of_the_calendar() {
        let at = |seconds| utc(std::time::Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(at(1_798_761_599), "2026-12-31T23:59:59Z");
        assert_eq!(at(1_798_761_600), "2027-01-01T00:00:00Z");
    }

    #[test]
    fn a_program_that_does_not_exist_says_unknown() {
        assert_eq!(says(Path::new("/nonexistent/program"), &[]), "unknown");
        assert_eq!(says(Path::new("echo"), &["one\ntwo"]), "one");
    }
}
