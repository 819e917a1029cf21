//! Scales of a super-block over the rows that may be the best ones for its groups. Blocks stand side by side in lanes.

use super::{
    codebook::Found,
    lanes::{LANES, Lanes, each},
    sums::{clamp, half, inverse, round},
};

/// Scales at which a group's best rows are looked for, in parts of the expected one.
pub(super) const GRID: [f32; 7] = [0.6, 0.72, 0.84, 0.97, 1.12, 1.3, 1.5];

/// Candidates of a group: those of the grid, and the best row under the scale that these lead to.
pub(super) const CANDIDATES: usize = GRID.len() + 1;

/// `A` and `B` of the candidates of all blocks' groups. A block may be coded in several ways as a whole, such as with
/// one sign of IQ1_S's shift for all its groups.
pub(super) struct Candidates {
    /// For a way, all groups' candidates one after the other.
    ways: Vec<Vec<[Lanes; 2]>>,
    per_group: usize,
}

/// What all blocks cost under their scales: the best way, and the sums of its candidates' `A` and `B`.
#[derive(Clone, Copy)]
struct Cost {
    cost: Lanes,
    way: Lanes,
    a: Lanes,
    b: Lanes,
}

impl Candidates {
    pub(super) fn new(ways: usize, groups: usize, per_group: usize) -> Candidates {
        Candidates { ways: vec![vec![[[0.0; LANES]; 2]; groups * per_group]; ways], per_group }
    }

    #[inline(always)]
    pub(super) fn put(&mut self, way: usize, group: usize, slot: usize, block: usize, found: &Found) {
        let [a, b] = &mut self.ways[way][group * self.per_group + slot];
        (a[block], b[block]) = (found.a, found.b);
    }

    #[inline(always)]
    fn cost(&self, scale: &Lanes) -> Cost {
        let infinite = [f32::INFINITY; LANES];
        let none = Cost { cost: [0.0; LANES], way: [0.0; LANES], a: [0.0; LANES], b: [0.0; LANES] };
        let mut best = Cost { cost: infinite, ..none };
        for (i, groups) in self.ways.iter().enumerate() {
            let mut sum = none;
            for group in groups.chunks_exact(self.per_group) {
                let (mut least, mut with_a, mut with_b) = (infinite, [0.0; LANES], [0.0; LANES]);
                for [a, b] in group {
                    for l in 0..LANES {
                        let cost = scale[l] * (scale[l] * b[l] - 2.0 * a[l]);
                        let good = cost < least[l];
                        least[l] = if good { cost } else { least[l] };
                        with_a[l] = if good { a[l] } else { with_a[l] };
                        with_b[l] = if good { b[l] } else { with_b[l] };
                    }
                }
                sum.cost = each(|l| sum.cost[l] + least[l]);
                sum.a = each(|l| sum.a[l] + with_a[l]);
                sum.b = each(|l| sum.b[l] + with_b[l]);
            }
            let pick =
                |ours: &Lanes, theirs: &Lanes| each(|l| if sum.cost[l] < best.cost[l] { ours[l] } else { theirs[l] });
            best = Cost {
                way: pick(&[i as f32; LANES], &best.way),
                a: pick(&sum.a, &best.a),
                b: pick(&sum.b, &best.b),
                cost: pick(&sum.cost, &best.cost),
            };
        }
        best
    }

    /// The blocks' best real scales near those expected.
    #[inline(always)]
    pub(super) fn best_scales(&self, expected: &Lanes) -> Lanes {
        let (mut gain, mut scale) = ([0.0; LANES], [0.0; LANES]);
        for i in 0..GRID.len() + 2 {
            let at = GRID.get(i).map_or(scale, |part| expected.map(|v| v * part));
            let c = self.cost(&at);
            for l in 0..LANES {
                let found = c.a[l] * inverse(c.b[l]);
                let good = found * c.a[l] > gain[l] && found > 0.0;
                gain[l] = if good { found * c.a[l] } else { gain[l] };
                scale[l] = if good { found } else { scale[l] };
            }
        }
        scale
    }
}

/// A super-block scale and, for each block, the whole number `l` that makes its scale `d * unit * (2 l + 1)`, and its way.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    pub(super) bytes: [u8; 2],
    d: f32,
    pub(super) numbers: [u8; LANES],
    pub(super) ways: [u8; LANES],
    error: f32,
    /// The super-block scale of least error under all choices.
    next: f32,
}

impl Scales {
    /// The scale of block `j`.
    #[inline(always)]
    pub(super) fn of(&self, j: usize, unit: f32) -> f32 {
        self.d * unit * f32::from(2 * self.numbers[j] + 1)
    }
}

/// Super-block scales to start from, in parts of the one that just holds the greatest block scale.
const STARTS: [f32; 7] = [0.8, 0.88, 0.94, 1.0, 1.06, 1.14, 1.24];
/// Times that the best of these is fitted once more.
const ROUNDS: usize = 2;

/// Fits the scales of a super-block of `BLOCKS` blocks. `real` are the blocks' best scales, `most` the greatest number.
#[inline(always)]
pub(super) fn fit_scales<const BLOCKS: usize>(c: &Candidates, real: &Lanes, unit: f32, most: f32) -> Scales {
    let greatest = real[..BLOCKS].iter().fold(0.0, |m: f32, &v| if v > m { v } else { m });
    let whole = greatest / (unit * (2.0 * most + 1.0));
    let mut best =
        Scales { bytes: [0; 2], d: 0.0, numbers: [0; LANES], ways: [0; LANES], error: f32::INFINITY, next: whole };
    for i in 0..STARTS.len() + ROUNDS {
        let d = STARTS.get(i).map_or(best.next, |start| whole * start);
        let found = whole_numbers::<BLOCKS>(c, real, d, unit, most);
        best = if found.error < best.error { found } else { best };
    }
    best
}

/// The best numbers near the real scales under a super-block scale.
#[inline(always)]
fn whole_numbers<const BLOCKS: usize>(c: &Candidates, real: &Lanes, d: f32, unit: f32, most: f32) -> Scales {
    let (bytes, d) = half(d);
    let step = d * unit;
    let near = each(|l| round((real[l] * inverse(step) - 1.0) * 0.5));
    let mut numbers = [0.0; LANES];
    let mut best = c.cost(&[step; LANES]);
    for off in [0.0, -1.0, 1.0] {
        let tried = each(|l| clamp(near[l] + off, 0.0, most));
        let cost = c.cost(&each(|l| step * (2.0 * tried[l] + 1.0)));
        let pick =
            |ours: &Lanes, theirs: &Lanes| each(|l| if cost.cost[l] < best.cost[l] { ours[l] } else { theirs[l] });
        numbers = pick(&tried, &numbers);
        best = Cost {
            way: pick(&cost.way, &best.way),
            a: pick(&cost.a, &best.a),
            b: pick(&cost.b, &best.b),
            cost: pick(&cost.cost, &best.cost),
        };
    }
    let (mut error, mut aa, mut xa) = (0.0, 0.0, 0.0);
    for (l, number) in numbers[..BLOCKS].iter().enumerate() {
        let odd = 2.0 * number + 1.0;
        (error, aa, xa) = (error + best.cost[l], aa + odd * odd * best.b[l], xa + odd * best.a[l]);
    }
    let (numbers, ways) = (numbers.map(|v| v as u8), best.way.map(|v| v as u8));
    Scales { bytes, d, numbers, ways, error, next: xa * inverse(aa) / unit }
}
