//! Unpacking the types with a scale for each 32 columns.

use super::{Fine, Lookup, ROWS, Slab, Type};
use crate::linear::half::f16_to_f32;
use allod_tensor::DType;

/// The levels of IQ4_NL and IQ4_XS, plus 128.
pub(super) const IQ4: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];
/// Twice the levels of MXFP4 (E2M1), plus 16.
const E2M1: [u8; 16] = [16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4];

/// Takes the next `N` bytes of every block off the front of `chunk`.
macro_rules! field {
    ($chunk:ident, $blocks:expr, $n:expr) => {{
        let (field, rest) = $chunk.split_at($blocks * $n * ROWS);
        $chunk = rest;
        field.as_chunks::<{ $n * ROWS }>().0
    }};
}

/// Half-precision numbers of 16 rows.
#[inline(always)]
pub(super) fn halves(bytes: &[u8; 2 * ROWS]) -> [f32; ROWS] {
    let mut out = [0.0; ROWS];
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *o = f16_to_f32(u16::from_le_bytes(*b));
    }
    out
}

/// `f` of each byte.
#[inline(always)]
pub(super) fn map(bytes: &[u8; 64], f: impl Fn(u8) -> u8) -> [u8; 64] {
    let mut out = [0; 64];
    for (o, b) in out.iter_mut().zip(bytes) {
        *o = f(*b);
    }
    out
}

/// `f` of each two bytes.
#[inline(always)]
pub(super) fn map2(a: &[u8; 64], b: &[u8; 64], f: impl Fn(u8, u8) -> u8) -> [u8; 64] {
    let mut out = [0; 64];
    for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
        *o = f(*a, *b);
    }
    out
}

/// Fifth bits: bit `4 g + j` of each row's word becomes bit 4 of byte `j` of the row.
#[inline(always)]
fn fifths(words: &[u8; 64], g: usize) -> [u8; 64] {
    let mut out = [0; 64];
    for (o, w) in out.as_chunks_mut::<4>().0.iter_mut().zip(words.as_chunks::<4>().0) {
        let bits = u32::from_le_bytes(*w) >> (4 * g) & 15;
        // The four bits spread to the four bytes, then each byte's own is kept: times 0x00204081 shifts bit j by 7 j.
        *o = ((bits.wrapping_mul(0x0020_4081) & 0x0101_0101) << 4).to_le_bytes();
    }
    out
}

macro_rules! fine {
    ($(#[$attribute:meta])* $name:ident, offset $offset:literal, minima $minima:literal, chain $chain:literal, |$chunk:ident, $n:ident, $slab:ident, $l:ident| $body:block) => {
        $(#[$attribute])*
        pub(super) struct $name;
        impl Fine for $name {}
        impl Type for $name {
            const DTYPE: DType = DType::$name;
            const OFFSET: i32 = $offset;
            const MINIMA: bool = $minima;
            const STRETCH: usize = 32;
            const CHAIN: usize = $chain;
            #[inline(always)]
            #[expect(unused_assignments, reason = "the last field leaves nothing")]
            fn unpack<$l: Lookup>(chunk: &[u8], $slab: &mut Slab) {
                let $n = chunk.len() / (ROWS * DType::$name.block_bytes());
                let mut $chunk = chunk;
                $body
            }
        }
    };
}

fine!(Q8_0, offset 128, minima false, chain 1, |chunk, n, slab, L| {
    let d = field!(chunk, n, 2);
    let q = field!(chunk, n, 32);
    for b in 0..n {
        slab.d[b] = halves(&d[b]);
        for (code, q) in slab.codes[b * 8..][..8].iter_mut().zip(q[b].as_chunks::<64>().0) {
            *code = map(q, |q| q ^ 0x80);
        }
    }
});

fine!(Q4_0, offset 16, minima false, chain 8, |chunk, n, slab, L| {
    let d = field!(chunk, n, 2);
    let q = field!(chunk, n, 16);
    for b in 0..n {
        slab.d[b] = halves(&d[b]);
        for (g, q) in q[b].as_chunks::<64>().0.iter().enumerate() {
            slab.codes[b * 8 + g] = map(q, |q| (q & 15) + 8);
            slab.codes[b * 8 + 4 + g] = map(q, |q| (q >> 4) + 8);
        }
    }
});

fine!(Q4_1, offset 0, minima true, chain 8, |chunk, n, slab, L| {
    let d = field!(chunk, n, 2);
    let m = field!(chunk, n, 2);
    let q = field!(chunk, n, 16);
    for b in 0..n {
        (slab.d[b], slab.m[b]) = (halves(&d[b]), halves(&m[b]));
        for (g, q) in q[b].as_chunks::<64>().0.iter().enumerate() {
            slab.codes[b * 8 + g] = map(q, |q| q & 15);
            slab.codes[b * 8 + 4 + g] = map(q, |q| q >> 4);
        }
    }
});

fine!(Q5_0, offset 16, minima false, chain 8, |chunk, n, slab, L| {
    let d = field!(chunk, n, 2);
    let high = field!(chunk, n, 4);
    let q = field!(chunk, n, 16);
    for b in 0..n {
        slab.d[b] = halves(&d[b]);
        for (g, q) in q[b].as_chunks::<64>().0.iter().enumerate() {
            slab.codes[b * 8 + g] = map2(q, &fifths(&high[b], g), |q, h| q & 15 | h);
            slab.codes[b * 8 + 4 + g] = map2(q, &fifths(&high[b], g + 4), |q, h| q >> 4 | h);
        }
    }
});

fine!(Q5_1, offset 0, minima true, chain 4, |chunk, n, slab, L| {
    let d = field!(chunk, n, 2);
    let m = field!(chunk, n, 2);
    let high = field!(chunk, n, 4);
    let q = field!(chunk, n, 16);
    for b in 0..n {
        (slab.d[b], slab.m[b]) = (halves(&d[b]), halves(&m[b]));
        for (g, q) in q[b].as_chunks::<64>().0.iter().enumerate() {
            slab.codes[b * 8 + g] = map2(q, &fifths(&high[b], g), |q, h| q & 15 | h);
            slab.codes[b * 8 + 4 + g] = map2(q, &fifths(&high[b], g + 4), |q, h| q >> 4 | h);
        }
    }
});

fine!(#[expect(non_camel_case_types, reason = "the type's name")] IQ4_NL, offset 128, minima false, chain 1, |chunk, n, slab, L| {
    let d = field!(chunk, n, 2);
    let q = field!(chunk, n, 16);
    for b in 0..n {
        slab.d[b] = halves(&d[b]);
        for (g, q) in q[b].as_chunks::<64>().0.iter().enumerate() {
            (slab.codes[b * 8 + g], slab.codes[b * 8 + 4 + g]) = L::lookup(&IQ4, q);
        }
    }
});

fine!(MXFP4, offset 16, minima false, chain 8, |chunk, n, slab, L| {
    let e = field!(chunk, n, 1);
    let q = field!(chunk, n, 16);
    for b in 0..n {
        for (d, &e) in slab.d[b].iter_mut().zip(&e[b]) {
            // Half of 2^(e - 127), since the levels are doubled; the two smallest are subnormal.
            *d = f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 });
        }
        for (g, q) in q[b].as_chunks::<64>().0.iter().enumerate() {
            (slab.codes[b * 8 + g], slab.codes[b * 8 + 4 + g]) = L::lookup(&E2M1, q);
        }
    }
});
