//! The conformance statement: what the 3GPP TLS profile asks for, clause by clause, and what this engine
//! does.
//!
//! `negotiation` and `gateway` are the data; `offramp conformance` prints it, `CONFORMANCE.md` is a copy of
//! that, and a test holds both to it and every test that it names to be there.

mod gateway;
mod negotiation;

use std::fmt::{self, Display, Write};

use serde::Serialize;

/// How binding a requirement is, in the words of 3GPP (TR 21.801).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As required.
    Yes,
    /// Not, and why, or when.
    No(&'static str),
    /// Otherwise than required, and how and why.
    Deviation(&'static str),
}

/// One requirement.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Row {
    /// Its name in this statement; the letter is its section.
    pub id: &'static str,
    /// Where it is demanded.
    pub clause: &'static str,
    /// How binding it is.
    pub level: Level,
    /// How it came to be known.
    pub source: Source,
    /// What is demanded.
    pub requirement: &'static str,
    /// What the engine does.
    pub verdict: Verdict,
    /// The tests that hold it: cargo's target, then the path of the test.
    pub tests: &'static [&'static str],
}

/// A part of the statement.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// The letter that the ids of its rows begin with.
    pub letter: char,
    /// What it is about.
    pub title: &'static str,
    /// Its requirements.
    pub rows: &'static [Row],
}

/// The statement.
pub static SECTIONS: [Section; 5] = [
    Section {
        letter: 'A',
        title: "What the contribution to TS 33.328 Annex M concludes",
        rows: negotiation::CONCLUSIONS,
    },
    Section { letter: 'B', title: "Versions, suites, groups, signatures", rows: negotiation::NEGOTIATION },
    Section { letter: 'C', title: "Certificates", rows: gateway::CERTIFICATION },
    Section { letter: 'D', title: "The media gateway", rows: gateway::MEDIA },
    Section { letter: 'E', title: "Resumption and authentication together", rows: gateway::RESUMPTION },
];

/// Every requirement, in the order of the sections.
#[must_use]
pub fn rows() -> Vec<Row> {
    SECTIONS.iter().flat_map(|section| section.rows).copied().collect()
}

const PLANNED: Verdict = Verdict::No("planned");
const CLIENTS: [&str; 4] = [
    "profile clients::openssl_is_accepted_within_the_profile_and_refused_outside_it",
    "profile clients::gnutls_is_accepted_within_the_profile_and_refused_outside_it",
    "profile clients::nss_is_accepted_within_the_profile_and_refused_outside_it",
    "profile clients::java_is_accepted_within_the_profile_and_refused_outside_it",
];
const FORBIDDEN: &str =
    "profile certificates::keys_and_signatures_that_the_profile_forbids_are_refused_by_clause";
const ALLOWED: &str = "profile certificates::rsa_from_2048_bits_and_ecdsa_on_p256_and_p384_are_taken";
const SERVERS_REFUSED: &str = "profile servers::certificates_outside_the_profile_are_refused";
const CLIENTS_REFUSED: &str =
    "profile certificates::certificates_of_clients_outside_the_profile_are_told_bad_certificate";
const TICKET_CONTENT: &str = "profile tickets::a_ticket_whose_content_does_not_hold_is_not_taken";
const SHARED: &str = "hosts a_ticket_of_one_host_resumes_on_another_as_its_very_first_connection";

const fn row(
    id: &'static str,
    (clause, source): (&'static str, Source),
    level: Level,
    requirement: &'static str,
    verdict: Verdict,
    tests: &'static [&'static str],
) -> Row {
    Row { id, clause, level, source, requirement, verdict, tests }
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
        let mark = match self.source {
            Source::Read => "",
            Source::Cited => " ¹",
            Source::Believed => " ²",
        };
        let tests: Vec<String> = self.tests.iter().map(|test| format!("`{test}`")).collect();
        format!(
            "| {} | {}{mark} | {} | {} | {} | {} |\n",
            self.id,
            self.clause,
            self.level,
            self.requirement,
            self.verdict,
            tests.join(", ")
        )
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
    for Section { letter, title, rows } in &SECTIONS {
        let _ = write!(text, "\n## {letter}. {title}\n\n{TABLE_HEAD}");
        text.extend(rows.iter().map(Row::line));
    }
    text.push_str(FOOT);
    text
}

const HEAD: &str = "\
# Conformance

What the 3GPP TLS profile asks for and what Offramp does. `offramp conformance` prints this (`--json` as
data), and this file is a copy, which a test holds equal; the rows stand in `core/src/tls/conformance/`.

";

const TABLE_HEAD: &str = "\
| id | clause | level | requirement | Offramp | held by |
| --- | --- | --- | --- | --- | --- |
";

const FOOT: &str = "
¹ known from a text that cites the clause · ² recalled, not confirmed in the text

A test is named by its target and path: `profile extensions::x` runs with
`cargo test -p offramp --test profile extensions::x`, `lib tls::x` with `cargo test -p offramp --lib tls::x`,
`loadgen x` with `cargo test -p offramp-loadgen x`.
";
