//! K-quants as bytes.

use super::{
    affine,
    levels::{Six, Three},
    sums::half,
    symmetric,
};

const Q2: affine::Limits = affine::Limits {
    q: 3.0,
    scale: 15.0,
    cuts: &[-0.2, 0.0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0],
    starts: &[1.0, 0.8, 0.87, 0.93, 1.07, 1.15, 1.25, 1.35],
    above_zero: false,
};
const Q4: affine::Limits = affine::Limits {
    q: 15.0,
    scale: 63.0,
    cuts: &[-0.3, 0.1, 0.5, 0.9, 1.3, 1.7, 2.1, 2.5],
    starts: &[1.0, 0.85, 0.88, 0.91, 0.94, 0.97, 1.03, 1.06],
    above_zero: false,
};
const Q5: affine::Limits = affine::Limits { q: 31.0, ..Q4 };

#[inline(always)]
pub(super) fn q2_k(x: &[f32; 256], w: &[f32; 256]) -> [u8; 84] {
    let f = affine::fit::<16, 16, 256>(x, w, &Q2);
    let mut b = [0; 84];
    for (b, (scale, min)) in b.iter_mut().zip(f.scales.iter().zip(f.mins)) {
        *b = scale | min << 4;
    }
    put_crumbs(&mut b[16..80], &f.q);
    b[80..82].copy_from_slice(&half(f.d[0]).0);
    b[82..].copy_from_slice(&half(f.dmin[0]).0);
    b
}

/// Two bits of every code: 128 values share 32 bytes.
#[inline(always)]
fn put_crumbs(b: &mut [u8], q: &[u8; 256]) {
    for (b, q) in b.as_chunks_mut::<32>().0.iter_mut().zip(q.as_chunks::<128>().0) {
        for i in 0..32 {
            b[i] = q[i] & 3 | (q[32 + i] & 3) << 2 | (q[64 + i] & 3) << 4 | q[96 + i] << 6;
        }
    }
}

/// One bit of every code: all 256 values share 32 bytes.
#[inline(always)]
fn put_bits(b: &mut [u8], q: &[u8; 256], bit: usize) {
    for (e, q) in q.as_chunks::<32>().0.iter().enumerate() {
        for i in 0..32 {
            b[i] |= (q[i] >> bit & 1) << e;
        }
    }
}

#[inline(always)]
pub(super) fn q3_k(x: &[f32; 256], w: &[f32; 256]) -> [u8; 110] {
    let f = symmetric::fit::<Three, 16, 16, 256>(x, w, 32.0, &[1.0, 0.93, 1.08]);
    let mut b = [0; 110];
    put_bits(&mut b, &f.q, 2);
    put_crumbs(&mut b[32..96], &f.q);
    for (i, scale) in f.scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        b[96 + i % 8] |= (scale & 15) << (i / 8 * 4);
        b[104 + i % 4] |= (scale >> 4) << (i / 4 * 2);
    }
    b[108..].copy_from_slice(&half(f.d[0]).0);
    b
}

/// Eight six-bit scales and minima in twelve bytes.
#[inline(always)]
fn put_scales(b: &mut [u8], scales: &[u8], mins: &[u8]) {
    for j in 0..4 {
        b[j] = scales[j] | scales[j + 4] >> 4 << 6;
        b[j + 4] = mins[j] | mins[j + 4] >> 4 << 6;
        b[j + 8] = scales[j + 4] & 15 | (mins[j + 4] & 15) << 4;
    }
}

/// The lower four bits of every code: 64 values share 32 bytes.
#[inline(always)]
fn put_nibbles(b: &mut [u8], q: &[u8; 256]) {
    for (b, q) in b.as_chunks_mut::<32>().0.iter_mut().zip(q.as_chunks::<64>().0) {
        for i in 0..32 {
            b[i] = q[i] & 15 | q[32 + i] << 4;
        }
    }
}

/// Two super-blocks of Q4_K.
#[inline(always)]
pub(super) fn q4_k(x: &[f32; 512], w: &[f32; 512]) -> [u8; 288] {
    let f = affine::fit::<32, 8, 512>(x, w, &Q4);
    let mut out = [0; 288];
    for (g, (b, q)) in out.as_chunks_mut::<144>().0.iter_mut().zip(f.q.as_chunks::<256>().0).enumerate() {
        put_head(b, &f, g);
        put_nibbles(&mut b[16..], q);
    }
    out
}

/// Scales and minima of super-block `g`.
#[inline(always)]
fn put_head(b: &mut [u8], f: &affine::Affine<512>, g: usize) {
    let blocks = g * 8..g * 8 + 8;
    b[..2].copy_from_slice(&half(f.d[g * 8]).0);
    b[2..4].copy_from_slice(&half(f.dmin[g * 8]).0);
    put_scales(&mut b[4..16], &f.scales[blocks.clone()], &f.mins[blocks]);
}

/// Two super-blocks of Q5_K.
#[inline(always)]
pub(super) fn q5_k(x: &[f32; 512], w: &[f32; 512]) -> [u8; 352] {
    let f = affine::fit::<32, 8, 512>(x, w, &Q5);
    let mut out = [0; 352];
    for (g, (b, q)) in out.as_chunks_mut::<176>().0.iter_mut().zip(f.q.as_chunks::<256>().0).enumerate() {
        put_head(b, &f, g);
        put_bits(&mut b[16..48], q, 4);
        put_nibbles(&mut b[48..], q);
    }
    out
}

#[inline(always)]
pub(super) fn q6_k(x: &[f32; 256], w: &[f32; 256]) -> [u8; 210] {
    let f = symmetric::fit::<Six, 16, 16, 256>(x, w, 128.0, &[1.0]);
    let mut b = [0; 210];
    for (half, q) in f.q.as_chunks::<128>().0.iter().enumerate() {
        for i in 0..64 {
            b[half * 64 + i] = q[i] & 15 | q[64 + i] << 4;
        }
        for i in 0..32 {
            b[128 + half * 32 + i] = q[i] >> 4 | q[32 + i] >> 4 << 2 | q[64 + i] >> 4 << 4 | q[96 + i] >> 4 << 6;
        }
    }
    for (b, s) in b[192..208].iter_mut().zip(f.scales) {
        *b = s as u8;
    }
    b[208..].copy_from_slice(&half(f.d[0]).0);
    b
}
