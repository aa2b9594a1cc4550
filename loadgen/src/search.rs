//! The search for the highest rate that a target sustains.

/// Asks for one rate after another: doubles until one is refused, then halves the interval.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    next: f64,
    /// The highest rate that was sustained.
    sustained: Option<f64>,
    /// The lowest one that was not.
    refused: Option<f64>,
}

/// The interval that is left is no more than this share of its lower end.
const PRECISION: f64 = 0.05;
/// A rate below this is none.
const RATE_MIN: f64 = 1.0;

impl Search {
    /// Begins with `rate` connections a second.
    #[must_use]
    pub fn new(rate: f64) -> Self {
        Self { next: rate.max(RATE_MIN), sustained: None, refused: None }
    }

    /// The next rate to try; none when the answer is known.
    #[must_use]
    pub fn next(&self) -> Option<f64> {
        let is_close = match (self.sustained, self.refused) {
            (Some(low), Some(high)) => high - low <= PRECISION * low,
            (None, Some(high)) => high <= RATE_MIN,
            _ => false,
        };
        (!is_close).then_some(self.next)
    }

    /// Says whether the rate that was asked for last was sustained.
    pub fn tell(&mut self, sustained: bool) {
        if sustained {
            self.sustained = Some(self.next);
        } else {
            self.refused = Some(self.next);
        }
        self.next = match (self.sustained, self.refused) {
            (Some(low), Some(high)) => f64::midpoint(low, high),
            (Some(low), None) => low * 2.0,
            (None, Some(high)) => (high / 2.0).max(RATE_MIN),
            (None, None) => self.next,
        };
    }

    /// The highest rate that was sustained.
    #[must_use]
    pub fn answer(&self) -> Option<f64> {
        self.sustained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(start: f64, limit: f64) -> (Option<f64>, usize) {
        let (mut search, mut steps) = (Search::new(start), 0);
        while let Some(rate) = search.next() {
            search.tell(rate <= limit);
            steps += 1;
            assert!(steps < 40, "it must end");
        }
        (search.answer(), steps)
    }

    #[test]
    fn it_finds_the_limit_from_below_and_from_above() {
        for start in [1.0, 100.0, 1e6] {
            let (answer, steps) = search(start, 12_345.0);
            let answer = answer.unwrap();
            assert!(answer <= 12_345.0 && answer > 12_345.0 * 0.94, "{answer} after {steps}");
        }
    }

    #[test]
    fn a_target_that_sustains_nothing_has_no_answer() {
        assert_eq!(search(1000.0, 0.0).0, None);
    }
}
