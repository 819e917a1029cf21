//! IQ types: groups of eight (or four) values are rows of a codebook, with signs and scales beside them.

use super::{
    float::{f16_at, f16_to_f32, u16_at, u32_at},
    tables as t,
};

/// Rows of IQ1_S and IQ1_M.
pub static IQ1: [[i8; 8]; 2048] = unpack(&t::IQ1_S_ROWS, &t::IQ1_S_LEVELS);
/// Rows of IQ2_XXS.
pub static IQ2_XXS: [[i8; 8]; 256] = unpack(&t::IQ2_XXS_ROWS, &t::IQ2_XXS_LEVELS);
/// Rows of IQ2_XS.
pub static IQ2_XS: [[i8; 8]; 512] = unpack(&t::IQ2_XS_ROWS, &t::IQ2_XS_LEVELS);
/// Rows of IQ2_S.
pub static IQ2_S: [[i8; 8]; 1024] = unpack(&t::IQ2_S_ROWS, &t::IQ2_S_LEVELS);
/// Rows of IQ3_XXS.
pub static IQ3_XXS: [[i8; 4]; 256] = unpack(&t::IQ3_XXS_ROWS, &t::IQ3_XXS_LEVELS);
/// Rows of IQ3_S.
pub static IQ3_S: [[i8; 4]; 512] = unpack(&t::IQ3_S_ROWS, &t::IQ3_S_LEVELS);
/// Levels of IQ4_NL and IQ4_XS.
pub const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// IQ1's values lie this far above or below -1, 0 and 1.
pub const DELTA: f32 = 0.125;

const fn unpack<const W: usize, const N: usize, const L: usize>(rows: &[u16; N], levels: &[i8; L]) -> [[i8; W]; N] {
    let bits = 16 / W;
    let mut out = [[0; W]; N];
    let mut i = 0;
    while i < N * W {
        out[i / W][i % W] = levels[(rows[i / W] as usize >> (i % W * bits)) & ((1 << bits) - 1)];
        i += 1;
    }
    out
}

/// Seven sign bits and the eighth that makes their number even.
#[inline]
fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// Levels times scale; a set bit of `signs` negates.
#[inline]
fn put_signed<const W: usize>(out: &mut [f32], scale: f32, row: &[i8; W], signs: u8) {
    for j in 0..W {
        let sign = u32::from(signs >> j & 1) << 31;
        out[j] = f32::from_bits((scale * f32::from(row[j])).to_bits() ^ sign);
    }
}

/// Per 32 values: four row numbers, then four times seven signs and a four-bit scale.
pub(crate) fn iq2_xxs(b: &[u8; 66], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let word = u32_at(b, 2 + g * 8 + 4);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
        for l in 0..4 {
            let row = &IQ2_XXS[usize::from(b[2 + g * 8 + l])];
            put_signed(&mut out[l * 8..], scale, row, even_signs(word >> (7 * l)));
        }
    }
}

/// Per 8 values: nine bits of row number and seven signs; then four-bit scales of 16 values.
pub(crate) fn iq2_xs(b: &[u8; 74], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let word = u16_at(b, 2 + i * 2);
        let scale = d * (0.5 + nibble(b[66 + i / 4], i / 2)) * 0.25;
        put_signed(out, scale, &IQ2_XS[usize::from(word & 511)], even_signs(u32::from(word >> 9)));
    }
}

/// The low half of a byte for even `i`, else the high one.
#[inline]
fn nibble(byte: u8, i: usize) -> f32 {
    f32::from(byte >> (i % 2 * 4) & 15)
}

/// 32 bytes of row numbers, 32 of signs, 8 of the upper bits of row numbers, 8 of scales.
pub(crate) fn iq2_s(b: &[u8; 82], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let upper = b[66 + i / 4] >> (i % 4 * 2) & 3;
        let row = usize::from(b[2 + i]) | usize::from(upper) << 8;
        let scale = d * (0.5 + nibble(b[74 + i / 4], i / 2)) * 0.25;
        put_signed(out, scale, &IQ2_S[row], b[34 + i]);
    }
}

/// 64 row numbers; then per 32 values four times seven signs and a four-bit scale.
pub(crate) fn iq3_xxs(b: &[u8; 98], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let word = u32_at(b, 66 + g * 4);
        let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
        for l in 0..8 {
            let signs = even_signs(word >> (7 * (l / 2))) >> (l % 2 * 4);
            put_signed(&mut out[l * 4..], scale, &IQ3_XXS[usize::from(b[2 + g * 8 + l])], signs);
        }
    }
}

/// 64 row numbers, 8 bytes of their ninth bits, 32 of signs, 4 of scales.
pub(crate) fn iq3_s(b: &[u8; 110], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let scale = d * (1.0 + 2.0 * nibble(b[106 + g / 2], g));
        for l in 0..8 {
            let row = usize::from(b[2 + g * 8 + l]) | usize::from(b[66 + g] >> l & 1) << 8;
            let signs = b[74 + g * 4 + l / 2] >> (l % 2 * 4);
            put_signed(&mut out[l * 4..], scale, &IQ3_S[row], signs);
        }
    }
}

#[inline]
fn put_shifted(out: &mut [f32], scale: f32, row: &[i8; 8], delta: f32) {
    for j in 0..8 {
        out[j] = scale * (f32::from(row[j]) + delta);
    }
}

/// 32 row numbers; then per 32 values a word of four times three upper bits, a three-bit scale and the sign of delta.
pub(crate) fn iq1_s(b: &[u8; 50], out: &mut [f32; 256]) {
    let d = f16_at(b, 0);
    for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let word = u16_at(b, 34 + g * 2);
        let scale = d * f32::from(2 * (word >> 12 & 7) + 1);
        let delta = if word & 0x8000 == 0 { DELTA } else { -DELTA };
        for l in 0..4 {
            let row = usize::from(b[2 + g * 4 + l]) | usize::from(word >> (3 * l) & 7) << 8;
            put_shifted(&mut out[l * 8..], scale, &IQ1[row], delta);
        }
    }
}

/// 32 row numbers, 16 bytes of three upper bits and the sign of delta for each, and four words of four three-bit scales,
/// whose upper four bits put together are the scale of scales.
pub(crate) fn iq1_m(b: &[u8; 56], out: &mut [f32; 256]) {
    let word = |i: usize| u16_at(b, 48 + i * 2);
    let d = f16_to_f32(word(0) >> 12 | word(1) >> 8 & 0xf0 | word(2) >> 4 & 0xf00 | word(3) & 0xf000);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let scale = d * f32::from(2 * (word(i / 8) >> (i / 2 % 4 * 3) & 7) + 1);
        let upper = b[32 + i / 2] >> (i % 2 * 4);
        let delta = if upper & 8 == 0 { DELTA } else { -DELTA };
        let row = usize::from(b[i]) | usize::from(upper & 7) << 8;
        put_shifted(out, scale, &IQ1[row], delta);
    }
}

/// As Q4_0, with levels that are not evenly spaced.
pub(crate) fn iq4_nl(b: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for j in 0..16 {
        out[j] = d * f32::from(IQ4[usize::from(b[2 + j] & 15)]);
        out[j + 16] = d * f32::from(IQ4[usize::from(b[2 + j] >> 4)]);
    }
}

/// Eight blocks as in [`iq4_nl`] under six-bit scales: two upper bits each in a word, four lower ones in four bytes.
pub(crate) fn iq4_xs(b: &[u8; 136], out: &mut [f32; 256]) {
    let (d, upper) = (f16_at(b, 0), u16_at(b, 2));
    for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let lower = b[4 + g / 2] >> (g % 2 * 4) & 15;
        let scale = d * (f32::from(u16::from(lower) | (upper >> (2 * g) & 3) << 4) - 32.0);
        for j in 0..16 {
            let byte = b[8 + g * 16 + j];
            out[j] = scale * f32::from(IQ4[usize::from(byte & 15)]);
            out[j + 16] = scale * f32::from(IQ4[usize::from(byte >> 4)]);
        }
    }
}
