//! `offramp.example.toml`, taken apart: which keys and tables an explanation belongs to.

use offramp::config::ConfigOption;

/// A comment of the example with the keys, or the table, that it explains.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// What stands in the file: `[[pool]]`, or nothing for keys.
    pub(crate) table: Option<String>,
    /// Options, in the order of the file.
    pub(crate) keys: Vec<ConfigOption>,
    /// The explanation.
    pub(crate) parts: Vec<Part>,
    /// Whether the next line of text begins a paragraph.
    is_between: bool,
}

/// A part of an explanation.
#[derive(Debug, PartialEq)]
pub(crate) enum Part {
    /// A paragraph.
    Text(String),
    /// A list of terms.
    Items(Vec<(String, String)>),
    /// Lines of a configuration.
    Sample(Vec<String>),
}

/// What a line of the file is.
enum Line<'a> {
    Text(&'a str),
    Item(&'a str, &'a str),
    Further(&'a str),
    Sample(&'a str),
    Code(&'a str),
    Nothing,
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Self {
        let Some(comment) = line.strip_prefix('#') else {
            return if line.is_empty() { Self::Nothing } else { Self::Code(line) };
        };
        let comment = comment.strip_prefix(' ').unwrap_or(comment);
        let text = comment.trim_start();
        match comment.len() - text.len() {
            _ if text.is_empty() => Self::Nothing,
            0 => Self::Text(text),
            2 => {
                let (term, rest) = text.split_once(' ').unwrap_or((text, ""));
                Self::Item(term, rest.trim_start())
            }
            4 => Self::Sample(text),
            _ => Self::Further(text),
        }
    }
}

/// The introduction of the file, and its entries.
pub(crate) fn entries(text: &str) -> (Entry, Vec<Entry>) {
    let mut entries: Vec<Entry> = Vec::new();
    let mut prefix = String::new();
    for block in text.split("\n\n") {
        let mut entry = Entry::default();
        for line in block.lines().map(Line::of) {
            if let Line::Code(code) = line
                && let Some(table) = code.strip_prefix('[').and_then(|code| code.strip_suffix(']'))
            {
                prefix = format!("{table}.");
            }
            // Below [timeouts] each key has a comment of its own, without an empty line between them.
            let is_next = matches!(line, Line::Text(_)) && prefix == "timeouts.";
            if is_next && !entry.is_without_subject() {
                entries.push(std::mem::take(&mut entry));
            }
            entry.take(&line, &prefix);
        }
        entries.push(entry);
    }
    let mut entries = entries.into_iter();
    (entries.next().unwrap_or_default(), merged(entries))
}

/// Explanations without a table or key of their own belong to the ones before.
fn merged(entries: impl Iterator<Item = Entry>) -> Vec<Entry> {
    let mut merged: Vec<Entry> = Vec::new();
    for entry in entries {
        let same = |other: &&mut Entry| entry.table.is_some() && other.table == entry.table;
        match merged.iter_mut().find(same) {
            Some(other) => other.parts.extend(entry.parts),
            None => merged.push(entry),
        }
    }
    merged
}

impl Entry {
    fn is_without_subject(&self) -> bool {
        self.table.is_none() && self.keys.is_empty()
    }

    fn take(&mut self, line: &Line<'_>, prefix: &str) {
        match *line {
            Line::Text(text) => match self.parts.last_mut() {
                Some(Part::Text(before)) if !self.is_between => *before = format!("{before} {text}"),
                _ => self.parts.push(Part::Text(text.to_owned())),
            },
            Line::Item(term, text) => {
                let item = (term.to_owned(), text.to_owned());
                match self.parts.last_mut() {
                    Some(Part::Items(items)) => items.push(item),
                    _ => self.parts.push(Part::Items(vec![item])),
                }
            }
            Line::Further(text) => match self.parts.last_mut() {
                Some(Part::Items(items)) => {
                    if let Some((_, before)) = items.last_mut() {
                        *before = format!("{before} {text}");
                    }
                }
                _ => self.parts.push(Part::Text(text.to_owned())),
            },
            Line::Sample(text) => {
                self.sample(text);
                self.subject(text, prefix);
            }
            Line::Code(text) => {
                // The keys of an array of tables have no explanation of their own: they are shown.
                if prefix.starts_with('[') {
                    self.sample(text);
                }
                self.subject(text, prefix);
            }
            Line::Nothing => {}
        }
        self.is_between = matches!(line, Line::Code(_) | Line::Nothing);
    }

    fn sample(&mut self, line: &str) {
        match self.parts.last_mut() {
            Some(Part::Sample(lines)) => lines.push(line.to_owned()),
            _ => self.parts.push(Part::Sample(vec![line.to_owned()])),
        }
    }

    /// A line of a configuration names what the comment explains: of several tables the last, except what is
    /// only an example there.
    fn subject(&mut self, code: &str, prefix: &str) {
        if code.starts_with('[') {
            let is_detail = code == "[[listener.identity]]";
            if self.keys.is_empty() && !is_detail {
                self.table = Some(code.to_owned());
            }
            return;
        }
        let Some((name, _)) = code.split_once(" = ") else { return };
        let name = format!("{prefix}{name}");
        let key = ConfigOption::ALL.iter().find(|key| key.name() == name);
        self.keys.extend(key.filter(|key| !self.keys.contains(key)));
    }
}
