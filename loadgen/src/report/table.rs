//! The table that a run ends with.

use std::fmt::Write as _;

use super::{Latency, Report, Run, is_about_handshakes};
use crate::tally::Part;

/// Cells in columns: names to the left, figures to the right.
#[must_use]
pub fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut out = String::new();
    for line in lines {
        let start = out.len();
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            // Writing to a string cannot fail.
            let _ =
                if column == 0 { write!(out, "{cell:<width$}  ") } else { write!(out, "{cell:>width$}  ") };
        }
        out.truncate(start + out[start..].trim_end().len());
        out.push('\n');
    }
    out
}

/// A time in µs as people read it.
#[must_use]
pub fn time(us: u64) -> String {
    match us {
        0..1000 => format!("{us} µs"),
        1000..10_000_000 => format!("{:.2} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// Never rounded up to all: 100 % means every one.
#[must_use]
pub fn percent(share: f64) -> String {
    format!("{:.1} %", (share * 1000.0).floor() / 10.0)
}

impl Report {
    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out: String = self.runs.iter().map(table).collect();
        let machine = &self.environment.machine;
        let _ = write!(
            out,
            "\nloadgen {}, rustls {}; {} × {}, {}, load average {:.2} before\n",
            self.environment.loadgen,
            self.environment.rustls,
            machine.cores,
            machine.cpu,
            machine.kernel,
            machine.load,
        );
        out
    }
}

fn table(run: &Run) -> String {
    let mut out = format!(
        "\n{}: {} for {:.1} s (after {:.1} s of warm-up), from {}\n\n",
        run.target, run.asked.work, run.seconds, run.warm_up_seconds, run.began
    );
    let heading =
        ["latency", "count", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"].map(str::to_owned);
    let mut lines = vec![heading.to_vec()];
    for part in Part::ALL {
        if let Some(latency) = run.latency_us.get(part.label()) {
            lines.push(latency_cells(part.label(), latency));
        }
    }
    out += &aligned(&lines);
    out.push('\n');
    let connections = &run.connections;
    let _ = writeln!(
        out,
        "connections  {} started, {} done, {} failed",
        connections.started, connections.done, connections.failed
    );
    out += &handshake_lines(run);
    if !is_about_handshakes(run) {
        let data = &run.data;
        let _ = writeln!(
            out,
            "data         {} bytes up, {} down, all verified: {:.1} MB/s",
            data.up_bytes, data.down_bytes, data.megabytes_per_second
        );
        if data.messages + data.messages_unanswered > 0 {
            let _ = writeln!(
                out,
                "messages     {}: {:.1}/s; {} were due and never answered",
                data.messages, data.messages_per_second, data.messages_unanswered
            );
        }
    }
    for (status, count) in &run.http_statuses {
        let _ = writeln!(out, "http status  {count} × {status}");
    }
    for (reason, count) in &run.failures {
        let _ = writeln!(out, "failed       {count} × {reason}");
    }
    let generator = &run.generator;
    let _ = writeln!(
        out,
        "generator    {} thread(s), {:.2} s of CPU time, {} of what they could have",
        generator.threads,
        generator.cpu_seconds,
        percent(generator.cpu_share)
    );
    out
}

fn handshake_lines(run: &Run) -> String {
    let handshakes = &run.handshakes;
    let mut out = String::new();
    if is_about_handshakes(run) {
        let _ = writeln!(
            out,
            "handshakes   {}: {:.1}/s, {:.1} per CPU second of the generator",
            handshakes.count, handshakes.per_second, handshakes.per_cpu_second
        );
    }
    let _ = writeln!(
        out,
        "kinds        {} full, {} resumed, {} full with HelloRetryRequest; {} TLS 1.2, {} TLS 1.3; \
         {} as asked",
        handshakes.full,
        handshakes.resumed,
        handshakes.hello_retry,
        handshakes.tls12,
        handshakes.tls13,
        percent(handshakes.as_asked as f64 / handshakes.count.max(1) as f64),
    );
    if handshakes.foreign_tickets_offered > 0 {
        let _ = writeln!(
            out,
            "tickets      {} handshakes offered one of an earlier target, {} of these were resumed",
            handshakes.foreign_tickets_offered, handshakes.foreign_tickets_resumed
        );
    }
    for (suite, count) in &handshakes.suites {
        let _ = writeln!(out, "suite        {count} × {suite}");
    }
    out
}

fn latency_cells(name: &str, latency: &Latency) -> Vec<String> {
    let Latency { count, mean, p50, p90, p99, p99_9, p99_99, max, .. } = latency;
    let mut cells = vec![name.to_owned(), count.to_string(), time(mean.round() as u64)];
    cells.extend([p50, p90, p99, p99_9, p99_99, max].map(|us| time(*us)));
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_times_readable() {
        let lines = [vec!["a".to_owned(), "1 µs".to_owned()], vec!["long".to_owned(), "22 µs".to_owned()]];
        assert_eq!(aligned(&lines), "a      1 µs\nlong  22 µs\n");
        assert_eq!([999, 1000, 10_000_000].map(time), ["999 µs", "1.00 ms", "10.00 s"]);
        assert_eq!(percent(0.9999), "99.9 %");
    }
}
