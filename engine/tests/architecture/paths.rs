//! Which modules some code names: the paths that start at the root of the crate, groups taken apart.

/// The paths behind `start` ("crate" or the name of a package), each with its 0-based line: of `crate::a::{b,
/// c::d}` these are `a::b` and `a::c::d`.
pub(crate) fn behind(code: &str, start: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let start = format!("{start}::");
    for (at, _) in code.match_indices(&start) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let line = code[..at].matches('\n').count();
        expand("", &mut Tokens(&code[at + start.len()..]), &mut |path| found.push((line, path)));
    }
    found
}

/// The paths that reach the root of the crate by `super` from a module `depth` levels below it.
pub(crate) fn above(code: &str, depth: usize) -> Vec<(usize, String)> {
    if depth == 0 {
        return Vec::new();
    }
    behind(code, &vec!["super"; depth].join("::"))
}

struct Tokens<'a>(&'a str);

impl<'a> Tokens<'a> {
    fn next_if(&mut self, token: &str) -> bool {
        self.0 = self.0.trim_start();
        let rest = self.0.strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn word(&mut self) -> &'a str {
        self.0 = self.0.trim_start();
        let end = self.0.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }
}

fn expand(before: &str, tokens: &mut Tokens<'_>, found: &mut dyn FnMut(String)) {
    if tokens.next_if("{") {
        while !tokens.next_if("}") && !tokens.0.is_empty() {
            expand(before, tokens, found);
            if tokens.next_if("as ") {
                tokens.word();
            }
            if !tokens.next_if(",") && !tokens.0.trim_start().starts_with('}') {
                return;
            }
        }
        return;
    }
    let word = if tokens.next_if("*") { "*" } else { tokens.word() };
    let path = match (before, word) {
        (_, "self") => before.to_owned(),
        ("", word) => word.to_owned(),
        (before, word) => format!("{before}::{word}"),
    };
    if !word.is_empty() && tokens.next_if("::") {
        expand(&path, tokens, found);
    } else {
        found(path);
    }
}

#[test]
fn groups_are_taken_apart() {
    let paths: Vec<String> = behind("use crate::{a, b::{self, c::D as E, f::*}};\n", "crate")
        .into_iter()
        .map(|(_, path)| path)
        .collect();
    assert_eq!(paths, ["a", "b", "b::c::D", "b::f::*"]);
}

#[test]
fn a_path_in_the_middle_of_code_is_found_with_its_line() {
    let code = "fn x() {\n    crate::sys::ktls::attach();\n    other::crate_::y();\n}\n";
    assert_eq!(behind(code, "crate"), [(1, "sys::ktls::attach".to_owned())]);
}

#[test]
fn super_may_reach_the_root() {
    let code = "use super::super::sys::ring;\nuse super::half;\n";
    assert_eq!(above(code, 2), [(0, "sys::ring".to_owned())]);
    assert_eq!(above(code, 3), []);
}
