//! The rules: each from a file to the violations in it, worded so that the line tells what to do.

use crate::paths::{above, behind};
use crate::source::{Source, indent, words};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARS_MAX: usize = 110;

const TOP_LEVEL: [&str; 8] =
    ["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "engine", "bench", "loadgen", "tuning"];

/// Who may use whom: a path allows itself and everything below it. Every module may use itself.
const USES: [(&str, &[&str]); 14] = [
    ("buf", &[]),
    ("files", &[]),
    ("config", &["files"]),
    ("metrics", &[]),
    ("log", &["metrics"]),
    ("sys", &["buf"]),
    ("tls", &["config", "buf", "files"]),
    ("conn", &["tls", "buf", "config::limits"]),
    ("upstream", &["config"]),
    ("worker", &["conn", "sys", "buf", "upstream", "metrics", "config", "tls::Terms", "tls::secrets"]),
    ("sim", &["conn", "tls", "buf", "config"]),
    ("command", &["config", "tls", "sys", "files"]),
    ("admin", &["config", "metrics", "sys", "buf", "upstream", "tls", "conn", "worker"]),
    (
        "supervisor",
        &["config", "metrics", "log", "sys", "buf", "upstream", "tls", "conn", "worker", "admin", "files"],
    ),
];

/// Of the engine, the load generator may use these; a loader must not share the bug it looks for. Files are
/// opened in one way everywhere.
const LOADGEN_USES: &[&str] = &["sys", "buf", "files"];

/// The load generator's demo starts the engine as well.
const LOADGEN_DEMO_USES: &[&str] = &["sys", "buf", "files", "supervisor", "config", "metrics"];

/// A word, and where alone it may stand: a path or a directory.
const PACKAGES: [(&str, &[&str]); 12] = [
    ("tokio_uring", &["engine/src/admin.rs"]),
    ("io_uring", &["engine/src/sys/", "loadgen/"]),
    ("socket2", &["engine/src/sys/", "loadgen/", "bench/"]),
    ("ktls_sys", &["engine/src/sys/ktls.rs"]),
    ("CryptoInfo", &["engine/src/sys/ktls.rs"]),
    ("rustls", &["engine/src/tls/", "engine/src/sim/", "loadgen/", "bench/"]),
    ("rustls_pki_types", &["engine/src/tls/", "engine/src/files/pem.rs", "loadgen/", "bench/"]),
    ("UnbufferedServerConnection", SESSION),
    ("UnbufferedClientConnection", SESSION),
    ("ConnectionState", SESSION),
    // The peer of a sim's world may be a server.
    ("ServerConnection", &["engine/src/tls/session.rs", "engine/src/sim/", "loadgen/", "bench/"]),
    ("KernelConnection", SESSION),
];

const SESSION: &[&str] = &["engine/src/tls/session.rs", "loadgen/", "bench/"];

/// Visible names at the top of the repository that nobody asked for, and those that are missing.
pub(crate) fn strangers_at_the_top(names: &[String]) -> Vec<String> {
    let known =
        |name: &String| name.starts_with('.') || name == "target" || TOP_LEVEL.contains(&name.as_str());
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

/// `unsafe` outside `sys`, or without its reason.
pub(crate) fn unsafety(source: &Source) -> Vec<String> {
    let mut violations = Vec::new();
    let texts: Vec<&str> = source.text.lines().collect();
    for (number, line) in source.code.lines().enumerate() {
        let Some(at) = words(line, "unsafe").next() else { continue };
        if !source.path.starts_with("engine/src/sys/") {
            violations.push(format!("{}: unsafe outside engine/src/sys", source.at(number)));
        } else if line[at..].starts_with("unsafe {") && !says_why(&texts[..number]) {
            violations
                .push(format!("{}: unsafe without a SAFETY comment above its statement", source.at(number)));
        }
    }
    violations
}

/// Whether the comment above the statement that `above` ends in the middle of, or before, has a SAFETY.
fn says_why(above: &[&str]) -> bool {
    let comment = |line: &&&str| line.trim_start().starts_with("//");
    let ends =
        |line: &&&str| comment(line) || line.trim().is_empty() || line.trim_end().ends_with([';', '{', '}']);
    let statement = above.iter().rev().take_while(|line| !ends(line)).count();
    let mut comments = above[..above.len() - statement].iter().rev().take_while(comment);
    comments.any(|line| line.contains("SAFETY:"))
}

/// Uses of a module by one that may not.
pub(crate) fn forbidden_uses(source: &Source) -> Vec<String> {
    let code = source.engine_code();
    if let Some(within) = source.path.strip_prefix("loadgen/src/") {
        let demo = within == "demo.rs" || within.starts_with("demo/");
        let allowed = if demo { LOADGEN_DEMO_USES } else { LOADGEN_USES };
        return forbidden(source, "loadgen", allowed, behind(&code, "offramp"));
    }
    let Some(within) = source.path.strip_prefix("engine/src/") else { return Vec::new() };
    let modules: Vec<&str> =
        within.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").collect();
    if modules == ["main"] || modules == ["lib"] {
        return Vec::new();
    }
    let Some((module, allowed)) = USES.iter().find(|(module, _)| *module == modules[0]) else {
        return vec![format!("{}: a module that the table of who may use whom does not have", source.path)];
    };
    let mut paths = behind(&code, "crate");
    paths.extend(above(&code, modules.len()));
    forbidden(source, module, allowed, paths)
}

fn forbidden(source: &Source, module: &str, allowed: &[&str], paths: Vec<(usize, String)>) -> Vec<String> {
    let covers = |allowed: &str, path: &str| {
        path.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let refused = paths
        .into_iter()
        .filter(|(_, path)| !covers(module, path) && !allowed.iter().any(|allowed| covers(allowed, path)));
    refused.map(|(line, path)| format!("{}: {module} may not use {path}", source.at(line))).collect()
}

/// Packages named where they do not belong.
pub(crate) fn misplaced_packages(source: &Source) -> Vec<String> {
    let mut violations = Vec::new();
    for (number, line) in source.engine_code().lines().enumerate() {
        for (word, places) in PACKAGES {
            if words(line, word).next().is_some()
                && !places.iter().any(|place| source.path.starts_with(place))
            {
                violations.push(format!(
                    "{}: {word} may be named only in {}",
                    source.at(number),
                    places.join(", ")
                ));
            }
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
    fn a_stranger_at_the_top_is_seen_and_so_is_what_is_missing() {
        let mut names: Vec<String> = TOP_LEVEL.iter().map(|name| (*name).to_owned()).collect();
        names.extend([".ci".to_owned(), "target".to_owned()]);
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
    fn unsafe_is_seen_where_it_must_not_be_and_where_it_says_nothing() {
        let bare = "fn f() {\n    g();\n    unsafe { h() }\n}\n";
        assert!(
            said(unsafety, "engine/src/conn/mod.rs", bare)
                .starts_with("engine/src/conn/mod.rs:3: unsafe outside")
        );
        assert!(said(unsafety, "engine/src/sys/x.rs", bare).contains(":3: unsafe without a SAFETY"));
        let said_far = "// SAFETY: of another.\ng();\nunsafe { h() }\n";
        assert!(said(unsafety, "engine/src/sys/x.rs", said_far).contains(":3: unsafe without"));
        let good = "// SAFETY: h asks for\n// nothing.\nlet a =\n    unsafe { h() };\n";
        assert_eq!(said(unsafety, "engine/src/sys/x.rs", good), "");
        assert_eq!(said(unsafety, "engine/src/lib.rs", "#![forbid(unsafe_op_in_unsafe_fn)] // unsafe\n"), "");
    }

    #[test]
    fn a_use_that_is_not_in_the_table_is_seen() {
        let seen = [
            ("engine/src/conn/accept.rs", "use crate::{buf::Buf, sys::ring};", "conn may not use sys::ring"),
            ("engine/src/conn/mod.rs", "use crate::config::Config;", "conn may not use config::Config"),
            ("engine/src/conn/mod.rs", "use super::metrics;", "conn may not use metrics"),
            ("engine/src/conn/relay/half.rs", "use super::super::super::worker;", "conn may not use worker"),
            (
                "engine/src/worker/apply.rs",
                "fn f() { crate::tls::session::open() }",
                "worker may not use tls::session",
            ),
            ("engine/src/metrics.rs", "use crate::buf;", "metrics may not use buf"),
            ("engine/src/novel.rs", "", "a module that the table"),
            ("loadgen/src/runner.rs", "use offramp::conn::Conn;", "loadgen may not use conn::Conn"),
            ("loadgen/src/main.rs", "use offramp::supervisor;", "loadgen may not use supervisor"),
        ];
        for (path, text, expected) in seen {
            let said = said(forbidden_uses, path, text);
            assert!(said.contains(expected), "{path}: {text}: {said}");
        }
        let allowed = [
            ("engine/src/conn/mod.rs", "use crate::config::limits::Timeouts;\nuse crate::conn::event;"),
            ("engine/src/worker/mod.rs", "use crate::tls::{Terms, secrets::TrafficKeys};"),
            ("engine/src/conn/mod.rs", "#[cfg(test)]\nmod tests {\n    use crate::sys;\n}\n"),
            ("engine/src/main.rs", "use crate::sys;"),
            ("loadgen/src/demo.rs", "use offramp::supervisor::Engine;"),
        ];
        for (path, text) in allowed {
            assert_eq!(said(forbidden_uses, path, text), "", "{path}: {text}");
        }
    }

    #[test]
    fn a_package_in_the_wrong_place_is_seen() {
        let seen = [
            ("engine/src/supervisor/mod.rs", "tokio_uring::spawn(x);"),
            ("engine/src/worker/mod.rs", "use rustls::ServerConfig;"),
            ("engine/src/tls/tickets.rs", "use rustls::server::UnbufferedServerConnection;"),
            ("engine/src/worker/mod.rs", "use ktls::CryptoInfo;"),
            ("engine/src/worker/mod.rs", "use io_uring::IoUring;"),
        ];
        for (path, text) in seen {
            assert!(said(misplaced_packages, path, text).contains("may be named only in"), "{path}: {text}");
        }
        assert_eq!(
            said(
                misplaced_packages,
                "engine/src/tls/session.rs",
                "rustls::server::UnbufferedServerConnection"
            ),
            ""
        );
        assert_eq!(
            said(misplaced_packages, "engine/src/conn/mod.rs", "// rustls and tokio_uring in words\n"),
            ""
        );
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
