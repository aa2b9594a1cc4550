//! The rules: each from a file to the violations in it, worded so that the line tells what to do.

use crate::source::{Source, indent, words};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARS_MAX: usize = 110;

const TOP_LEVEL: [&str; 9] = [
    "Cargo.toml",
    "Cargo.lock",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "engine",
    "bench",
    "loadgen",
    "tuning",
];

/// What may be at the top level as well.
const OPTIONAL: [&str; 2] = ["CONTRIBUTING.md", "SECURITY.md"];

/// Visible names at the top of the repository that nobody asked for, and those that are missing.
pub(crate) fn strangers_at_the_top(names: &[String]) -> Vec<String> {
    let listed = |name: &str| TOP_LEVEL.contains(&name) || OPTIONAL.contains(&name);
    let known = |name: &String| name.starts_with('.') || name == "target" || listed(name);
    let strangers =
        names.iter().filter(|name| !known(name)).map(|name| format!("{name} does not belong there"));
    // What tunes the host comes last: until then its directory may be missing.
    let wanted = TOP_LEVEL.iter().filter(|name| **name != "tuning");
    let missing = wanted.filter(|name| !names.iter().any(|found| found == *name));
    strangers.chain(missing.map(|name| format!("{name} is missing"))).collect()
}

/// Files, functions and lines that are too long.
pub(crate) fn sizes(source: &Source) -> Vec<String> {
    let mut violations = Vec::new();
    let lines: Vec<&str> = source.code.lines().collect();
    if lines.len() > FILE_LINES_MAX {
        violations.push(format!("{}: {} lines; at most {FILE_LINES_MAX}", source.path, lines.len()));
    }
    for (number, line) in source.text.lines().enumerate() {
        let chars = line.chars().count();
        if chars > LINE_CHARS_MAX {
            violations.push(format!("{}: {chars} characters; at most {LINE_CHARS_MAX}", source.at(number)));
        }
    }
    for (number, line) in lines.iter().enumerate() {
        let length = if is_function(line) { body_lines(&lines[number..]) } else { 0 };
        if length > FUNCTION_LINES_MAX {
            violations.push(format!(
                "{}: a function of {length} lines; at most {FUNCTION_LINES_MAX}",
                source.at(number)
            ));
        }
    }
    violations
}

/// Whether a function starts in this line, as rustfmt sets it.
fn is_function(line: &str) -> bool {
    let modifiers = |before: &str| {
        before.split_whitespace().all(|word| {
            ["pub", "const", "async", "unsafe", "extern", "in"].contains(&word) || word.starts_with("pub(")
        })
    };
    words(line, "fn").next().is_some_and(|at| modifiers(&line[..at]))
}

/// The lines between the braces of the function that starts in the first of `lines`.
fn body_lines(lines: &[&str]) -> usize {
    let end = format!("{}}}", " ".repeat(indent(lines[0])));
    let opens = lines.iter().position(|line| line.trim_end().ends_with(['{', ';', '}']));
    let Some(opens) = opens.filter(|at| lines[*at].trim_end().ends_with('{')) else { return 0 };
    lines[opens + 1..].iter().position(|line| *line == end).unwrap_or(lines.len())
}

/// Code of the engine that the load generator uses outside its demo, which starts the engine: a generator
/// must not share the bug that it looks for. That it uses nothing of the core, cargo says.
pub(crate) fn shared_code(source: &Source) -> Vec<String> {
    let Some(within) = source.path.strip_prefix("loadgen/src/") else { return Vec::new() };
    let is_demo = within.starts_with("demo/");
    let mut violations = Vec::new();
    for (number, line) in source.engine_code().lines().enumerate() {
        for at in words(line, "offramp").filter(|_| !is_demo) {
            violations.push(format!("{}: the load generator may not use {}", source.at(number), &line[at..]));
        }
    }
    violations
}

/// Notes to do something later, and `unwrap` where no test is.
pub(crate) fn leftovers(source: &Source) -> Vec<String> {
    let mut violations = Vec::new();
    // Taken apart, or this file would break its own rule.
    let notes = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["X", "XX"].concat()];
    for (number, line) in source.text.lines().enumerate() {
        for note in notes.iter().filter(|note| words(line, note).next().is_some()) {
            violations.push(format!("{}: {note}: do it, or open an issue", source.at(number)));
        }
    }
    for (number, line) in source.engine_code().lines().enumerate() {
        if line.contains(".unwrap()") {
            violations.push(format!(
                "{}: unwrap outside a test: handle it, or expect with the invariant",
                source.at(number)
            ));
        }
    }
    violations
}

/// Names of hosts of the world, a package registry's above all: programs ask nobody whom the machine's own
/// configuration does not name. Names that are reserved for examples (RFC 2606) are none, nor is the one of
/// an XML namespace.
pub(crate) fn hosts(source: &Source) -> Vec<String> {
    const RESERVED: [&str; 3] = [".test", ".example", ".invalid"];
    let mut violations = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        for behind in line.split("://").skip(1) {
            let end = behind.find(|c: char| !c.is_ascii_alphanumeric() && !".-".contains(c));
            let host = behind[..end.unwrap_or(behind.len())].trim_end_matches('.');
            let is_name = host.contains('.') && host.contains(|c: char| c.is_ascii_alphabetic());
            if is_name && !RESERVED.iter().any(|end| host.ends_with(end)) && host != "www.w3.org" {
                let at = source.at(number);
                violations.push(format!("{at}: the host name {host}: take it from outside"));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a rule says about a file.
    fn said(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> String {
        rule(&Source::new(path, text)).join("\n")
    }

    #[test]
    fn unknown_and_missing_top_level_files_are_found() {
        let mut names: Vec<String> = TOP_LEVEL.iter().map(|name| (*name).to_owned()).collect();
        names.extend([".ci", "target", "SECURITY.md"].map(str::to_owned));
        assert_eq!(strangers_at_the_top(&names), [""; 0]);
        names.push("scripts".to_owned());
        names.retain(|name| name != "LICENSE");
        assert_eq!(strangers_at_the_top(&names), ["scripts does not belong there", "LICENSE is missing"]);
    }

    #[test]
    fn what_is_too_long_is_seen() {
        assert!(said(sizes, "x.rs", &"\n".repeat(501)).starts_with("x.rs: 501 lines"));
        assert_eq!(said(sizes, "x.rs", &"\n".repeat(500)), "");
        let line = format!("// {}", "é".repeat(108));
        assert_eq!(said(sizes, "x.rs", &line), "x.rs:1: 111 characters; at most 110");
        for start in ["pub(super) async fn f() {", "    fn f(\n        a: A,\n    ) -> B {"] {
            let end = format!("{}}}", " ".repeat(indent(start)));
            let long = format!("{start}\n{}{end}\n", "        g();\n".repeat(71));
            assert!(said(sizes, "x.rs", &long).contains("x.rs:1: a function of 71 lines"), "{start}");
            let short = format!("{start}\n{}{end}\n", "        g();\n".repeat(70));
            assert_eq!(said(sizes, "x.rs", &short), "");
        }
    }

    #[test]
    fn shared_code_is_seen_outside_the_demo() {
        let seen = [
            ("loadgen/src/runner/mod.rs", "use offramp::conn::Conn;"),
            ("loadgen/src/main.rs", "use offramp::supervisor::Engine;"),
        ];
        for (path, text) in seen {
            assert!(said(shared_code, path, text).contains("may not use offramp"), "{path}: {text}");
        }
        let allowed = [
            (
                "loadgen/src/profiles.rs",
                "use offramp_files::{self as files, pem};\nuse offramp_ring::ring::Ring;",
            ),
            ("loadgen/src/demo/mod.rs", "use offramp::supervisor::Engine;"),
            ("loadgen/tests/demo.rs", "use offramp::supervisor::Engine;"),
            ("bench/src/scenario.rs", "use offramp_core::conn::Conn;"),
        ];
        for (path, text) in allowed {
            assert_eq!(said(shared_code, path, text), "", "{path}: {text}");
        }
    }

    #[test]
    fn a_host_of_the_world_is_seen() {
        let url = |host: &str| ["https:/", "/", host].concat();
        let seen = said(hosts, "bench/x.rs", &format!("get(\"{}\");", url("packages.site.org/x")));
        assert_eq!(seen, "bench/x.rs:1: the host name packages.site.org: take it from outside");
        for host in ["a.test/x", "b.example", "127.0.0.1:1", "{address}/x", "localhost", "www.w3.org/svg"] {
            assert_eq!(said(hosts, "bench/x.rs", &url(host)), "", "{host}");
        }
    }

    #[test]
    fn what_is_left_undone_is_seen() {
        let note = ["// TO", "DO: later"].concat();
        assert!(said(leftovers, "engine/tests/x.rs", &note).contains("do it, or open an issue"));
        assert!(
            said(leftovers, "engine/src/x.rs", "fn f() {\n    g().unwrap();\n}\n").contains("x.rs:2: unwrap")
        );
        assert_eq!(
            said(leftovers, "engine/src/x.rs", "#[cfg(test)]\nmod tests {\n    g().unwrap();\n}\n"),
            ""
        );
        assert_eq!(said(leftovers, "engine/tests/x.rs", "fn f() {\n    g().unwrap();\n}\n"), "");
    }
}
