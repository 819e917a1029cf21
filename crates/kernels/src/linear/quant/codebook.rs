//! The types whose codes are rows of a codebook, or digits: too irregular for vectors, so each row's block is decoded on
//! its own. Their panels keep blocks whole.
#![expect(unsafe_code, reason = "reads chunks of panels, whose sizes were checked, without checking again")]

use super::{ROWS, Slab, Super, Type, vector::Vector};
use allod_codec as codec;
use allod_tensor::DType;
use half::f16;
use std::sync::LazyLock;

/// A super-block in bytes: codes above the type's offset, one scale for 16 codes, and the scale of scales.
struct Block {
    codes: [u8; 256],
    scales: [i16; 16],
    d: f32,
}

macro_rules! codebook {
    ($(#[$attribute:meta])* $name:ident, offset $offset:literal, most $most:literal, chain $chain:literal, |$b:ident, $out:ident| $decode:block) => {
        $(#[$attribute])*
        pub(super) struct $name;
        impl Super for $name {
            const MOST: i32 = $most;
        }
        impl Type for $name {
            const DTYPE: DType = DType::$name;
            const OFFSET: i32 = $offset;
            const MINIMA: bool = false;
            const STRETCH: usize = 16;
            const CHAIN: usize = $chain;
            const GRANULES: usize = 0;
            const PARTS: usize = 0;

            unsafe fn numbers<V: Vector>(chunk: *const u8, _: usize, slab: &mut Slab) {
                const BYTES: usize = DType::$name.block_bytes();
                // SAFETY: 16 blocks by contract.
                let blocks = unsafe { &*chunk.cast::<[[u8; BYTES]; ROWS]>() };
                let mut $out = Block { codes: [0; 256], scales: [1; 16], d: 0.0 };
                for (r, $b) in blocks.iter().enumerate() {
                    $decode
                    slab.put(r, &$out);
                }
            }

            unsafe fn codes<V: Vector>(_: *const u8, _: usize, _: usize, _: usize) -> [V; 4] {
                [V::splat(0); 4]
            }

            fn place(_: usize, _: usize) -> (usize, usize) {
                (0, 0)
            }

            fn rounds(_: usize) -> usize {
                0
            }
        }
    };
}

impl Slab {
    /// Writes one row's super-block.
    fn put(&mut self, r: usize, block: &Block) {
        for (lanes, codes) in self.codes.iter_mut().zip(block.codes.as_chunks::<4>().0) {
            lanes.0[4 * r..][..4].copy_from_slice(codes);
        }
        for (lanes, s) in self.scales.iter_mut().zip(block.scales) {
            let [a, b] = s.to_le_bytes();
            lanes.0[4 * r..][..4].copy_from_slice(&[a, b, a, b]);
        }
        self.d[0][r] = block.d;
    }
}

fn f16_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// `2 s + 1`, what a scale `s` stands for.
fn odd(s: u32) -> i16 {
    2 * s as i16 + 1
}

/// The low half of a byte for even `i`, else the high one.
fn nibble(byte: u8, i: usize) -> u32 {
    u32::from(byte >> (i % 2 * 4) & 15)
}

/// Bytes of ones where bit `j` is set, for byte `j`.
static SIGNS: [u64; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 * 8 {
        if (i / 8) >> (i % 8) & 1 == 1 {
            table[i / 8] |= 0xff << (i % 8 * 8);
        }
        i += 1;
    }
    table
};

/// Eight levels (below 128), negated where a bit of `signs` is set, plus 128.
fn signed(levels: u64, signs: u8) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mask = SIGNS[usize::from(signs)];
    ((levels ^ mask ^ (ONES << 7)) + (mask & ONES)).to_le_bytes()
}

/// Seven sign bits and the eighth that makes their number even.
fn even(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// Reads a codebook of `rows` rows of `WIDTH` values back from the reference codec: `number(block, i, row)` writes the
/// number of a row as the block's `i`-th, under a scale of 1.
fn book<const WIDTH: usize>(
    dtype: DType,
    d: (usize, f32),
    rows: usize,
    number: fn(&mut [u8], usize, usize),
) -> Vec<u64> {
    let (mut block, mut values) = (vec![0; dtype.block_bytes()], [0.0; 256]);
    block[d.0..d.0 + 2].copy_from_slice(&f16::from_f32(d.1).to_le_bytes());
    let row = |row| {
        number(&mut block, 0, row);
        let decoded = codec::decode(dtype, &block, &mut values);
        debug_assert!(decoded.is_ok(), "one whole block");
        values[..WIDTH].iter().rev().fold(0, |word, &v| word << 8 | u64::from(v as i8 as u8))
    };
    (0..rows).map(row).collect()
}

static IQ2_XXS_BOOK: LazyLock<Vec<u64>> =
    LazyLock::new(|| book::<8>(DType::IQ2_XXS, (0, 8.0), 256, |b, i, row| b[2 + i] = row as u8));
static IQ2_XS_BOOK: LazyLock<Vec<u64>> = LazyLock::new(|| {
    book::<8>(DType::IQ2_XS, (0, 8.0), 512, |b, i, row| {
        b[2 + 2 * i..][..2].copy_from_slice(&(row as u16).to_le_bytes())
    })
});
static IQ2_S_BOOK: LazyLock<Vec<u64>> = LazyLock::new(|| {
    book::<8>(DType::IQ2_S, (0, 8.0), 1024, |b, i, row| (b[2 + i], b[66 + i / 4]) = (row as u8, (row >> 8) as u8))
});
static IQ3_XXS_BOOK: LazyLock<Vec<u64>> =
    LazyLock::new(|| book::<4>(DType::IQ3_XXS, (0, 4.0), 256, |b, i, row| b[2 + i] = row as u8));
static IQ3_S_BOOK: LazyLock<Vec<u64>> = LazyLock::new(|| {
    book::<4>(DType::IQ3_S, (0, 1.0), 512, |b, i, row| (b[2 + i], b[66 + i / 8]) = (row as u8, (row >> 8) as u8))
});
/// Eight times the values, plus one, plus 32: codes where delta is positive.
static IQ1_BOOK: LazyLock<Vec<u64>> = LazyLock::new(|| {
    let put = |b: &mut [u8], i: usize, row: usize| (b[2 + i], b[34 + i / 4]) = (row as u8, (row >> 8) as u8);
    let rows = book::<8>(DType::IQ1_S, (0, 8.0), 2048, put).into_iter();
    rows.map(|row| u64::from_le_bytes(row.to_le_bytes().map(|c| c.wrapping_add(32)))).collect()
});

codebook!(#[expect(non_camel_case_types, reason = "the type's name")] IQ2_XXS, offset 128, most 128, chain 1, |b, out| {
    let book = &**IQ2_XXS_BOOK;
    out.d = f16_at(b, 0) * 0.125;
    for (g, codes) in out.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let word = u32_at(b, 2 + g * 8 + 4);
        out.scales[2 * g..][..2].fill(odd(word >> 28));
        for (l, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *codes = signed(book[usize::from(b[2 + g * 8 + l])], even(word >> (7 * l)));
        }
    }
});

codebook!(#[expect(non_camel_case_types, reason = "the type's name")] IQ2_XS, offset 128, most 128, chain 1, |b, out| {
    let book = &**IQ2_XS_BOOK;
    out.d = f16_at(b, 0) * 0.125;
    for (i, s) in out.scales.iter_mut().enumerate() {
        *s = odd(nibble(b[66 + i / 2], i));
    }
    for (i, codes) in out.codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let word = u16_at(b, 2 + i * 2);
        *codes = signed(book[usize::from(word & 511)], even(u32::from(word >> 9)));
    }
});

codebook!(#[expect(non_camel_case_types, reason = "the type's name")] IQ2_S, offset 128, most 128, chain 1, |b, out| {
    let book = &**IQ2_S_BOOK;
    out.d = f16_at(b, 0) * 0.125;
    for (i, s) in out.scales.iter_mut().enumerate() {
        *s = odd(nibble(b[74 + i / 2], i));
    }
    for (i, codes) in out.codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let row = usize::from(b[2 + i]) | usize::from(b[66 + i / 4] >> (i % 4 * 2) & 3) << 8;
        *codes = signed(book[row], b[34 + i]);
    }
});

/// Two rows of four levels.
fn join(a: u64, b: u64) -> u64 {
    a | b << 32
}

codebook!(#[expect(non_camel_case_types, reason = "the type's name")] IQ3_XXS, offset 128, most 128, chain 1, |b, out| {
    out.d = f16_at(b, 0) * 0.25;
    let book = &**IQ3_XXS_BOOK;
    for (g, codes) in out.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let word = u32_at(b, 66 + g * 4);
        out.scales[2 * g..][..2].fill(odd(word >> 28));
        for (l, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let rows = &b[2 + g * 8 + 2 * l..];
            *codes = signed(join(book[usize::from(rows[0])], book[usize::from(rows[1])]), even(word >> (7 * l)));
        }
    }
});

codebook!(#[expect(non_camel_case_types, reason = "the type's name")] IQ3_S, offset 128, most 128, chain 1, |b, out| {
    out.d = f16_at(b, 0);
    let book = &**IQ3_S_BOOK;
    for (g, codes) in out.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        out.scales[2 * g..][..2].fill(odd(nibble(b[106 + g / 2], g)));
        let row = |i: usize| usize::from(b[2 + g * 8 + i]) | usize::from(b[66 + g] >> i & 1) << 8;
        for (l, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *codes = signed(join(book[row(2 * l)], book[row(2 * l + 1)]), b[74 + g * 4 + l]);
        }
    }
});

/// Eight codes of IQ1: two less than the book's where delta is negative.
fn shifted(codes: u64, negative: bool) -> [u8; 8] {
    (codes - u64::from(negative) * 0x0202_0202_0202_0202).to_le_bytes()
}

codebook!(#[expect(non_camel_case_types, reason = "the type's name")] IQ1_S, offset 32, most 9, chain 4, |b, out| {
    let book = &**IQ1_BOOK;
    out.d = f16_at(b, 0) * 0.125;
    for (g, codes) in out.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let word = u16_at(b, 34 + g * 2);
        out.scales[2 * g..][..2].fill(odd(u32::from(word >> 12 & 7)));
        for (l, codes) in codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let row = usize::from(b[2 + g * 4 + l]) | usize::from(word >> (3 * l) & 7) << 8;
            *codes = shifted(book[row], word & 0x8000 != 0);
        }
    }
});

codebook!(#[expect(non_camel_case_types, reason = "the type's name")] IQ1_M, offset 32, most 9, chain 4, |b, out| {
    let book = &**IQ1_BOOK;
    let word = |i: usize| u16_at(b, 48 + i * 2);
    let d = word(0) >> 12 | word(1) >> 8 & 0xf0 | word(2) >> 4 & 0xf00 | word(3) & 0xf000;
    out.d = f16::from_bits(d).to_f32() * 0.125;
    for (i, s) in out.scales.iter_mut().enumerate() {
        *s = odd(u32::from(word(i / 4) >> (i % 4 * 3) & 7));
    }
    for (i, codes) in out.codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let upper = b[32 + i / 2] >> (i % 2 * 4);
        *codes = shifted(book[usize::from(b[i]) | usize::from(upper & 7) << 8], upper & 8 != 0);
    }
});

codebook!(TQ1_0, offset 32, most 1, chain 4, |b, out| {
    out.d = f16_at(b, 52);
    // Values come digit by digit: those of 32 bytes, of 16, and four of the last 4.
    let mut codes = out.codes.iter_mut();
    for (first, bytes, values) in [(0, 32, 5), (32, 16, 5), (48, 4, 4)] {
        for power in &[1u8, 3, 9, 27, 81][..values] {
            for (code, byte) in codes.by_ref().take(bytes).zip(&b[first..]) {
                *code = ((u16::from(byte.wrapping_mul(*power)) * 3) >> 8) as u8 + 31;
            }
        }
    }
});

codebook!(TQ2_0, offset 32, most 2, chain 4, |b, out| {
    out.d = f16_at(b, 64);
    for (i, codes) in out.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (code, byte) in codes.iter_mut().zip(&b[i / 4 * 32..]) {
            *code = (byte >> (i % 4 * 2) & 3) + 31;
        }
    }
});
