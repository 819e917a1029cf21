//! VNNI: sums of four products straight into 32 bits, 16 rows at a time, the input's four integers broadcast from memory.

use super::{
    super::{FEW_ROWS, Fine, Lanes, Slab, Super, chunks},
    prefetch, tiles,
    vectors::One,
    word,
};
use crate::linear::{
    Sums,
    rows8::{Block32, Block256},
};
use std::arch::x86_64::*;

/// The type's panel with any number of input rows.
macro_rules! panel {
    ($name:ident, $inner:ident, $kind:ident, $block:ty, $columns:literal, $rows:ident, $tile:ident) => {
        pub(in super::super) fn $name<T: $kind>(slab: &mut Slab, panel: &[u8], x: &[&[$block]], sums: &mut [Sums]) {
            // One row reads weights as fast as memory gives them, which was seen to be faster in loads of half the width.
            if x.len() == 1 && T::PARTS > 0 {
                return super::avx2::$name::<T>(slab, panel, x, sums);
            }
            // SAFETY: this tier is chosen only where the machine has its instructions.
            unsafe { $inner::<T>(slab, panel, x, sums) }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn $inner<T: $kind>(slab: &mut Slab, panel: &[u8], x: &[&[$block]], sums: &mut [Sums]) {
            for (first, n, chunk) in chunks::<T>(panel) {
                if x.len() <= FEW_ROWS && T::PARTS > 0 {
                    // SAFETY: a chunk has whole blocks.
                    unsafe { T::numbers::<One>(chunk.as_ptr(), T::blocks(chunk), slab) };
                    let both = (&*slab, chunk);
                    tiles!(x, sums, first / $columns, n / $columns, &[], 4, [1 2 3 4], $rows::<T>(both));
                    continue;
                }
                slab.unpack::<T, One>(chunk);
                tiles!(x, sums, first / $columns, n / $columns, chunk, 8, [1 2 3 4 5 6 7 8], $tile::<T>(slab));
            }
        }
    };
}
/// The type's panels, two at a time: each of the input's broadcasts then serves two products, which would else be bound
/// by loads.
macro_rules! pair {
    ($name:ident, $inner:ident, $kind:ident, $block:ty, $columns:literal, $tile:ident) => {
        pub(in super::super) fn $name<T: $kind>(
            slabs: &mut [Slab; 2],
            panels: [&[u8]; 2],
            x: &[&[$block]],
            sums: [&mut [Sums]; 2],
        ) {
            // SAFETY: this tier is chosen only where the machine has its instructions.
            unsafe { $inner::<T>(slabs, panels, x, sums) }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn $inner<T: $kind>(slabs: &mut [Slab; 2], panels: [&[u8]; 2], x: &[&[$block]], sums: [&mut [Sums]; 2]) {
            let [a, b] = sums;
            for ((first, n, chunk), (_, _, other)) in chunks::<T>(panels[0]).zip(chunks::<T>(panels[1])) {
                slabs[0].unpack::<T, One>(chunk);
                slabs[1].unpack::<T, One>(other);
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
                            $tile::<T, $rows>(slabs, rows, [a, b]);
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
                }
            }
        }
    };
}
pair!(fine_pair, fine_panels, Fine, Block32, 32, fine_tiles);
pair!(superblock_pair, superblock_panels, Super, Block256, 256, superblock_tiles);
panel!(fine, fine_panel, Fine, Block32, 32, fine_rows, fine_tile);
panel!(superblock, superblock_panel, Super, Block256, 256, superblock_rows, superblock_tile);

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
    let blocks = x[0].len();
    assert!(blocks <= 8 && x.iter().all(|x| x.len() == blocks) && sums.len() == N);
    // SAFETY: every input row has `blocks` blocks, the slab has 8, `Sums` are 16 numbers.
    unsafe {
        let mut y = [_mm512_setzero_ps(); N];
        for t in 0..N {
            y[t] = _mm512_loadu_ps(sums[t].as_ptr());
        }
        for b in 0..blocks {
            let mut acc = [_mm512_setzero_si512(); N];
            for t in 0..N {
                acc[t] = start::<T>(x[t].get_unchecked(b));
            }
            for g in 0..8 {
                let w = _mm512_load_si512(slab.codes.as_ptr().add(b * 8 + g).cast());
                for t in 0..N {
                    let q = _mm512_set1_epi32(word(&x[t].get_unchecked(b).q, g * 4));
                    acc[t] = _mm512_dpbusd_epi32(acc[t], w, q);
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
    // SAFETY: inside by contract.
    let minus = |i: usize| unsafe { _mm512_set1_epi32(*x.minus16.get_unchecked(i)) };
    let sum =
        if T::STRETCH == 16 { minus(stretch) } else { _mm512_add_epi32(minus(2 * stretch), minus(2 * stretch + 1)) };
    match T::OFFSET {
        0 => _mm512_setzero_si512(),
        32 => _mm512_slli_epi32::<5>(sum),
        _ => _mm512_slli_epi32::<7>(sum),
    }
}

/// Sums over the stretches of a row's number times the stretch's sum of the input's integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn pairs<T: Super, const N: usize>(numbers: &[Lanes; 8], x: [&Block256; N]) -> [__m512i; N] {
    let mut total = [_mm512_setzero_si512(); N];
    // SAFETY: there are 128 / STRETCH pairs of stretches: at most the 8 of the slab, and as many sums in the block.
    unsafe {
        for p in 0..128 / T::STRETCH {
            let numbers = _mm512_load_si512(numbers.as_ptr().add(p).cast());
            for t in 0..N {
                let sums = if T::STRETCH == 16 { word(&x[t].sums16, p * 4) } else { word(&x[t].sums32, p * 4) };
                total[t] = _mm512_dpwssd_epi32(total[t], numbers, _mm512_set1_epi32(sums));
            }
        }
    }
    total
}

/// A super-block's integer sums to numbers, added to the sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn superblock_add<T: Super, const N: usize>(slab: &Slab, x: [&Block256; N], total: [__m512i; N], sums: &mut [Sums]) {
    // SAFETY: 16 numbers each.
    unsafe {
        let d = _mm512_loadu_ps(slab.d[0].as_ptr());
        let mut row = [_mm512_setzero_ps(); N];
        for t in 0..N {
            row[t] = _mm512_mul_ps(d, _mm512_cvtepi32_ps(total[t]));
        }
        if T::MINIMA {
            let (m, least) = (_mm512_loadu_ps(slab.m[0].as_ptr()), pairs::<T, N>(&slab.min_pairs, x));
            for t in 0..N {
                let least = _mm512_mul_ps(m, _mm512_cvtepi32_ps(least[t]));
                row[t] = _mm512_fmsub_ps(d, _mm512_cvtepi32_ps(total[t]), least);
            }
        }
        for (t, sums) in sums.iter_mut().enumerate().take(N) {
            let y = _mm512_loadu_ps(sums.as_ptr());
            _mm512_storeu_ps(sums.as_mut_ptr(), _mm512_fmadd_ps(_mm512_set1_ps(x[t].scale), row[t], y));
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
            prefetch(chunk, b, blocks);
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
            prefetch(chunk, round, T::rounds(1));
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
    superblock_add::<T, N>(slab, blocks, total, sums);
}

/// `N` input rows with a super-block in the slab.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn superblock_tile<T: Super, const N: usize>(slab: &Slab, x: [&[Block256]; N], sums: &mut [Sums]) {
    let mut blocks = [&x[0][0]; N];
    for t in 0..N {
        blocks[t] = &x[t][0];
    }
    let mut total = [_mm512_setzero_si512(); N];
    // SAFETY: stretches are 256 columns in all.
    unsafe {
        for s in 0..256 / T::STRETCH {
            let mut acc = [_mm512_setzero_si512(); N];
            for t in 0..N {
                acc[t] = stretch_start::<T>(blocks[t], s);
            }
            for g in 0..T::STRETCH / 4 {
                let at = s * T::STRETCH / 4 + g;
                let w = _mm512_load_si512(slab.codes.as_ptr().add(at).cast());
                for t in 0..N {
                    acc[t] = _mm512_dpbusd_epi32(acc[t], w, _mm512_set1_epi32(word(&blocks[t].q, at * 4)));
                }
            }
            let scale = scale(slab, s);
            for t in 0..N {
                total[t] = _mm512_add_epi32(total[t], _mm512_mullo_epi32(acc[t], scale));
            }
        }
    }
    superblock_add::<T, N>(slab, blocks, total, sums);
}

/// `N` input rows with the chunks of two panels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn fine_tiles<T: Fine, const N: usize>(slabs: &[Slab; 2], x: [&[Block32]; N], sums: [&mut [Sums]; 2]) {
    let blocks = x[0].len();
    assert!(blocks <= 8 && x.iter().all(|x| x.len() == blocks) && sums.iter().all(|s| s.len() == N));
    // SAFETY: every input row has `blocks` blocks, the slabs have 8, `Sums` are 16 numbers.
    unsafe {
        let mut y = [[_mm512_setzero_ps(); N]; 2];
        for p in 0..2 {
            for t in 0..N {
                y[p][t] = _mm512_loadu_ps(sums[p][t].as_ptr());
            }
        }
        for b in 0..blocks {
            let mut acc = [[_mm512_setzero_si512(); N]; 2];
            for t in 0..N {
                let begin = start::<T>(x[t].get_unchecked(b));
                (acc[0][t], acc[1][t]) = (begin, begin);
            }
            for g in 0..8 {
                let w0 = _mm512_load_si512(slabs[0].codes.as_ptr().add(b * 8 + g).cast());
                let w1 = _mm512_load_si512(slabs[1].codes.as_ptr().add(b * 8 + g).cast());
                for t in 0..N {
                    let q = _mm512_set1_epi32(word(&x[t].get_unchecked(b).q, g * 4));
                    acc[0][t] = _mm512_dpbusd_epi32(acc[0][t], w0, q);
                    acc[1][t] = _mm512_dpbusd_epi32(acc[1][t], w1, q);
                }
            }
            for p in 0..2 {
                for t in 0..N {
                    y[p][t] = fine_add::<T>(&slabs[p], b, x[t].get_unchecked(b), acc[p][t], y[p][t]);
                }
            }
        }
        for p in 0..2 {
            for t in 0..N {
                _mm512_storeu_ps(sums[p][t].as_mut_ptr(), y[p][t]);
            }
        }
    }
}

/// `N` input rows with the super-blocks of two panels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn superblock_tiles<T: Super, const N: usize>(slabs: &[Slab; 2], x: [&[Block256]; N], sums: [&mut [Sums]; 2]) {
    let mut blocks = [&x[0][0]; N];
    for t in 0..N {
        blocks[t] = &x[t][0];
    }
    let mut total = [[_mm512_setzero_si512(); N]; 2];
    // SAFETY: stretches are 256 columns in all.
    unsafe {
        for s in 0..256 / T::STRETCH {
            let mut acc = [[_mm512_setzero_si512(); N]; 2];
            for t in 0..N {
                let begin = stretch_start::<T>(blocks[t], s);
                (acc[0][t], acc[1][t]) = (begin, begin);
            }
            for g in 0..T::STRETCH / 4 {
                let at = s * T::STRETCH / 4 + g;
                let w0 = _mm512_load_si512(slabs[0].codes.as_ptr().add(at).cast());
                let w1 = _mm512_load_si512(slabs[1].codes.as_ptr().add(at).cast());
                for t in 0..N {
                    let q = _mm512_set1_epi32(word(&blocks[t].q, at * 4));
                    acc[0][t] = _mm512_dpbusd_epi32(acc[0][t], w0, q);
                    acc[1][t] = _mm512_dpbusd_epi32(acc[1][t], w1, q);
                }
            }
            for p in 0..2 {
                let scale = scale(&slabs[p], s);
                for t in 0..N {
                    total[p][t] = _mm512_add_epi32(total[p][t], _mm512_mullo_epi32(acc[p][t], scale));
                }
            }
        }
    }
    let [a, b] = sums;
    superblock_add::<T, N>(&slabs[0], blocks, total[0], a);
    superblock_add::<T, N>(&slabs[1], blocks, total[1], b);
}
