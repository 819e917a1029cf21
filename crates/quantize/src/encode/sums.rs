//! The loops over a few values in which encoding spends its time, written in eight lanes that are added up in one fixed
//! order: the same bytes on every machine.

/// Nearest whole number, ties to even, for magnitudes below 2^22.
#[inline(always)]
pub(super) fn round(v: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    (v + MAGIC) - MAGIC
}

#[inline(always)]
pub(super) fn clamp(v: f32, low: f32, high: f32) -> f32 {
    // `f32::clamp` keeps NaN, which costs instructions.
    let v = if v > low { v } else { low };
    if v < high { v } else { high }
}

#[inline(always)]
pub(super) fn total(lanes: [f32; 8]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Weighted sums over a block's values and the codes that were chosen for them.
#[derive(Clone, Copy, Default)]
pub(super) struct Codes {
    /// Of `w q`.
    pub(super) q: f32,
    /// Of `w q²`.
    pub(super) qq: f32,
    /// Of `w x q`.
    pub(super) xq: f32,
}

/// Codes nearest to `x * inverse + offset`, as sums.
#[inline(always)]
pub(super) fn codes<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    inverse: f32,
    offset: f32,
    low: f32,
    high: f32,
) -> Codes {
    let (mut sq, mut sqq, mut sxq) = ([0.0; 8], [0.0; 8], [0.0; 8]);
    for (x, w) in x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0) {
        for l in 0..8 {
            let q = clamp(round(x[l] * inverse + offset), low, high);
            let wq = w[l] * q;
            sq[l] += wq;
            sqq[l] += wq * q;
            sxq[l] += wq * x[l];
        }
    }
    Codes { q: total(sq), qq: total(sqq), xq: total(sxq) }
}

/// Weighted squared error of `scale * q - min` with the best codes.
#[inline(always)]
pub(super) fn error<const N: usize>(x: &[f32; N], w: &[f32; N], scale: f32, min: f32, low: f32, high: f32) -> f32 {
    let inverse = inverse(scale);
    let mut sum = [0.0; 8];
    for (x, w) in x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0) {
        for l in 0..8 {
            let shifted = x[l] + min;
            let e = shifted - scale * clamp(round(shifted * inverse), low, high);
            sum[l] += w[l] * e * e;
        }
    }
    total(sum)
}

/// Sums of `w`, `w x` and `w x²`.
#[inline(always)]
pub(super) fn moments<const N: usize>(x: &[f32; N], w: &[f32; N]) -> (f32, f32, f32) {
    let (mut sw, mut sx, mut sxx) = ([0.0; 8], [0.0; 8], [0.0; 8]);
    for (x, w) in x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0) {
        for l in 0..8 {
            sw[l] += w[l];
            sx[l] += w[l] * x[l];
            sxx[l] += w[l] * x[l] * x[l];
        }
    }
    (total(sw), total(sx), total(sxx))
}

/// What to multiply by instead of dividing; 0 for 0.
#[inline(always)]
pub(super) fn inverse(v: f32) -> f32 {
    let i = 1.0 / v;
    if i.is_finite() { i } else { 0.0 }
}

/// The value of greatest magnitude, the first of equals, with its sign.
pub(super) fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m: f32, &v| if v.abs() > m.abs() { v } else { m })
}

/// A scale in half precision: its bytes, and what they say. Never infinite.
pub(super) fn half(v: f32) -> ([u8; 2], f32) {
    let h = half::f16::from_f32(v.clamp(-65504.0, 65504.0));
    (h.to_le_bytes(), h.to_f32())
}
