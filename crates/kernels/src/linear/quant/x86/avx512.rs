//! VNNI: sums of four products straight into 32 bits, 16 rows at a time, the input's four integers broadcast from memory.

use super::{
    super::{Done, FEW_ROWS, Fine, Slab, Super, chunks},
    prefetch, reads_by_itself, rolled, tiles,
    vectors::One,
    word,
};
use crate::linear::{
    Sums,
    rows8::{Block32, Block256},
};
use allod_tensor::DType;
use std::arch::x86_64::*;

/// The type's panel with any number of input rows.
macro_rules! panel {
    ($name:ident, $inner:ident, $kind:ident, $block:ty, $columns:literal, [$($fold:ident)?], $rows:ident, $tile:ident) => {
        pub(in super::super) fn $name<T: $kind>(
            slab: &mut Slab,
            panel: &[u8],
            x: &[&[$block]],
            sums: &mut [Sums],
            done: &mut Done,
        ) {
            // Where unpacking costs least, one row waits for memory only, and was seen to be faster in loads of half the width.
            if x.len() == 1 && matches!(T::DTYPE, DType::Q4_K | DType::Q8_0) && !reads_by_itself(T::DTYPE) {
                return super::avx2::$name::<T>(slab, panel, x, sums, done);
            }
            // SAFETY: this tier is chosen only where the machine has its instructions.
            unsafe { $inner::<T>(slab, panel, x, sums, done) }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn $inner<T: $kind>(slab: &mut Slab, panel: &[u8], x: &[&[$block]], sums: &mut [Sums], done: &mut Done) {
            for (first, n, chunk) in chunks::<T>(panel) {
                if x.len() <= FEW_ROWS && T::PARTS > 0 {
                    // SAFETY: a chunk has whole blocks.
                    unsafe { T::numbers::<One>(chunk.as_ptr(), T::blocks(chunk), slab) };
                    let both = (&*slab, chunk);
                    tiles!(x, sums, first / $columns, n / $columns, &[], 4, [1 2 3 4], $rows::<T>(both), done);
                    continue;
                }
                slab.unpack::<T, One>(chunk);
                $(if T::FOLDS {
                    $fold::<T>(slab);
                })?
                tiles!(x, sums, first / $columns, n / $columns, chunk, 8, [1 2 3 4 5 6 7 8], $tile::<T>(slab), done);
            }
        }
    };
}
/// The type's panels, two at a time: each of the input's broadcasts then serves two products, which would else be bound
/// by loads.
macro_rules! pair {
    ($name:ident, $inner:ident, $kind:ident, $block:ty, $columns:literal, [$($fold:ident)?], $tile:ident) => {
        pub(in super::super) fn $name<T: $kind>(
            slabs: &mut [Slab; 2],
            panels: [&[u8]; 2],
            x: &[&[$block]],
            sums: [&mut [Sums]; 2],
            done: &mut Done,
        ) {
            // SAFETY: this tier is chosen only where the machine has its instructions.
            unsafe { $inner::<T>(slabs, panels, x, sums, done) }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn $inner<T: $kind>(
            slabs: &mut [Slab; 2],
            panels: [&[u8]; 2],
            x: &[&[$block]],
            sums: [&mut [Sums]; 2],
            done: &mut Done,
        ) {
            let [a, b] = sums;
            for ((first, n, chunk), (_, _, other)) in chunks::<T>(panels[0]).zip(chunks::<T>(panels[1])) {
                for (slab, chunk) in slabs.iter_mut().zip([chunk, other]) {
                    slab.unpack::<T, One>(chunk);
                    $(if T::FOLDS {
                        $fold::<T>(slab);
                    })?
                }
                let first = first / $columns;
                let (end, shares) = (first + n / $columns, x.len().div_ceil(6));
                let tiles = x.chunks(6).zip(a.chunks_mut(6)).zip(b.chunks_mut(6)).enumerate();
                for (i, ((x, a), b)) in tiles {
                    prefetch(chunk, i, shares);
                    prefetch(other, i, shares);
                    macro_rules! tile {
                        ($rows:literal) => {{
                            let mut rows = [&x[0][..0]; $rows];
                            for t in 0..$rows {
                                rows[t] = &x[t][first..end];
                            }
                            $tile::<T, $rows, 2>([&slabs[0], &slabs[1]], rows, [&mut *a, &mut *b]);
                        }};
                    }
                    match x.len() {
                        1 => tile!(1),
                        2 => tile!(2),
                        3 => tile!(3),
                        4 => tile!(4),
                        5 => tile!(5),
                        6 => tile!(6),
                        _ => unreachable!("chunks are no longer than asked"),
                    }
                    if end == x[0].len() {
                        done(i * 6, a, b);
                    }
                }
            }
        }
    };
}
pair!(fine_pair, fine_panels, Fine, Block32, 32, [], fine_tiles);
pair!(superblock_pair, superblock_panels, Super, Block256, 256, [fold], superblock_tiles);
panel!(fine, fine_panel, Fine, Block32, 32, [], fine_rows, fine_tile);
panel!(superblock, superblock_panel, Super, Block256, 256, [fold], superblock_rows, superblock_tile);

/// Where the sums of a block begin, so that the codes' offset is out of them in the end.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn start<T: Fine>(x: &Block32) -> __m512i {
    match T::OFFSET {
        0 => _mm512_setzero_si512(),
        16 => _mm512_set1_epi32(x.offset16),
        _ => _mm512_set1_epi32(x.offset128),
    }
}

/// A block's integer sums to numbers, added to `y`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn fine_add<T: Fine>(slab: &Slab, b: usize, x: &Block32, sum: __m512i, y: __m512) -> __m512 {
    // SAFETY: 16 numbers.
    let load = |from: &[f32; 16]| unsafe { _mm512_loadu_ps(from.as_ptr()) };
    let (d, sum) = (load(&slab.d[b]), _mm512_cvtepi32_ps(sum));
    let row = if T::MINIMA {
        let all = _mm512_set1_ps((x.offset16 / -16) as f32);
        _mm512_fmadd_ps(d, sum, _mm512_mul_ps(load(&slab.m[b]), all))
    } else {
        _mm512_mul_ps(d, sum)
    };
    _mm512_fmadd_ps(_mm512_set1_ps(x.scale), row, y)
}

/// `N` input rows with a chunk in the slab.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn fine_tile<T: Fine, const N: usize>(slab: &Slab, x: [&[Block32]; N], sums: &mut [Sums]) {
    fine_tiles::<T, N, 1>([slab], x, [sums]);
}

/// `N` input rows with the chunks of `P` panels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn fine_tiles<T: Fine, const N: usize, const P: usize>(slabs: [&Slab; P], x: [&[Block32]; N], sums: [&mut [Sums]; P]) {
    let blocks = x[0].len();
    assert!(blocks <= 8 && x.iter().all(|x| x.len() == blocks) && sums.iter().all(|s| s.len() == N));
    // SAFETY: every input row has `blocks` blocks, the slabs have 8, `Sums` are 16 numbers.
    unsafe {
        let mut y = [[_mm512_setzero_ps(); N]; P];
        for p in 0..P {
            for t in 0..N {
                y[p][t] = _mm512_loadu_ps(sums[p][t].as_ptr());
            }
        }
        for b in 0..blocks {
            let mut acc = [[_mm512_setzero_si512(); N]; P];
            for t in 0..N {
                let begin = start::<T>(x[t].get_unchecked(b));
                for acc in &mut acc {
                    acc[t] = begin;
                }
            }
            for g in 0..8 {
                let mut w = [_mm512_setzero_si512(); P];
                for p in 0..P {
                    w[p] = _mm512_load_si512(slabs[p].codes.as_ptr().add(b * 8 + g).cast());
                }
                for t in 0..N {
                    let q = _mm512_set1_epi32(word(&x[t].get_unchecked(b).q, g * 4));
                    for p in 0..P {
                        acc[p][t] = _mm512_dpbusd_epi32(acc[p][t], w[p], q);
                    }
                }
            }
            for p in 0..P {
                for t in 0..N {
                    y[p][t] = fine_add::<T>(slabs[p], b, x[t].get_unchecked(b), acc[p][t], y[p][t]);
                }
            }
        }
        for p in 0..P {
            for t in 0..N {
                _mm512_storeu_ps(sums[p][t].as_mut_ptr(), y[p][t]);
            }
        }
    }
}

/// The integer scales of a stretch, in 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn scale(slab: &Slab, stretch: usize) -> __m512i {
    // SAFETY: the stretch is in the slab by contract.
    _mm512_srai_epi32::<16>(unsafe { _mm512_load_si512(slab.scales.as_ptr().add(stretch).cast()) })
}

/// Where the sums of a stretch begin, so that the codes' offset is out of them in the end.
///
/// # Safety
/// The stretch must be in a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn stretch_start<T: Super>(x: &Block256, stretch: usize) -> __m512i {
    // Each is read from memory: what is computed first costs the ports that multiply a step of their own.
    // SAFETY: inside by contract.
    unsafe {
        match (T::OFFSET, T::STRETCH) {
            (0, _) => _mm512_setzero_si512(),
            (32, _) => _mm512_set1_epi32(*x.offset32.get_unchecked(stretch)),
            (_, 16) => _mm512_slli_epi32::<2>(_mm512_set1_epi32(*x.offset32.get_unchecked(stretch))),
            _ => _mm512_set1_epi32(*x.offset128.get_unchecked(stretch)),
        }
    }
}

/// Sums over the stretches of a row's minimum times the stretch's sum of the input's integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn minima<T: Super, const N: usize, const P: usize>(slabs: [&Slab; P], x: [&Block256; N]) -> [[__m512i; N]; P] {
    let mut total = [[_mm512_setzero_si512(); N]; P];
    // SAFETY: there are 128 / STRETCH pairs of stretches: at most the 8 of a slab, and as many sums in the block.
    unsafe {
        for i in 0..rolled(128 / T::STRETCH) {
            for t in 0..N {
                let sums = if T::STRETCH == 16 { word(&x[t].sums16, i * 4) } else { word(&x[t].sums32, i * 4) };
                for p in 0..P {
                    let minima = _mm512_load_si512(slabs[p].min_pairs.as_ptr().add(i).cast());
                    total[p][t] = _mm512_dpwssd_epi32(total[p][t], minima, _mm512_set1_epi32(sums));
                }
            }
        }
    }
    total
}

/// A super-block's integer sums to numbers, added to the sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn superblock_add<T: Super, const N: usize, const P: usize>(
    slabs: [&Slab; P],
    x: [&Block256; N],
    total: [[__m512i; N]; P],
    sums: [&mut [Sums]; P],
) {
    let least = if T::MINIMA { minima::<T, N, P>(slabs, x) } else { [[_mm512_setzero_si512(); N]; P] };
    for (p, sums) in sums.into_iter().enumerate() {
        assert!(sums.len() == N);
        // SAFETY: 16 numbers each.
        unsafe {
            let (d, m) = (_mm512_loadu_ps(slabs[p].d[0].as_ptr()), _mm512_loadu_ps(slabs[p].m[0].as_ptr()));
            for t in 0..N {
                let total = _mm512_cvtepi32_ps(total[p][t]);
                let row = if T::MINIMA {
                    _mm512_fmsub_ps(d, total, _mm512_mul_ps(m, _mm512_cvtepi32_ps(least[p][t])))
                } else {
                    _mm512_mul_ps(d, total)
                };
                let y = _mm512_loadu_ps(sums[t].as_ptr());
                _mm512_storeu_ps(sums[t].as_mut_ptr(), _mm512_fmadd_ps(_mm512_set1_ps(x[t].scale), row, y));
            }
        }
    }
}

/// `N` input rows with a chunk, as it is unpacked; its numbers are in the slab.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn fine_rows<T: Fine, const N: usize>((slab, chunk): (&Slab, &[u8]), x: [&[Block32]; N], sums: &mut [Sums]) {
    let blocks = T::blocks(chunk);
    assert!(blocks <= 8 && x.iter().all(|x| x.len() == blocks) && sums.len() == N);
    // SAFETY: the chunk and every input row have `blocks` blocks, `Sums` are 16 numbers.
    unsafe {
        let mut y = [_mm512_setzero_ps(); N];
        for t in 0..N {
            y[t] = _mm512_loadu_ps(sums[t].as_ptr());
        }
        for b in 0..blocks {
            if N > 1 || !reads_by_itself(T::DTYPE) {
                prefetch(chunk, b, blocks);
            }
            let mut acc = [_mm512_setzero_si512(); N];
            for t in 0..N {
                acc[t] = start::<T>(x[t].get_unchecked(b));
            }
            for g in 0..T::GRANULES {
                let codes = T::codes::<One>(chunk.as_ptr(), blocks, b, g);
                for (part, codes) in codes.iter().enumerate().take(T::PARTS) {
                    let at = (T::place(b, part).1 + g) * 4;
                    for t in 0..N {
                        let q = _mm512_set1_epi32(word(&x[t].get_unchecked(b).q, at));
                        acc[t] = _mm512_dpbusd_epi32(acc[t], codes.0, q);
                    }
                }
            }
            for t in 0..N {
                y[t] = fine_add::<T>(slab, b, x[t].get_unchecked(b), acc[t], y[t]);
            }
        }
        for t in 0..N {
            _mm512_storeu_ps(sums[t].as_mut_ptr(), y[t]);
        }
    }
}

/// `N` input rows with a super-block, as it is unpacked; its numbers are in the slab.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn superblock_rows<T: Super, const N: usize>((slab, chunk): (&Slab, &[u8]), x: [&[Block256]; N], sums: &mut [Sums]) {
    let mut blocks = [&x[0][0]; N];
    for t in 0..N {
        blocks[t] = &x[t][0];
    }
    let mut total = [_mm512_setzero_si512(); N];
    // SAFETY: a chunk is one super-block, and so is what the places say.
    unsafe {
        for round in 0..T::rounds(1) {
            if N > 1 || !reads_by_itself(T::DTYPE) {
                prefetch(chunk, round, T::rounds(1));
            }
            let mut acc = [[_mm512_setzero_si512(); N]; 4];
            for (part, acc) in acc.iter_mut().enumerate().take(T::PARTS) {
                let (stretch, first) = T::place(round, part);
                // A stretch of two parts begins with the first of them.
                for t in 0..N {
                    if first == 0 {
                        acc[t] = stretch_start::<T>(blocks[t], stretch);
                    }
                }
            }
            for g in 0..T::GRANULES {
                let codes = T::codes::<One>(chunk.as_ptr(), 1, round, g);
                for part in 0..T::PARTS {
                    let (stretch, first) = T::place(round, part);
                    let at = stretch * T::STRETCH + (first + g) * 4;
                    for t in 0..N {
                        let q = _mm512_set1_epi32(word(&blocks[t].q, at));
                        acc[part][t] = _mm512_dpbusd_epi32(acc[part][t], codes[part].0, q);
                    }
                }
            }
            for (part, acc) in acc.iter().enumerate().take(T::PARTS) {
                let scale = scale(slab, T::place(round, part).0);
                for t in 0..N {
                    total[t] = _mm512_add_epi32(total[t], _mm512_mullo_epi32(acc[t], scale));
                }
            }
        }
    }
    superblock_add::<T, N, 1>([slab], blocks, [total], [sums]);
}

/// Multiplies the slab's codes by their scales, above 127 where codes have an offset: the integers become one stretch.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn fold<T: Super>(slab: &mut Slab) {
    let (offset, low) = (_mm512_set1_epi16(T::OFFSET as i16), _mm512_set1_epi16(0xff));
    let base = _mm512_set1_epi16(if T::OFFSET == 0 { 0 } else { 127 });
    for (codes, scales) in slab.codes.chunks_exact_mut(T::STRETCH / 4).zip(&slab.scales) {
        // SAFETY: 64 bytes each, and aligned.
        unsafe {
            let scales = _mm512_load_si512(scales.0.as_ptr().cast());
            let base = _mm512_sub_epi16(base, _mm512_mullo_epi16(scales, offset));
            let scaled = |codes| _mm512_add_epi16(base, _mm512_mullo_epi16(codes, scales));
            for four in codes {
                let codes = _mm512_load_si512(four.0.as_ptr().cast());
                let even = scaled(_mm512_and_si512(codes, low));
                let odd = scaled(_mm512_srli_epi16::<8>(codes));
                let both = _mm512_or_si512(even, _mm512_slli_epi16::<8>(odd));
                _mm512_store_si512(four.0.as_mut_ptr().cast(), both);
            }
        }
    }
}

/// `N` input rows with a super-block in the slab.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn superblock_tile<T: Super, const N: usize>(slab: &Slab, x: [&[Block256]; N], sums: &mut [Sums]) {
    superblock_tiles::<T, N, 1>([slab], x, [sums]);
}

/// `N` input rows with the super-blocks of `P` panels, folded where the type can be.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn superblock_tiles<T: Super, const N: usize, const P: usize>(
    slabs: [&Slab; P],
    x: [&[Block256]; N],
    sums: [&mut [Sums]; P],
) {
    let mut blocks = [&x[0][0]; N];
    for t in 0..N {
        blocks[t] = &x[t][0];
    }
    let mut total = [[_mm512_setzero_si512(); N]; P];
    // SAFETY: stretches are 256 columns in all.
    unsafe {
        if T::FOLDS {
            for t in 0..N {
                let begin = if T::OFFSET == 0 { 0 } else { blocks[t].offset127 };
                for total in &mut total {
                    total[t] = _mm512_set1_epi32(begin);
                }
            }
            products::<N, P>(slabs, blocks, 0, 64, &mut total);
        } else if blocks.iter().all(|x| T::fits(x)) {
            // Two stretches add up in one register, so that one step multiplies both by their scales: the second in the
            // lower 16 bits, above 2^15, so that it borrows nothing from the first.
            let sign = _mm512_set1_epi32(0x8000);
            for s in (0..256 / T::STRETCH).step_by(2) {
                let mut acc = starts::<T, N, P>(blocks, s);
                products::<N, P>(slabs, blocks, s * T::STRETCH / 4, T::STRETCH / 4, &mut acc);
                let next = starts::<T, N, P>(blocks, s + 1);
                for p in 0..P {
                    for t in 0..N {
                        let both = _mm512_or_si512(_mm512_slli_epi32::<16>(acc[p][t]), sign);
                        acc[p][t] = if T::OFFSET == 0 { both } else { _mm512_add_epi32(both, next[p][t]) };
                    }
                }
                products::<N, P>(slabs, blocks, (s + 1) * T::STRETCH / 4, T::STRETCH / 4, &mut acc);
                for p in 0..P {
                    let scales = |s: usize| _mm512_load_si512(slabs[p].scales.as_ptr().add(s).cast());
                    let scales = _mm512_mask_mov_epi16(scales(s), 0x5555_5555, scales(s + 1));
                    for t in 0..N {
                        total[p][t] = _mm512_dpwssd_epi32(total[p][t], _mm512_xor_si512(acc[p][t], sign), scales);
                    }
                }
            }
        } else {
            for s in 0..256 / T::STRETCH {
                let mut acc = starts::<T, N, P>(blocks, s);
                products::<N, P>(slabs, blocks, s * T::STRETCH / 4, T::STRETCH / 4, &mut acc);
                for p in 0..P {
                    let scale = scale(slabs[p], s);
                    for t in 0..N {
                        total[p][t] = _mm512_add_epi32(total[p][t], _mm512_mullo_epi32(acc[p][t], scale));
                    }
                }
            }
        }
    }
    superblock_add::<T, N, P>(slabs, blocks, total, sums);
}

/// Where the sums of a stretch begin, for all panels.
///
/// # Safety
/// The stretch must be in a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn starts<T: Super, const N: usize, const P: usize>(x: [&Block256; N], stretch: usize) -> [[__m512i; N]; P] {
    let mut acc = [[_mm512_setzero_si512(); N]; P];
    for t in 0..N {
        // SAFETY: inside by contract.
        let begin = unsafe { stretch_start::<T>(x[t], stretch) };
        for acc in &mut acc {
            acc[t] = begin;
        }
    }
    acc
}

/// Adds the products of `groups` groups of four columns, from `first` on.
///
/// # Safety
/// The groups must be in a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn products<const N: usize, const P: usize>(
    slabs: [&Slab; P],
    x: [&Block256; N],
    first: usize,
    groups: usize,
    acc: &mut [[__m512i; N]; P],
) {
    for g in first..first + groups {
        // SAFETY: inside by contract.
        unsafe {
            let mut w = [_mm512_setzero_si512(); P];
            for p in 0..P {
                w[p] = _mm512_load_si512(slabs[p].codes.as_ptr().add(g).cast());
            }
            for t in 0..N {
                let q = _mm512_set1_epi32(word(&x[t].q, g * 4));
                for p in 0..P {
                    acc[p][t] = _mm512_dpbusd_epi32(acc[p][t], w[p], q);
                }
            }
        }
    }
}
