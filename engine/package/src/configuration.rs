//! `offramp.toml(5)`: form and place of each key from the table of options, its explanation from the example.

use anyhow::{Result, ensure};
use clap_mangen::roff::{Inline, bold, italic, roman};
use offramp::config::{ConfigOption, Kind, Scope};

use crate::example::{Entry, Part, entries};
use crate::page::Page;
use crate::programs::CONFIGURATION;

const EXAMPLE: &str = include_str!("../../offramp.example.toml");
const DESCRIPTION: &str = "\
The file that `offramp serve --config FILE` reads. It is written in TOML, with one key per line. A key at \
the top of the file holds for every listener that does not set it. A flag of `offramp serve` wins over the \
same key at the top; a key inside a [[listener]] wins over both. Paths are relative to the directory of \
the file.

`offramp check --config FILE` checks a file without starting. An unknown key, a key in the wrong table and \
a value that is not allowed are errors, which name file and line.";

/// The page.
pub(crate) fn page() -> Result<String> {
    let (introduction, entries) = entries(EXAMPLE);
    for key in ConfigOption::ALL {
        let is_explained = entries.iter().any(|entry| entry.keys.contains(key));
        ensure!(is_explained, "{key}: offramp.example.toml has no line for it: add one, with a comment");
    }
    let mut page = Page::new(CONFIGURATION, "5", "configuration of Offramp, the TLS terminator");
    page.section("SYNOPSIS");
    page.text("`/etc/offramp/offramp.toml`");
    page.section("DESCRIPTION");
    page.text(DESCRIPTION);
    for part in &introduction.parts {
        let Part::Text(text) = part else { continue };
        if let Some((text, _)) = text.split_once(" Operator documentation:") {
            page.text(text);
        }
    }
    let is_in_table =
        |entry: &&Entry| entry.table.is_some() || entry.keys.iter().any(|key| key.name().contains('.'));
    let (in_tables, keys): (Vec<_>, Vec<_>) = entries.iter().partition(is_in_table);
    page.section("KEYS");
    for entry in keys {
        explain(&mut page, entry);
    }
    page.section("TABLES");
    for entry in in_tables {
        explain(&mut page, entry);
    }
    page.files(CONFIGURATION);
    page.see_also(CONFIGURATION, &["offramp", "offramp-serve", "offramp-check", "offramp-ticket-key"]);
    Ok(page.finish())
}

fn explain(page: &mut Page, entry: &Entry) {
    let table = entry.table.iter().map(|table| vec![bold(table)]);
    let terms: Vec<Vec<Inline>> = table.chain(entry.keys.iter().map(term)).collect();
    page.terms(&terms);
    let mut is_first = true;
    for text in forms(&entry.keys) {
        match std::mem::replace(&mut is_first, false) {
            true => page.explanation(&text),
            false => page.more(&text),
        }
    }
    for part in &entry.parts {
        match part {
            Part::Text(text) if is_first => page.explanation(without_flags(text)),
            Part::Text(text) => page.more(without_flags(text)),
            Part::Items(items) => page.inner(items),
            Part::Sample(lines) => page.sample(lines),
        }
        is_first = false;
    }
}

fn term(key: &ConfigOption) -> Vec<Inline> {
    let name = key.name().split_once('.').map_or(key.name(), |(_, name)| name);
    vec![bold(name), roman(" = "), italic(key.description().values)]
}

/// What keys are and where they stand, in a line for all keys of which the same is true.
fn forms(keys: &[ConfigOption]) -> Vec<String> {
    let mut forms: Vec<(String, Vec<&str>)> = Vec::new();
    for key in keys {
        let form = form(*key);
        match forms.iter_mut().find(|(other, _)| *other == form) {
            Some((_, flags)) => flags.push(key.flag()),
            None => forms.push((form, vec![key.flag()])),
        }
    }
    let line = |(form, flags): (String, Vec<&str>)| {
        let flags: Vec<_> = flags.iter().map(|flag| format!("`{flag}`")).collect();
        let noun = if flags.len() == 1 { "Flag" } else { "Flags" };
        format!("{form} {noun}: {}.", flags.join(", "))
    };
    forms.into_iter().map(line).collect()
}

fn form(key: ConfigOption) -> String {
    let kind = match key.description().kind {
        Kind::Text => "String",
        Kind::Path => "String, a path",
        Kind::Number => "Integer",
        Kind::List => "Array of strings",
        Kind::Texts => "String, or array of strings",
    };
    let place = match (key.description().scope, key.name().split_once('.')) {
        (_, Some((table, _))) => format!("in [{table}]"),
        (Scope::Own, None) => "at the top and in each [[listener]], which does not inherit it".to_owned(),
        (Scope::Listener, None) => "at the top and in each [[listener]]".to_owned(),
        (Scope::Pool, None) => "at the top, in each [[listener]] and in each [[pool]]".to_owned(),
        (Scope::Process, None) => "at the top, for the whole process".to_owned(),
    };
    format!("{kind}; {place}.")
}

/// A paragraph without the flags in brackets at its end, which stand above it.
fn without_flags(text: &str) -> &str {
    let is_flag = |word: &str| word.starts_with("--") && !word.contains(' ');
    match text.rsplit_once(" (") {
        Some((before, flags)) if flags.trim_end_matches(')').split(", ").all(is_flag) => before,
        _ => text,
    }
}
