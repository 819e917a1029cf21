//! What a step costs by its rows: how long a draft is worth its rows, and how much of a prompt delays others little.

/// Weight of what was before, for each new observation.
const MEMORY: f64 = 0.97;
/// Until more is known: what a further row adds to a step of one.
const USUAL_SLOPE: f64 = 0.15;
/// Rows of prompts that a step takes at least, so that a prompt gets on even where its mere presence is dear, as in a
/// step that has to read a long context for it.
const LEAST: usize = 4;

/// A straight line through observations, recent ones first.
#[derive(Debug, Default)]
struct Line {
    weight: f64,
    x: f64,
    y: f64,
    square: f64,
    product: f64,
}

impl Line {
    fn observe(&mut self, x: f64, y: f64) {
        for (sum, new) in [
            (&mut self.weight, 1.0),
            (&mut self.x, x),
            (&mut self.y, y),
            (&mut self.square, x * x),
            (&mut self.product, x * y),
        ] {
            *sum = MEMORY * *sum + new;
        }
    }

    /// Means of both, and the slope, where observations differ enough to show one.
    fn fit(&self) -> Option<(f64, f64, Option<f64>)> {
        if self.weight == 0.0 {
            return None;
        }
        let (x, y) = (self.x / self.weight, self.y / self.weight);
        let spread = self.square / self.weight - x * x;
        Some((x, y, (spread > 0.05).then(|| (self.product / self.weight - x * y) / spread)))
    }
}

/// What steps took, recent ones first.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Seconds by rows, of steps without prompts.
    calm: Line,
    /// Seconds beyond those by rows of prompts, of steps with answers and prompts.
    prompts: Line,
}

impl Pace {
    /// Learns that a step of so many rows of answers, drafts included, and of prompts took so many seconds.
    pub(crate) fn observe(&mut self, answers: usize, prompts: usize, seconds: f64) {
        match (answers, prompts) {
            (0, _) => {}
            (_, 0) => self.calm.observe(answers as f64, seconds),
            _ if self.calm.weight == 0.0 => {}
            _ => self.prompts.observe(prompts as f64, (seconds - self.calm_step(answers)).max(0.0)),
        }
    }

    /// Seconds of a step without rows, and for each row.
    fn line(&self) -> (f64, f64) {
        let Some((rows, time, slope)) = self.calm.fit() else { return (1.0 - USUAL_SLOPE, USUAL_SLOPE) };
        let usual = time * USUAL_SLOPE / (1.0 + USUAL_SLOPE * (rows - 1.0));
        let slope = slope.unwrap_or(usual).clamp(usual / 8.0, time / rows.max(1.0));
        (time - slope * rows, slope)
    }

    /// Seconds of a step of so many rows of answers.
    fn calm_step(&self, rows: usize) -> f64 {
        let (fixed, slope) = self.line();
        fixed + slope * rows as f64
    }

    /// Rows of prompts that may be added to a step of `rows` rows of answers so that it takes at most `factor` times
    /// as long; a few in any case.
    pub(crate) fn extra(&self, rows: usize, factor: f64) -> usize {
        let allowed = (factor - 1.0) * self.calm_step(rows);
        let (fixed, slope) = match self.prompts.fit() {
            None => (0.0, self.line().1),
            // A line through the origin, until the slope is seen; no slope is steeper, for no step is free.
            Some((rows, time, slope)) => {
                let steepest = time / rows;
                let slope = slope.unwrap_or(steepest).clamp(steepest / 8.0, steepest);
                (time - slope * rows, slope)
            }
        };
        // A cast of what is no number or too large has the nearest value that there is.
        (((allowed - fixed) / slope) as usize).max(LEAST)
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
        let mut pace = Pace::default();
        for rows in [1, 4, 1, 2, 8, 1].into_iter().cycle().take(600) {
            pace.observe(rows, 0, 0.010 + 0.001 * rows as f64);
        }
        let (fixed, slope) = pace.line();
        assert!((fixed - 0.010).abs() < 1e-6 && (slope - 0.001).abs() < 1e-6, "{fixed} {slope}");
        assert_eq!(pace.length(1, 0.0, 0.0, 8), 0);
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
        let mut pace = Pace::default();
        (0..1000).for_each(|i| pace.observe(1, 0, 0.010 + f64::from(i % 3) * 1e-4));
        let (_, slope) = pace.line();
        assert!((slope / 0.0101 - USUAL_SLOPE).abs() < 0.01, "{slope}");
    }

    /// A step with a prompt has a price of its own besides its rows'; a long one before answers began says nothing.
    #[test]
    fn prompts_delay_answers_as_far_as_they_may() {
        for own in [0.0, 0.004, 0.008] {
            let mut pace = Pace::default();
            pace.observe(0, 100, 0.110);
            (0..20).for_each(|_| pace.observe(1, 0, 0.012));
            for step in 0..100 {
                let rows = pace.extra(1, 2.0);
                let seconds = 0.012 + own + 0.0005 * rows as f64;
                assert!(step < 10 || seconds <= 0.0241, "step {step} of {rows} rows took {seconds}");
                assert!(step < 60 || seconds > 0.0225, "step {step} of {rows} rows took only {seconds}");
                pace.observe(1, rows, seconds);
            }
        }
    }

    #[test]
    fn a_prompt_gets_on_where_it_is_dear() {
        let mut pace = Pace::default();
        (0..20).for_each(|_| pace.observe(1, 0, 0.012));
        (0..20).for_each(|i| pace.observe(1, 8 + i % 2, 0.040 + 0.001 * i as f64));
        assert_eq!(pace.extra(1, 2.0), LEAST);
    }
}
