//! What a step costs by its rows, and so how long a draft is worth its rows.

/// Weight of what was before, for each new observation.
const MEMORY: f64 = 0.97;
/// Until more is known: what a further row adds to a step of one.
const USUAL_SLOPE: f64 = 0.15;

/// A straight line through times of steps by rows, recent ones first.
#[derive(Debug)]
pub(crate) struct Pace {
    weight: f64,
    rows: f64,
    time: f64,
    square: f64,
    product: f64,
}

impl Pace {
    pub(crate) fn new() -> Pace {
        Pace { weight: 0.0, rows: 0.0, time: 0.0, square: 0.0, product: 0.0 }
    }

    /// Learns that a step of so many rows took so many seconds.
    pub(crate) fn observe(&mut self, rows: usize, seconds: f64) {
        let rows = rows as f64;
        for (sum, new) in [
            (&mut self.weight, 1.0),
            (&mut self.rows, rows),
            (&mut self.time, seconds),
            (&mut self.square, rows * rows),
            (&mut self.product, rows * seconds),
        ] {
            *sum = MEMORY * *sum + new;
        }
    }

    /// Seconds of a step without rows, and for each row.
    fn line(&self) -> (f64, f64) {
        if self.weight == 0.0 {
            return (1.0 - USUAL_SLOPE, USUAL_SLOPE);
        }
        let (rows, time) = (self.rows / self.weight, self.time / self.weight);
        let spread = self.square / self.weight - rows * rows;
        let usual = time * USUAL_SLOPE / (1.0 + USUAL_SLOPE * (rows - 1.0));
        // With steps of one size only, there is no slope to be seen.
        let slope = if spread > 0.05 { (self.product / self.weight - rows * time) / spread } else { usual };
        let slope = slope.clamp(usual / 8.0, time / rows.max(1.0));
        (time - slope * rows, slope)
    }

    /// Rows that may be added to a step of `rows` rows so that it takes at most `factor` times as long; at least one.
    pub(crate) fn extra(&self, rows: usize, factor: f64) -> usize {
        let (fixed, slope) = self.line();
        let extra = (factor - 1.0) * (fixed + slope * rows as f64) / slope;
        // A cast of what is no number or too large has the nearest value that there is.
        (extra as usize).max(1)
    }

    /// How many tokens to draft, up to `longest`, for one sequence of a step of `rows` rows, if each is right with the
    /// chance `right` and takes `each` seconds to find. The most tokens a second decide.
    pub(crate) fn length(&self, rows: usize, right: f64, each: f64, longest: usize) -> usize {
        let (fixed, slope) = self.line();
        let (mut best, mut best_rate) = (0, 0.0);
        let (mut expected, mut chance) = (0.0, 1.0);
        for length in 0..=longest {
            expected += chance;
            chance *= right;
            let tokens = rows as f64 - 1.0 + expected;
            let rate = tokens / (fixed + slope * (rows + length) as f64 + each * length as f64);
            if rate > best_rate {
                (best, best_rate) = (length, rate);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_are_long_where_rows_are_cheap_and_right() {
        let mut pace = Pace::new();
        for rows in [1, 4, 1, 2, 8, 1].into_iter().cycle().take(600) {
            pace.observe(rows, 0.010 + 0.001 * rows as f64);
        }
        let (fixed, slope) = pace.line();
        assert!((fixed - 0.010).abs() < 1e-6 && (slope - 0.001).abs() < 1e-6, "{fixed} {slope}");
        assert_eq!(pace.length(1, 0.0, 0.0, 8), 0);
        assert_eq!((pace.extra(1, 2.1), pace.extra(10, 2.1), pace.extra(10, 0.5)), (12, 22, 1));
        assert_eq!(pace.length(1, 1.0, 0.0, 8), 8);
        // The last token that pays: 1.7 / 12 ms before it, 0.7² more for 1 ms.
        assert!((2..6).contains(&pace.length(1, 0.7, 0.0, 8)));
        assert!(pace.length(1, 0.7, 0.005, 8) < pace.length(1, 0.7, 0.0, 8), "finding them costs as well");
        assert_eq!(pace.length(1, 0.9, 0.02, 8), 0);
        // In a full step each row pays for itself already.
        assert_eq!(pace.length(64, 0.5, 0.0, 8), 0);
    }

    #[test]
    fn steps_of_one_size_say_nothing_about_slope() {
        let mut pace = Pace::new();
        (0..1000).for_each(|i| pace.observe(1, 0.010 + f64::from(i % 3) * 1e-4));
        let (_, slope) = pace.line();
        assert!((slope / 0.0101 - USUAL_SLOPE).abs() < 0.01, "{slope}");
    }
}
