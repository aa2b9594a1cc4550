//! A Rust file, as far as the rules need to understand it: which parts are code, and which code is only for
//! tests.

/// A file's text and its code.
pub(crate) struct Source {
    /// From the root of the repository.
    pub(crate) path: String,
    /// As it stands.
    pub(crate) text: String,
    /// `text` with comments and the insides of literals blanked; line for line the same.
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: blanked(text) }
    }

    /// `code` without the parts under `#[cfg(test)]`, blanked too.
    pub(crate) fn engine_code(&self) -> String {
        if self.is_test() {
            return String::new();
        }
        let mut code = String::new();
        let mut lines = self.code.lines();
        while let Some(line) = lines.next() {
            code.push_str(line);
            code.push('\n');
            if !line.trim_start().starts_with("#[cfg(test)]") {
                continue;
            }
            let end = format!("{}}}", " ".repeat(indent(line)));
            let starts = lines.next().unwrap_or("");
            code.push('\n');
            if starts.trim_end().ends_with('{') {
                for line in lines.by_ref().take_while(|line| *line != end) {
                    code.push_str(&line[..0]);
                    code.push('\n');
                }
                code.push('\n');
            }
        }
        code
    }

    /// Whether the whole file is a test: it stands under a `tests` directory, or is a module's `tests.rs`.
    pub(crate) fn is_test(&self) -> bool {
        self.path.split('/').any(|part| part == "tests" || part == "tests.rs")
    }

    /// "path:line" of a 0-based line.
    pub(crate) fn at(&self, line: usize) -> String {
        format!("{}:{}", self.path, line + 1)
    }
}

/// The spaces that a line starts with.
pub(crate) fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Where `word` stands in `line`, not as a part of a longer identifier.
pub(crate) fn words<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| !line[..*at].ends_with(part) && !line[at + word.len()..].starts_with(part))
}

fn blanked(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let literal = literal_len(rest, code.chars().next_back());
        let (kept, blank) = match literal {
            Some((quotes, len)) => (quotes, len),
            None => (c.len_utf8(), c.len_utf8()),
        };
        code.push_str(&rest[..kept]);
        code.extend(rest[kept..blank].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[blank..];
    }
    code
}

/// If `rest` starts with a comment or a literal: how many bytes of it to keep, and how many it has.
fn literal_len(rest: &str, before: Option<char>) -> Option<(usize, usize)> {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return Some((0, rest.find('\n').unwrap_or(rest.len())));
    }
    if rest.starts_with("/*") {
        return Some((0, rest.find("*/").map_or(rest.len(), |at| at + 2)));
    }
    if let Some(raw) = rest.strip_prefix('r').filter(|_| !in_word || before == Some('b')) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let from = 1 + hashes + 1;
            let len = rest[from..].find(&end).map_or(rest.len(), |at| from + at + end.len());
            return Some((0, len));
        }
    }
    match rest.chars().next()? {
        '"' => Some((0, quoted_len(rest, '"'))),
        // A lifetime is no literal.
        '\'' if rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\'') => {
            Some((0, quoted_len(rest, '\'')))
        }
        _ => None,
    }
}

fn quoted_len(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = "let a = \"unsafe \\\" //\"; // unsafe\nlet b = r#\"x\"unsafe\"#;\n\
                /* unsafe\n */ let c = '\"'; f::<'a>('\\'');";
    let code = Source::new("x.rs", text).code;
    assert!(!code.contains("unsafe"), "{code}");
    assert_eq!(code.lines().count(), text.lines().count());
    assert!(code.contains("let c = ") && code.contains("f::<'a>("), "{code}");
}

#[test]
fn what_is_under_cfg_test_is_no_engine_code() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
    let code = Source::new("engine/src/x.rs", text).engine_code();
    assert!(code.contains("fn a()") && code.contains("fn c()") && !code.contains("fn b()"), "{code}");
    assert_eq!(code.lines().position(|line| line.contains("fn c()")), Some(5), "lines keep their numbers");
    assert_eq!(Source::new("engine/tests/x.rs", text).engine_code(), "");
}

#[test]
fn a_word_is_not_a_part_of_one() {
    assert_eq!(words("unsafe_op unsafe { not_unsafe }", "unsafe").collect::<Vec<_>>(), [10]);
}
