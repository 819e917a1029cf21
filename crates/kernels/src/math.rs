//! Elementary functions with the same bits everywhere: polynomials and fused multiply-adds, no branches, so that loops
//! over them vectorize. The system's `libm` differs between machines and is never called.
//!
//! The coefficients are weighted minimax fits (Lawson's iteration over Chebyshev nodes), rounded to f32. Errors named
//! here are measured against f64 in the tests.

use std::f32::consts::LOG2_E;

use crate::twin::twin;

/// Adding and subtracting this rounds to the nearest integer (|x| < 2²²), which the low bits of the sum then hold.
const ROUND: f32 = 12_582_912.0;
const LN2_HI: f32 = 0.693_145_75;
const LN2_LO: f32 = 1.428_606_8e-6;

/// Horner's rule with fused steps, highest coefficient first.
macro_rules! horner {
    ($t:ty; $x:expr, $top:expr $(, $c:expr)* $(,)?) => {{
        let x: $t = $x;
        let p: $t = $top;
        $(let p = p.mul_add(x, $c);)*
        p
    }};
}

/// `eˣ`, within 1.5 ulp; 0 below -86.6 (no subnormal results), infinite above 88.72.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOW: f32 = -86.6;
    const HIGH: f32 = 88.722_84;
    // Written so that NaN passes through.
    let c = if LOW > x { LOW } else { x };
    let c = if HIGH < c { HIGH } else { c };
    let t = c.mul_add(LOG2_E, ROUND);
    let n = t - ROUND;
    let r = n.mul_add(-LN2_LO, n.mul_add(-LN2_HI, c));
    let p = horner!(f32; r, 1.978_926_6e-4, 1.394_575_2e-3, 8.333_504e-3, 4.166_628e-2, 1.666_666_6e-1, 0.5);
    let y = (r * r).mul_add(p, r) + 1.0;
    // 2ⁿ as 2 · 2ⁿ⁻¹, so that n = 128 has an exponent.
    let scale = f32::from_bits(t.to_bits().wrapping_add(126) << 23);
    let y = y * 2.0 * scale;
    let y = if x > HIGH { f32::INFINITY } else { y };
    if x < LOW { 0.0 } else { y }
}

/// `atanh(s) / s - 1` for `s² <= 1/9`.
#[inline(always)]
fn atanh_tail(s2: f32) -> f32 {
    s2 * horner!(f32; s2, 1.089_090_1e-1, 8.575_661e-2, 1.115_053_8e-1, 1.428_421e-1, 2.000_002_6e-1, 3.333_333_4e-1)
}

/// `ln x` for normal `x > 0`, within 2 ulp; `-inf` for 0 and subnormal numbers, NaN for negative ones.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    // Splits off the exponent so that the rest lies in [√½, √2).
    let bits = x.to_bits().wrapping_sub(0x3f35_04f3);
    let e = (bits as i32 >> 23) as f32;
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(0x3f35_04f3));
    let f = m - 1.0;
    let s = f / (m + 1.0);
    // 2 atanh(s) = f - s f + 2 s tail, whose first term is exact.
    let tail = (2.0 * s).mul_add(atanh_tail(s * s), -(s * f));
    let y = e.mul_add(LN2_HI, f) + e.mul_add(LN2_LO, tail);
    let y = if x < f32::MIN_POSITIVE { f32::NEG_INFINITY } else { y };
    let y = if x == f32::INFINITY { x } else { y };
    if x < 0.0 || x.is_nan() { f32::NAN } else { y }
}

/// `ln(1 + x)` for `0 <= x <= 1`, within 2 ulp.
#[inline(always)]
fn ln_1p_unit(x: f32) -> f32 {
    let s = x / (2.0 + x);
    let s2 = 2.0 * s;
    s2.mul_add(atanh_tail(s * s), s2)
}

/// `ln(1 + eˣ)`, without overflow.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    let positive = if x > 0.0 { x } else { 0.0 };
    let y = positive + ln_1p_unit(exp(-x.abs()));
    if x.is_nan() { x } else { y }
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `tanh x`, within 2 ulp.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    let p = horner!(f32; z, -5.666_980_5e-3, 2.060_618e-2, -5.373_000_7e-2, 1.333_133_1e-1, -3.333_327_8e-1);
    let small = (x * z).mul_add(p, x);
    let large = (1.0 - 2.0 / (exp(2.0 * a) + 1.0)).copysign(x);
    if a < 0.625 { small } else { large }
}

/// The error function, within 3 ulp.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    let p = horner!(
        f32; z,
        -5.953_869_6e-4,
        4.985_971_4e-3,
        -2.676_174_6e-2,
        1.128_168_3e-1,
        -3.761_248e-1,
        1.283_791_5e-1
    );
    let small = x.mul_add(p, x);
    let c = if a > 4.0 { 4.0 } else { a };
    let q = horner!(
        f32; c,
        -1.982_207e-4,
        3.065_499_7e-3,
        -2.231_524_9e-2,
        1.041_137_4e-1,
        6.369_76e-1,
        1.127_797_2,
        1.664_390_9e-4
    );
    let large = (1.0 - exp(-q)).copysign(x);
    if a < 0.92 { small } else { large }
}

/// `(sin x, cos x)` in f64 for `|x| <= 2³⁰`, within 2⁻⁵⁰ absolutely: three-part reduction by π/2, Taylor polynomials.
#[inline(always)]
pub fn sin_cos(x: f64) -> (f64, f64) {
    const ROUND64: f64 = 6_755_399_441_055_744.0;
    const PIO2_HI: f64 = std::f64::consts::FRAC_PI_2;
    const PIO2_LO: f64 = 6.123_233_995_736_766e-17;
    let t = x.mul_add(std::f64::consts::FRAC_2_PI, ROUND64);
    let n = t - ROUND64;
    let quadrant = t.to_bits();
    let r = n.mul_add(-PIO2_LO, n.mul_add(-PIO2_HI, x));
    let z = r * r;
    let s = horner!(
        f64; z,
        -1.0 / 1_307_674_368_000.0,
        1.0 / 6_227_020_800.0,
        -1.0 / 39_916_800.0,
        1.0 / 362_880.0,
        -1.0 / 5_040.0,
        1.0 / 120.0,
        -1.0 / 6.0
    );
    let s = (r * z).mul_add(s, r);
    let c = horner!(
        f64; z,
        1.0 / 20_922_789_888_000.0,
        -1.0 / 87_178_291_200.0,
        1.0 / 479_001_600.0,
        -1.0 / 3_628_800.0,
        1.0 / 40_320.0,
        -1.0 / 720.0,
        1.0 / 24.0
    );
    let c = (z * z).mul_add(c, z.mul_add(-0.5, 1.0));
    let (sin, cos) = if quadrant & 1 == 1 { (c, s) } else { (s, c) };
    let flip = |v: f64, negative: bool| if negative { -v } else { v };
    (flip(sin, quadrant & 2 == 2), flip(cos, (quadrant.wrapping_add(1)) & 2 == 2))
}

/// `f` of every element, in place.
macro_rules! map {
    ($($(#[$attr:meta])* $name:ident = $f:expr;)*) => { $(twin! {
        $(#[$attr])*
        pub fn $name(x: &mut [f32]) {
            for v in x {
                *v = $f(*v);
            }
        }
    })* };
}

map! {
    /// [`exp`] of every element, in place.
    exp_rows = exp;
    /// [`ln`] of every element, in place.
    ln_rows = ln;
    /// [`softplus`] of every element, in place.
    softplus_rows = softplus;
    /// [`sigmoid`] of every element, in place.
    sigmoid_rows = sigmoid;
    /// [`tanh`] of every element, in place.
    tanh_rows = tanh;
    /// [`erf`] of every element, in place.
    erf_rows = erf;
}
