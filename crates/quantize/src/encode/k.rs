//! K-quants as bytes.

use super::{
    affine,
    levels::{Six, Three},
    symmetric,
};

const Q2: affine::Limits = affine::Limits {
    q: 3.0,
    scale: 15.0,
    cuts: &[-0.15, 0.05, 0.25, 0.45, 0.65],
    starts: &[1.0, 0.9, 1.1, 1.25],
    above_zero: false,
};
const Q4: affine::Limits =
    affine::Limits { q: 15.0, scale: 63.0, cuts: &[-0.2, 0.1, 0.4, 0.8, 1.3], starts: &[1.0], above_zero: false };
const Q5: affine::Limits =
    affine::Limits { q: 31.0, scale: 63.0, cuts: &[-0.25, 0.0, 0.25, 0.5, 1.0], starts: &[1.0], above_zero: false };
#[inline(always)]
pub(super) fn q2_k(x: &[f32; 256], w: &[f32; 256]) -> [u8; 84] {
    let f: affine::Affine<16> = affine::fit::<16, 16>(x, w, &Q2);
    let mut b = [0; 84];
    for (b, (scale, min)) in b.iter_mut().zip(f.scales.iter().zip(f.mins)) {
        *b = scale | min << 4;
    }
    put_crumbs(&mut b[16..80], &f.q);
    b[80..82].copy_from_slice(&f.d);
    b[82..].copy_from_slice(&f.dmin);
    b
}

/// Two bits of every code: 128 values share 32 bytes.
#[inline(always)]
fn put_crumbs(b: &mut [u8], q: &[u8; 256]) {
    for (i, q) in q.iter().enumerate() {
        b[i / 128 * 32 + i % 32] |= (q & 3) << (i / 32 % 4 * 2);
    }
}

#[inline(always)]
pub(super) fn q3_k(x: &[f32; 256], w: &[f32; 256]) -> [u8; 110] {
    let f: symmetric::Symmetric<16> = symmetric::fit::<Three, 16, 16>(x, w, 32.0, &[1.0, 0.93, 1.08]);
    let mut b = [0; 110];
    for (i, q) in f.q.iter().enumerate() {
        b[i % 32] |= (q >> 2) << (i / 32);
    }
    put_crumbs(&mut b[32..96], &f.q);
    for (i, scale) in f.scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        b[96 + i % 8] |= (scale & 15) << (i / 8 * 4);
        b[104 + i % 4] |= (scale >> 4) << (i / 4 * 2);
    }
    b[108..].copy_from_slice(&f.d);
    b
}

/// Eight six-bit scales and minima in twelve bytes.
#[inline(always)]
fn put_scales(b: &mut [u8], scales: &[u8; 8], mins: &[u8; 8]) {
    for j in 0..4 {
        b[j] = scales[j] | scales[j + 4] >> 4 << 6;
        b[j + 4] = mins[j] | mins[j + 4] >> 4 << 6;
        b[j + 8] = scales[j + 4] & 15 | (mins[j + 4] & 15) << 4;
    }
}

/// The lower four bits of every code: 64 values share 32 bytes.
#[inline(always)]
fn put_nibbles(b: &mut [u8], q: &[u8; 256]) {
    for (i, q) in q.iter().enumerate() {
        b[i / 64 * 32 + i % 32] |= (q & 15) << (i / 32 % 2 * 4);
    }
}

#[inline(always)]
pub(super) fn q4_k(x: &[f32; 256], w: &[f32; 256]) -> [u8; 144] {
    let f: affine::Affine<8> = affine::fit::<32, 8>(x, w, &Q4);
    let mut b = [0; 144];
    b[..2].copy_from_slice(&f.d);
    b[2..4].copy_from_slice(&f.dmin);
    put_scales(&mut b[4..16], &f.scales, &f.mins);
    put_nibbles(&mut b[16..], &f.q);
    b
}

#[inline(always)]
pub(super) fn q5_k(x: &[f32; 256], w: &[f32; 256]) -> [u8; 176] {
    let f: affine::Affine<8> = affine::fit::<32, 8>(x, w, &Q5);
    let mut b = [0; 176];
    b[..2].copy_from_slice(&f.d);
    b[2..4].copy_from_slice(&f.dmin);
    put_scales(&mut b[4..16], &f.scales, &f.mins);
    for (i, q) in f.q.iter().enumerate() {
        b[16 + i % 32] |= (q >> 4) << (i / 32);
    }
    put_nibbles(&mut b[48..], &f.q);
    b
}

#[inline(always)]
pub(super) fn q6_k(x: &[f32; 256], w: &[f32; 256]) -> [u8; 210] {
    let f: symmetric::Symmetric<16> = symmetric::fit::<Six, 16, 16>(x, w, 128.0, &[1.0]);
    let mut b = [0; 210];
    for (i, q) in f.q.iter().enumerate() {
        let (half, block, at) = (i / 128, i / 32 % 4, i % 32);
        b[half * 64 + block % 2 * 32 + at] |= (q & 15) << (block / 2 * 4);
        b[128 + half * 32 + at] |= (q >> 4) << (block * 2);
    }
    for (b, s) in b[192..208].iter_mut().zip(f.scales) {
        *b = s as u8;
    }
    b[208..].copy_from_slice(&f.d);
    b
}
