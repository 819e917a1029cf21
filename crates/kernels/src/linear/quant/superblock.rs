//! The types with integer scales under a scale for each 256 columns.
#![expect(unsafe_code, reason = "reads chunks of panels, whose sizes were checked, without checking again")]

use super::{Slab, Super, Type, fine::IQ4, vector::Vector};
use allod_tensor::DType;

macro_rules! superblock {
    (
        $name:ident, offset $offset:literal, minima $minima:literal, stretch $stretch:literal, folds $folds:literal,
        most $most:literal, chain $chain:literal, granules $granules:literal, parts $parts:literal,
        place |$place_round:ident, $part:ident| $place:expr,
        numbers |$at:ident, $slab:ident| $numbers:block,
        codes |$field:ident, $round:ident, $g:ident| $codes:block
    ) => {
        #[expect(non_camel_case_types, reason = "the type's name")]
        pub(super) struct $name;
        impl Super for $name {
            const FOLDS: bool = $folds;
            const MOST: i32 = $most;
        }
        impl Type for $name {
            const DTYPE: DType = DType::$name;
            const OFFSET: i32 = $offset;
            const MINIMA: bool = $minima;
            const STRETCH: usize = $stretch;
            const CHAIN: usize = $chain;
            const GRANULES: usize = $granules;
            const PARTS: usize = $parts;

            #[inline(always)]
            unsafe fn numbers<V: Vector>(chunk: *const u8, _: usize, $slab: &mut Slab) {
                // SAFETY: the fields of a super-block lie one after the other.
                unsafe {
                    let $at = |field: usize| chunk.add(field * super::ROWS);
                    $numbers
                }
            }

            #[inline(always)]
            unsafe fn codes<V: Vector>(chunk: *const u8, _: usize, $round: usize, $g: usize) -> [V; 4] {
                // SAFETY: as above.
                unsafe {
                    let $field = |field: usize, granule: usize| V::load(chunk.add(field * super::ROWS + granule * 64));
                    $codes
                }
            }

            #[inline(always)]
            fn place($place_round: usize, $part: usize) -> (usize, usize) {
                $place
            }
        }
    };
}

/// Writes scales, four bytes to a row of each vector.
#[inline(always)]
fn put_scales<V: Vector>(slab: &mut Slab, all: &[V], offset: i16) {
    for (i, v) in all.iter().enumerate() {
        v.widen(0, 0, offset).store(&mut slab.scales[i * 4].0);
        v.widen(1, 1, offset).store(&mut slab.scales[i * 4 + 1].0);
        v.widen(2, 2, offset).store(&mut slab.scales[i * 4 + 2].0);
        v.widen(3, 3, offset).store(&mut slab.scales[i * 4 + 3].0);
    }
}

/// Writes minima in pairs.
#[inline(always)]
fn put_minima<V: Vector>(slab: &mut Slab, all: &[V]) {
    for (i, v) in all.iter().enumerate() {
        v.widen(0, 1, 0).store(&mut slab.min_pairs[i * 2].0);
        v.widen(2, 3, 0).store(&mut slab.min_pairs[i * 2 + 1].0);
    }
}

/// Six-bit scales and minima of Q4_K and Q5_K.
#[inline(always)]
fn put_scales_and_minima<V: Vector>(slab: &mut Slab, a: V, b: V, c: V) {
    put_scales(slab, &[a.bits(0, 0x3f), c.bits(0, 0x0f).or(a.bits(2, 0x30))], 0);
    put_minima(slab, &[b.bits(0, 0x3f), c.bits(4, 0x0f).or(b.bits(2, 0x30))]);
}

superblock!(
    Q4_K, offset 0, minima true, stretch 32, folds false, most 15, chain 8, granules 8, parts 2,
    place |round, part| (2 * round + part, 0),
    numbers |at, slab| {
        (slab.d[0], slab.m[0]) = (V::halves(at(0)), V::halves(at(2)));
        put_scales_and_minima(slab, V::load(at(4)), V::load(at(8)), V::load(at(12)));
    },
    codes |field, round, g| {
        let q = field(16, round * 8 + g);
        let (low, high) = (q.bits(0, 15), q.bits(4, 15));
        [low, high, low, high]
    }
);

superblock!(
    Q5_K, offset 0, minima true, stretch 32, folds false, most 31, chain 4, granules 8, parts 2,
    place |round, part| (2 * round + part, 0),
    numbers |at, slab| {
        (slab.d[0], slab.m[0]) = (V::halves(at(0)), V::halves(at(2)));
        put_scales_and_minima(slab, V::load(at(4)), V::load(at(8)), V::load(at(12)));
    },
    codes |field, round, g| {
        let (q, h) = (field(48, round * 8 + g), field(16, g));
        let fifth = |bit: usize| h.bits(bit as u32, 1).shl(4);
        let (low, high) = (q.bits(0, 15).or(fifth(2 * round)), q.bits(4, 15).or(fifth(2 * round + 1)));
        [low, high, low, high]
    }
);

// A round of the types with 16 columns to a scale takes 16 columns of each of four 32's: of one half of the super-block
// (`round / 2`), its first or its second 16 (`round % 2`).

superblock!(
    Q6_K, offset 32, minima false, stretch 16, folds false, most 32, chain 4, granules 4, parts 4,
    place |round, part| (round / 2 * 8 + part * 2 + round % 2, 0),
    numbers |at, slab| {
        // Signed bytes, as unsigned ones above -128.
        let mut scales = [V::splat(0x80); 4];
        for (i, s) in scales.iter_mut().enumerate() {
            *s = s.xor(V::load(at(192 + 4 * i)));
        }
        put_scales(slab, &scales, 128);
        slab.d[0] = V::halves(at(208));
    },
    codes |field, round, g| {
        let (half, g) = (round / 2, round % 2 * 4 + g);
        let (a, b, h) = (field(0, half * 16 + g), field(0, half * 16 + 8 + g), field(128, half * 8 + g));
        [
            a.bits(0, 15).or(h.bits_up(4, 0x03)),
            b.bits(0, 15).or(h.bits_up(2, 0x0c)),
            a.bits(4, 15).or(h.bits(0, 0x30)),
            b.bits(4, 15).or(h.bits(2, 0x30)),
        ]
    }
);

superblock!(
    Q3_K, offset 32, minima false, stretch 16, folds true, most 4, chain 4, granules 4, parts 4,
    place |round, part| (round / 2 * 8 + part * 2 + round % 2, 0),
    numbers |at, slab| {
        let (a, b, c) = (V::load(at(96)), V::load(at(100)), V::load(at(104)));
        let scales = [
            a.bits(0, 15).or(c.bits_up(4, 3)),
            b.bits(0, 15).or(c.bits_up(2, 0x0c)),
            a.bits(4, 15).or(c.bits(0, 0x30)),
            b.bits(4, 15).or(c.bits(2, 0x30)),
        ];
        put_scales(slab, &scales, 32);
        slab.d[0] = V::halves(at(108));
    },
    codes |field, round, g| {
        let (half, g) = (round / 2, round % 2 * 4 + g);
        let (q, h, less) = (field(32, half * 8 + g), field(0, g), V::splat(28));
        let third = |part: usize| h.bits((half * 4 + part) as u32, 1).shl(2);
        [
            q.bits(0, 3).or(third(0)).add(less),
            q.bits(2, 3).or(third(1)).add(less),
            q.bits(4, 3).or(third(2)).add(less),
            q.bits(6, 3).or(third(3)).add(less),
        ]
    }
);

superblock!(
    Q2_K, offset 0, minima true, stretch 16, folds true, most 3, chain 4, granules 4, parts 4,
    place |round, part| (round / 2 * 8 + part * 2 + round % 2, 0),
    numbers |at, slab| {
        let (mut scales, mut minima) = ([V::splat(0); 4], [V::splat(0); 4]);
        for i in 0..4 {
            let both = V::load(at(4 * i));
            (scales[i], minima[i]) = (both.bits(0, 15), both.bits(4, 15));
        }
        put_scales(slab, &scales, 0);
        put_minima(slab, &minima);
        (slab.d[0], slab.m[0]) = (V::halves(at(80)), V::halves(at(82)));
    },
    codes |field, round, g| {
        let q = field(16, round / 2 * 8 + round % 2 * 4 + g);
        [q.bits(0, 3), q.bits(2, 3), q.bits(4, 3), q.bits(6, 3)]
    }
);

superblock!(
    IQ4_XS, offset 128, minima false, stretch 32, folds false, most 127, chain 1, granules 4, parts 2,
    place |round, part| (round, part * 4),
    numbers |at, slab| {
        slab.d[0] = V::halves(at(0));
        // Scale s has its lower four bits in nibble s of a row's word, its upper two at 2 s of the row's half word, whose
        // nibbles are spread over bytes.
        let mut upper = at(2).cast::<[u16; 16]>().read_unaligned().map(|h| u32::from(u16::from_le(h)));
        for h in &mut upper {
            *h = *h & 0xf | (*h & 0xf0) << 4 | (*h & 0xf00) << 8 | (*h & 0xf000) << 12;
        }
        let (h, l) = (V::load(upper.as_ptr().cast()), V::load(at(4)));
        let (even, odd) = (l.bits(0, 15).or(h.bits_up(4, 3)), l.bits(4, 15).or(h.bits_up(2, 0x0c)));
        for (i, pair) in (0..).zip(slab.scales[..8].as_chunks_mut::<2>().0) {
            even.widen(i, i, 32).store(&mut pair[0].0);
            odd.widen(i, i, 32).store(&mut pair[1].0);
        }
    },
    codes |field, round, g| {
        let q = field(8, round * 4 + g);
        let (low, high) = (q.bits(0, 15).lookup(&IQ4), q.bits(4, 15).lookup(&IQ4));
        [low, high, low, high]
    }
);
