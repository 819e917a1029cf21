//! One and two bits a value under one scale: TQ1_0 and TQ2_0 (-1, 0, 1), Q1_0 (-1, 1), Q2_0 (-1, 0, 1, 2).

use super::float::{f16_at, f16_bytes, greatest, inverse};

/// How TQ1_0 groups its values: `(first byte, bytes, values a byte)`. Value `n` of byte `m` is value `n * bytes + m` of
/// its group.
const TQ1_GROUPS: [(usize, usize, usize); 3] = [(0, 32, 5), (32, 16, 5), (48, 4, 4)];
/// A byte holds five digits in base 3 as a fraction of 256: the next digit is what a multiplication by 3 carries out.
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

pub(crate) fn tq1_0(b: &[u8; 54], out: &mut [f32; 256]) {
    let d = f16_at(b, 52);
    let mut at = 0;
    for (first, bytes, values) in TQ1_GROUPS {
        for power in &POWERS[..values] {
            for (out, &byte) in out[at..at + bytes].iter_mut().zip(&b[first..first + bytes]) {
                let digit = (u16::from(byte.wrapping_mul(*power)) * 3) >> 8;
                *out = d * (f32::from(digit) - 1.0);
            }
            at += bytes;
        }
    }
}

/// The nearest of -1, 0 and 1 times `1 / id`, plus one.
fn digit(v: f32, id: f32) -> u8 {
    ((v * id).round().clamp(-1.0, 1.0) + 1.0) as u8
}

pub(crate) fn to_tq1_0(x: &[f32; 256]) -> [u8; 54] {
    let d = greatest(x);
    let id = inverse(d);
    let mut b = [0; 54];
    let mut at = 0;
    for (first, bytes, values) in TQ1_GROUPS {
        for m in 0..bytes {
            // Four digits count as five, the last of them 0.
            let number = (0..5).fold(0u16, |sum, n| {
                let next = if n < values { digit(x[at + n * bytes + m], id) } else { 0 };
                sum * 3 + u16::from(next)
            });
            // Rounded up, so that cutting off digits while decoding finds them again.
            b[first + m] = (number * 256).div_ceil(243) as u8;
        }
        at += bytes * values;
    }
    b[52..].copy_from_slice(&f16_bytes(d));
    b
}

/// 128 values share 32 bytes, blocks of 32 one above the other.
pub(crate) fn tq2_0(b: &[u8; 66], out: &mut [f32; 256]) {
    let d = f16_at(b, 64);
    for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for j in 0..32 {
            out[j] = d * (f32::from(b[i / 4 * 32 + j] >> (i % 4 * 2) & 3) - 1.0);
        }
    }
}

pub(crate) fn to_tq2_0(x: &[f32; 256]) -> [u8; 66] {
    let d = greatest(x);
    let id = inverse(d);
    let mut b = [0; 66];
    for (i, block) in x.as_chunks::<32>().0.iter().enumerate() {
        for j in 0..32 {
            b[i / 4 * 32 + j] |= digit(block[j], id) << (i % 4 * 2);
        }
    }
    b[64..].copy_from_slice(&f16_bytes(d));
    b
}

/// Value `j` is bit `j % 8` of byte `j / 8`: set for the scale, clear for its negative.
pub(crate) fn q1_0(b: &[u8; 18], out: &mut [f32; 128]) {
    let d = f16_at(b, 0);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        for (j, out) in out.iter_mut().enumerate() {
            let negative = u32::from((!b[2 + i] >> j) & 1) << 31;
            *out = f32::from_bits(d.to_bits() ^ negative);
        }
    }
}

/// Value `j` is the `j % 4`th pair of bits of byte `j / 4`, less one.
pub(crate) fn q2_0(b: &[u8; 18], out: &mut [f32; 64]) {
    let d = f16_at(b, 0);
    for (i, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        for (j, out) in out.iter_mut().enumerate() {
            *out = (f32::from(b[2 + i] >> (2 * j) & 3) - 1.0) * d;
        }
    }
}
