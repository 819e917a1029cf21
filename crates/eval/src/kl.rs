//! Kullback-Leibler divergence of a model from a reference, over the tokens of a text, with what llama.cpp tells
//! beside it: both perplexities, how much the probability of the right token changed, how often both favour the same.

use crate::{
    Error, Estimate, LogitsReader, Percentiles, Progress, Scorer, Windows,
    logits_file::{log_probs, record_bytes},
    rows::{Softmax, each_row},
    statistics::covariance,
};
use allod_kernels::{
    isa::{Isa, Job},
    math,
    pool::Pool,
};
use serde::Serialize;
use std::{borrow::Cow, ops::ControlFlow};

/// What a model is compared with.
pub enum Base<'a, 'b> {
    /// Saved predictions.
    File(&'a mut LogitsReader),
    /// A model that runs beside it; nothing is rounded.
    Model(&'a mut Scorer<'b>),
    /// What [`predictions`] gave.
    Logits(&'a Predictions),
}

/// The logits of every prediction that counts, window by window.
pub struct Predictions {
    windows: Vec<Vec<f32>>,
    width: usize,
}

/// Keeps what a model predicts, to compare others with it.
///
/// # Errors
/// [`Error`].
pub fn predictions(scorer: &mut Scorer<'_>, tokens: &[u32], windows: &Windows) -> Result<Predictions, Error> {
    let mut all = vec![Vec::new(); windows.count];
    for (i, logits) in all.iter_mut().enumerate() {
        windows.run(i, scorer, tokens, |_: &Pool, rows, _, _| {
            logits.extend_from_slice(rows);
            Ok(())
        })?;
    }
    Ok(Predictions { windows: all, width: scorer.vocabulary() })
}

/// How far a model strays from its reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Perplexity of the model.
    pub perplexity: Estimate,
    /// Perplexity of the reference.
    pub base_perplexity: Estimate,
    /// Correlation of the two log-likelihoods.
    pub correlation: f64,
    /// `ln` of the perplexities' ratio.
    pub ln_ratio: Estimate,
    /// Their ratio, model over reference.
    pub ratio: Estimate,
    /// Their difference, model less reference.
    pub difference: Estimate,
    /// `Σ p_base ln(p_base / p)` of a prediction, in nats: the mean.
    pub kl: Estimate,
    /// How the divergence is spread.
    pub kl_percentiles: Percentiles,
    /// Change of the right token's probability: the mean.
    pub delta_p: Estimate,
    /// Its root mean square.
    pub delta_p_rms: Estimate,
    /// How it is spread.
    pub delta_p_percentiles: Percentiles,
    /// Share of predictions where both favour the same token.
    pub same_top: Estimate,
    /// Predictions compared.
    pub tokens: usize,
    /// Windows that were run.
    pub windows: usize,
}

/// One prediction.
#[derive(Clone, Copy, Debug)]
struct Row {
    nll: f64,
    base_nll: f64,
    kl: f64,
    delta_p: f64,
    same_top: bool,
}

/// The windows of saved predictions. `bos` as in [`Windows`].
pub fn reference_windows(file: &LogitsReader, bos: Option<u32>) -> Windows {
    let (context, count) = (file.context, file.count);
    Windows { context, step: context, first: context / 2, count, bos }
}

/// Compares a model with a reference over the windows of a text.
///
/// # Errors
/// [`Error`].
pub fn kl(
    scorer: &mut Scorer<'_>,
    base: &mut Base<'_, '_>,
    tokens: &[u32],
    windows: &Windows,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Divergence, Error> {
    let (found, expected) = (scorer.vocabulary(), base.vocabulary());
    if found != expected {
        return Err(Error::Vocabulary { expected, found });
    }
    let (mut rows, mut sum) = (Vec::new(), 0.0);
    windows.for_each(0, progress, |i| {
        let mut reference = base.window(i, tokens, windows)?;
        windows.run(i, scorer, tokens, |pool, logits, next, at| {
            let before = reference.rows(at, next.len())?;
            let position = windows.range(i).start + windows.first + at;
            let found = each_row(pool, next.len(), |r| {
                let row = &logits[r * found..(r + 1) * found];
                compare(&before, r, row, next[r] as usize, position + r)
            });
            for row in found {
                let row = row?;
                sum += row.kl;
                rows.push(row);
            }
            Ok(())
        })?;
        Ok(sum / rows.len().max(1) as f64)
    })?;
    Ok(Divergence::of(&rows, windows.count))
}

/// A window's predictions by the reference.
enum Reference<'a> {
    File(&'a mut LogitsReader),
    /// Logits of the whole window.
    Model {
        logits: Cow<'a, [f32]>,
        width: usize,
    },
}

/// Some of them.
enum Before<'a> {
    Records { bytes: Vec<u8>, vocabulary: usize },
    Logits { logits: &'a [f32], width: usize },
}

impl Base<'_, '_> {
    fn vocabulary(&self) -> usize {
        match self {
            Base::File(f) => f.vocabulary,
            Base::Model(m) => m.vocabulary(),
            Base::Logits(p) => p.width,
        }
    }

    fn window(&mut self, i: usize, tokens: &[u32], windows: &Windows) -> Result<Reference<'_>, Error> {
        Ok(match self {
            Base::File(f) => Reference::File(f),
            Base::Logits(p) => Reference::Model { logits: (&p.windows[i][..]).into(), width: p.width },
            Base::Model(m) => {
                let (mut logits, width) = (Vec::new(), m.vocabulary());
                windows.run(i, m, tokens, |_: &Pool, rows, _, _| {
                    logits.extend_from_slice(rows);
                    Ok(())
                })?;
                Reference::Model { logits: logits.into(), width }
            }
        })
    }
}

impl Reference<'_> {
    fn rows(&mut self, first: usize, count: usize) -> Result<Before<'_>, Error> {
        Ok(match self {
            Reference::File(f) => Before::Records { bytes: f.records(count)?, vocabulary: f.vocabulary },
            Reference::Model { logits, width } => {
                Before::Logits { logits: &logits[first * *width..(first + count) * *width], width: *width }
            }
        })
    }
}

impl Before<'_> {
    /// Log-probabilities of row `r`.
    fn log_probs(&self, r: usize, position: usize) -> Result<Vec<f32>, Error> {
        match self {
            Before::Records { bytes, vocabulary } => {
                let mut out = vec![0.0; *vocabulary];
                let size = record_bytes(*vocabulary);
                log_probs(&bytes[r * size..(r + 1) * size], &mut out);
                Ok(out)
            }
            Before::Logits { logits, width } => {
                let row = &logits[r * width..(r + 1) * width];
                let s = Softmax::of(row, position)?;
                let log_sum = s.log_sum as f32;
                Ok(row.iter().map(|v| v - s.max - log_sum).collect())
            }
        }
    }
}

fn compare(before: &Before<'_>, r: usize, logits: &[f32], token: usize, position: usize) -> Result<Row, Error> {
    let base = before.log_probs(r, position)?;
    let softmax = Softmax::of(logits, position)?;
    let (kl, most) = Isa::best().run(Sum { base: &base, logits, shift: softmax.max + softmax.log_sum as f32 });
    let favourite = base.iter().position(|&v| v == most).unwrap_or(0);
    let (nll, base_nll) = (softmax.nll(logits[token]), -f64::from(base[token]));
    let delta_p = libm::exp(-nll) - libm::exp(-base_nll);
    Ok(Row { nll, base_nll, kl, delta_p, same_top: favourite == softmax.at })
}

const LANES: usize = 8;
/// Ids that the reference thinks less likely than `e` to the power of this are left out, as in llama.cpp.
const UNLIKELY: f32 = -16.0;

/// `Σ p (ln p - ln q)` and the greatest `ln p`.
struct Sum<'a> {
    base: &'a [f32],
    logits: &'a [f32],
    /// What is taken from logits to make them log-probabilities.
    shift: f32,
}

impl Job for Sum<'_> {
    type Out = (f64, f32);

    #[inline(always)]
    fn run(self) -> Self::Out {
        let (mut sums, mut most) = ([0f64; LANES], [f32::NEG_INFINITY; LANES]);
        let mut one = |l: usize, p: f32, q: f32| {
            let term = math::exp(p) * (p - q + self.shift);
            sums[l] += f64::from(if p > UNLIKELY { term } else { 0.0 });
            most[l] = if p > most[l] { p } else { most[l] };
        };
        let (p, q) = (self.base.as_chunks::<LANES>(), self.logits.as_chunks::<LANES>());
        for (p, q) in p.0.iter().zip(q.0) {
            for l in 0..LANES {
                one(l, p[l], q[l]);
            }
        }
        for (l, (p, q)) in p.1.iter().zip(q.1).enumerate() {
            one(l, *p, *q);
        }
        (sums.iter().sum(), most.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m }))
    }
}

impl Divergence {
    fn of(rows: &[Row], windows: usize) -> Divergence {
        let column = |of: fn(&Row) -> f64| rows.iter().map(of).collect::<Vec<f64>>();
        let mean = |of: fn(&Row) -> f64| Estimate::mean(rows.iter().map(of));
        let (nll, base) = (mean(|r| r.nll), mean(|r| r.base_nll));
        let common = covariance(&column(|r| r.nll), &column(|r| r.base_nll));
        let spread = |a: f64, b: f64, common: f64| libm::sqrt((a * a + b * b - 2.0 * common).max(0.0));
        let (perplexity, base_perplexity) = (nll.exp(), base.exp());
        let both = perplexity.value * base_perplexity.value * common;
        let ln_ratio = Estimate { value: nll.value - base.value, error: spread(nll.error, base.error, common) };
        let errors = nll.error * base.error;
        let squares = mean(|r| r.delta_p * r.delta_p);
        let rms = libm::sqrt(squares.value);
        Divergence {
            correlation: if errors > 0.0 { common / errors } else { 1.0 },
            ln_ratio,
            ratio: ln_ratio.exp(),
            difference: Estimate {
                value: perplexity.value - base_perplexity.value,
                error: spread(perplexity.error, base_perplexity.error, both),
            },
            perplexity,
            base_perplexity,
            kl: mean(|r| r.kl),
            kl_percentiles: Percentiles::of(rows.iter().map(|r| r.kl)),
            delta_p: mean(|r| r.delta_p),
            delta_p_rms: Estimate { value: rms, error: if rms > 0.0 { 0.5 / rms * squares.error } else { 0.0 } },
            delta_p_percentiles: Percentiles::of(rows.iter().map(|r| r.delta_p)),
            same_top: Estimate::share(rows.iter().filter(|r| r.same_top).count(), rows.len()),
            tokens: rows.len(),
            windows,
        }
    }
}
