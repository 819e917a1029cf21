//! Unpacking the types with integer scales under a scale for each 256 columns.

use super::fine::{IQ4, halves, map, map2};
use super::{Lookup, ROWS, Slab, Super, Type};
use allod_tensor::DType;

/// Four integers of each of 16 rows, as the bytes of words.
type Words = [u32; ROWS];

#[inline(always)]
fn words(bytes: &[u8; 64]) -> Words {
    let mut out = [0; ROWS];
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *o = u32::from_le_bytes(*b);
    }
    out
}

#[inline(always)]
fn combine(a: &Words, b: &Words, f: impl Fn(u32, u32) -> u32) -> Words {
    let mut out = [0; ROWS];
    for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
        *o = f(*a, *b);
    }
    out
}

/// Byte `j` of each row's word less `offset`, twice: the form in which a product of pairs takes a scale.
#[inline(always)]
fn twice(w: &Words, j: usize, offset: i16) -> [i16; 2 * ROWS] {
    let mut out = [0; 2 * ROWS];
    for (o, w) in out.as_chunks_mut::<2>().0.iter_mut().zip(w) {
        *o = [(w >> (8 * j) & 255) as i16 - offset; 2];
    }
    out
}

/// Bytes `j` and `j + 1` of each row's word less `offset`.
#[inline(always)]
fn pair(w: &Words, j: usize, offset: i16) -> [i16; 2 * ROWS] {
    let mut out = [0; 2 * ROWS];
    for (o, w) in out.as_chunks_mut::<2>().0.iter_mut().zip(w) {
        *o = [(w >> (8 * j) & 255) as i16 - offset, (w >> (8 * j + 8) & 255) as i16 - offset];
    }
    out
}

/// Writes scales, four to a word.
#[inline(always)]
fn put_scales(slab: &mut Slab, all: &[Words], offset: i16) {
    for (i, w) in all.iter().enumerate() {
        for j in 0..4 {
            slab.scales[i * 4 + j] = twice(w, j, offset);
        }
    }
}

/// Writes scales in pairs.
#[inline(always)]
fn put_scale_pairs(slab: &mut Slab, all: &[Words], offset: i16) {
    for (i, w) in all.iter().enumerate() {
        slab.scale_pairs[i * 2] = pair(w, 0, offset);
        slab.scale_pairs[i * 2 + 1] = pair(w, 2, offset);
    }
}

/// Writes minima in pairs.
#[inline(always)]
fn put_minima(slab: &mut Slab, all: &[Words]) {
    for (i, w) in all.iter().enumerate() {
        slab.min_pairs[i * 2] = pair(w, 0, 0);
        slab.min_pairs[i * 2 + 1] = pair(w, 2, 0);
    }
}

/// Takes the next `N` bytes of the super-block off the front of `chunk`, as vectors of 16 rows × `G` bytes.
macro_rules! field {
    ($chunk:ident, $n:expr, $granule:expr) => {{
        let (field, rest) = $chunk.split_at($n * ROWS);
        $chunk = rest;
        field.as_chunks::<{ $granule * ROWS }>().0
    }};
}

macro_rules! superblock {
    ($(#[$attribute:meta])* $name:ident, offset $offset:literal, minima $minima:literal, stretch $stretch:literal, chain $chain:literal, |$chunk:ident, $slab:ident, $l:ident| $body:block) => {
        $(#[$attribute])*
        #[expect(non_camel_case_types, reason = "the type's name")]
        pub(super) struct $name;
        impl Super for $name {}
        impl Type for $name {
            const DTYPE: DType = DType::$name;
            const OFFSET: i32 = $offset;
            const MINIMA: bool = $minima;
            const STRETCH: usize = $stretch;
            const CHAIN: usize = $chain;
            #[inline(always)]
            #[expect(unused_assignments, reason = "the last field leaves nothing")]
            fn unpack<$l: Lookup>(chunk: &[u8], $slab: &mut Slab) {
                let mut $chunk = chunk;
                $body
            }
        }
    };
}

/// Six-bit scales and minima of Q4_K and Q5_K.
#[inline(always)]
fn put_scales_and_minima(slab: &mut Slab, packed: &[[u8; 64]]) {
    const LOW6: u32 = 0x3f3f_3f3f;
    const LOW4: u32 = 0x0f0f_0f0f;
    const TOP: u32 = 0x3030_3030;
    let (a, b, c) = (words(&packed[0]), words(&packed[1]), words(&packed[2]));
    let scales = [combine(&a, &a, |a, _| a & LOW6), combine(&a, &c, |a, c| c & LOW4 | a >> 2 & TOP)];
    let minima = [combine(&b, &b, |b, _| b & LOW6), combine(&b, &c, |b, c| c >> 4 & LOW4 | b >> 2 & TOP)];
    put_scales(slab, &scales, 0);
    put_minima(slab, &minima);
}

superblock!(Q4_K, offset 0, minima true, stretch 32, chain 8, |chunk, slab, L| {
    slab.d[0] = halves(&field!(chunk, 2, 2)[0]);
    slab.m[0] = halves(&field!(chunk, 2, 2)[0]);
    put_scales_and_minima(slab, field!(chunk, 12, 4));
    for (i, q) in field!(chunk, 128, 4).iter().enumerate() {
        let at = i / 8 * 16 + i % 8;
        slab.codes[at] = map(q, |q| q & 15);
        slab.codes[at + 8] = map(q, |q| q >> 4);
    }
});

superblock!(Q5_K, offset 0, minima true, stretch 32, chain 4, |chunk, slab, L| {
    slab.d[0] = halves(&field!(chunk, 2, 2)[0]);
    slab.m[0] = halves(&field!(chunk, 2, 2)[0]);
    put_scales_and_minima(slab, field!(chunk, 12, 4));
    let high = field!(chunk, 32, 4);
    for (i, q) in field!(chunk, 128, 4).iter().enumerate() {
        let (j, g) = (i / 8, i % 8);
        slab.codes[j * 16 + g] = map2(q, &high[g], |q, h| q & 15 | (h >> (2 * j) & 1) << 4);
        slab.codes[j * 16 + 8 + g] = map2(q, &high[g], |q, h| q >> 4 | (h >> (2 * j + 1) & 1) << 4);
    }
});

superblock!(Q6_K, offset 32, minima false, stretch 16, chain 4, |chunk, slab, L| {
    let low = field!(chunk, 128, 4);
    let high = field!(chunk, 64, 4);
    let mut scales = [[0; ROWS]; 4];
    for (scales, s) in scales.iter_mut().zip(field!(chunk, 16, 4)) {
        // Signed bytes, as unsigned ones above -128.
        *scales = combine(&words(s), &words(s), |s, _| s ^ 0x8080_8080);
    }
    put_scales(slab, &scales, 128);
    put_scale_pairs(slab, &scales, 128);
    slab.d[0] = halves(&field!(chunk, 2, 2)[0]);
    for (i, h) in high.iter().enumerate() {
        let (half, g) = (i / 8, i % 8);
        let (a, b) = (&low[half * 16 + g], &low[half * 16 + 8 + g]);
        let codes = &mut slab.codes[half * 32..][..32];
        codes[g] = map2(a, h, |a, h| a & 15 | (h & 3) << 4);
        codes[8 + g] = map2(b, h, |b, h| b & 15 | (h >> 2 & 3) << 4);
        codes[16 + g] = map2(a, h, |a, h| a >> 4 | (h >> 4 & 3) << 4);
        codes[24 + g] = map2(b, h, |b, h| b >> 4 | h >> 6 << 4);
    }
});

superblock!(Q3_K, offset 32, minima false, stretch 16, chain 4, |chunk, slab, L| {
    const LOW4: u32 = 0x0f0f_0f0f;
    const LOW2: u32 = 0x0303_0303;
    let high = field!(chunk, 32, 4);
    let low = field!(chunk, 64, 4);
    let packed = field!(chunk, 12, 4);
    let (a, b, c) = (words(&packed[0]), words(&packed[1]), words(&packed[2]));
    let scales = [
        combine(&a, &c, |a, c| a & LOW4 | (c & LOW2) << 4),
        combine(&b, &c, |b, c| b & LOW4 | (c >> 2 & LOW2) << 4),
        combine(&a, &c, |a, c| a >> 4 & LOW4 | (c >> 4 & LOW2) << 4),
        combine(&b, &c, |b, c| b >> 4 & LOW4 | (c >> 6 & LOW2) << 4),
    ];
    put_scales(slab, &scales, 32);
    put_scale_pairs(slab, &scales, 32);
    slab.d[0] = halves(&field!(chunk, 2, 2)[0]);
    for (i, low) in low.iter().enumerate() {
        let (half, g) = (i / 8, i % 8);
        for j in 0..4 {
            let bit = half * 4 + j;
            slab.codes[bit * 8 + g] = map2(low, &high[g], |l, h| (l >> (2 * j) & 3 | (h >> bit & 1) << 2) + 28);
        }
    }
});

superblock!(Q2_K, offset 0, minima true, stretch 16, chain 4, |chunk, slab, L| {
    const LOW4: u32 = 0x0f0f_0f0f;
    let (mut scales, mut minima) = ([[0; ROWS]; 4], [[0; ROWS]; 4]);
    for ((scales, minima), s) in scales.iter_mut().zip(&mut minima).zip(field!(chunk, 16, 4)) {
        *scales = combine(&words(s), &words(s), |s, _| s & LOW4);
        *minima = combine(&words(s), &words(s), |s, _| s >> 4 & LOW4);
    }
    put_scales(slab, &scales, 0);
    put_minima(slab, &minima);
    for (i, q) in field!(chunk, 64, 4).iter().enumerate() {
        for j in 0..4 {
            slab.codes[(i / 8 * 4 + j) * 8 + i % 8] = map(q, |q| q >> (2 * j) & 3);
        }
    }
    slab.d[0] = halves(&field!(chunk, 2, 2)[0]);
    slab.m[0] = halves(&field!(chunk, 2, 2)[0]);
});

superblock!(IQ4_XS, offset 128, minima false, stretch 32, chain 1, |chunk, slab, L| {
    slab.d[0] = halves(&field!(chunk, 2, 2)[0]);
    let high = field!(chunk, 2, 2)[0];
    let low = words(&field!(chunk, 4, 4)[0]);
    let mut upper = [0; ROWS];
    for (u, h) in upper.iter_mut().zip(high.as_chunks::<2>().0) {
        *u = u32::from(u16::from_le_bytes(*h));
    }
    // Scale s has its low half in nibble s, its upper two bits in bits 2 s; four go to a word.
    let scale = |l: u32, h: u32, s: usize| l >> (4 * s) & 15 | (h >> (2 * s) & 3) << 4;
    let scales = [0, 4].map(|s| {
        combine(&low, &upper, |l, h| {
            scale(l, h, s) | scale(l, h, s + 1) << 8 | scale(l, h, s + 2) << 16 | scale(l, h, s + 3) << 24
        })
    });
    put_scales(slab, &scales, 32);
    put_scale_pairs(slab, &scales, 32);
    for (i, q) in field!(chunk, 128, 4).iter().enumerate() {
        let at = i / 4 * 8 + i % 4;
        (slab.codes[at], slab.codes[at + 4]) = L::lookup(&IQ4, q);
    }
});
