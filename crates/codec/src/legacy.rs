//! Blocks of 32 with one scale: Q4_0 to Q8_1. In the 4 and 5-bit types byte `j` holds value `j` in its low and value
//! `j + 16` in its high half; the fifth bits stand together in a `u32`.

use super::float::{f16_at, f16_bytes, greatest, inverse, u32_at};

pub(crate) fn q4_0(b: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for j in 0..16 {
        out[j] = d * (i32::from(b[2 + j] & 15) - 8) as f32;
        out[j + 16] = d * (i32::from(b[2 + j] >> 4) - 8) as f32;
    }
}

pub(crate) fn q4_1(b: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(b, 0), f16_at(b, 2));
    for j in 0..16 {
        out[j] = d * f32::from(b[4 + j] & 15) + m;
        out[j + 16] = d * f32::from(b[4 + j] >> 4) + m;
    }
}

pub(crate) fn q5_0(b: &[u8; 22], out: &mut [f32; 32]) {
    let (d, high) = (f16_at(b, 0), u32_at(b, 2));
    for j in 0..16 {
        let (lo, hi) = fifth_bits(b[6 + j], high, j);
        out[j] = d * (lo - 16) as f32;
        out[j + 16] = d * (hi - 16) as f32;
    }
}

pub(crate) fn q5_1(b: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m, high) = (f16_at(b, 0), f16_at(b, 2), u32_at(b, 4));
    for j in 0..16 {
        let (lo, hi) = fifth_bits(b[8 + j], high, j);
        out[j] = d * lo as f32 + m;
        out[j + 16] = d * hi as f32 + m;
    }
}

/// Values `j` and `j + 16`, from 0 to 31.
#[inline]
fn fifth_bits(byte: u8, high: u32, j: usize) -> (i32, i32) {
    let bit = |i: usize| (high >> i & 1) << 4;
    ((u32::from(byte & 15) | bit(j)) as i32, (u32::from(byte >> 4) | bit(j + 16)) as i32)
}

pub(crate) fn q8_0(b: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for j in 0..32 {
        out[j] = f32::from(b[2 + j] as i8) * d;
    }
}

/// As [`q8_0`], with the sum of the values (times `d`) between scale and values.
pub(crate) fn q8_1(b: &[u8; 36], out: &mut [f32; 32]) {
    let d = f16_at(b, 0);
    for j in 0..32 {
        out[j] = f32::from(b[4 + j] as i8) * d;
    }
}

/// The scale that brings the value of greatest magnitude, the first of equals, to the lowest level, `-levels`.
fn signed_scale(x: &[f32; 32], levels: f32) -> f32 {
    let extreme = x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    extreme / -levels
}

/// Lowest value and the scale that brings the highest to level `top`.
fn affine_scale(x: &[f32; 32], top: f32) -> (f32, f32) {
    let low = x.iter().fold(x[0], |m, &v| if v < m { v } else { m });
    let high = x.iter().fold(x[0], |m, &v| if v > m { v } else { m });
    ((high - low) / top, low)
}

fn put_nibbles(out: &mut [u8], q: &[u8; 32]) {
    for j in 0..16 {
        out[j] = (q[j] & 15) | q[j + 16] << 4;
    }
}

fn put_fifth_bits(out: &mut [u8], q: &[u8; 32]) {
    let high = q.iter().enumerate().fold(0u32, |bits, (i, &v)| bits | u32::from(v >> 4) << i);
    out.copy_from_slice(&high.to_le_bytes());
}

pub(crate) fn to_q4_0(x: &[f32; 32]) -> [u8; 18] {
    let d = signed_scale(x, 8.0);
    let id = inverse(d);
    let q = x.map(|v| ((v * id + 8.5) as u8).min(15));
    let mut b = [0; 18];
    b[..2].copy_from_slice(&f16_bytes(d));
    put_nibbles(&mut b[2..], &q);
    b
}

pub(crate) fn to_q4_1(x: &[f32; 32]) -> [u8; 20] {
    let (d, low) = affine_scale(x, 15.0);
    let id = inverse(d);
    let q = x.map(|v| (((v - low) * id + 0.5) as u8).min(15));
    let mut b = [0; 20];
    b[..2].copy_from_slice(&f16_bytes(d));
    b[2..4].copy_from_slice(&f16_bytes(low));
    put_nibbles(&mut b[4..], &q);
    b
}

pub(crate) fn to_q5_0(x: &[f32; 32]) -> [u8; 22] {
    let d = signed_scale(x, 16.0);
    let id = inverse(d);
    let q = x.map(|v| ((v * id + 16.5) as u8).min(31));
    let mut b = [0; 22];
    b[..2].copy_from_slice(&f16_bytes(d));
    put_fifth_bits(&mut b[2..6], &q);
    put_nibbles(&mut b[6..], &q);
    b
}

pub(crate) fn to_q5_1(x: &[f32; 32]) -> [u8; 24] {
    let (d, low) = affine_scale(x, 31.0);
    let id = inverse(d);
    let q = x.map(|v| (((v - low) * id + 0.5) as u8).min(31));
    let mut b = [0; 24];
    b[..2].copy_from_slice(&f16_bytes(d));
    b[2..4].copy_from_slice(&f16_bytes(low));
    put_fifth_bits(&mut b[4..8], &q);
    put_nibbles(&mut b[8..], &q);
    b
}

/// Rounds half away from zero, unlike the other types.
pub(crate) fn to_q8_0(x: &[f32; 32]) -> [u8; 34] {
    let d = greatest(x) / 127.0;
    let id = inverse(d);
    let mut b = [0; 34];
    b[..2].copy_from_slice(&f16_bytes(d));
    for (out, v) in b[2..].iter_mut().zip(x) {
        *out = (v * id).round() as i8 as u8;
    }
    b
}
