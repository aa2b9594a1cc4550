//! Samples to medians, and the same table three times: for a terminal, as Markdown and as JSON.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use offramp_loadgen::machine::Machine;
use serde::Serialize;

/// A whole comparison, with what is needed to repeat it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// When it began, UTC.
    pub date: String,
    /// What was typed.
    pub command: String,
    /// The commit of the source tree.
    pub commit: String,
    /// What the figures are, in sentences.
    pub method: String,
    /// How the comparison itself was built: `release` or `debug`.
    pub profile: &'static str,
    /// Where it was taken.
    pub machine: Machine,
    /// What was compared, and the compiler, each with its version.
    pub versions: Vec<Versioned>,
    /// Samples per terminator and row.
    pub rounds: usize,
    /// One per line of the table.
    pub rows: Vec<RowReport>,
}

/// A program and what it says about its version.
#[derive(Clone, Debug, Serialize)]
pub struct Versioned {
    /// The program.
    pub name: String,
    /// Its version line.
    pub version: String,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct RowReport {
    /// What one unit is.
    pub name: String,
    /// What the figures count.
    pub unit: &'static str,
    /// How many units each sample was divided by, at least.
    pub units_per_sample: u32,
    /// One per terminator, in the order of the columns.
    pub figures: Vec<Figure>,
}

/// What one terminator needs for one unit.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// The terminator's name.
    pub terminator: String,
    /// The middle sample, or the mean of the two in the middle.
    pub median: f64,
    /// The smallest sample.
    pub min: f64,
    /// The largest sample.
    pub max: f64,
    /// The first terminator's median divided by this one's: below one, the first one is better. Absent for
    /// the first.
    pub first_by_this: Option<f64>,
    /// All samples in the order in which they were taken.
    pub samples: Vec<f64>,
}

impl RowReport {
    /// Makes a line of the samples of each terminator; there is at least one sample each.
    #[must_use]
    pub fn new(name: String, unit: &'static str, units: u32, samples: Vec<(String, Vec<f64>)>) -> Self {
        let mut figures: Vec<Figure> = Vec::with_capacity(samples.len());
        for (terminator, samples) in samples {
            let (min, median, max) = spread(&samples);
            let first_by_this = figures.first().map(|first| first.median / median).filter(|r| r.is_finite());
            figures.push(Figure { terminator, median, min, max, first_by_this, samples });
        }
        Self { name, unit, units_per_sample: units, figures }
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.name.clone(), self.unit.to_owned()];
        for figure in &self.figures {
            let Figure { median, min, max, .. } = figure;
            cells.push(format!("{} ({}–{})", rounded(*median), rounded(*min), rounded(*max)));
        }
        let ratios = self.figures.iter().skip(1).map(|figure| figure.first_by_this);
        cells.extend(ratios.map(|ratio| ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))));
        cells
    }
}

impl Report {
    /// For a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let lines = self.lines();
        let widths: Vec<usize> = (0..lines.first().map_or(0, Vec::len))
            .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut out = String::new();
        for line in &lines {
            for (cell, width) in line.iter().zip(&widths) {
                let _ = write!(out, "{cell:<width$}  ");
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        }
        let _ = write!(out, "\n{}", self.circumstances());
        out
    }

    /// For a document.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        for (index, line) in self.lines().iter().enumerate() {
            let _ = writeln!(out, "| {} |", line.join(" | "));
            if index == 0 {
                let _ = writeln!(out, "|{}", " --- |".repeat(line.len()));
            }
        }
        let _ = write!(out, "\n{}", self.circumstances());
        out
    }

    /// Everything, every sample.
    ///
    /// # Errors
    /// A figure is not a number that JSON knows.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// The heading and then a line per row.
    fn lines(&self) -> Vec<Vec<String>> {
        let mut heading = vec!["one".to_owned(), "costs".to_owned()];
        if let Some(row) = self.rows.first() {
            heading.extend(row.figures.iter().map(|figure| figure.terminator.clone()));
            let names: Vec<_> = row.figures.iter().map(|figure| figure.terminator.as_str()).collect();
            heading.extend(names.iter().skip(1).map(|name| format!("{}/{name}", names[0])));
        }
        std::iter::once(heading).chain(self.rows.iter().map(RowReport::cells)).collect()
    }

    fn circumstances(&self) -> String {
        let Machine { cpu, cores, kernel, load } = &self.machine;
        let versions: Vec<_> = self.versions.iter().map(|v| format!("{}: {}", v.name, v.version)).collect();
        format!(
            "Median (smallest–largest) of {rounds} interleaved rounds. {method}\n\n\
             {date} UTC, commit {commit}, {profile} build; \
             {cores} × {cpu}, {kernel}, load average {load:.2} before; {versions}.\n\n    {command}\n",
            rounds = self.rounds,
            method = self.method,
            date = self.date,
            commit = self.commit,
            profile = self.profile,
            versions = versions.join("; "),
            command = self.command,
        )
    }
}

/// What to type to have the same again: this package's `binary` with these arguments.
#[must_use]
pub fn command(binary: &str, arguments: impl Iterator<Item = String>) -> String {
    let profile = if cfg!(debug_assertions) { "" } else { " --release" };
    let mut command = format!("cargo run{profile} -p offramp-bench --bin {binary}");
    for (index, argument) in arguments.enumerate() {
        command.push_str(if index == 0 { " -- " } else { " " });
        if argument.contains(char::is_whitespace) {
            let _ = write!(command, "'{argument}'");
        } else {
            command.push_str(&argument);
        }
    }
    command
}

/// Writes a result into a new file.
///
/// # Errors
/// The file exists, for dated results are never edited; or it cannot be written.
pub fn write(path: &Path, content: &str) -> Result<()> {
    let file = fs::OpenOptions::new().write(true).create_new(true).open(path);
    file.and_then(|mut file| file.write_all(content.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}

/// Smallest, middle and largest.
fn spread(samples: &[f64]) -> (f64, f64, f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else { return (0.0, 0.0, 0.0) };
    let half = sorted.len() / 2;
    let median =
        if sorted.len().is_multiple_of(2) { (sorted[half - 1] + sorted[half]) / 2.0 } else { sorted[half] };
    (*min, median, *max)
}

/// Three digits that mean something.
fn rounded(figure: f64) -> String {
    if figure < 9.995 {
        format!("{figure:.2}")
    } else if figure < 99.95 {
        format!("{figure:.1}")
    } else {
        format!("{figure:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let samples = vec![("a".to_owned(), vec![3.0, 1.0, 2.0]), ("b".to_owned(), vec![400.0, 100.0])];
        Report {
            date: "2026-11-23 22:49".to_owned(),
            command: "compare --quick".to_owned(),
            method: "Of nothing.".to_owned(),
            commit: "abc".to_owned(),
            profile: "release",
            machine: Machine { cpu: "EPYC".to_owned(), cores: 2, kernel: "Linux 6".to_owned(), load: 0.1 },
            versions: vec![Versioned { name: "b".to_owned(), version: "1.2".to_owned() }],
            rounds: 3,
            rows: vec![RowReport::new("connection".to_owned(), "µs of CPU", 10, samples)],
        }
    }

    #[test]
    fn median_and_spread_use_sorted_samples() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (1.0, 2.0, 3.0));
        assert_eq!(spread(&[4.0, 1.0]), (1.0, 2.5, 4.0));
        assert_eq!(spread(&[]), (0.0, 0.0, 0.0));
    }

    #[test]
    fn the_ratio_is_the_first_by_each_other() {
        let figures = &report().rows[0].figures;
        assert_eq!(figures[0].first_by_this, None);
        assert_eq!(figures[1].first_by_this, Some(2.0 / 250.0));
        let zero = vec![("a".to_owned(), vec![1.0]), ("b".to_owned(), vec![0.0])];
        assert_eq!(RowReport::new(String::new(), "", 1, zero).figures[1].first_by_this, None);
    }

    #[test]
    fn json_has_machine_versions_command_and_samples() {
        let json: serde_json::Value = serde_json::from_str(&report().json().unwrap()).unwrap();
        assert_eq!(json["machine"]["cores"], 2);
        assert_eq!(json["versions"][0]["version"], "1.2");
        assert_eq!(json["command"], "compare --quick");
        assert_eq!(json["rows"][0]["figures"][0]["samples"], serde_json::json!([3.0, 1.0, 2.0]));
    }

    #[test]
    fn the_command_can_be_typed_again() {
        let typed = ["--rows", "TLS 1.2"].map(str::to_owned).into_iter();
        assert!(command("compare", typed).ends_with("-p offramp-bench --bin compare -- --rows 'TLS 1.2'"));
        assert!(command("clients", std::iter::empty()).ends_with("--bin clients"));
    }

    #[test]
    fn a_result_that_exists_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("result");
        write(&path, "first").unwrap();
        assert!(write(&path, "second").is_err());
        assert_eq!(fs::read_to_string(path).unwrap(), "first");
    }

    #[test]
    fn markdown_rows_have_as_many_cells_as_the_heading() {
        let markdown = report().markdown();
        let bars: Vec<_> = markdown
            .lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.matches('|').count())
            .collect();
        assert_eq!(bars, [6, 6, 6]);
        assert!(markdown.contains("| connection | µs of CPU | 2.00 (1.00–3.00) | 250 (100–400) | 0.01 |"));
    }
}
