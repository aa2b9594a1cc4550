//! The conformance statement: what the 3GPP TLS profile asks for, clause by clause, and what this engine
//! does.
//!
//! `conformance.toml` has the rows; `offramp conformance` prints them, `CONFORMANCE.md` is a copy of that. A
//! test holds the copy to it, and every test that it names to be there.

use std::fmt::{self, Display, Write};

use serde::{Deserialize, Serialize};

/// How binding a requirement is, in the words of 3GPP (TR 21.801).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// It is required.
    Shall,
    /// It is forbidden.
    ShallNot,
    /// It is recommended.
    Should,
    /// It is allowed.
    May,
    /// The text concludes or observes.
    Note,
}

/// How the requirement came to be known here: the texts are not all at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Read in the text that is named.
    Read,
    /// Read in a text that cites the clause.
    Cited,
    /// Recalled and not confirmed.
    Believed,
}

/// What the engine does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As required.
    Yes,
    /// Not, and why, or when.
    No(String),
    /// Otherwise than required, and how and why.
    Deviation(String),
}

/// One requirement.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its name in this statement; the letter is its section.
    pub id: String,
    /// Where it is demanded.
    pub clause: String,
    /// How binding it is.
    pub level: Level,
    /// How it came to be known.
    pub source: Source,
    /// What is demanded.
    pub requirement: String,
    /// What the engine does.
    pub verdict: Verdict,
    /// The tests that hold it: cargo's target, then the path of the test.
    pub tests: Vec<String>,
}

/// A part of the statement.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// The letter that the ids of its rows begin with.
    pub letter: char,
    /// What it is about.
    pub title: String,
    /// Its requirements.
    #[serde(rename = "row")]
    pub rows: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    section: Vec<Section>,
}

/// The statement.
///
/// # Panics
/// It is a part of the program, which the tests read: it cannot be malformed.
#[must_use]
pub fn sections() -> Vec<Section> {
    let statement: Statement =
        toml::from_str(include_str!("../conformance.toml")).expect("the tests read it");
    statement.section
}

/// Every requirement, in the order of the sections.
#[must_use]
pub fn rows() -> Vec<Row> {
    sections().into_iter().flat_map(|section| section.rows).collect()
}

impl Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shall => "shall",
            Self::ShallNot => "shall not",
            Self::Should => "should",
            Self::May => "may",
            Self::Note => "note",
        })
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("yes"),
            Self::No(why) => write!(f, "**no**: {why}"),
            Self::Deviation(how) => write!(f, "**deviation**: {how}"),
        }
    }
}

impl Row {
    fn line(&self) -> String {
        let Self { id, clause, level, source, requirement, verdict, tests } = self;
        let mark = match source {
            Source::Read => "",
            Source::Cited => " ¹",
            Source::Believed => " ²",
        };
        let tests: Vec<String> = tests.iter().map(|test| format!("`{test}`")).collect();
        format!("| {id} | {clause}{mark} | {level} | {requirement} | {verdict} | {} |\n", tests.join(", "))
    }
}

/// The statement as Markdown.
#[must_use]
pub fn markdown() -> String {
    let rows = rows();
    let count = |which: fn(&Verdict) -> bool| rows.iter().filter(|row| which(&row.verdict)).count();
    let mut text = String::from(HEAD);
    let _ = writeln!(
        text,
        "{} requirements: {} yes, {} deviations, {} no.",
        rows.len(),
        count(|verdict| *verdict == Verdict::Yes),
        count(|verdict| matches!(verdict, Verdict::Deviation(_))),
        count(|verdict| matches!(verdict, Verdict::No(_)))
    );
    for Section { letter, title, rows } in sections() {
        let _ = write!(text, "\n## {letter}. {title}\n\n{TABLE_HEAD}");
        text.extend(rows.iter().map(Row::line));
    }
    text.push_str(FOOT);
    text
}

const HEAD: &str = "\
# Conformance

What the 3GPP TLS profile asks for and what Offramp does. `offramp conformance` prints this (`--json` as
data), and this file is a copy, which a test holds equal; the rows stand in `conformance.toml`.

";

const TABLE_HEAD: &str = "\
| id | clause | level | requirement | Offramp | held by |
| --- | --- | --- | --- | --- | --- |
";

const FOOT: &str = "
¹ known from a text that cites the clause · ² recalled, not confirmed in the text

A test is named by its target and path: `profile extensions::x` runs with
`cargo test -p offramp --test profile extensions::x`, `lib tls::x` with
`cargo test -p offramp-core -p offramp --lib tls::x`, `loadgen x` with `cargo test -p offramp-loadgen x`.
";
