//! Blocks that stand alone: Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, Q1_0, Q2_0, NVFP4, and IQ4_XS beside its relative.

use super::{
    affine,
    lanes::{Batch, LANES},
    levels::{self, Five, Four, Levels, Two, Uneven},
    sums::{clamp, half, inverse, round},
    symmetric,
};

/// Blocks of one scale: bytes of scales, and codes of all values.
#[inline(always)]
fn scaled<L: Levels, const N: usize, const VALUES: usize>(
    x: &[f32; VALUES],
    w: &[f32; VALUES],
) -> ([[u8; 2]; LANES], [u8; VALUES]) {
    let b = Batch::<N>::new(x, w);
    let d = levels::best_scale::<L, N>(&b).map(half);
    let inverse = d.map(|d| inverse(d.1));
    let mut q = [0; VALUES];
    b.write(&mut q, |l, x| L::code(x * inverse[l]));
    (d.map(|d| d.0), q)
}

/// Value `j` low and value `j + 16` high in byte `j`.
#[inline(always)]
fn put_nibbles(b: &mut [u8], q: &[u8; 32]) {
    for j in 0..16 {
        b[j] = q[j] & 15 | q[j + 16] << 4;
    }
}

#[inline(always)]
fn fifth_bits(q: &[u8; 32]) -> [u8; 4] {
    q.iter().enumerate().fold(0u32, |bits, (i, q)| bits | u32::from(q >> 4) << i).to_le_bytes()
}

/// Sixteen blocks of Q4_0 or IQ4_NL.
#[inline(always)]
fn nibbles<L: Levels>(x: &[f32; 512], w: &[f32; 512]) -> [u8; 288] {
    let (d, q) = scaled::<L, 32, 512>(x, w);
    let mut out = [0; 288];
    for ((b, q), d) in out.as_chunks_mut::<18>().0.iter_mut().zip(q.as_chunks().0).zip(d) {
        b[..2].copy_from_slice(&d);
        put_nibbles(&mut b[2..], q);
    }
    out
}

#[inline(always)]
pub(super) fn q4_0(x: &[f32; 512], w: &[f32; 512]) -> [u8; 288] {
    nibbles::<Four>(x, w)
}

#[inline(always)]
pub(super) fn iq4_nl(x: &[f32; 512], w: &[f32; 512]) -> [u8; 288] {
    nibbles::<Uneven>(x, w)
}

#[inline(always)]
pub(super) fn q5_0(x: &[f32; 512], w: &[f32; 512]) -> [u8; 352] {
    let (d, q) = scaled::<Five, 32, 512>(x, w);
    let mut out = [0; 352];
    for ((b, q), d) in out.as_chunks_mut::<22>().0.iter_mut().zip(q.as_chunks().0).zip(d) {
        b[..2].copy_from_slice(&d);
        b[2..6].copy_from_slice(&fifth_bits(q));
        put_nibbles(&mut b[6..], q);
    }
    out
}

/// Two super-blocks of IQ4_XS.
#[inline(always)]
pub(super) fn iq4_xs(x: &[f32; 512], w: &[f32; 512]) -> [u8; 272] {
    let f = symmetric::fit::<Uneven, 32, 8, 512>(x, w, 32.0, &[1.0, 0.93, 1.08]);
    let mut out = [0; 272];
    for (g, (b, q)) in out.as_chunks_mut::<136>().0.iter_mut().zip(f.q.as_chunks::<256>().0).enumerate() {
        b[..2].copy_from_slice(&half(f.d[g * 8]).0);
        for (i, s) in f.scales[g * 8..g * 8 + 8].iter().enumerate() {
            let s = (s + 32) as u8;
            b[2 + i / 4] |= s >> 4 << (i % 4 * 2);
            b[4 + i / 2] |= (s & 15) << (i % 2 * 4);
        }
        for (b, q) in b[8..].chunks_exact_mut(16).zip(q.as_chunks().0) {
            put_nibbles(b, q);
        }
    }
    out
}

/// Blocks of scale and shift: the bytes of both, and the codes under them.
#[inline(always)]
fn shifted(x: &[f32; 512], w: &[f32; 512], l: &affine::Limits) -> ([[u8; 4]; LANES], [u8; 512]) {
    let b = Batch::<32>::new(x, w);
    let real = affine::real_fit(&b, &b.moments(), l);
    let (d, m) = (real.scale.map(half), real.min.map(|v| half(-v)));
    let inverse = d.map(|d| inverse(d.1));
    let mut q = [0; 512];
    b.write(&mut q, |i, x| clamp(round((x - m[i].1) * inverse[i]), 0.0, l.q) as u8);
    (std::array::from_fn(|i| [d[i].0[0], d[i].0[1], m[i].0[0], m[i].0[1]]), q)
}

const Q4_1: affine::Limits = affine::Limits {
    q: 15.0,
    scale: 1.0,
    cuts: &[-0.4, -0.15, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.55, 1.8, 2.05, 2.3, 2.55, 2.8, 3.05],
    starts: &[],
    above_zero: true,
};
const Q5_1: affine::Limits = affine::Limits { q: 31.0, ..Q4_1 };

#[inline(always)]
pub(super) fn q4_1(x: &[f32; 512], w: &[f32; 512]) -> [u8; 320] {
    let (head, q) = shifted(x, w, &Q4_1);
    let mut out = [0; 320];
    for ((b, q), head) in out.as_chunks_mut::<20>().0.iter_mut().zip(q.as_chunks().0).zip(head) {
        b[..4].copy_from_slice(&head);
        put_nibbles(&mut b[4..], q);
    }
    out
}

#[inline(always)]
pub(super) fn q5_1(x: &[f32; 512], w: &[f32; 512]) -> [u8; 384] {
    let (head, q) = shifted(x, w, &Q5_1);
    let mut out = [0; 384];
    for ((b, q), head) in out.as_chunks_mut::<24>().0.iter_mut().zip(q.as_chunks().0).zip(head) {
        b[..4].copy_from_slice(&head);
        b[4..8].copy_from_slice(&fifth_bits(q));
        put_nibbles(&mut b[8..], q);
    }
    out
}

/// A sign for every value under the weighted mean of magnitudes, which is the best scale for them.
#[inline(always)]
pub(super) fn q1_0(x: &[f32; 128], w: &[f32; 128]) -> [u8; 18] {
    let (mut sum, mut weight) = (0.0, 0.0);
    for (x, w) in x.iter().zip(w) {
        sum += w * x.abs();
        weight += w;
    }
    let mut b = [0; 18];
    b[..2].copy_from_slice(&half(sum * inverse(weight)).0);
    for (i, v) in x.iter().enumerate() {
        b[2 + i / 8] |= u8::from(*v >= 0.0) << (i % 8);
    }
    b
}

/// Sixteen blocks of Q2_0.
#[inline(always)]
pub(super) fn q2_0(x: &[f32; 1024], w: &[f32; 1024]) -> [u8; 288] {
    let (d, q) = scaled::<Two, 64, 1024>(x, w);
    let mut out = [0; 288];
    for ((b, q), d) in out.as_chunks_mut::<18>().0.iter_mut().zip(q.as_chunks::<64>().0).zip(d) {
        b[..2].copy_from_slice(&d);
        for (i, q) in q.iter().enumerate() {
            b[2 + i / 4] |= q << (i % 4 * 2);
        }
    }
    out
}

/// Magnitudes of E2M1, doubled.
const E2M1: [f32; 8] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0];
/// The code for a magnitude by its quarters: twice the value lies between half units.
const E2M1_CODES: [u8; 26] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 6, 6, 7, 7, 7, 7, 7, 7];

#[inline(always)]
fn e2m1(v: f32, inverse: f32) -> u8 {
    E2M1_CODES[clamp((v * inverse).abs() * 2.0, 0.0, 25.0) as usize]
}

/// Half of an unsigned E4M3 number.
#[inline(always)]
fn half_of_e4m3(x: u8) -> f32 {
    match x >> 3 {
        0 => f32::from(x) / 1024.0,
        e => (1.0 + f32::from(x & 7) / 8.0) * f32::from_bits((u32::from(e) + 119) << 23),
    }
}

#[inline(always)]
pub(super) fn nvfp4(x: &[f32; 64], w: &[f32; 64]) -> [u8; 36] {
    let mut b = [0; 36];
    for (g, (x, w)) in x.as_chunks::<16>().0.iter().zip(w.as_chunks::<16>().0).enumerate() {
        let scale = e4m3_scale(x, w);
        let inverse = inverse(half_of_e4m3(scale));
        let code = |v: f32| {
            let c = e2m1(v, inverse);
            if v < 0.0 && c > 0 { c | 8 } else { c }
        };
        b[g] = scale;
        for j in 0..8 {
            b[4 + g * 8 + j] = code(x[j]) | code(x[j + 8]) << 4;
        }
    }
    b
}

/// The scale of least error among those that bring the greatest magnitude near the greatest level.
#[inline(always)]
fn e4m3_scale(x: &[f32; 16], w: &[f32; 16]) -> u8 {
    const GREATEST: u8 = 0x7e;
    let most = x.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
    if most == 0.0 {
        return 0;
    }
    let holds = (1..=GREATEST).find(|&s| 12.0 * half_of_e4m3(s) >= most).unwrap_or(GREATEST);
    let mut best = (f32::INFINITY, 0);
    for s in holds.saturating_sub(8).max(1)..=holds.saturating_add(4).min(GREATEST) {
        let d = half_of_e4m3(s);
        let inverse = inverse(d);
        let error = x.iter().zip(w).fold(0.0, |sum, (v, w)| {
            let e = v.abs() - d * E2M1[usize::from(e2m1(*v, inverse))];
            sum + w * e * e
        });
        if error < best.0 {
            best = (error, s);
        }
    }
    best.1
}
