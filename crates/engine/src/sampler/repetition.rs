//! What a token pays for having been said before: the repetition, frequency and presence penalties, and DRY.

use super::params::SamplingParams;
use std::collections::HashMap;

/// The last `n` of the history; -1 is all of it.
fn window(history: &[u32], n: i32) -> &[u32] {
    let n = usize::try_from(n).unwrap_or(usize::MAX);
    &history[history.len().saturating_sub(n)..]
}

/// How often each token of the window stands in it; `None` where the penalties are off.
pub(crate) fn counts(params: &SamplingParams, history: &[u32]) -> Option<HashMap<u32, u32>> {
    let off = params.repeat_penalty == 1.0 && params.frequency_penalty == 0.0 && params.presence_penalty == 0.0;
    let window = window(history, params.repeat_last_n);
    if off || window.is_empty() {
        return None;
    }
    let mut counts = HashMap::new();
    for &id in window {
        *counts.entry(id).or_insert(0) += 1;
    }
    Some(counts)
}

/// The logit of a token that stands `count` times in the window. Division by the repetition penalty (Keskar et al.
/// 2019) would favour negative logits, so these are multiplied.
pub(crate) fn penalized(params: &SamplingParams, logit: f32, count: u32) -> f32 {
    let repeated = if logit > 0.0 { logit / params.repeat_penalty } else { logit * params.repeat_penalty };
    repeated - count as f32 * params.frequency_penalty - params.presence_penalty
}

/// DRY penalty of each token that would lengthen a run already in the window: `multiplier · base^(run − allowed)`, where
/// `run` is the longest suffix of the history that stood before the token earlier; `None` where DRY is off.
pub(crate) fn dry(params: &SamplingParams, history: &[u32]) -> Option<HashMap<u32, f32>> {
    let window = window(history, params.dry_penalty_last_n);
    if params.dry_multiplier == 0.0 || window.len() < 2 {
        return None;
    }
    let breakers = &params.dry_sequence_breakers;
    let free = since_breaker(window, breakers);
    let mut runs: HashMap<u32, usize> = HashMap::new();
    for (i, run) in suffix_runs(window).into_iter().enumerate() {
        let next = window[i + 1];
        let run = run.min(free);
        if run >= (params.dry_allowed_length as usize).max(1) && !breakers.iter().any(|b| b[..] == [next]) {
            let longest = runs.entry(next).or_default();
            *longest = run.max(*longest);
        }
    }
    let penalty = |run: usize| {
        let excess = (run - params.dry_allowed_length as usize) as f64;
        (f64::from(params.dry_multiplier) * libm::pow(f64::from(params.dry_base), excess)).min(1e9) as f32
    };
    Some(runs.into_iter().map(|(id, run)| (id, penalty(run))).collect())
}

/// Tokens at the end of the window that no breaker reaches into.
fn since_breaker(window: &[u32], breakers: &[Vec<u32>]) -> usize {
    let ends_in_breaker = |end: usize| breakers.iter().any(|b| window[..end].ends_with(b));
    (1..=window.len()).rev().find(|&end| ends_in_breaker(end)).map_or(window.len(), |end| window.len() - end)
}

/// For each place before the last: how many tokens ending there equal the tokens at the end of the window. (The Z
/// function of the reversed window: linear, where comparing at each place is quadratic on repetitive text.)
fn suffix_runs(window: &[u32]) -> Vec<usize> {
    let n = window.len();
    let reversed = |i: usize| window[n - 1 - i];
    let mut runs = vec![0; n - 1];
    let mut z = vec![0; n];
    let (mut left, mut right) = (0, 0);
    for i in 1..n {
        if i < right {
            z[i] = z[i - left].min(right - i);
        }
        while i + z[i] < n && reversed(z[i]) == reversed(i + z[i]) {
            z[i] += 1;
        }
        if i + z[i] > right {
            (left, right) = (i, i + z[i]);
        }
        runs[n - 1 - i] = z[i];
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn params(breakers: Vec<Vec<u32>>) -> SamplingParams {
        SamplingParams { dry_multiplier: 1.0, dry_base: 2.0, dry_sequence_breakers: breakers, ..Default::default() }
    }

    fn penalties(params: &SamplingParams, history: &[u32]) -> Vec<(u32, f32)> {
        let mut all: Vec<_> = dry(params, history).unwrap().into_iter().collect();
        all.sort_by_key(|&(id, _)| id);
        all
    }

    #[test]
    fn a_longer_repetition_costs_more() {
        // 1 2 3 was followed by 4; after 1 2 3 again, 4 would make a run of three: 1 · 2^(3 − 2).
        assert_eq!(penalties(&params(vec![]), &[1, 2, 3, 4, 9, 1, 2, 3]), [(4, 2.0)]);
        assert_eq!(penalties(&params(vec![]), &[1, 2, 3, 4, 9, 2, 3]), [(4, 1.0)]);
        assert_eq!(penalties(&params(vec![]), &[1, 2, 3, 4, 9, 3]), []);
    }

    #[test]
    fn a_run_does_not_cross_a_breaker() {
        assert_eq!(penalties(&params(vec![vec![2]]), &[1, 2, 3, 4, 9, 1, 2, 3]), []);
        assert_eq!(penalties(&params(vec![vec![1, 2]]), &[0, 1, 2, 3, 5, 4, 9, 0, 1, 2, 3, 5]), [(4, 1.0)]);
        assert_eq!(penalties(&params(vec![vec![4]]), &[1, 2, 3, 4, 9, 1, 2, 3]), []);
    }

    #[test]
    fn looping_text_overflows_nothing() {
        assert_eq!(penalties(&params(vec![]), &[7; 5000]), [(7, 1e9)]);
    }

    proptest! {
        #[test]
        fn runs_are_what_comparing_at_each_place_gives(window in prop::collection::vec(0u32..3, 2..60)) {
            for (i, run) in suffix_runs(&window).into_iter().enumerate() {
                let same = (0..=i).take_while(|&k| window[i - k] == window[window.len() - 1 - k]).count();
                prop_assert_eq!(run, same);
            }
        }
    }
}
