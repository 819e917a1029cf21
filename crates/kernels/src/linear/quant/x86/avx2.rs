//! AVX2: products of unsigned with signed bytes in pairs of 16 bits. They add up over a chain of groups before the
//! integer scales are applied in the step that widens them to 32 bits; where the codes have an offset, the chain starts
//! at minus offset times the input's sums, so that what it ends at fits 16 bits (what it passes wraps around). A chain is
//! as long as fits with any input, and 32 columns where the block says that this fits too. Where a scale is for 16 columns,
//! two stretches are one chain: one adds up in the lower and one in the upper 16 bits of a row.
//!
//! Codes of eight bits have no chain: even one pair may pass 16 bits. Where several input rows share a slab, these codes
//! are widened to 16 bits once, scales included, the rows are once for all panels ([`Wide`]), and both are multiplied as such:
//! two multiplications for 32 products, where bytes would take a sign, a product and a widening one.

use super::{
    super::{
        Done, FEW_ROWS_8_BITS_AVX2, FEW_ROWS_AVX2, Fine, Lanes, Slab, Super, Type, chunks, in_pairs, vector::Vector,
    },
    prefetch, tiles,
    vectors::Two,
    word,
};
use crate::{
    isa::Isa,
    linear::{
        Sums,
        layout::CHUNK,
        rows8::{Block32, Block256, Wide},
    },
};
use std::arch::{asm, x86_64::*};

/// The type's panel with any number of input rows.
macro_rules! panel {
    ($name:ident, $inner:ident, $kind:ident, $block:ty, $columns:literal, $rows:ident, $tile:ident) => {
        pub(in super::super) fn $name<T: $kind>(
            slab: &mut Slab,
            panel: &[u8],
            x: &[&[$block]],
            sums: &mut [Sums],
            done: &mut Done,
        ) {
            // SAFETY: this tier is chosen only where the machine has its instructions.
            unsafe { $inner::<T>(slab, panel, x, sums, done) }
        }

        #[target_feature(enable = "avx2,fma,f16c")]
        fn $inner<T: $kind>(slab: &mut Slab, panel: &[u8], x: &[&[$block]], sums: &mut [Sums], done: &mut Done) {
            for (first, n, chunk) in chunks::<T>(panel) {
                if x.len() <= few_rows::<T>() && T::PARTS > 0 {
                    // SAFETY: a chunk has whole blocks.
                    unsafe { T::numbers::<Two>(chunk.as_ptr(), T::blocks(chunk), slab) };
                    let both = (&*slab, chunk);
                    tiles!(x, sums, first / $columns, n / $columns, &[], 2, [1 2], $rows::<T>(both), done);
                    continue;
                }
                debug_assert!(T::CHAIN > 1, "more rows of codes of eight bits come in 16");
                slab.unpack::<T, Two>(chunk);
                if in_pairs(Isa::Avx2, T::DTYPE, x.len()) {
                    pair_stretches(slab);
                }
                tiles!(x, sums, first / $columns, n / $columns, chunk, 3, [1 2 3], $tile::<T>(slab), done);
            }
        }
    };
}
panel!(fine, fine_panel, Fine, Block32, 32, fine_rows, fine_tile);
panel!(superblock, superblock_panel, Super, Block256, 256, superblock_rows, superblock_tile);

/// Input rows up to which codes are multiplied as they leave their registers: unpacking them once more for every two
/// rows costs less than storing and loading them, the more so where they would be widened as well.
const fn few_rows<T: Type>() -> usize {
    if T::CHAIN == 1 { FEW_ROWS_8_BITS_AVX2 } else { FEW_ROWS_AVX2 }
}

/// The lower and the upper 8 rows.
type Halves = [__m256i; 2];

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(from: &Lanes) -> Halves {
    // SAFETY: 64 bytes.
    unsafe { [_mm256_load_si256(from.0.as_ptr().cast()), _mm256_load_si256(from.0.as_ptr().add(32).cast())] }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn floats(from: &[f32; 16]) -> [__m256; 2] {
    // SAFETY: 16 numbers.
    unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(to: &mut [f32; 16], y: [__m256; 2]) {
    // SAFETY: 16 numbers.
    unsafe {
        _mm256_storeu_ps(to.as_mut_ptr(), y[0]);
        _mm256_storeu_ps(to.as_mut_ptr().add(8), y[1]);
    }
}

/// Products of one group's codes with four integers, widened with the rows' `scale`, for codes of eight bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signed(codes: Halves, q: __m256i, scale: Halves, total: &mut Halves) {
    for h in 0..2 {
        let w = _mm256_xor_si256(codes[h], _mm256_set1_epi8(-128));
        let products = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
        total[h] = _mm256_add_epi32(total[h], _mm256_madd_epi16(products, scale[h]));
    }
}

/// Products of one group's codes with four integers, in 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn narrow(codes: Halves, q: __m256i, acc: &mut Halves) {
    for h in 0..2 {
        acc[h] = _mm256_add_epi16(acc[h], _mm256_maddubs_epi16(codes[h], q));
    }
}

/// Makes the compiler take sums in the order in which they are written. It would join what it may, rows one after the other or
/// later groups before earlier ones, and keep the rest on the stack.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn in_order(acc: &mut Halves) {
    let [mut low, mut high] = *acc;
    // SAFETY: no instruction.
    unsafe { asm!("/* {} {} */", inout(ymm_reg) low, inout(ymm_reg) high, options(nomem, nostack, preserves_flags)) };
    *acc = [low, high];
}

/// [`in_order`] for two rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn together(rows: &mut [Halves; 2]) {
    let [[mut a, mut b], [mut c, mut d]] = *rows;
    // SAFETY: no instruction.
    unsafe {
        asm!(
            "/* {} {} {} {} */",
            inout(ymm_reg) a, inout(ymm_reg) b, inout(ymm_reg) c, inout(ymm_reg) d,
            options(nomem, nostack, preserves_flags)
        );
    }
    *rows = [[a, b], [c, d]];
}

/// Adds to the sums of each of `$n` rows its products, of two rows at a time first the four products, then the four additions: where they
/// take turns, additions also go to the ports that multiply.
macro_rules! two_rows {
    ($sums:ident, $n:expr, $add:ident, |$t:ident| $products:expr) => {
        let mut first = 0;
        while first < $n {
            let n = ($n - first).min(2);
            let mut products = [[_mm256_setzero_si256(); 2]; 2];
            for i in 0..n {
                let $t = first + i;
                products[i] = $products;
            }
            if n == 2 {
                together(&mut products);
            }
            let mut sums = [$sums[first], $sums[first + n - 1]];
            for i in 0..n {
                for h in 0..2 {
                    sums[i][h] = $add(sums[i][h], products[i][h]);
                }
            }
            if n == 2 {
                together(&mut sums)
            } else {
                in_order(&mut sums[0])
            }
            ($sums[first], $sums[first + n - 1]) = (sums[0], sums[n - 1]);
            first += n;
        }
    };
}

/// A chain's sums, widened with the rows' `scale`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widen(acc: Halves, scale: Halves, total: &mut Halves) {
    for h in 0..2 {
        total[h] = _mm256_add_epi32(total[h], _mm256_madd_epi16(acc[h], scale[h]));
    }
}

/// Adds to `total` the products of 32 columns, whose codes begin at group `first` of the slab, with the rows' `scale`. A chain
/// has `CHAIN` groups; `start` is where that of row `t` starts.
///
/// # Safety
/// The groups must be in the slab, and each `q` must have their columns, counted from its beginning.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn products<T: Type, const N: usize, const CHAIN: usize>(
    slab: &Slab,
    first: usize,
    q: [&[i8]; N],
    start: [__m256i; N],
    scale: Halves,
    total: &mut [Halves; N],
) {
    for link in 0..8 / CHAIN {
        let mut acc: [Halves; N] = [[_mm256_setzero_si256(); 2]; N];
        for t in 0..N {
            acc[t] = [start[t]; 2];
        }
        for g in link * CHAIN..(link + 1) * CHAIN {
            // SAFETY: inside by contract.
            unsafe {
                let codes = load(slab.codes.get_unchecked(first + g));
                if T::STRETCH == 32 {
                    two_rows!(acc, N, _mm256_add_epi16, |t| {
                        let q = _mm256_set1_epi32(word(q[t], g * 4));
                        [_mm256_maddubs_epi16(codes[0], q), _mm256_maddubs_epi16(codes[1], q)]
                    });
                    continue;
                }
                for t in 0..N {
                    narrow(codes, _mm256_set1_epi32(word(q[t], g * 4)), &mut acc[t]);
                    in_order(&mut acc[t]);
                }
            }
        }
        for t in 0..N {
            widen(acc[t], scale, &mut total[t]);
        }
    }
}

/// Where the chain of a block starts.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fine_start<T: Fine>(x: &Block32) -> __m256i {
    // SAFETY: two integers of 16 bits.
    if T::OFFSET == 16 { _mm256_set1_epi32(unsafe { word(&x.lanes16, 0) }) } else { _mm256_setzero_si256() }
}

/// Where the chain of a stretch of 16 starts, or, in pairs, that of two.
///
/// # Safety
/// The stretch must be below 16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn superblock_start<T: Super>(x: &Block256, stretch: usize) -> __m256i {
    // SAFETY: two integers of 16 bits for each stretch.
    if T::OFFSET == 32 { _mm256_set1_epi32(unsafe { word(&x.lanes32, stretch * 4) }) } else { _mm256_setzero_si256() }
}

/// A block's integer sums to numbers, added to the sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fine_add<T: Fine>(slab: &Slab, b: usize, x: &Block32, total: Halves, sums: &mut Sums) {
    let (s, d, mut y) = (_mm256_set1_ps(x.scale), floats(&slab.d[b]), floats(sums));
    for h in 0..2 {
        let sum = _mm256_cvtepi32_ps(total[h]);
        let row = if T::MINIMA {
            let all = _mm256_set1_ps((x.offset16 / -16) as f32);
            _mm256_fmadd_ps(d[h], sum, _mm256_mul_ps(floats(&slab.m[b])[h], all))
        } else {
            _mm256_mul_ps(d[h], sum)
        };
        y[h] = _mm256_fmadd_ps(s, row, y[h]);
    }
    store(sums, y);
}

/// `N` input rows with a chunk, as it is unpacked; its numbers are in the slab.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fine_rows<T: Fine, const N: usize>((slab, chunk): (&Slab, &[u8]), x: [&[Block32]; N], sums: &mut [Sums]) {
    let (blocks, ones) = (T::blocks(chunk), [_mm256_set1_epi16(1); 2]);
    assert!(blocks <= 8 && x.iter().all(|x| x.len() == blocks) && sums.len() == N);
    for b in 0..blocks {
        prefetch(chunk, b, blocks);
        let mut total = [[_mm256_setzero_si256(); 2]; N];
        // SAFETY: the chunk and every input row have `blocks` blocks.
        unsafe {
            let mut acc = [[[_mm256_setzero_si256(); 2]; N]; 2];
            for t in 0..N {
                acc[0][t] = [fine_start::<T>(x[t].get_unchecked(b)); 2];
            }
            for g in 0..T::GRANULES {
                let codes = T::codes::<Two>(chunk.as_ptr(), blocks, b, g);
                for part in 0..T::PARTS {
                    let at = (T::place(b, part).1 + g) * 4;
                    for t in 0..N {
                        let q = _mm256_set1_epi32(word(&x[t].get_unchecked(b).q, at));
                        if T::CHAIN == 1 {
                            signed(codes[part].0, q, ones, &mut total[t]);
                        } else {
                            narrow(codes[part].0, q, &mut acc[part][t]);
                        }
                    }
                }
            }
            for t in 0..N {
                if T::CHAIN == 4 {
                    widen(acc[0][t], ones, &mut total[t]);
                    widen(acc[1][t], ones, &mut total[t]);
                } else if T::CHAIN == 8 {
                    // The parts are one chain; only its whole is sure to fit 16 bits.
                    let (low, high) = (acc[0][t], acc[1][t]);
                    let whole = [_mm256_add_epi16(low[0], high[0]), _mm256_add_epi16(low[1], high[1])];
                    widen(whole, ones, &mut total[t]);
                }
                fine_add::<T>(slab, b, x[t].get_unchecked(b), total[t], &mut sums[t]);
            }
        }
    }
}

/// `N` input rows with a chunk in the slab.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fine_tile<T: Fine, const N: usize>(slab: &Slab, x: [&[Block32]; N], sums: &mut [Sums]) {
    let blocks = x[0].len();
    assert!(blocks <= 8 && x.iter().all(|x| x.len() == blocks) && sums.len() == N);
    let ones = [_mm256_set1_epi16(1); 2];
    for b in 0..blocks {
        let mut total = [[_mm256_setzero_si256(); 2]; N];
        let (mut q, mut start): ([&[i8]; N], _) = ([&[]; N], [_mm256_setzero_si256(); N]);
        // SAFETY: every input row has `blocks` blocks, the slab has 8.
        unsafe {
            for t in 0..N {
                let x = x[t].get_unchecked(b);
                (q[t], start[t]) = (&x.q, fine_start::<T>(x));
            }
            if T::CHAIN == 8 {
                products::<T, N, 8>(slab, b * 8, q, start, ones, &mut total);
            } else {
                products::<T, N, 4>(slab, b * 8, q, start, ones, &mut total);
            }
            for t in 0..N {
                fine_add::<T>(slab, b, x[t].get_unchecked(b), total[t], &mut sums[t]);
            }
        }
    }
}

/// Widens the codes of `columns` columns, with their integer scales where the type has such: at most 128 · 128.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn to_16_bits<T: Type>(slab: &mut Slab, columns: usize) {
    let scaled = T::DTYPE.block() == 256;
    for g in 0..columns / 4 {
        let codes = Two(load(&slab.codes[g]));
        let halves = [codes.widen(0, 1, T::OFFSET as i16), codes.widen(2, 3, T::OFFSET as i16)];
        for (mut half, to) in halves.into_iter().zip(&mut slab.wide[2 * g..]) {
            if scaled {
                let scale = load(&slab.scales[g * 4 / T::STRETCH]);
                half = Two([_mm256_mullo_epi16(half.0[0], scale[0]), _mm256_mullo_epi16(half.0[1], scale[1])]);
            }
            half.store(&mut to.0);
        }
    }
}

/// A panel of codes of eight bits with any number of input rows in 16 bits. `B` is the columns of a block.
pub(in super::super) fn wide<T: Type, const B: usize>(
    slab: &mut Slab,
    panel: &[u8],
    x: &[&[Wide<B>]],
    sums: &mut [Sums],
    done: &mut Done,
) {
    // SAFETY: this tier is chosen only where the machine has its instructions.
    unsafe { wide_panel::<T, B>(slab, panel, x, sums, done) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn wide_panel<T: Type, const B: usize>(
    slab: &mut Slab,
    panel: &[u8],
    x: &[&[Wide<B>]],
    sums: &mut [Sums],
    done: &mut Done,
) {
    for (first, n, chunk) in chunks::<T>(panel) {
        slab.unpack::<T, Two>(chunk);
        to_16_bits::<T>(slab, n);
        tiles!(x, sums, first / B, n / B, chunk, 4, [1 2 3 4], wide_tile::<B>(slab), done);
    }
}

/// `N` input rows with a chunk in the slab, in 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn wide_tile<const B: usize, const N: usize>(slab: &Slab, x: [&[Wide<B>]; N], sums: &mut [Sums]) {
    let blocks = x[0].len();
    assert!(blocks * B <= CHUNK && x.iter().all(|x| x.len() == blocks) && sums.len() == N);
    for (b, weights) in slab.wide.chunks_exact(B / 2).enumerate().take(blocks) {
        let mut q = [&x[0][b].q; N];
        for t in 0..N {
            q[t] = &x[t][b].q;
        }
        let mut total = [[_mm256_setzero_si256(); 2]; N];
        wide_pairs(weights, q, &mut total);
        let d = floats(&slab.d[b]);
        for t in 0..N {
            let (s, mut y) = (_mm256_set1_ps(x[t][b].scale), floats(&sums[t]));
            for h in 0..2 {
                y[h] = _mm256_fmadd_ps(s, _mm256_mul_ps(d[h], _mm256_cvtepi32_ps(total[t][h])), y[h]);
            }
            store(&mut sums[t], y);
        }
    }
}

/// Adds the products of pairs of columns with the input's integers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn wide_pairs<const N: usize, const B: usize>(weights: &[Lanes], q: [&[i16; B]; N], total: &mut [Halves; N]) {
    for (pair, w) in weights.iter().enumerate().take(B / 2) {
        let w = load(w);
        two_rows!(total, N, _mm256_add_epi32, |t| {
            // SAFETY: there are two integers for each pair.
            let q = _mm256_set1_epi32(unsafe { word(q[t], pair * 4) });
            [_mm256_madd_epi16(w[0], q), _mm256_madd_epi16(w[1], q)]
        });
    }
}

/// A super-block's integer sums to numbers, added to the sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn superblock_add<T: Super, const N: usize>(slab: &Slab, x: [&Block256; N], total: [Halves; N], sums: &mut [Sums]) {
    let mut least = [[_mm256_setzero_si256(); 2]; N];
    if T::MINIMA {
        for p in 0..128 / T::STRETCH {
            let minima = load(&slab.min_pairs[p]);
            for t in 0..N {
                // SAFETY: as many sums as there are stretches.
                let sums =
                    unsafe { if T::STRETCH == 16 { word(&x[t].sums16, p * 4) } else { word(&x[t].sums32, p * 4) } };
                widen([_mm256_set1_epi32(sums); 2], minima, &mut least[t]);
                in_order(&mut least[t]);
            }
        }
    }
    let (d, m) = (floats(&slab.d[0]), floats(&slab.m[0]));
    for (t, sums) in sums.iter_mut().enumerate().take(N) {
        let (s, mut y) = (_mm256_set1_ps(x[t].scale), floats(sums));
        for h in 0..2 {
            let sum = _mm256_cvtepi32_ps(total[t][h]);
            let row = if T::MINIMA {
                _mm256_fmsub_ps(d[h], sum, _mm256_mul_ps(m[h], _mm256_cvtepi32_ps(least[t][h])))
            } else {
                _mm256_mul_ps(d[h], sum)
            };
            y[h] = _mm256_fmadd_ps(s, row, y[h]);
        }
        store(sums, y);
    }
}

/// `N` input rows with a super-block, as it is unpacked; its numbers are in the slab.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn superblock_rows<T: Super, const N: usize>((slab, chunk): (&Slab, &[u8]), x: [&[Block256]; N], sums: &mut [Sums]) {
    let mut blocks = [&x[0][0]; N];
    for t in 0..N {
        blocks[t] = &x[t][0];
    }
    let mut total = [[_mm256_setzero_si256(); 2]; N];
    // SAFETY: a chunk is one super-block, and so is what the places say.
    unsafe {
        for round in 0..T::rounds(1) {
            prefetch(chunk, round, T::rounds(1));
            let mut acc = [[[_mm256_setzero_si256(); 2]; N]; 4];
            for g in 0..T::GRANULES {
                let codes = T::codes::<Two>(chunk.as_ptr(), 1, round, g);
                for part in 0..T::PARTS {
                    let (stretch, first) = T::place(round, part);
                    let at = stretch * T::STRETCH + (first + g) * 4;
                    let scale = load(&slab.scales[stretch]);
                    for t in 0..N {
                        let q = _mm256_set1_epi32(word(&blocks[t].q, at));
                        if T::CHAIN == 1 {
                            signed(codes[part].0, q, scale, &mut total[t]);
                            continue;
                        }
                        if g % T::CHAIN == 0 {
                            acc[part][t] = [superblock_start::<T>(blocks[t], stretch); 2];
                        }
                        narrow(codes[part].0, q, &mut acc[part][t]);
                        if g % T::CHAIN == T::CHAIN - 1 {
                            widen(acc[part][t], scale, &mut total[t]);
                        }
                    }
                }
            }
        }
    }
    superblock_add::<T, N>(slab, blocks, total, sums);
}

/// `N` input rows with a super-block in the slab.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn superblock_tile<T: Super, const N: usize>(slab: &Slab, x: [&[Block256]; N], sums: &mut [Sums]) {
    let mut blocks = [&x[0][0]; N];
    for t in 0..N {
        blocks[t] = &x[t][0];
    }
    let mut total = [[_mm256_setzero_si256(); 2]; N];
    // In pairs of stretches all four columns of two groups meet in 16 bits.
    match (T::CHAIN == 8 || blocks.iter().all(|x| T::fits(x)), T::STRETCH) {
        (true, _) => superblock_products::<T, N, 8>(slab, blocks, &mut total),
        (false, 16) => superblock_products::<T, N, 2>(slab, blocks, &mut total),
        (false, _) => superblock_products::<T, N, 4>(slab, blocks, &mut total),
    }
    superblock_add::<T, N>(slab, blocks, total, sums);
}

/// Adds to `total` the products of a super-block, in chains of `CHAIN` groups.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn superblock_products<T: Super, const N: usize, const CHAIN: usize>(
    slab: &Slab,
    x: [&Block256; N],
    total: &mut [Halves; N],
) {
    // There are no sums of the input for parts of a chain to start at: what the offset adds is then taken off in the end.
    let whole = CHAIN == 8;
    for s in 0..8 {
        let (mut q, mut start): ([&[i8]; N], _) = ([&[]; N], [_mm256_setzero_si256(); N]);
        // SAFETY: eight times 32 columns are all.
        unsafe {
            for t in 0..N {
                q[t] = x[t].q.get_unchecked(s * 32..);
                if whole {
                    start[t] = superblock_start::<T>(x[t], s);
                }
            }
            products::<T, N, CHAIN>(slab, s * 8, q, start, load(&slab.scales[s]), total);
        }
    }
    if T::OFFSET == 32 && !whole {
        for (t, total) in total.iter_mut().enumerate() {
            let mut sums = [_mm256_setzero_si256(); 2];
            for s in 0..8 {
                // SAFETY: two sums of 16 integers for each.
                let x = _mm256_set1_epi32(unsafe { word(&x[t].sums16, s * 4) });
                widen([x; 2], load(&slab.scales[s]), &mut sums);
            }
            for h in 0..2 {
                total[h] = _mm256_sub_epi32(total[h], _mm256_slli_epi32::<5>(sums[h]));
            }
        }
    }
}

/// Puts codes of two stretches of 16 columns into one of 32, two columns of the one beside two of the other, and likewise
/// their scales: a chain then adds up one stretch in the lower and one in the upper 16 bits of a row, and one step multiplies
/// both by their scales.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pair_stretches(slab: &mut Slab) {
    for (s, stretches) in slab.codes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let old = *stretches;
        for (g, new) in stretches.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let (a, b) = (load(&old[g]), load(&old[4 + g]));
            let (mut low, mut high) = (a, b);
            for h in 0..2 {
                low[h] = _mm256_blend_epi16::<0xaa>(a[h], _mm256_slli_epi32::<16>(b[h]));
                high[h] = _mm256_blend_epi16::<0xaa>(_mm256_srli_epi32::<16>(a[h]), b[h]);
            }
            Two(low).store(&mut new[0].0);
            Two(high).store(&mut new[1].0);
        }
        let (a, b) = (load(&slab.scales[2 * s]), load(&slab.scales[2 * s + 1]));
        let both = [0, 1].map(|h| _mm256_blend_epi16::<0xaa>(a[h], b[h]));
        Two(both).store(&mut slab.scales[s].0);
    }
}
