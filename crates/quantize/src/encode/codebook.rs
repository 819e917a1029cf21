//! Groups of values as rows of a codebook under scales: the search that IQ1, IQ2 and IQ3 share.
//!
//! For a group with values `x` and weights `w`, row `g` under scale `s` costs `Σ w (x - s g)² = Σ w x² - 2 s A + s² B`
//! with `A = Σ w x g` and `B = Σ w g²`, neither of which depends on the scale; both are sums of two halves, of which
//! there are few. Under a scale, the levels nearest to a group's values are its best row, if they are a row of the
//! codebook; else the rows nearest to those levels are tried. The winners at a few scales are kept as the group's
//! candidates: under any scale near those one of them is the best row, or almost, and scales of blocks and super-blocks
//! are fitted over candidates alone ([`super::candidates`]). When all scales stand, every group looks for its row once
//! more.

use super::sums::inverse;

/// Rows tried for levels that are not in the codebook.
const NEAR: usize = 16;

/// A row, as its number and its halves.
#[derive(Clone, Copy)]
struct Row {
    number: u16,
    halves: [u8; 2],
}

/// Rows of `W` values.
pub(super) struct Book<const W: usize> {
    levels: Vec<f32>,
    /// For every choice of levels, the first value's in the highest digit: where its rows stand in `near`.
    starts: Vec<u32>,
    near: Vec<Row>,
    /// Root mean square of all levels in it.
    rms: f32,
}

/// A group of values, and the sums `A` and `B` of all half rows for it.
#[derive(Clone)]
pub(super) struct Sums<const W: usize> {
    x: [f32; W],
    parts: [[f32; 81]; 4],
}

/// What stands for a row under a group's values.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) row: u16,
    pub(super) a: f32,
    pub(super) b: f32,
    pub(super) cost: f32,
}

impl<const W: usize> Book<W> {
    /// `levels` maps the numbers that rows are made of, in order, to what they stand for.
    pub(super) fn new(rows: &[[i8; W]], levels: &[(i8, f32)]) -> Book<W> {
        let digit = |v: i8| levels.iter().position(|l| l.0 == v).unwrap_or(0);
        let number = |part: &[i8]| part.iter().fold(0, |n, &v| n * levels.len() + digit(v)) as u8;
        let value = |v: i8| levels[digit(v)].1;
        let square = rows.iter().flatten().map(|&v| value(v) * value(v)).sum::<f32>() / (rows.len() * W) as f32;
        let (mut starts, mut near) = (vec![0], Vec::new());
        for at in 0..levels.len().pow(W as u32) {
            let mut rest = at;
            let mut here = [0i32; W];
            for v in here.iter_mut().rev() {
                *v = i32::from(levels[rest % levels.len()].0);
                rest /= levels.len();
            }
            let distance = |r: &[i8; W]| r.iter().zip(here).map(|(r, h)| (i32::from(*r) - h).pow(2)).sum::<i32>();
            let mut all: Vec<(i32, u16)> = rows.iter().zip(0..).map(|(r, i)| (distance(r), i)).collect();
            if all.len() > NEAR {
                all.select_nth_unstable(NEAR);
                all.truncate(NEAR);
            }
            all.sort_unstable();
            let only = all.first().is_some_and(|a| a.0 == 0);
            near.extend(all.iter().take(if only { 1 } else { NEAR }).map(|&(_, i)| {
                let row = &rows[usize::from(i)];
                Row { number: i, halves: [number(&row[..W / 2]), number(&row[W / 2..])] }
            }));
            starts.push(near.len() as u32);
        }
        Book { levels: levels.iter().map(|l| l.1).collect(), starts, near, rms: square.sqrt() }
    }

    /// The same rows with other numbers behind their levels.
    pub(super) fn with(&self, levels: &[f32]) -> Book<W> {
        Book { levels: levels.to_vec(), starts: self.starts.clone(), near: self.near.clone(), rms: self.rms }
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

    /// The sums for one group.
    #[inline(always)]
    pub(super) fn sums(&self, x: &[f32; W], w: &[f32; W], out: &mut Sums<W>) {
        let (mut ta, mut tb) = ([[0.0; 8]; W], [[0.0; 8]; W]);
        for i in 0..W {
            for (d, level) in self.levels.iter().enumerate() {
                (ta[i][d], tb[i][d]) = (w[i] * x[i] * level, w[i] * level * level);
            }
        }
        out.x = *x;
        self.half_sums(&ta[..W / 2], &mut out.parts[0]);
        self.half_sums(&ta[W / 2..], &mut out.parts[1]);
        self.half_sums(&tb[..W / 2], &mut out.parts[2]);
        self.half_sums(&tb[W / 2..], &mut out.parts[3]);
    }

    /// The best row under a scale, the first of equals.
    #[inline(always)]
    pub(super) fn best(&self, s: &Sums<W>, scale: f32) -> Found {
        let mut at = 0;
        for x in s.x {
            let mut digit = 0;
            for i in 1..self.levels.len() {
                digit += usize::from(2.0 * x > scale * (self.levels[i - 1] + self.levels[i]));
            }
            at = at * self.levels.len() + digit;
        }
        let (ss, s2) = (scale * scale, 2.0 * scale);
        let mut best = Found { row: 0, a: 0.0, b: 0.0, cost: f32::INFINITY };
        for row in &self.near[self.starts[at] as usize..self.starts[at + 1] as usize] {
            let [i, j] = row.halves.map(usize::from);
            let (a, b) = (s.parts[0][i] + s.parts[1][j], s.parts[2][i] + s.parts[3][j]);
            let cost = ss * b - s2 * a;
            if cost < best.cost {
                best = Found { row: row.number, a, b, cost };
            }
        }
        best
    }

    /// The scale to expect for values of their root mean square.
    #[inline(always)]
    pub(super) fn expected(&self, x: &[f32], w: &[f32]) -> f32 {
        let (mut square, mut weight) = (0.0, 0.0);
        for (x, w) in x.iter().zip(w) {
            square += w * x * x;
            weight += w;
        }
        (square * inverse(weight)).sqrt() / self.rms
    }
}

impl<const W: usize> Sums<W> {
    pub(super) const NONE: Sums<W> = Sums { x: [0.0; W], parts: [[0.0; 81]; 4] };
}
