//! Four-bit floats (E2M1) under eight-bit scales: MXFP4 (a power of two for 32 values; OCP Microscaling Formats 1.0)
//! and NVFP4 (E4M3 for 16 values).

use super::float::greatest;

/// Twice the values of E2M1, so that they are whole numbers; the scales are halved for it.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of 2^(e - 127), of which the two smallest are subnormal.
#[inline]
fn half_of_e8m0(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

/// One scale, then byte `j` holds value `j` low and value `j + 16` high.
pub(crate) fn mxfp4(b: &[u8; 17], out: &mut [f32; 32]) {
    let d = half_of_e8m0(b[0]);
    for j in 0..16 {
        out[j] = d * f32::from(E2M1[usize::from(b[1 + j] & 15)]);
        out[j + 16] = d * f32::from(E2M1[usize::from(b[1 + j] >> 4)]);
    }
}

pub(crate) fn to_mxfp4(x: &[f32; 32]) -> [u8; 17] {
    let e = exponent(greatest(x));
    let d = half_of_e8m0(e);
    let q = x.map(|v| nearest(v, d));
    let mut b = [0; 17];
    b[0] = e;
    for j in 0..16 {
        b[1 + j] = q[j] | q[j + 16] << 4;
    }
    b
}

/// The scale for a greatest magnitude. The logarithm is rounded to single precision before it is cut, as numpy does it:
/// a number just below a power of two counts as that power.
fn exponent(greatest: f32) -> u8 {
    if greatest > 0.0 { ((f64::from(greatest).log2() as f32).floor() + 125.0) as u8 } else { 0 }
}

/// The level nearest to `v / d`, the lower of two equally near; what rounds to zero is a positive zero.
fn nearest(v: f32, d: f32) -> u8 {
    const BETWEEN: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];
    // The scale is a power of two: the products are exact.
    let level = BETWEEN.iter().map(|b| u8::from(v.abs() > d * b)).sum::<u8>();
    if v < 0.0 && level > 0 { level | 8 } else { level }
}

/// Half of an unsigned E4M3 number; 0x7f, NaN in E4M3, counts as zero. The sign bit is no part of it, as in gguf-py.
fn half_of_ue4m3(x: u8) -> f32 {
    let (e, m) = (x >> 3 & 15, f32::from(x & 7));
    match (x, e) {
        (0x7f, _) => 0.0,
        (_, 0) => m * f32::from_bits((127 - 10) << 23),
        _ => (1.0 + m / 8.0) * f32::from_bits((u32::from(e) + 127 - 8) << 23),
    }
}

/// Four scales, then 32 bytes, of which each eight hold 16 values: eight low, eight high.
pub(crate) fn nvfp4(b: &[u8; 36], out: &mut [f32; 64]) {
    for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let d = half_of_ue4m3(b[g]);
        for j in 0..8 {
            let byte = b[4 + g * 8 + j];
            out[j] = d * f32::from(E2M1[usize::from(byte & 15)]);
            out[j + 8] = d * f32::from(E2M1[usize::from(byte >> 4)]);
        }
    }
}
