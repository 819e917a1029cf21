//! The types with a scale for each 32 columns.
#![expect(unsafe_code, reason = "reads chunks of panels, whose sizes were checked, without checking again")]

use super::{Fine, ROWS, Slab, Type, vector::Vector};
use allod_tensor::DType;

/// The levels of IQ4_NL and IQ4_XS, plus 128.
pub(super) const IQ4: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];
/// Twice the levels of MXFP4 (E2M1), plus 16.
const E2M1: [u8; 16] = [16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4];

macro_rules! fine {
    (
        $(#[$attribute:meta])* $name:ident, offset $offset:literal, minima $minima:literal, chain $chain:literal,
        granules $granules:literal, parts $parts:literal,
        numbers |$b:ident, $at:ident, $slab:ident| $numbers:block,
        codes |$block:ident, $g:ident| $codes:block
    ) => {
        $(#[$attribute])*
        pub(super) struct $name;
        impl Fine for $name {}
        impl Type for $name {
            const DTYPE: DType = DType::$name;
            const OFFSET: i32 = $offset;
            const MINIMA: bool = $minima;
            const STRETCH: usize = 32;
            const CHAIN: usize = $chain;
            const GRANULES: usize = $granules;
            const PARTS: usize = $parts;

            #[inline(always)]
            unsafe fn numbers<V: Vector>(chunk: *const u8, blocks: usize, $slab: &mut Slab) {
                // SAFETY: fields lie one after the other, each for all blocks of the chunk.
                unsafe {
                    let $at = |field: usize, bytes: usize, block: usize| {
                        chunk.add((blocks * field + block * bytes) * ROWS)
                    };
                    for $b in 0..blocks $numbers
                }
            }

            #[inline(always)]
            unsafe fn codes<V: Vector>(chunk: *const u8, blocks: usize, block: usize, $g: usize) -> [V; 4] {
                // SAFETY: as above.
                unsafe {
                    let $block = |field: usize, bytes: usize| chunk.add((blocks * field + block * bytes) * ROWS);
                    $codes
                }
            }

            #[inline(always)]
            fn place(round: usize, part: usize) -> (usize, usize) {
                (round, part * $granules)
            }
        }
    };
}

/// The two halves of bytes, as they are.
#[inline(always)]
fn nibbles<V: Vector>(q: V) -> [V; 2] {
    [q.bits(0, 15), q.bits(4, 15)]
}

/// Fifth bits: bits `4 g` to `4 g + 3` of each row's word, as bit 4 of the row's four bytes.
#[inline(always)]
fn fifths<V: Vector>(words: V, g: usize) -> V {
    // The byte with the bits goes to all four places, where each looks at its own bit.
    let at = (g / 2) as u8;
    let bytes = words.widen(at, at, 0);
    let spread = bytes.or(bytes.shl(8));
    let own = if g.is_multiple_of(2) { ROW_LOW } else { ROW_HIGH };
    // SAFETY: 64 bytes.
    let own = unsafe { V::load(own.as_ptr()) };
    spread.sixteens(own)
}

/// Bit `j`, or bit `4 + j`, in byte `j` of each row.
const ROW_LOW: [u8; 64] = repeat([1, 2, 4, 8]);
const ROW_HIGH: [u8; 64] = repeat([16, 32, 64, 128]);

const fn repeat(row: [u8; 4]) -> [u8; 64] {
    let mut out = [0; 64];
    let mut i = 0;
    while i < 64 {
        out[i] = row[i % 4];
        i += 1;
    }
    out
}

fine!(
    Q8_0, offset 128, minima false, chain 1, granules 8, parts 1,
    numbers |b, at, slab| { slab.d[b] = V::halves(at(0, 2, b)); },
    codes |field, g| {
        let q = V::load(field(2, 32).add(g * 64)).xor(V::splat(0x80));
        [q; 4]
    }
);

fine!(
    Q4_0, offset 16, minima false, chain 8, granules 4, parts 2,
    numbers |b, at, slab| { slab.d[b] = V::halves(at(0, 2, b)); },
    codes |field, g| {
        let [low, high] = nibbles(V::load(field(2, 16).add(g * 64)));
        let (low, high) = (low.add(V::splat(8)), high.add(V::splat(8)));
        [low, high, low, high]
    }
);

fine!(
    Q4_1, offset 0, minima true, chain 8, granules 4, parts 2,
    numbers |b, at, slab| { (slab.d[b], slab.m[b]) = (V::halves(at(0, 2, b)), V::halves(at(2, 2, b))); },
    codes |field, g| {
        let [low, high] = nibbles(V::load(field(4, 16).add(g * 64)));
        [low, high, low, high]
    }
);

fine!(
    Q5_0, offset 16, minima false, chain 8, granules 4, parts 2,
    numbers |b, at, slab| { slab.d[b] = V::halves(at(0, 2, b)); },
    codes |field, g| {
        let bits = V::load(field(2, 4));
        let [low, high] = nibbles(V::load(field(6, 16).add(g * 64)));
        let (low, high) = (low.or(fifths(bits, g)), high.or(fifths(bits, g + 4)));
        [low, high, low, high]
    }
);

fine!(
    Q5_1, offset 0, minima true, chain 4, granules 4, parts 2,
    numbers |b, at, slab| { (slab.d[b], slab.m[b]) = (V::halves(at(0, 2, b)), V::halves(at(2, 2, b))); },
    codes |field, g| {
        let bits = V::load(field(4, 4));
        let [low, high] = nibbles(V::load(field(8, 16).add(g * 64)));
        let (low, high) = (low.or(fifths(bits, g)), high.or(fifths(bits, g + 4)));
        [low, high, low, high]
    }
);

fine!(
    #[expect(non_camel_case_types, reason = "the type's name")]
    IQ4_NL, offset 128, minima false, chain 1, granules 4, parts 2,
    numbers |b, at, slab| { slab.d[b] = V::halves(at(0, 2, b)); },
    codes |field, g| {
        let [low, high] = nibbles(V::load(field(2, 16).add(g * 64)));
        let (low, high) = (low.lookup(&IQ4), high.lookup(&IQ4));
        [low, high, low, high]
    }
);

fine!(
    MXFP4, offset 16, minima false, chain 8, granules 4, parts 2,
    numbers |b, at, slab| {
        for (d, e) in slab.d[b].iter_mut().zip(at(0, 1, b).cast::<[u8; ROWS]>().read()) {
            // Half of 2^(e - 127), since the levels are doubled; the two smallest are subnormal.
            *d = f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 });
        }
    },
    codes |field, g| {
        let [low, high] = nibbles(V::load(field(1, 16).add(g * 64)));
        let (low, high) = (low.lookup(&E2M1), high.lookup(&E2M1));
        [low, high, low, high]
    }
);
