//! The table as a picture: what each terminator needs, beside what the first one does.

use anyhow::{Result, anyhow};
use offramp_loadgen::report::html::COLOURS;
use plotters::prelude::*;

use crate::report::{Report, RowReport};

const WIDTH: u32 = 980;
const LABELS: i32 = 300;
const BAR: i32 = 9;
const GAP: i32 = 12;
const HEAD: i32 = 60;
/// A bar that is longer than so many of the first terminator's is cut, and says so.
const MOST: f64 = 5.0;

/// A bar for each terminator in each row; the length of the first one's is 1.
///
/// # Errors
/// It cannot be drawn.
pub fn svg(report: &Report) -> Result<String> {
    let columns = report.rows.first().map_or(0, |row| row.figures.len());
    let row_height = BAR * i32::try_from(columns)? + GAP;
    let height = HEAD + row_height * i32::try_from(report.rows.len())? + GAP;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, u32::try_from(height)?)).into_drawing_area();
        area.fill(&WHITE).map_err(drawn)?;
        let text = |size: i32| ("sans-serif", size).into_font();
        let title = format!("What one costs, in units of the first ({} UTC)", report.date);
        area.draw(&Text::new(title, (10, 8), text(15))).map_err(drawn)?;
        for (index, figure) in report.rows.first().into_iter().flat_map(|row| &row.figures).enumerate() {
            let x = LABELS + 125 * i32::try_from(index)?;
            area.draw(&Rectangle::new([(x, 34), (x + 10, 44)], colour(index).filled())).map_err(drawn)?;
            area.draw(&Text::new(figure.terminator.clone(), (x + 15, 33), text(13))).map_err(drawn)?;
        }
        for (number, row) in report.rows.iter().enumerate() {
            let top = HEAD + row_height * i32::try_from(number)?;
            area.draw(&Text::new(row.name.clone(), (10, top + 4), text(12))).map_err(drawn)?;
            for (index, length) in lengths(row).into_iter().enumerate() {
                let y = top + BAR * i32::try_from(index)?;
                let room = f64::from(i32::try_from(WIDTH)? - LABELS - 60);
                let x = LABELS + (length.min(MOST) / MOST * room) as i32;
                let bar = Rectangle::new([(LABELS, y), (x, y + BAR - 2)], colour(index).filled());
                area.draw(&bar).map_err(drawn)?;
                let cut = if length > MOST { "…" } else { "" };
                let said = format!("{length:.2}{cut}");
                area.draw(&Text::new(said, (x + 4, y - 2), text(10))).map_err(drawn)?;
            }
        }
        area.present().map_err(drawn)?;
    }
    Ok(svg)
}

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// Each terminator's median by the first one's.
fn lengths(row: &RowReport) -> Vec<f64> {
    let first = row.figures.first().map_or(0.0, |figure| figure.median);
    let length = |median: f64| if first > 0.0 { median / first } else { 0.0 };
    row.figures.iter().map(|figure| length(figure.median)).collect()
}

fn drawn(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("the chart cannot be drawn: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bar_is_the_measure_of_the_others() {
        let samples = vec![("a".to_owned(), vec![2.0]), ("b".to_owned(), vec![5.0])];
        assert_eq!(lengths(&RowReport::new("row".to_owned(), "µs", 1, samples)), [1.0, 2.5]);
        let zero = vec![("a".to_owned(), vec![0.0]), ("b".to_owned(), vec![5.0])];
        assert_eq!(lengths(&RowReport::new("row".to_owned(), "µs", 1, zero)), [0.0, 0.0]);
    }
}
