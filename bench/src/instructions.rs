//! Instructions of the engine's core, counted by callgrind, and the figures that they are held against.
//!
//! A count is the same for the same program whatever else the machine does, where time is not: so a change
//! that makes the core slower shows here first. It says nothing of caches and of the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::scenario::{Part, Scenario};

/// How much more than the stored figure is too much, in per cent.
pub const RISE_MAX_PERCENT: u64 = 3;
/// The function whose instructions count, those of what it calls among them.
const COUNTED: &str = "--toggle-collect=*counted_step*";

/// Instructions for one unit, by the scenario's name; and what they were counted with.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Counts {
    /// The compiler.
    pub compiler: String,
    /// The counter.
    pub counter: String,
    /// Instructions for one unit.
    pub instructions: BTreeMap<String, u64>,
}

/// What a count is beside the stored one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Too much more: the share by which.
    Risen(f64),
    /// So much less that the stored figure should be lowered.
    Fallen(f64),
    /// Within bounds.
    Within(f64),
    /// There is no stored one.
    New,
}

impl Counts {
    /// Reads stored ones.
    ///
    /// # Errors
    /// There is no such file, or it is none of ours.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Stores them.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// How a count stands beside what is stored here.
    #[must_use]
    pub fn change(&self, name: &str, count: u64) -> Change {
        let Some(&stored) = self.instructions.get(name) else { return Change::New };
        let change = count as f64 / stored as f64 - 1.0;
        if count * 100 > stored * (100 + RISE_MAX_PERCENT) {
            Change::Risen(change)
        } else if count * 100 < stored * (100 - RISE_MAX_PERCENT) {
            Change::Fallen(change)
        } else {
            Change::Within(change)
        }
    }
}

/// Few units and many: the difference is free of what comes before the first.
fn units(scenario: Scenario) -> (u32, u32) {
    match scenario.part {
        Part::Connection { .. } => (4, 36),
        Part::Echo { bytes } if bytes > 4096 => (4, 36),
        Part::Echo { .. } => (50, 450),
    }
}

/// Instructions for one unit of a scenario, by running `program --inside NAME --units N` under callgrind.
///
/// # Errors
/// There is no valgrind, or the scenario failed; the text has what was printed.
pub fn count(program: &Path, scenario: Scenario) -> Result<u64> {
    let (few, many) = units(scenario);
    let (before, after) = (run(program, scenario, few)?, run(program, scenario, many)?);
    ensure!(after > before, "{}: {many} units took no more than {few}", scenario.name());
    Ok((after - before) / u64::from(many - few))
}

fn run(program: &Path, scenario: Scenario, units: u32) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", COUNTED])
        .arg(program)
        .args(["--inside", &scenario.name(), "--units", &units.to_string()])
        .output()
        .context("valgrind cannot be started; try: apt-get install valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{}: {}\n{said}", scenario.name(), output.status);
    }
    collected(&said).with_context(|| format!("{}: no count in\n{said}", scenario.name()))
}

/// The number behind `Collected :`, which callgrind says last.
fn collected(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.split_once("Collected :"))?.1;
    line.trim().parse().ok().filter(|&count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_what_callgrind_collected() {
        assert_eq!(collected("==1== Events    : Ir\n==1== Collected : 12345\n"), Some(12345));
        assert_eq!(collected("==1== Collected : 0\n"), None, "nothing was counted: the function has no name");
        assert_eq!(collected("==1== Events : Ir\n"), None);
    }

    #[test]
    fn three_in_a_hundred_is_the_bound_either_way() {
        let stored = Counts { instructions: [("a".to_owned(), 1000)].into(), ..Counts::default() };
        assert!(matches!(stored.change("a", 1031), Change::Risen(_)));
        assert!(matches!(stored.change("a", 1030), Change::Within(_)));
        assert!(matches!(stored.change("a", 970), Change::Within(_)));
        assert!(matches!(stored.change("a", 969), Change::Fallen(_)));
        assert_eq!(stored.change("b", 1), Change::New);
    }

    #[test]
    fn counts_read_back_and_an_invalid_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counts.json");
        let counts = Counts {
            compiler: "rustc".to_owned(),
            counter: "valgrind".to_owned(),
            instructions: [("a".to_owned(), 7)].into(),
        };
        counts.write(&path).unwrap();
        assert_eq!(Counts::read(&path).unwrap(), counts);
        fs::write(&path, "{}").unwrap();
        assert!(Counts::read(&path).unwrap_err().to_string().contains("counts.json"));
    }
}
