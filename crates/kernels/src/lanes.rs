//! The one order in which a row is summed: lane `j` of eight takes elements `k ≡ j (mod 8)` in order, then the lanes
//! are added in a fixed tree. Every reduction of this crate over a row of floats uses it, on every instruction set.

pub(crate) const LANES: usize = 8;
pub(crate) type Lanes = [f32; LANES];

/// Adds the lanes: halves, quarters, pair.
#[inline(always)]
pub(crate) fn tree(a: Lanes) -> f32 {
    ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
}

/// `Σ f(x[k])` by lanes, where `step(acc, x)` adds one element's term.
macro_rules! fold {
    ($x:expr, |$acc:ident, $v:ident| $step:expr) => {{
        let x: &[f32] = $x;
        let mut lanes = [0f32; LANES];
        let (blocks, tail) = x.as_chunks::<LANES>();
        for block in blocks {
            for j in 0..LANES {
                let ($acc, $v) = (lanes[j], block[j]);
                lanes[j] = $step;
            }
        }
        for (j, &$v) in tail.iter().enumerate() {
            let $acc = lanes[j];
            lanes[j] = $step;
        }
        tree(lanes)
    }};
}

/// `Σ x[k]`.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    fold!(x, |acc, v| acc + v)
}

/// `Σ x[k]²`.
#[inline(always)]
pub(crate) fn sum_squares(x: &[f32]) -> f32 {
    fold!(x, |acc, v| v.mul_add(v, acc))
}

/// `Σ x[k]²`, and the largest magnitude, where NaN elements are passed over.
#[inline(always)]
pub(crate) fn sum_squares_and_magnitude(x: &[f32]) -> (f32, f32) {
    let (mut squares, mut largest) = ([0f32; LANES], [0f32; LANES]);
    let (blocks, tail) = x.as_chunks::<LANES>();
    let mut last = [0f32; LANES];
    last[..tail.len()].copy_from_slice(tail);
    for block in blocks.iter().chain([&last]) {
        for j in 0..LANES {
            let v = block[j].abs();
            squares[j] = v.mul_add(v, squares[j]);
            largest[j] = if v > largest[j] { v } else { largest[j] };
        }
    }
    let larger = |a: usize, b: usize| if largest[a] > largest[b] { largest[a] } else { largest[b] };
    (tree(squares), larger(0, 4).max(larger(2, 6)).max(larger(1, 5).max(larger(3, 7))))
}

/// `Σ (x[k] - mean)²`.
#[inline(always)]
pub(crate) fn sum_squares_around(x: &[f32], mean: f32) -> f32 {
    fold!(x, |acc, v| (v - mean).mul_add(v - mean, acc))
}

/// The largest element, `-inf` for none; NaN elements are passed over. In whatever order: more lanes than sums have
/// wait less for each other.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    maxima(x, 1)[0]
}

/// `Σ max x[k]` over the classes of `k` modulo 16, of numbers that are not negative: no sixteen of them that follow each other
/// add up to more.
#[inline(always)]
pub(crate) fn sum_of_maxima(x: &[f32]) -> f32 {
    let maxima = maxima(x, 2 * LANES);
    tree(std::array::from_fn(|j| f32::max(maxima[j], 0.0) + f32::max(maxima[j + LANES], 0.0)))
}

/// The largest of the elements whose index modulo `classes` is `j`, at `j`.
#[inline(always)]
fn maxima(x: &[f32], classes: usize) -> [f32; 8 * LANES] {
    let mut lanes = [f32::NEG_INFINITY; 8 * LANES];
    let (blocks, tail) = x.as_chunks::<{ 8 * LANES }>();
    for block in blocks {
        for (lane, &v) in lanes.iter_mut().zip(block) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(tail) {
        *lane = if v > *lane { v } else { *lane };
    }
    let mut n = lanes.len();
    while n > classes {
        n /= 2;
        let (low, high) = lanes.split_at_mut(n);
        for (lane, &v) in low.iter_mut().zip(&*high) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    lanes
}
