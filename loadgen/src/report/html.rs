//! One self-contained page for a person to look at.

use std::fmt::Write as _;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{Report, Run};
use crate::tally::Part;

/// The plots' size in pixels.
const SIZE: (u32, u32) = (900, 380);
/// One colour a line; told apart by people who see fewer colours, too (Okabe and Ito).
pub const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
    RGBColor(120, 120, 120),
];
const FONT: &str = "sans-serif";
const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222}\
    pre{background:#f6f6f6;padding:1em;overflow-x:auto}svg{max-width:100%;height:auto}\
    .problem{background:#fde8e8;padding:.4em 1em}.warning{background:#fff5d6;padding:.4em 1em}";

/// One line of a plot.
struct Line<'a> {
    name: &'a str,
    points: Vec<(f64, f64)>,
}

impl Report {
    /// The page.
    ///
    /// # Errors
    /// A plot cannot be drawn.
    pub fn html(&self) -> Result<String> {
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>loadgen</title>\
             <style>{STYLE}</style></head><body>\n<h1>loadgen</h1>\n<p><code>{}</code></p>\n",
            escaped(&self.command)
        );
        for (class, texts) in [("problem", &self.problems), ("warning", &self.warnings)] {
            for text in texts {
                // Writing to a string cannot fail.
                let _ = writeln!(out, "<p class=\"{class}\">{}</p>", escaped(text));
            }
        }
        for run in &self.runs {
            let _ = writeln!(out, "<h2>{}</h2>", escaped(&run.target));
            out += &cdf(run)?;
            out += &tail(run)?;
            out += &rates(run)?;
            out += &latencies(run)?;
        }
        let _ = writeln!(out, "<h2>Figures</h2>\n<pre>{}</pre>\n</body></html>", escaped(&self.table()));
        Ok(out)
    }
}

/// How the latencies of all parts are distributed: what share was not longer than x.
fn cdf(run: &Run) -> Result<String> {
    let lines = parts(run, |(share, us)| (us, share * 100.0));
    let (from, to) = range(&lines, |point| point.0);
    // Infinite and 0 without a point.
    if from >= to {
        return Ok(String::new());
    }
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let chart = builder(&area, "Latency: share of samples not longer than")
            .build_cartesian_2d((from..to).log_scale(), 0.0..100.0)
            .map_err(drawn)?;
        draw(chart, &lines, ("ms", "%"), SeriesLabelPosition::LowerRight)?;
        area.present().map_err(drawn)?;
    }
    Ok(svg)
}

/// The same, so that the slowest ones are seen: what one in so many samples exceeded.
fn tail(run: &Run) -> Result<String> {
    let lines = parts(run, |(share, us)| (1.0 / (1.0 - share).max(TAIL_MIN), us));
    let ((_, most), (from, to)) = (range(&lines, |point| point.0), range(&lines, |point| point.1));
    if from >= to {
        return Ok(String::new());
    }
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let chart = builder(&area, "Latency that one sample in so many exceeds")
            .build_cartesian_2d((1.0..most).log_scale(), (from..to).log_scale())
            .map_err(drawn)?;
        draw(chart, &lines, ("one in", "ms"), SeriesLabelPosition::UpperLeft)?;
        area.present().map_err(drawn)?;
    }
    Ok(svg)
}

/// The longest samples stand at one in 20,000: the distribution is known to one in 10,000.
const TAIL_MIN: f64 = 1.0 / 20_000.0;

/// The distribution of each part, its latency in ms.
fn parts(run: &Run, place: fn((f64, f64)) -> (f64, f64)) -> Vec<Line<'static>> {
    let line = |part: Part| {
        let latency = run.latency_us.get(part.label())?;
        let points = latency.cdf.iter().map(|(share, us)| place((*share, (*us).max(1) as f64 / 1e3)));
        Some(Line { name: part.label(), points: points.collect() })
    };
    Part::ALL.into_iter().filter_map(line).collect()
}

fn range(lines: &[Line<'_>], value: fn(&(f64, f64)) -> f64) -> (f64, f64) {
    let values = || lines.iter().flat_map(|line| line.points.iter().map(value));
    (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max))
}

fn builder<'a, 'b>(
    area: &'a DrawingArea<SVGBackend<'b>, plotters::coord::Shift>,
    caption: &str,
) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder.caption(caption, (FONT, 18)).margin(12).x_label_area_size(40).y_label_area_size(60);
    builder
}

/// What was done second by second.
fn rates(run: &Run) -> Result<String> {
    let line = |name, value: fn(&super::Second) -> u64| Line {
        name,
        points: whole_seconds(run).map(|(at, second)| (at, value(second) as f64)).collect(),
    };
    let mut lines = vec![
        line("started", |second| second.started),
        line("handshakes", |second| second.handshakes),
        line("failed", |second| second.failed),
    ];
    if run.series.iter().any(|second| second.not_resumed > 0) {
        lines.push(line("not resumed", |second| second.not_resumed));
    }
    if run.data.messages > 0 {
        lines.push(line("messages", |second| second.messages));
    }
    if run.data.up_bytes + run.data.down_bytes > 0 && run.data.messages == 0 {
        lines = vec![
            line("MB up", |second| second.up_bytes / 1_000_000),
            line("MB down", |second| second.down_bytes / 1_000_000),
        ];
    }
    over_time(&format!("Per second; counted from {:.1} s on", run.warm_up_seconds), &lines)
}

/// Without the last one, in which the run ended.
fn whole_seconds(run: &Run) -> impl Iterator<Item = (f64, &super::Second)> {
    let whole = run.series.len().saturating_sub(1);
    // A second in which no thread looked at the time is missing: its place is the time, not the number.
    let at = |second: &super::Second| second.unix_ms.saturating_sub(run.began_unix_ms) as f64 / 1e3 + 0.5;
    run.series.iter().take(whole).map(move |second| (at(second), second))
}

fn latencies(run: &Run) -> Result<String> {
    let line = |name, value: fn(&super::Second) -> u64| Line {
        name,
        points: whole_seconds(run)
            .filter(|(_, second)| value(second) > 0)
            .map(|(at, second)| (at, value(second) as f64 / 1e3))
            .collect(),
    };
    let lines = [line("p50", |second| second.p50_us), line("p99", |second| second.p99_us)];
    let ((_, end), (from, to)) = (range(&lines, |point| point.0), range(&lines, |point| point.1));
    if end <= 0.0 || from >= to {
        return Ok(String::new());
    }
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        // Room for the legend above the lines.
        let chart = builder(&area, &format!("Latency ({}) second by second", run.asked.subject))
            .build_cartesian_2d(0.0..end, (from..to * 5.0).log_scale())
            .map_err(drawn)?;
        draw(chart, &lines, ("seconds since the start", "ms"), SeriesLabelPosition::UpperLeft)?;
        area.present().map_err(drawn)?;
    }
    Ok(svg)
}

fn over_time(caption: &str, lines: &[Line<'_>]) -> Result<String> {
    let ((_, end), (_, top)) = (range(lines, |point| point.0), range(lines, |point| point.1));
    if end <= 0.0 || top <= 0.0 {
        return Ok(String::new());
    }
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        // Room for the legend above the lines.
        let chart = builder(&area, caption).build_cartesian_2d(0.0..end, 0.0..top * 1.3).map_err(drawn)?;
        draw(chart, lines, ("seconds since the start", "a second"), SeriesLabelPosition::UpperLeft)?;
        area.present().map_err(drawn)?;
    }
    Ok(svg)
}

fn draw<'a, X, Y>(
    mut chart: ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    lines: &[Line<'_>],
    (x, y): (&str, &str),
    legend: SeriesLabelPosition,
) -> Result<()>
where
    X: Ranged<ValueType = f64> + plotters::coord::ranged1d::ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + plotters::coord::ranged1d::ValueFormatter<f64>,
{
    let mut mesh = chart.configure_mesh();
    let number = |value: &f64| format!("{value}");
    mesh.x_label_formatter(&number).y_label_formatter(&number);
    mesh.x_desc(x).y_desc(y).light_line_style(WHITE).label_style((FONT, 13)).axis_desc_style((FONT, 14));
    mesh.draw().map_err(drawn)?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), style))
            .map_err(drawn)?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(legend)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 13))
        .draw()
        .map_err(drawn)?;
    Ok(())
}

/// The error of a drawing borrows from it.
fn drawn(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a plot cannot be drawn: {error}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::verdict::tests::run_of;
    use super::*;
    use crate::series::Interval;
    use crate::tally::Tally;

    #[test]
    fn each_second_is_plotted_at_its_time_despite_gaps() {
        let seconds: BTreeMap<_, _> = [0, 3, 4].map(|second| (second, Interval::default())).into();
        let run = run_of(Tally::default(), Duration::ZERO, seconds);
        let places: Vec<f64> = whole_seconds(&run).map(|(at, _)| at).collect();
        assert_eq!(places, [0.5, 3.5]);
    }
}
