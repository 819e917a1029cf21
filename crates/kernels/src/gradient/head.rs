//! The output head and the logarithm of a softmax in one: rows of hidden states enter, the log-probability of each
//! row's target leaves, and no matrix of rows by vocabulary exists at any time.
//!
//! The derivative of a log-probability by its hidden state is `W[target] - Σ p W`: an attention over the vocabulary. So
//! one walk gives both, and the way back is a factor per row (compare Wijmans et al. 2024, arXiv:2411.09009, who walk
//! twice).

use super::{Matrix, product::COLUMNS};
use crate::{
    isa::Isa,
    lanes,
    linear::float_panel,
    math::{exp, ln, tanh},
    pool::{Parts, Pool},
    twin::twin,
};
use std::ops::Range;

const PANEL: usize = 16;
/// Rows of the vocabulary taken at a time.
const TILE: usize = 128;
/// Rows of hidden states in a task, at most: more of them share the decoding of a tile.
const ROWS: usize = 512;

type Sums = [f32; PANEL];

/// An output head.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// `[vocabulary, width]`
    pub w: Matrix<'a>,
    /// `[vocabulary]`
    pub bias: Option<&'a [f32]>,
    /// Factor on the logits.
    pub scale: f32,
    /// `cap · tanh(logit / cap)`, after the factor.
    pub softcap: Option<f32>,
}

/// What a row of hidden states says of its target.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Natural logarithm of the target's probability.
    pub log_prob: f32,
    /// Logarithm of the sum of exponentials.
    pub lse: f32,
    /// Entropy of the distribution, in nats.
    pub entropy: f32,
    /// Logarithm of the sum of squared probabilities.
    pub collision: f32,
    /// The most probable token, the first among equals.
    pub best: u32,
}

/// Scores of `targets`, one for each row of `hidden`. `direction`, where it is wanted, receives the derivative of each
/// log-probability by its row (`[rows × width]`).
///
/// # Panics
/// When a target is not in the vocabulary or a slice is too short.
pub fn log_probs(
    pool: &Pool,
    isa: Isa,
    head: &Head<'_>,
    hidden: &[f32],
    targets: &[u32],
    direction: Option<&mut [f32]>,
    scores: &mut [Score],
) {
    let (width, rows) = (head.w.cols(), targets.len());
    assert!(hidden.len() >= rows * width && scores.len() == rows, "too few rows");
    assert!(targets.iter().all(|&t| (t as usize) < head.w.rows()), "a target outside the vocabulary");
    let piece = rows.div_ceil(2 * pool.threads()).clamp(32, ROWS);
    let wanted = direction.is_some();
    let (directions, scores) = (Parts::new(direction.unwrap_or_default()), Parts::new(scores));
    pool.run(rows.div_ceil(piece), |i| {
        let rows = i * piece..rows.min((i + 1) * piece);
        let mut walk =
            Walk::new(isa, head, &hidden[rows.start * width..rows.end * width], &targets[rows.clone()], wanted);
        for first in (0..head.w.rows()).step_by(TILE) {
            walk.tile(first..head.w.rows().min(first + TILE));
        }
        #[expect(unsafe_code, reason = "tasks write disjoint rows")]
        // SAFETY: rows belong to one task.
        let (scores, directions) = unsafe {
            let len = if wanted { rows.len() * width } else { 0 };
            (scores.part(rows.start, rows.len()), directions.part(if wanted { rows.start * width } else { 0 }, len))
        };
        walk.end(scores, directions);
    });
}

/// Rows on their walk over the vocabulary.
struct Walk<'a> {
    isa: Isa,
    head: &'a Head<'a>,
    rows: Vec<&'a [f32]>,
    targets: &'a [u32],
    /// Running maximum, sum, sum of weighted logits, sum of squares, best token, logit of the target and slope of its cap.
    max: Vec<f32>,
    total: Vec<f32>,
    weighted: Vec<f32>,
    squares: Vec<f32>,
    best: Vec<(f32, u32)>,
    target: Vec<(f32, f32)>,
    /// `Σ p W` so far, `[panel][row]`; empty where it is not wanted.
    mean: Vec<Sums>,
    logits: Vec<f32>,
    tile: Tile,
}

/// A tile of the vocabulary in numbers.
#[derive(Default)]
struct Tile {
    /// Side by side, `[panel of 16 tokens][width][16]`.
    across: Vec<f32>,
    /// One above the other, `[panel of 16 elements][tokens][16]`.
    along: Vec<f32>,
    row: Vec<f32>,
}

impl Tile {
    fn read(&mut self, w: &Matrix<'_>, tokens: Range<usize>, along: bool) {
        let (width, count) = (w.cols(), tokens.len());
        self.across.clear();
        self.across.resize(count.next_multiple_of(PANEL) * width, 0.0);
        self.along.clear();
        self.along.resize(if along { width.next_multiple_of(PANEL) * count } else { 0 }, 0.0);
        self.row.resize(width, 0.0);
        for (i, token) in tokens.enumerate() {
            for start in (0..width).step_by(COLUMNS) {
                let end = width.min(start + COLUMNS);
                w.read(token, start..end, &mut self.row[start..end]);
            }
            let panel = &mut self.across[i / PANEL * width * PANEL..][..width * PANEL];
            for (to, v) in panel.as_chunks_mut::<PANEL>().0.iter_mut().zip(&self.row) {
                to[i % PANEL] = *v;
            }
            if along {
                for (p, part) in self.row.chunks(PANEL).enumerate() {
                    self.along[(p * count + i) * PANEL..][..part.len()].copy_from_slice(part);
                }
            }
        }
    }

    /// Logits of `rows`, `[row][TILE]`.
    fn logits(&self, isa: Isa, head: &Head<'_>, rows: &[&[f32]], tokens: Range<usize>, out: &mut [f32]) {
        let width = head.w.cols();
        let mut sums = vec![Sums::default(); rows.len()];
        for (p, panel) in self.across.chunks_exact(width * PANEL).enumerate() {
            sums.fill([0.0; PANEL]);
            float_panel(isa, panel, rows, &mut sums);
            for (out, s) in out.chunks_exact_mut(TILE).zip(&sums) {
                out[p * PANEL..(p + 1) * PANEL].copy_from_slice(s);
            }
        }
        for out in out.chunks_exact_mut(TILE).take(rows.len()) {
            shape(isa, &mut out[..tokens.len()], head.bias.map(|b| &b[tokens.clone()]), head.scale, head.softcap);
        }
    }
}

twin! {
    fn shape(x: &mut [f32], bias: Option<&[f32]>, scale: f32, cap: Option<f32>) {
        if let Some(b) = bias {
            x.iter_mut().zip(b).for_each(|(x, b)| *x += b);
        }
        if scale != 1.0 {
            x.iter_mut().for_each(|x| *x *= scale);
        }
        if let Some(cap) = cap {
            x.iter_mut().for_each(|x| *x = cap * tanh(*x / cap));
        }
    }
}

/// Slope of the cap at a capped logit.
#[inline(always)]
fn cap_slope(x: f32, cap: Option<f32>) -> f32 {
    cap.map_or(1.0, |c| 1.0 - (x / c) * (x / c))
}

twin! {
    /// Weights `exp(x - max)`, times the cap's slope, in place; returns `Σ exp`, `Σ exp · x` and `Σ exp²`.
    fn weigh(x: &mut [f32], max: f32, cap: Option<f32>) -> (f32, f32, f32) {
        let (mut sums, mut products) = ([0f32; lanes::LANES], [0f32; lanes::LANES]);
        let mut squares = [0f32; lanes::LANES];
        let mut go = |x: &mut [f32]| {
            for (j, v) in x.iter_mut().enumerate() {
                let e = exp(*v - max);
                sums[j] += e;
                products[j] = e.mul_add(*v, products[j]);
                squares[j] = e.mul_add(e, squares[j]);
                *v = e * cap_slope(*v, cap);
            }
        };
        let (blocks, tail) = x.as_chunks_mut::<{ lanes::LANES }>();
        blocks.iter_mut().for_each(|b| go(b));
        go(tail);
        (lanes::tree(sums), lanes::tree(products), lanes::tree(squares))
    }
}

impl<'a> Walk<'a> {
    fn new(isa: Isa, head: &'a Head<'a>, hidden: &'a [f32], targets: &'a [u32], wanted: bool) -> Walk<'a> {
        let (n, width) = (targets.len(), head.w.cols());
        Walk {
            isa,
            head,
            rows: hidden.chunks_exact(width).collect(),
            targets,
            max: vec![f32::NEG_INFINITY; n],
            total: vec![0.0; n],
            weighted: vec![0.0; n],
            squares: vec![0.0; n],
            best: vec![(f32::NEG_INFINITY, 0); n],
            target: vec![(0.0, 1.0); n],
            mean: vec![Sums::default(); if wanted { width.div_ceil(PANEL) * n } else { 0 }],
            logits: vec![0.0; n * TILE],
            tile: Tile::default(),
        }
    }

    fn tile(&mut self, tokens: Range<usize>) {
        let (n, cap) = (self.rows.len(), self.head.softcap);
        self.tile.read(&self.head.w, tokens.clone(), !self.mean.is_empty());
        self.tile.logits(self.isa, self.head, &self.rows, tokens.clone(), &mut self.logits);
        for (t, x) in self.logits.chunks_exact_mut(TILE).enumerate() {
            let x = &mut x[..tokens.len()];
            let target = self.targets[t] as usize;
            if tokens.contains(&target) {
                let z = x[target - tokens.start];
                self.target[t] = (z, cap_slope(z, cap));
            }
            let top = lanes::max(x);
            if top > self.best[t].0 {
                let at = x.iter().position(|v| *v == top).unwrap_or(0);
                self.best[t] = (top, (tokens.start + at) as u32);
            }
            if top > self.max[t] {
                let factor = if self.max[t] == f32::NEG_INFINITY { 0.0 } else { exp(self.max[t] - top) };
                self.total[t] *= factor;
                self.weighted[t] *= factor;
                self.squares[t] *= factor * factor;
                self.mean.iter_mut().skip(t).step_by(n).for_each(|s| s.iter_mut().for_each(|v| *v *= factor));
                self.max[t] = top;
            }
            let (sum, weighted, squares) = weigh(self.isa, x, self.max[t], cap);
            self.total[t] += sum;
            self.squares[t] += squares;
            self.weighted[t] += weighted;
        }
        if !self.mean.is_empty() {
            let weights: Vec<&[f32]> = self.logits.chunks_exact(TILE).map(|x| &x[..tokens.len()]).collect();
            for (panel, mean) in self.tile.along.chunks_exact(tokens.len() * PANEL).zip(self.mean.chunks_exact_mut(n)) {
                float_panel(self.isa, panel, &weights, mean);
            }
        }
    }

    fn end(mut self, scores: &mut [Score], directions: &mut [f32]) {
        let (n, width) = (self.rows.len(), self.head.w.cols());
        for (t, s) in scores.iter_mut().enumerate() {
            let lse = self.max[t] + ln(self.total[t]);
            let entropy = lse - self.weighted[t] / self.total[t];
            let collision = ln(self.squares[t]) - 2.0 * ln(self.total[t]);
            *s = Score { log_prob: self.target[t].0 - lse, lse, entropy, collision, best: self.best[t].1 };
        }
        self.tile.row.resize(width, 0.0);
        for (t, d) in directions.chunks_exact_mut(width).enumerate() {
            let row = &mut self.tile.row;
            for start in (0..width).step_by(COLUMNS) {
                let end = width.min(start + COLUMNS);
                self.head.w.read(self.targets[t] as usize, start..end, &mut row[start..end]);
            }
            let (slope, share) = (self.target[t].1, 1.0 / self.total[t]);
            for (p, (d, w)) in d.chunks_mut(PANEL).zip(row.chunks(PANEL)).enumerate() {
                for ((d, w), m) in d.iter_mut().zip(w).zip(&self.mean[p * n + t]) {
                    *d = self.head.scale * (slope * w - m * share);
                }
            }
        }
    }
}

/// Adds to the gradients of the head's own weights, given the derivative by each row's log-probability.
///
/// # Panics
/// When a slice is too short.
#[expect(clippy::too_many_arguments, reason = "what the forward walk took and gave")]
pub fn log_probs_weight(
    pool: &Pool,
    isa: Isa,
    head: &Head<'_>,
    hidden: &[f32],
    targets: &[u32],
    scores: &[Score],
    d_values: &[f32],
    dw: Option<&mut [f32]>,
    db: Option<&mut [f32]>,
) {
    let (width, vocabulary, n) = (head.w.cols(), head.w.rows(), targets.len());
    let rows: Vec<&[f32]> = hidden[..n * width].chunks_exact(width).collect();
    let mut packed = vec![0f32; width.next_multiple_of(PANEL) * n];
    for (t, row) in rows.iter().enumerate() {
        for (p, part) in row.chunks(PANEL).enumerate() {
            packed[(p * n + t) * PANEL..][..part.len()].copy_from_slice(part);
        }
    }
    let (with_w, with_b) = (dw.is_some(), db.is_some());
    let (dw, db) = (Parts::new(dw.unwrap_or_default()), Parts::new(db.unwrap_or_default()));
    pool.run(vocabulary.div_ceil(TILE), |i| {
        let tokens = i * TILE..vocabulary.min((i + 1) * TILE);
        let mut tile = Tile::default();
        tile.read(&head.w, tokens.clone(), false);
        // The derivative by each token's logit, row after row.
        let mut slopes = vec![0f32; tokens.len() * n];
        for start in (0..n).step_by(ROWS) {
            let block = start..n.min(start + ROWS);
            let mut logits = vec![0f32; block.len() * TILE];
            tile.logits(isa, head, &rows[block.clone()], tokens.clone(), &mut logits);
            for (t, x) in block.zip(logits.chunks_exact(TILE)) {
                for (v, &z) in x[..tokens.len()].iter().enumerate() {
                    let hit = if targets[t] as usize == tokens.start + v { 1.0 } else { 0.0 };
                    let slope = cap_slope(z, head.softcap) * head.scale * d_values[t];
                    slopes[v * n + t] = (hit - exp(z - scores[t].lse)) * slope;
                }
            }
        }
        let by_token: Vec<&[f32]> = slopes.chunks_exact(n).collect();
        if with_w {
            #[expect(unsafe_code, reason = "tasks write disjoint rows")]
            // SAFETY: rows of the vocabulary belong to one task.
            let dw = unsafe { dw.part(tokens.start * width, tokens.len() * width) };
            let mut sums = vec![Sums::default(); tokens.len()];
            for (p, panel) in packed.chunks_exact(n * PANEL).enumerate() {
                let columns = p * PANEL..width.min((p + 1) * PANEL);
                for (s, row) in sums.iter_mut().zip(dw.chunks_exact(width)) {
                    s[..columns.len()].copy_from_slice(&row[columns.clone()]);
                }
                float_panel(isa, panel, &by_token, &mut sums);
                for (s, row) in sums.iter().zip(dw.chunks_exact_mut(width)) {
                    row[columns.clone()].copy_from_slice(&s[..columns.len()]);
                }
            }
        }
        if with_b {
            #[expect(unsafe_code, reason = "tasks write disjoint rows")]
            // SAFETY: as above.
            let db = unsafe { db.part(tokens.start, tokens.len()) };
            for (d, slopes) in db.iter_mut().zip(&by_token) {
                *d += slopes.iter().sum::<f32>();
            }
        }
    });
}
