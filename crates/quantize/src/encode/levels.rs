//! Sets of levels that codes stand for, times a scale that may be negative.

use super::{
    lanes::{Batch, LANES, Lanes, each},
    sums::{clamp, inverse, round},
};
use allod_formats::codec::codebook::IQ4;

/// A set of levels.
pub(super) trait Levels {
    /// Places on the scale of levels to bring a block's extreme value to, to try: on either side of zero. Beyond the
    /// last level the extreme value is cut, which pays where its weight is small.
    const PLACES: [Places; 2];
    /// The level nearest to `v`.
    fn nearest(v: f32) -> f32;
    /// The code of the level nearest to `v`.
    fn code(v: f32) -> u8;
}

/// Evenly spaced numbers: the first, the step, and how many.
pub(super) struct Places(f32, f32, u8);

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
    ($($set:ident $low:literal $high:literal $below:expr, $above:expr;)*) => { $(
        impl Levels for $set {
            const PLACES: [Places; 2] = [$below, $above];
            #[inline(always)]
            fn nearest(v: f32) -> f32 { clamp(round(v), $low, $high) }
            #[inline(always)]
            fn code(v: f32) -> u8 { (Self::nearest(v) - $low) as u8 }
        }
    )* };
}

whole! {
    Two -1.0 2.0 Places(-2.2, 0.15, 10), Places(0.9, 0.15, 18);
    Three -4.0 3.0 Places(-6.5, 0.17, 26), Places(1.9, 0.17, 18);
    Four -8.0 7.0 Places(-12.5, 0.3, 25), Places(5.2, 0.3, 18);
    Five -16.0 15.0 Places(-22.0, 0.3, 35), Places(12.2, 0.3, 24);
    Six -32.0 31.0 Places(-38.0, 0.3, 38), Places(26.0, 0.3, 28);
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
    const PLACES: [Places; 2] = [Places(-190.0, 3.6, 30), Places(80.0, 4.0, 22)];
    #[inline(always)]
    fn nearest(v: f32) -> f32 {
        NEAREST.levels[fine_index(v)]
    }
    #[inline(always)]
    fn code(v: f32) -> u8 {
        NEAREST.codes[fine_index(v)]
    }
}

/// Weighted squared errors under scales.
#[inline(always)]
pub(super) fn errors<L: Levels, const N: usize>(b: &Batch<N>, scale: &Lanes) -> Lanes {
    let inverses = scale.map(inverse);
    b.squares(|l, x| L::nearest(x * inverses[l]).mul_add(-scale[l], x))
}

/// The scales of least error, each for its block alone.
#[inline(always)]
pub(super) fn best_scale<L: Levels, const N: usize>(b: &Batch<N>) -> Lanes {
    let greater = |m: Lanes, x: &Lanes| each(|l| if x[l].abs() > m[l].abs() { x[l] } else { m[l] });
    let extreme = b.x.iter().fold([0.0; LANES], greater);
    let (mut scale, mut gain) = ([0.0; LANES], [0.0; LANES]);
    for Places(first, step, count) in L::PLACES {
        for i in 0..count {
            let place = first + step * f32::from(i);
            try_scale::<L, N>(b, &extreme.map(|v| place * inverse(v)), &mut scale, &mut gain);
        }
    }
    for _ in 0..2 {
        let inverses = scale.map(inverse);
        try_scale::<L, N>(b, &inverses, &mut scale, &mut gain);
    }
    scale
}

/// Takes the best scale under the levels nearest to `x * inverse` where it lowers a block's error.
#[inline(always)]
fn try_scale<L: Levels, const N: usize>(b: &Batch<N>, inverses: &Lanes, scale: &mut Lanes, gain: &mut Lanes) {
    let c = b.codes(|l, x| L::nearest(x * inverses[l]));
    for l in 0..LANES {
        let found = c.xq[l] * inverse(c.qq[l]);
        let good = found * c.xq[l] > gain[l];
        gain[l] = if good { found * c.xq[l] } else { gain[l] };
        scale[l] = if good { found } else { scale[l] };
    }
}
