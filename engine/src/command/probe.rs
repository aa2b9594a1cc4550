//! `offramp probe`: what this host can do, as a table or as JSON.

use std::process::ExitCode;

use crate::sys::probe::{Check, Host, Verdict};

use super::output::{print, print_json};

pub(super) fn probe(json: bool) -> ExitCode {
    let host = Host::probe();
    if !json {
        return print(&table(&host));
    }
    print_json(&host)
}

fn table(host: &Host) -> String {
    let width = host.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = format!("kernel {}\n", host.kernel);
    let mut group = "";
    for check in &host.checks {
        if check.group != group {
            group = check.group;
            text.push_str(&format!("\n{group}\n"));
        }
        text.push_str(&line(check, width));
    }
    text
}

fn line(check: &Check, width: usize) -> String {
    let verdict = match check.verdict {
        Verdict::Ok => "ok",
        Verdict::Degraded => "degraded",
        Verdict::Missing => "MISSING",
        Verdict::Untried => "untried",
    };
    let remedy = check.remedy.as_ref().map_or_else(String::new, |remedy| format!("; try: {remedy}"));
    let line = format!("  {:width$}  {verdict:8}  {}{remedy}", check.name, check.detail);
    format!("{}\n", line.trim_end())
}
