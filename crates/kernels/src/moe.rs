//! Routing: which experts a row goes to, and with what weights.

use crate::math::sigmoid;
use crate::softmax::softmax_row;
use crate::twin::twin;

/// How logits become weights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Score {
    /// Softmax over all experts: Mixtral, Qwen, OLMoE, DeepSeek V2.
    Softmax,
    /// A sigmoid each: DeepSeek V3, Llama 4 (one expert), AFMoE.
    Sigmoid,
    /// Softmax over the chosen experts: gpt-oss, Granite; equals Mixtral's normalized softmax.
    SoftmaxOfChosen,
}

/// Experts in equal groups, of which only the best few may be chosen from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Groups {
    /// How many groups.
    pub count: usize,
    /// How many of them stay.
    pub keep: usize,
    /// What makes a group good.
    pub by: GroupScore,
}

/// The score of a group of experts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupScore {
    /// Its best expert's (DeepSeek V2, arXiv:2405.04434).
    Best,
    /// The sum of its best two (DeepSeek V3, arXiv:2412.19437).
    BestTwo,
}

/// A router.
#[derive(Clone, Copy, Debug)]
pub struct Router<'a> {
    /// Experts per row.
    pub top_k: usize,
    /// How logits become weights.
    pub score: Score,
    /// Divide the chosen weights by their sum plus this; DeepSeek V3 and AFMoE add 1e-20, others 0.
    pub normalize: Option<f32>,
    /// Factor on the final weights.
    pub scale: f32,
    /// Added to the scores for the choice only (`e_score_correction_bias`), one per expert.
    pub bias: Option<&'a [f32]>,
    /// Limits the choice.
    pub groups: Option<Groups>,
}

impl Router<'_> {
    /// Softmax, normalized over the chosen: Mixtral.
    pub fn softmax(top_k: usize) -> Self {
        Router { top_k, score: Score::Softmax, normalize: Some(0.0), scale: 1.0, bias: None, groups: None }
    }
}

/// The index of the largest of `x`, the first among equals; NaN counts as lowest.
#[inline(always)]
fn best(x: &[f32]) -> usize {
    let mut top = 0;
    for (i, v) in x.iter().enumerate() {
        if *v > x[top] || (x[top].is_nan() && !v.is_nan()) {
            top = i;
        }
    }
    top
}

/// Sets the choice scores of every group but the best `keep` to `-inf`.
#[inline(always)]
fn drop_groups(groups: Groups, choice: &mut [f32]) {
    let size = (choice.len() / groups.count).max(1);
    let mut scores: Vec<f32> = choice
        .chunks_exact(size)
        .map(|group| {
            let first = best(group);
            let second = || {
                let others = group.iter().enumerate().filter(|(i, _)| *i != first);
                others.fold(f32::NEG_INFINITY, |m, (_, v)| if *v > m { *v } else { m })
            };
            if groups.by == GroupScore::BestTwo && size > 1 { group[first] + second() } else { group[first] }
        })
        .collect();
    let mut kept = vec![false; scores.len()];
    for _ in 0..groups.keep.min(scores.len()) {
        let i = best(&scores);
        kept[i] = true;
        scores[i] = f32::NAN;
    }
    for (group, kept) in choice.chunks_exact_mut(size).zip(kept) {
        if !kept {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

twin! {
    /// Routes every row of `logits` (`[rows × n]`): `chosen` and `weights` (`[rows × top_k]`) receive its experts, the
    /// best first, equal ones in order of index.
    ///
    /// # Panics
    /// When `top_k` is 0 or above `n`.
    pub fn route(router: &Router<'_>, logits: &[f32], n: usize, chosen: &mut [u32], weights: &mut [f32]) {
        let k = router.top_k;
        assert!(0 < k && k <= n, "{k} of {n} experts");
        let (mut scores, mut choice) = (vec![0f32; n], vec![0f32; n]);
        let rows = logits.chunks_exact(n).zip(chosen.chunks_exact_mut(k)).zip(weights.chunks_exact_mut(k));
        for ((logits, chosen), weights) in rows {
            scores.copy_from_slice(logits);
            match router.score {
                Score::Softmax => drop(softmax_row(&mut scores)),
                Score::Sigmoid => scores.iter_mut().for_each(|v| *v = sigmoid(*v)),
                Score::SoftmaxOfChosen => {}
            }
            // Scores rise with logits, but rounding makes some equal: without a bias the logits decide.
            let by_score = router.bias.is_some() || router.groups.is_some_and(|g| g.by == GroupScore::BestTwo);
            choice.copy_from_slice(if by_score { &scores } else { logits });
            if let Some(bias) = router.bias {
                choice.iter_mut().zip(bias).for_each(|(c, b)| *c += b);
            }
            if let Some(groups) = router.groups {
                drop_groups(groups, &mut choice);
            }
            for (e, w) in chosen.iter_mut().zip(weights.iter_mut()) {
                let i = best(&choice);
                (*e, *w) = (i as u32, scores[i]);
                choice[i] = f32::NAN;
            }
            if router.score == Score::SoftmaxOfChosen {
                softmax_row(weights);
            }
            if let Some(eps) = router.normalize {
                let inverse = 1.0 / (weights.iter().sum::<f32>() + eps);
                weights.iter_mut().for_each(|w| *w *= inverse);
            }
            if router.scale != 1.0 {
                weights.iter_mut().for_each(|w| *w *= router.scale);
            }
        }
    }
}
