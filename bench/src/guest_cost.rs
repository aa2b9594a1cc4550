//! What is measured in a guest whose clock counts instructions, and the lines in which it comes out of there.
//!
//! A nanosecond of that guest is an instruction, so the terminator's CPU time is the number of instructions
//! that the kernel charged to it: its own, the kernel's on its behalf, and those of whatever interrupted it.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use offramp_core::tls::secrets::Aead;
use offramp_loadgen::backend::Backend;
use offramp_loadgen::identity::Identity;
use offramp_loadgen::plan::Version;
use serde::{Deserialize, Serialize};

use crate::message::{Messages, Way};
use crate::report::RowReport;
use crate::suite::Suite;
use crate::terminator::RECORD_PATHS;
use crate::workload::{Amount, BACKEND_THREADS, Bench, CLIENTS, Row, Work};

/// Message sizes, and how many of each make a sample. What small ones cost is not the AEAD's doing: only the
/// usual one has them.
const SIZES: [(usize, u32); 3] = [(1 << 10, 400), (16 << 10, 100), (64 << 10, 40)];
const LARGE: usize = 16 << 10;
/// What is counted, version by version.
const AEADS: [(Version, &[Aead]); 2] = [
    (Version::Tls13, &[Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::ChaCha20Poly1305]),
    (Version::Tls12, &[Aead::Aes128Gcm, Aead::ChaCha20Poly1305]),
];
/// The kernel's count of connections that it was given the keys of, each way.
const KEYED: [&str; 2] = ["TlsTxSw", "TlsRxSw"];

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub enum Counted {
    /// Instructions for a byte of such messages.
    Messages(Messages),
    /// Instructions for a connection.
    Connection(Row),
}

/// One sample, as it leaves the guest.
#[derive(Debug, Deserialize, Serialize)]
pub struct Sample {
    /// Which line of [`Counted::all`].
    pub row: usize,
    /// Which of [`RECORD_PATHS`].
    pub terminator: usize,
    /// Instructions for one unit.
    pub instructions: f64,
    /// Whether the kernel sealed and opened records of the terminator's connections.
    pub kernel: [bool; 2],
}

impl Counted {
    /// All lines in the order of the table.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for (version, aeads) in AEADS {
            for suite in aeads.iter().map(|&aead| Suite { version, aead }) {
                for way in [Way::ToClient, Way::FromClient] {
                    let sizes = SIZES.map(|(bytes, count)| Messages { suite, way, bytes, count });
                    let wanted = |it: &Messages| suite == Suite::usual(version) || it.bytes >= LARGE;
                    all.extend(sizes.into_iter().filter(wanted).map(Self::Messages));
                }
            }
            let connection = |resumed| Row { work: Work::Connection { resumed }, version };
            all.extend([false, true].map(connection).map(Self::Connection));
        }
        all
    }

    /// As in the table.
    #[must_use]
    pub fn label(self) -> String {
        match self {
            Self::Messages(messages) => messages.label(),
            Self::Connection(row) => row.label(),
        }
    }

    fn suite(self) -> Suite {
        match self {
            Self::Messages(messages) => messages.suite,
            Self::Connection(row) => Suite::usual(row.version),
        }
    }

    /// By how many units a sample is divided.
    #[must_use]
    pub fn units(self) -> u32 {
        match self {
            Self::Messages(messages) => messages.count * u32::try_from(messages.bytes).unwrap_or(u32::MAX),
            Self::Connection(row) => row.count(Amount::COUNTED),
        }
    }

    fn sample(self, bench: &Bench<'_>) -> Result<f64> {
        let us = match self {
            Self::Messages(messages) => messages.sample(bench)? / messages.bytes as f64,
            Self::Connection(row) => bench.sample(row, Amount::COUNTED)?,
        };
        Ok(us * 1e3)
    }
}

/// Inside the guest: takes every sample, round by round, and shows each.
///
/// # Errors
/// A terminator did not start or did not do what was asked.
pub fn take(rounds: usize, show: impl Fn(&Sample) -> Result<()>) -> Result<()> {
    let backend = Backend::start(BACKEND_THREADS)?;
    let identity = Identity::generate()?;
    for _ in 0..rounds {
        for (row, counted) in Counted::all().into_iter().enumerate() {
            for (index, terminator) in RECORD_PATHS.iter().enumerate() {
                let running = terminator.start(&terminator.program(), backend.address(), &identity)?;
                let trusted = &identity.certificate;
                let bench = Bench { terminator: &running, backend: &backend, trusted, clients: CLIENTS };
                let before = keyed()?;
                let instructions = counted.sample(&bench).context(terminator.name)?;
                let after = keyed()?;
                let kernel = [after[0] > before[0], after[1] > before[1]];
                show(&Sample { row, terminator: index, instructions, kernel })?;
            }
        }
    }
    Ok(())
}

fn keyed() -> Result<[u64; 2]> {
    let text = fs::read_to_string("/proc/net/tls_stat").context("this kernel has no TLS")?;
    let counts: BTreeMap<&str, u64> = text
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .filter_map(|(name, count)| Some((name, count.trim().parse().ok()?)))
        .collect();
    let [tx, rx] = KEYED.map(|name| counts.get(name).copied().with_context(|| format!("no {name}")));
    Ok([tx?, rx?])
}

/// The lines of the table, and a sentence that says whose records the kernel really carried.
///
/// # Errors
/// A sample is missing.
pub fn rows(samples: &[Sample], rounds: usize) -> Result<(Vec<RowReport>, String)> {
    let mut rows = Vec::new();
    let mut carried = BTreeMap::new();
    for (index, counted) in Counted::all().into_iter().enumerate() {
        let mut columns = Vec::new();
        for (terminator, entry) in RECORD_PATHS.iter().enumerate() {
            let of_this: Vec<_> =
                samples.iter().filter(|one| (one.row, one.terminator) == (index, terminator)).collect();
            let has = of_this.len();
            ensure!(has == rounds, "{has} samples of {rounds}: {}, {}", counted.label(), entry.name);
            carried.insert((counted.suite().label(), entry.name), of_this[0].kernel);
            columns.push((entry.name.to_owned(), of_this.iter().map(|one| one.instructions).collect()));
        }
        rows.push(RowReport::new(counted.label(), "instructions (icount)", counted.units(), columns));
    }
    Ok((rows, format!("Carried by the kernel, as it counted itself: {}.", ways(&carried))))
}

/// Each terminator with the suites that it gave the kernel in the same ways.
fn ways(carried: &BTreeMap<(String, &str), [bool; 2]>) -> String {
    let mut suites: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for ((suite, name), kernel) in carried {
        let ways = match kernel {
            [true, true] => "tx and rx",
            [true, false] => "tx",
            [false, true] => "rx",
            [false, false] => "neither",
        };
        suites.entry((name, ways)).or_default().push(suite);
    }
    let said = suites.iter().map(|((name, ways), suites)| format!("{name}: {ways} ({})", suites.join(", ")));
    said.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rounds: usize) -> Vec<Sample> {
        let mut all = Vec::new();
        for _ in 0..rounds {
            for row in 0..Counted::all().len() {
                let sample =
                    |terminator| Sample { row, terminator, instructions: 2.5, kernel: [true, false] };
                all.extend((0..RECORD_PATHS.len()).map(sample));
            }
        }
        all
    }

    #[test]
    fn cost_table_is_refused_when_a_sample_is_missing() {
        let mut all = samples(2);
        let (table, carried) = rows(&all, 2).unwrap();
        assert_eq!(table.len(), 28);
        assert!(table.iter().all(|row| row.figures.len() == RECORD_PATHS.len()));
        let suites: std::collections::BTreeSet<_> =
            Counted::all().into_iter().map(|counted| counted.suite().label()).collect();
        let suites = suites.into_iter().collect::<Vec<_>>().join(", ");
        assert!(carried.contains(&format!("offramp kernel: tx ({suites});")), "{carried}");
        all.pop();
        assert!(rows(&all, 2).unwrap_err().to_string().contains("1 samples of 2"));
    }

    #[test]
    fn labels_are_distinct() {
        let labels: Vec<_> = Counted::all().into_iter().map(Counted::label).collect();
        let distinct: std::collections::HashSet<_> = labels.iter().collect();
        assert_eq!(distinct.len(), labels.len());
    }
}
