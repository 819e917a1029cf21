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

/// `Σ (x[k] - mean)²`.
#[inline(always)]
pub(crate) fn sum_squares_around(x: &[f32], mean: f32) -> f32 {
    fold!(x, |acc, v| (v - mean).mul_add(v - mean, acc))
}

/// The largest element, `-inf` for none; NaN elements are passed over. In whatever order: more lanes than sums have
/// wait less for each other.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
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
    let mut n = lanes.len() / 2;
    while n > 0 {
        let (low, high) = lanes.split_at_mut(n);
        for (lane, &v) in low.iter_mut().zip(&*high) {
            *lane = if v > *lane { v } else { *lane };
        }
        n /= 2;
    }
    lanes[0]
}
