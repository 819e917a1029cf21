//! Sets of levels that codes stand for, times a scale that may be negative.

use super::sums::{Codes, clamp, extreme, inverse, round, total};
use allod_formats::codec::codebook::IQ4;

/// A set of levels.
pub(super) trait Levels {
    /// Places on the scale of levels to bring a block's extreme value to, to try.
    const TRIES: &[f32];
    /// The level nearest to `v`.
    fn nearest(v: f32) -> f32;
    /// The code of the level nearest to `v`.
    fn code(v: f32) -> u8;
}

/// Whole numbers from -8 to 7 (Q4_0).
pub(super) struct Four;
/// Whole numbers from -16 to 15 (Q5_0).
pub(super) struct Five;
/// Whole numbers from -4 to 3 (Q3_K).
pub(super) struct Three;
/// Whole numbers from -32 to 31 (Q6_K).
pub(super) struct Six;
/// Whole numbers from -1 to 2 (Q2_0).
pub(super) struct Two;
/// The sixteen levels of IQ4_NL and IQ4_XS.
pub(super) struct Uneven;

macro_rules! whole {
    ($($set:ident $low:literal $high:literal $tries:expr;)*) => { $(
        impl Levels for $set {
            const TRIES: &[f32] = $tries;
            #[inline(always)]
            fn nearest(v: f32) -> f32 { clamp(round(v), $low, $high) }
            #[inline(always)]
            fn code(v: f32) -> u8 { (Self::nearest(v) - $low) as u8 }
        }
    )* };
}

whole! {
    Two -1.0 2.0 &[2.4, 2.0, 1.7, 1.4, 1.2, 1.0, -1.4, -1.2, -1.0, -0.8];
    Three -4.0 3.0 &[-4.5, -4.2, -3.9, -3.6, -3.3, -3.0, -2.7, 2.6, 2.9, 3.2, 3.5];
    Four -8.0 7.0 &[-8.8, -8.4, -8.0, -7.6, -7.2, -6.8, -6.4, -6.0, 6.4, 6.8, 7.2, 7.5];
    Five -16.0 15.0 &[-16.6, -16.3, -16.0, -15.6, -15.2, -14.7, -14.2, -13.7, 14.2, 14.7, 15.1, 15.5];
    Six -32.0 31.0 &[-32.5, -32.2, -31.9, -31.5, -31.0, -30.4, -29.6, -28.6, 29.6, 30.5, 31.0, 31.4];
}

/// Steps of the table of nearest levels to a unit.
const FINE: f32 = 2.0;

struct Nearest {
    levels: [f32; 512],
    codes: [u8; 512],
}

static NEAREST: Nearest = nearest_table();

const fn nearest_table() -> Nearest {
    let mut t = Nearest { levels: [0.0; 512], codes: [0; 512] };
    let (mut i, mut code) = (0, 0);
    while i < 512 {
        let v = i as i32 - 256;
        // In half units, so twice the middle between two levels is what twice `v` is compared with.
        while code < 15 && 2 * v > 2 * (IQ4[code] as i32 + IQ4[code + 1] as i32) {
            code += 1;
        }
        t.levels[i] = IQ4[code] as f32;
        t.codes[i] = code as u8;
        i += 1;
    }
    t
}

#[inline(always)]
fn fine_index(v: f32) -> usize {
    // The addend brings the whole number into the lowest bits of the mantissa.
    ((clamp(v * FINE, -256.0, 255.0) + (12_582_912.0 + 256.0)).to_bits() & 511) as usize
}

impl Levels for Uneven {
    const TRIES: &[f32] =
        &[-140.0, -133.0, -127.0, -121.0, -115.0, -109.0, -103.0, -97.0, 127.0, 120.0, 113.0, 107.0, 101.0, 95.0, 89.0];
    #[inline(always)]
    fn nearest(v: f32) -> f32 {
        NEAREST.levels[fine_index(v)]
    }
    #[inline(always)]
    fn code(v: f32) -> u8 {
        NEAREST.codes[fine_index(v)]
    }
}

/// The levels nearest to `x * inverse`, as sums.
#[inline(always)]
pub(super) fn codes<L: Levels, const N: usize>(x: &[f32; N], w: &[f32; N], inverse: f32) -> Codes {
    let (mut sq, mut sqq, mut sxq) = ([0.0; 8], [0.0; 8], [0.0; 8]);
    for (x, w) in x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0) {
        for l in 0..8 {
            let q = L::nearest(x[l] * inverse);
            let wq = w[l] * q;
            sq[l] += wq;
            sqq[l] += wq * q;
            sxq[l] += wq * x[l];
        }
    }
    Codes { q: total(sq), qq: total(sqq), xq: total(sxq) }
}

/// Weighted squared error under a scale.
#[inline(always)]
pub(super) fn error<L: Levels, const N: usize>(x: &[f32; N], w: &[f32; N], scale: f32) -> f32 {
    let inverse = inverse(scale);
    let mut sum = [0.0; 8];
    for (x, w) in x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0) {
        for l in 0..8 {
            let e = x[l] - scale * L::nearest(x[l] * inverse);
            sum[l] += w[l] * e * e;
        }
    }
    total(sum)
}

/// The scale of least error for one block.
#[inline(always)]
pub(super) fn best_scale<L: Levels, const N: usize>(x: &[f32; N], w: &[f32; N]) -> f32 {
    let extreme = extreme(x);
    if extreme == 0.0 {
        return 0.0;
    }
    let mut best = (0.0, 0.0);
    let mut consider = |c: Codes| {
        let gain = c.xq * c.xq * inverse(c.qq);
        if gain > best.0 {
            best = (gain, c.xq * inverse(c.qq));
        }
        best.1
    };
    let mut scale = 0.0;
    for place in L::TRIES {
        scale = consider(codes::<L, N>(x, w, place / extreme));
    }
    for _ in 0..2 {
        scale = consider(codes::<L, N>(x, w, inverse(scale)));
    }
    scale
}
