//! Arithmetic of encoders that is the same on every machine.

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

/// What to multiply by instead of dividing; 0 for 0.
#[inline(always)]
pub(super) fn inverse(v: f32) -> f32 {
    let i = 1.0 / v;
    if i.is_finite() { i } else { 0.0 }
}

/// The value of greatest magnitude, the first of equals, with its sign.
#[inline(always)]
pub(super) fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m: f32, &v| if v.abs() > m.abs() { v } else { m })
}

/// A scale in half precision: its bytes, and what they say. Never infinite.
pub(super) fn half(v: f32) -> ([u8; 2], f32) {
    let h = half::f16::from_f32(v.clamp(-65504.0, 65504.0));
    (h.to_le_bytes(), h.to_f32())
}
