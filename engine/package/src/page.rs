//! A man page in the making: sections, paragraphs, terms.

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use crate::programs::{self, CONFIGURATION};

/// A page; text may have words in backquotes, which become bold.
pub(crate) struct Page(String);

/// Characters of the documents that not every terminal shows.
const REPLACED: [(&str, &str); 5] = [("…", "..."), ("–", "-"), ("×", "x"), ("→", "->"), ("§", "section ")];
/// What the library puts before everything that it renders.
const PREAMBLE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

impl Page {
    /// A page with its heading and its line for `whatis`.
    pub(crate) fn new(name: &str, section: &str, about: &str) -> Self {
        let source = concat!("Offramp ", env!("CARGO_PKG_VERSION"));
        let mut page = Self(PREAMBLE.to_owned());
        page.add(
            Roff::new().control("TH", [&*name.to_uppercase(), section, "\"\"", source, "Offramp Manual"]),
        );
        // Names of options and pages are copied: no word is divided.
        page.add(Roff::new().control("nh", []).control("ad", ["l"]));
        page.section("NAME");
        page.add(Roff::new().text([roman(format!("{name} - {}", about.trim_end_matches('.')))]));
        page
    }

    pub(crate) fn section(&mut self, heading: &str) {
        self.add(Roff::new().control("SH", [heading]));
    }

    /// Paragraphs, which empty lines separate.
    pub(crate) fn text(&mut self, text: &str) {
        for paragraph in text.split("\n\n") {
            self.add(Roff::new().control("PP", []).text([roman(paragraph.replace('\n', " "))]));
        }
    }

    /// Terms that share the explanation behind them.
    pub(crate) fn terms(&mut self, terms: &[Vec<Inline>]) {
        for (index, term) in terms.iter().enumerate() {
            let tag = if index == 0 { "TP" } else { "TQ" };
            self.add(Roff::new().control(tag, []).text(term.clone()));
        }
    }

    /// The explanation directly behind a term.
    pub(crate) fn explanation(&mut self, text: &str) {
        self.add(Roff::new().text([roman(text)]));
    }

    /// A further paragraph of an explanation.
    pub(crate) fn more(&mut self, text: &str) {
        self.add(Roff::new().control("IP", []).text([roman(text)]));
    }

    /// Terms with their explanations.
    pub(crate) fn items(&mut self, items: &[(String, String)]) {
        for (term, text) in items {
            self.terms(&[vec![bold(term)]]);
            self.explanation(text);
        }
    }

    /// The same inside the explanation of another term.
    pub(crate) fn inner(&mut self, items: &[(String, String)]) {
        self.add(Roff::new().control("RS", []));
        self.items(items);
        self.add(Roff::new().control("RE", []));
    }

    /// A line of the synopsis: the command is what stands before the first option or value.
    pub(crate) fn usage(&mut self, usage: &str) {
        let end = [" [", " <", " -"].iter().filter_map(|first| usage.find(first)).min();
        let (command, rest) = usage.split_at(end.unwrap_or(usage.len()));
        self.add(Roff::new().control("PP", []).text([bold(command), roman(rest)]));
    }

    /// The files that a page names, if any.
    pub(crate) fn files(&mut self, page: &str) {
        let files = programs::files(page);
        if !files.is_empty() {
            self.section("FILES");
        }
        for (path, text) in files {
            self.terms(&[vec![italic(*path)]]);
            self.explanation(text);
        }
    }

    /// The other pages.
    pub(crate) fn see_also(&mut self, page: &str, related: &[&str]) {
        self.section("SEE ALSO");
        let mut pages: Vec<_> = related.iter().map(|page| format!("`{page}`(1)")).collect();
        if page != CONFIGURATION && programs::is_configured(page) {
            pages.push(format!("`{CONFIGURATION}`(5)"));
        }
        self.text(&pages.join(", "));
        self.text("The documentation for operators is in `/usr/share/doc/offramp`.");
    }

    /// Lines as they are, inside an explanation.
    pub(crate) fn sample(&mut self, lines: &[String]) {
        self.add(Roff::new().control("IP", []).control("EX", []));
        for line in lines {
            self.add(Roff::new().text([roman(line)]));
        }
        self.add(Roff::new().control("EE", []));
    }

    /// What the library rendered.
    pub(crate) fn rendered(&mut self, roff: &str) {
        self.0.push_str(&roff.replace(PREAMBLE, ""));
    }

    fn add(&mut self, roff: &Roff) {
        self.rendered(&roff.render());
    }

    /// The page for man(1): words in backquotes are bold, and all characters ASCII.
    pub(crate) fn finish(self) -> String {
        let mut text = String::with_capacity(self.0.len());
        for (index, part) in self.0.split('`').enumerate() {
            match index % 2 {
                0 => text.push_str(part),
                _ => text.push_str(&format!("\\fB{part}\\fR")),
            }
        }
        REPLACED.iter().fold(text, |text, (from, to)| text.replace(from, to))
    }
}
