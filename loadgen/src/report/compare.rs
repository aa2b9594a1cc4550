//! Two reports side by side.

use anyhow::{Context, Result, ensure};

use super::table::{aligned, time};
use super::{FORMAT, Report, Run};
use crate::tally::Part;

/// Reads a report that `--json` wrote.
///
/// # Errors
/// It is none, or of another format.
pub fn read(name: &str, json: &str) -> Result<Report> {
    let value: serde_json::Value = serde_json::from_str(json).with_context(|| format!("{name}: no JSON"))?;
    let format = value.get("format").and_then(serde_json::Value::as_u64);
    ensure!(
        format == Some(FORMAT.into()),
        "{name}: not a report of this loadgen (its format is {format:?}, ours is {FORMAT}): \
         write it anew with --json"
    );
    serde_json::from_value(value).with_context(|| format!("{name}: not a report"))
}

/// A table of the first report's figures, the second one's, and their ratio, run by run.
#[must_use]
pub fn table((name_a, a): (&str, &Report), (name_b, b): (&str, &Report)) -> String {
    let mut out = format!("A  {name_a}: {}\nB  {name_b}: {}\n", a.command, b.command);
    let (machine_a, machine_b) = (&a.environment.machine, &b.environment.machine);
    if (&machine_a.cpu, machine_a.cores, &machine_a.kernel)
        != (&machine_b.cpu, machine_b.cores, &machine_b.kernel)
    {
        out += "\nOn different machines: the ratios say little.\n";
    }
    for (a, b) in a.runs.iter().zip(&b.runs) {
        out += &format!("\nA: {} of {}\nB: {} of {}\n\n", a.asked.work, a.target, b.asked.work, b.target);
        out += &aligned(&lines(a, b));
    }
    if a.runs.len() != b.runs.len() {
        out += &format!("\nA has {} run(s), B has {}.\n", a.runs.len(), b.runs.len());
    }
    out
}

fn lines(a: &Run, b: &Run) -> Vec<Vec<String>> {
    let mut lines = vec![["", "A", "B", "B/A"].map(str::to_owned).to_vec()];
    let figure =
        |name: &str, a: f64, b: f64| vec![name.to_owned(), format!("{a:.1}"), format!("{b:.1}"), ratio(a, b)];
    lines.push(figure("handshakes/s", a.handshakes.per_second, b.handshakes.per_second));
    lines.push(figure("handshakes/CPU s", a.handshakes.per_cpu_second, b.handshakes.per_cpu_second));
    if a.data.messages + b.data.messages > 0 {
        lines.push(figure("messages/s", a.data.messages_per_second, b.data.messages_per_second));
        let unanswered = |run: &Run| run.data.messages_unanswered as f64;
        lines.push(figure("unanswered", unanswered(a), unanswered(b)));
    }
    if a.data.megabytes_per_second + b.data.megabytes_per_second > 0.0 {
        lines.push(figure("MB/s", a.data.megabytes_per_second, b.data.megabytes_per_second));
    }
    lines.push(figure("failed", a.connections.failed as f64, b.connections.failed as f64));
    let resumed = |run: &Run| 100.0 * run.handshakes.resumed as f64 / run.handshakes.count.max(1) as f64;
    lines.push(figure("resumed %", resumed(a), resumed(b)));
    for part in Part::ALL {
        let (Some(a), Some(b)) = (a.latency_us.get(part.label()), b.latency_us.get(part.label())) else {
            continue;
        };
        for (name, a, b) in [("p50", a.p50, b.p50), ("p99", a.p99, b.p99), ("p99.9", a.p99_9, b.p99_9)] {
            lines.push(vec![format!("{} {name}", part.label()), time(a), time(b), ratio(a as f64, b as f64)]);
        }
    }
    lines
}

fn ratio(a: f64, b: f64) -> String {
    if a > 0.0 { format!("{:.2}", b / a) } else { "–".to_owned() }
}
