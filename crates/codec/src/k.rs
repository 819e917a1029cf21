//! K-quants: super-blocks of 256, whose blocks of 16 or 32 have scales (and minima) quantized themselves.

use super::float::{f16_at, u32_at};

/// Two bits a value: 16 bytes of scale (low half) and minimum (high half), 64 of values, scales of both.
pub(crate) fn q2_k(b: &[u8; 84], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(b, 80), f16_at(b, 82));
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (scale, min) = (d * f32::from(b[i] & 15), dmin * f32::from(b[i] >> 4));
        let (bytes, shift) = crumbs(i);
        for j in 0..16 {
            out[j] = scale * f32::from(b[16 + bytes + j] >> shift & 3) - min;
        }
    }
}

/// Where the two-bit values of block `i` of 16 lie: 128 values share 32 bytes, blocks of 32 one above the other.
#[inline]
fn crumbs(i: usize) -> (usize, usize) {
    (i / 8 * 32 + i % 2 * 16, i / 2 % 4 * 2)
}

/// Three bits: 32 bytes of high bits, 64 of low ones, 12 of six-bit scales, their scale. A high bit that is *not* set
/// takes 4 away.
pub(crate) fn q3_k(b: &[u8; 110], out: &mut [f32; 256]) {
    let (d, scales) = (f16_at(b, 108), q3_scales(b));
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[i]);
        let (bytes, shift) = crumbs(i);
        for j in 0..16 {
            let low = b[32 + bytes + j] >> shift & 3;
            let high = b[i % 2 * 16 + j] >> (i / 2) & 1;
            out[j] = scale * (f32::from(low | high << 2) - 4.0);
        }
    }
}

/// Sixteen six-bit scales from 12 bytes: low halves in eight, the upper two bits in four.
fn q3_scales(b: &[u8; 110]) -> [i8; 16] {
    std::array::from_fn(|i| {
        let low = b[96 + i % 8] >> (i / 8 * 4) & 15;
        let high = b[104 + i % 4] >> (i / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    })
}

/// Eight six-bit scales and minima from the 12 bytes at `at`.
#[inline]
fn scales_and_minima<const B: usize>(b: &[u8; B], at: usize) -> ([u8; 8], [u8; 8]) {
    let (low, mid, high) = (u32_at(b, at), u32_at(b, at + 4), u32_at(b, at + 8));
    let first = |v: u32| v & 0x3f3f_3f3f;
    let upper = |v: u32| v >> 2 & 0x3030_3030;
    let join = |a: u32, b: u32| {
        let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
    };
    (join(first(low), high & 0x0f0f_0f0f | upper(low)), join(first(mid), high >> 4 & 0x0f0f_0f0f | upper(mid)))
}

/// Four bits: scale and minimum of the scales, their 12 bytes, 128 bytes that hold 32 values low and 32 high.
pub(crate) fn q4_k(b: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(b, 0), f16_at(b, 2));
    let (scales, minima) = scales_and_minima(b, 4);
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = (d * f32::from(scales[i]), dmin * f32::from(minima[i]));
        for j in 0..32 {
            out[j] = scale * f32::from(b[16 + i / 2 * 32 + j] >> (i % 2 * 4) & 15) - min;
        }
    }
}

/// Five bits: as [`q4_k`], with 32 bytes of fifth bits before the rest.
pub(crate) fn q5_k(b: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(b, 0), f16_at(b, 2));
    let (scales, minima) = scales_and_minima(b, 4);
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = (d * f32::from(scales[i]), dmin * f32::from(minima[i]));
        for j in 0..32 {
            let low = b[48 + i / 2 * 32 + j] >> (i % 2 * 4) & 15;
            let high = b[16 + j] >> i & 1;
            out[j] = scale * f32::from(low | high << 4) - min;
        }
    }
}

/// Six bits: 128 bytes of low halves, 64 of upper bits, 16 signed scales, their scale.
pub(crate) fn q6_k(b: &[u8; 210], out: &mut [f32; 256]) {
    let d = f16_at(b, 208);
    for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(b[192 + i] as i8);
        // 128 values share 64 bytes of low halves and 32 of upper bits; blocks of 32 lie beside or above each other.
        let (half, block, at) = (i / 8, i / 2 % 4, i % 2 * 16);
        for j in 0..16 {
            let low = b[half * 64 + block % 2 * 32 + at + j] >> (block / 2 * 4) & 15;
            let high = b[128 + half * 32 + at + j] >> (block * 2) & 3;
            out[j] = scale * (f32::from(low | high << 4) - 32.0);
        }
    }
}

/// Eight bits with a single-precision scale, for activations; sums of 16 values each follow.
pub(crate) fn q8_k(b: &[u8; 292], out: &mut [f32; 256]) {
    let d = f32::from_bits(u32_at(b, 0));
    for j in 0..256 {
        out[j] = d * f32::from(b[4 + j] as i8);
    }
}
