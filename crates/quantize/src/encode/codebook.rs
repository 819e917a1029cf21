//! Groups of values as rows of a codebook under scales: the search that IQ1, IQ2 and IQ3 share.
//!
//! For a group with values `x` and weights `w`, row `g` under scale `s` costs `Σ w (x - s g)² = Σ w x² - 2 s A + s² B`
//! with `A = Σ w x g` and `B = Σ w g²`, neither of which depends on the scale. So `A` and `B` are found once for all
//! rows (from partial sums over half rows, of which there are few), and every scale is then a search for the least
//! `s² B - 2 s A`. The winners at a few scales are kept as the group's candidates: under any scale near those one of
//! them is the best row, or almost, and scales of blocks and super-blocks are fitted over candidates alone. When all
//! scales stand, every group searches the whole codebook once more.

use super::sums::{clamp, half, inverse, round};

/// Rows of `W` values as pairs of half rows.
pub(super) struct Book<const W: usize> {
    levels: Vec<f32>,
    halves: Vec<[u8; 2]>,
    /// Root mean square of all levels in it.
    rms: f32,
}

/// Sums `A` and `B` of every row for one group of values.
pub(super) struct Sums {
    a: Vec<f32>,
    b: Vec<f32>,
}

/// `A` and `B` of a row that may be the best one for a group.
#[derive(Clone, Copy, Default)]
pub(super) struct Candidate {
    a: f32,
    b: f32,
}

/// Scales at which candidates are collected, in parts of the expected one.
const GRID: [f32; 7] = [0.6, 0.72, 0.84, 0.97, 1.12, 1.3, 1.5];

pub(super) type Candidates = [Candidate; GRID.len()];

impl<const W: usize> Book<W> {
    /// `levels` maps the numbers that rows are made of to what they stand for.
    pub(super) fn new(rows: &[[i8; W]], levels: &[(i8, f32)]) -> Book<W> {
        let digit = |v: i8| levels.iter().position(|l| l.0 == v).unwrap_or(0);
        let number = |half: &[i8]| half.iter().fold(0, |n, &v| n * levels.len() + digit(v)) as u8;
        let halves = rows.iter().map(|r| [number(&r[..W / 2]), number(&r[W / 2..])]).collect();
        let value = |v: i8| levels[digit(v)].1;
        let square = rows.iter().flatten().map(|&v| value(v) * value(v)).sum::<f32>() / (rows.len() * W) as f32;
        Book { levels: levels.iter().map(|l| l.1).collect(), halves, rms: square.sqrt() }
    }

    /// Sums over all half rows: of `p[i][digit i]`.
    #[inline(always)]
    fn half_sums(&self, terms: &[[f32; 8]], out: &mut [f32; 81]) {
        let n = self.levels.len();
        out[0] = 0.0;
        let mut count = 1;
        for t in terms {
            // From the end, so that nothing is overwritten before it is read.
            for i in (0..count).rev() {
                let sum = out[i];
                for d in (0..n).rev() {
                    out[i * n + d] = sum + t[d];
                }
            }
            count *= n;
        }
    }

    /// `A` and `B` of every row.
    #[inline(always)]
    pub(super) fn sums(&self, x: &[f32; W], w: &[f32; W], out: &mut Sums) {
        let (mut ta, mut tb) = ([[0.0; 8]; W], [[0.0; 8]; W]);
        for i in 0..W {
            for (d, level) in self.levels.iter().enumerate() {
                (ta[i][d], tb[i][d]) = (w[i] * x[i] * level, w[i] * level * level);
            }
        }
        let mut parts = [[0.0; 81]; 4];
        let (first, second) = (..W / 2, W / 2..);
        self.half_sums(&ta[first], &mut parts[0]);
        self.half_sums(&ta[second.clone()], &mut parts[1]);
        self.half_sums(&tb[first], &mut parts[2]);
        self.half_sums(&tb[second], &mut parts[3]);
        out.a.clear();
        out.b.clear();
        out.a.extend(self.halves.iter().map(|h| parts[0][usize::from(h[0])] + parts[1][usize::from(h[1])]));
        out.b.extend(self.halves.iter().map(|h| parts[2][usize::from(h[0])] + parts[3][usize::from(h[1])]));
    }
}

impl Sums {
    pub(super) fn new() -> Sums {
        Sums { a: Vec::new(), b: Vec::new() }
    }

    /// The best row under a scale, the first of equals, and its cost.
    #[inline(always)]
    pub(super) fn best(&self, scale: f32) -> (usize, f32) {
        const RUN: usize = 32;
        let (ss, s2) = (scale * scale, 2.0 * scale);
        let (mut at, mut least) = (0, f32::INFINITY);
        for (i, (a, b)) in self.a.as_chunks::<RUN>().0.iter().zip(self.b.as_chunks::<RUN>().0).enumerate() {
            let mut lanes = [f32::INFINITY; 8];
            for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
                for l in 0..8 {
                    let cost = ss * b[l] - s2 * a[l];
                    lanes[l] = if cost < lanes[l] { cost } else { lanes[l] };
                }
            }
            let min = lanes.iter().fold(f32::INFINITY, |m, &v| if v < m { v } else { m });
            if min < least {
                (at, least) = (i * RUN, min);
            }
        }
        let row = (at..(at + RUN).min(self.a.len())).find(|&k| ss * self.b[k] - s2 * self.a[k] == least);
        (row.unwrap_or(at), least)
    }

    #[inline(always)]
    pub(super) fn candidate(&self, scale: f32) -> Candidate {
        let (row, _) = self.best(scale);
        Candidate { a: self.a[row], b: self.b[row] }
    }

    /// The best rows under the scales of the grid around `expected`.
    #[inline(always)]
    pub(super) fn candidates(&self, expected: f32) -> Candidates {
        GRID.map(|part| self.candidate(expected * part))
    }
}

/// The scale to expect for values of their root mean square.
pub(super) fn expected<const W: usize>(book: &Book<W>, x: &[f32], w: &[f32]) -> f32 {
    let (mut square, mut weight) = (0.0, 0.0);
    for (x, w) in x.iter().zip(w) {
        square += w * x * x;
        weight += w;
    }
    (square * inverse(weight)).sqrt() / book.rms
}

/// A block under one scale: its ways of being coded as a whole (such as with one sign of IQ1_S's shift for all), each
/// a list of groups' candidates.
pub(super) struct Block {
    pub(super) ways: Vec<Vec<Vec<Candidate>>>,
}

/// The best of a group's candidates under a scale, and its cost.
#[inline]
fn pick(group: &[Candidate], scale: f32) -> (Candidate, f32) {
    let mut best = (Candidate::default(), f32::INFINITY);
    for c in group {
        let cost = scale * (scale * c.b - 2.0 * c.a);
        if cost < best.1 {
            best = (*c, cost);
        }
    }
    best
}

impl Block {
    /// The best way under a scale: its number, cost, and sums of `A` and `B`.
    fn cost(&self, scale: f32) -> (usize, f32, f32, f32) {
        let mut best = (0, f32::INFINITY, 0.0, 0.0);
        for (i, groups) in self.ways.iter().enumerate() {
            let (mut cost, mut a, mut b) = (0.0, 0.0, 0.0);
            for group in groups {
                let (c, e) = pick(group, scale);
                (cost, a, b) = (cost + e, a + c.a, b + c.b);
            }
            if cost < best.1 {
                best = (i, cost, a, b);
            }
        }
        best
    }

    /// The best real scale over the candidates, near `expected`.
    #[inline(always)]
    pub(super) fn best_scale(&self, expected: f32) -> f32 {
        let mut best = (f32::INFINITY, 0.0);
        for part in GRID {
            let mut scale = expected * part;
            for _ in 0..2 {
                let (_, _, a, b) = self.cost(scale);
                scale = a * inverse(b);
            }
            let (_, cost, ..) = self.cost(scale);
            if cost < best.0 && scale > 0.0 {
                best = (cost, scale);
            }
        }
        best.1
    }
}

/// A super-block scale and, for each block, the whole number `l` that makes its scale `d * unit * (2 l + 1)`, and its way.
pub(super) struct Scales {
    pub(super) bytes: [u8; 2],
    pub(super) d: f32,
    pub(super) numbers: Vec<u8>,
    pub(super) ways: Vec<usize>,
}

impl Scales {
    /// The scale of block `j`.
    pub(super) fn of(&self, j: usize, unit: f32) -> f32 {
        self.d * unit * f32::from(2 * self.numbers[j] + 1)
    }
}

/// Super-block scales to start from, in parts of the one that just holds the greatest block scale.
const STARTS: [f32; 7] = [0.8, 0.88, 0.94, 1.0, 1.06, 1.14, 1.24];
const ROUNDS: usize = 3;

/// Fits the scales of a super-block. `real` are the blocks' best scales, `most` the greatest number.
pub(super) fn fit_scales(blocks: &[Block], real: &[f32], unit: f32, most: u8) -> Scales {
    let greatest = real.iter().fold(0.0, |m: f32, &v| if v > m { v } else { m });
    let whole = greatest / (unit * f32::from(2 * most + 1));
    let none = Scales { bytes: [0; 2], d: 0.0, numbers: vec![0; blocks.len()], ways: vec![0; blocks.len()] };
    let mut best = (f32::INFINITY, none);
    for start in STARTS {
        let mut d = half(whole * start);
        for _ in 0..ROUNDS {
            let (error, aa, xa, numbers, ways) = whole_numbers(blocks, real, d.1 * unit, most);
            let next = half(xa * inverse(aa) / unit);
            let done = next == d;
            if error < best.0 {
                best = (error, Scales { bytes: d.0, d: d.1, numbers, ways });
            }
            if done {
                break;
            }
            d = next;
        }
    }
    best.1
}

/// The best numbers near the real scales; also the sums that give the best super-block scale under them.
fn whole_numbers(blocks: &[Block], real: &[f32], step: f32, most: u8) -> (f32, f32, f32, Vec<u8>, Vec<usize>) {
    let (mut error, mut aa, mut xa) = (0.0, 0.0, 0.0);
    let (mut numbers, mut ways) = (Vec::with_capacity(blocks.len()), Vec::with_capacity(blocks.len()));
    for (block, real) in blocks.iter().zip(real) {
        let near = round((real * inverse(step) - 1.0) * 0.5);
        let mut best = (f32::INFINITY, 0.0, 0, 0.0, 0.0);
        for l in [near, near - 1.0, near + 1.0].map(|l| clamp(l, 0.0, f32::from(most))) {
            let (way, cost, a, b) = block.cost(step * (2.0 * l + 1.0));
            if cost < best.0 {
                best = (cost, l, way, a, b);
            }
        }
        let (cost, l, way, a, b) = best;
        let odd = 2.0 * l + 1.0;
        (error, aa, xa) = (error + cost, aa + odd * odd * b, xa + odd * a);
        numbers.push(l as u8);
        ways.push(way);
    }
    (error, aa, xa, numbers, ways)
}
