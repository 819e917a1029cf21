//! VNNI: sums of four products straight into 32 bits, 16 rows at a time, the input's four integers broadcast from memory.

use super::{
    super::{Fine, Lookup, Slab, Super, chunks},
    tiles, word,
};
use crate::linear::{
    Sums,
    rows8::{Block32, Block256},
};
use std::arch::x86_64::*;

struct Shuffle;

impl Lookup for Shuffle {
    #[inline(always)]
    fn lookup(table: &[u8; 16], halves: &[u8; 64]) -> ([u8; 64], [u8; 64]) {
        // SAFETY: used only in this tier's functions, which run only where the machine has it.
        unsafe { lookup(table, halves) }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn lookup(table: &[u8; 16], halves: &[u8; 64]) -> ([u8; 64], [u8; 64]) {
    // SAFETY: the loads and stores are of whole arrays.
    unsafe {
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
        let (halves, mask) = (_mm512_loadu_si512(halves.as_ptr().cast()), _mm512_set1_epi8(15));
        let low = _mm512_shuffle_epi8(table, _mm512_and_si512(halves, mask));
        let high = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16::<4>(halves), mask));
        (std::mem::transmute::<__m512i, [u8; 64]>(low), std::mem::transmute::<__m512i, [u8; 64]>(high))
    }
}

pub(in super::super) fn fine<T: Fine>(slab: &mut Slab, panel: &[u8], x: &[&[Block32]], sums: &mut [Sums]) {
    // SAFETY: this tier is chosen only where the machine has its instructions.
    unsafe { fine_panel::<T>(slab, panel, x, sums) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn fine_panel<T: Fine>(slab: &mut Slab, panel: &[u8], x: &[&[Block32]], sums: &mut [Sums]) {
    for (first, n, chunk) in chunks::<T>(panel) {
        T::unpack::<Shuffle>(chunk, slab);
        tiles!(x, sums, first / 32, n / 32, 8, [1 2 3 4 5 6 7 8], fine_tile::<T>(slab));
    }
}

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
                let x = x[t].get_unchecked(b);
                acc[t] = match T::OFFSET {
                    0 => _mm512_setzero_si512(),
                    16 => _mm512_set1_epi32(x.offset16),
                    _ => _mm512_set1_epi32(x.offset128),
                };
            }
            for g in 0..8 {
                let w = _mm512_load_si512(slab.codes.as_ptr().add(b * 8 + g).cast());
                for t in 0..N {
                    let q = _mm512_set1_epi32(word(&x[t].get_unchecked(b).q, g * 4));
                    acc[t] = _mm512_dpbusd_epi32(acc[t], w, q);
                }
            }
            let d = _mm512_load_ps(slab.d.as_ptr().add(b).cast());
            for t in 0..N {
                let x = x[t].get_unchecked(b);
                let sum = _mm512_cvtepi32_ps(acc[t]);
                let row = if T::MINIMA {
                    let m = _mm512_load_ps(slab.m.as_ptr().add(b).cast());
                    _mm512_fmadd_ps(d, sum, _mm512_mul_ps(m, _mm512_set1_ps((x.offset16 / -16) as f32)))
                } else {
                    _mm512_mul_ps(d, sum)
                };
                y[t] = _mm512_fmadd_ps(_mm512_set1_ps(x.scale), row, y[t]);
            }
        }
        for t in 0..N {
            _mm512_storeu_ps(sums[t].as_mut_ptr(), y[t]);
        }
    }
}

pub(in super::super) fn superblock<T: Super>(slab: &mut Slab, panel: &[u8], x: &[&[Block256]], sums: &mut [Sums]) {
    // SAFETY: this tier is chosen only where the machine has its instructions.
    unsafe { superblock_panel::<T>(slab, panel, x, sums) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn superblock_panel<T: Super>(slab: &mut Slab, panel: &[u8], x: &[&[Block256]], sums: &mut [Sums]) {
    for (first, _, chunk) in chunks::<T>(panel) {
        T::unpack::<Shuffle>(chunk, slab);
        tiles!(x, sums, first / 256, 1, 8, [1 2 3 4 5 6 7 8], superblock_tile::<T>(slab));
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn superblock_tile<T: Super, const N: usize>(slab: &Slab, x: [&[Block256]; N], sums: &mut [Sums]) {
    assert!(sums.len() == N);
    let x = x.map(|x| &x[0]);
    let mut total = [_mm512_setzero_si512(); N];
    // SAFETY: stretches are 256 columns in all; `Sums` are 16 numbers; the slab's arrays are aligned.
    unsafe {
        for s in 0..256 / T::STRETCH {
            let mut acc = [_mm512_setzero_si512(); N];
            for g in 0..T::STRETCH / 4 {
                let at = s * T::STRETCH / 4 + g;
                let w = _mm512_load_si512(slab.codes.as_ptr().add(at).cast());
                for t in 0..N {
                    acc[t] = _mm512_dpbusd_epi32(acc[t], w, _mm512_set1_epi32(word(&x[t].q, at * 4)));
                }
            }
            let scale = _mm512_srai_epi32::<16>(_mm512_load_si512(slab.scales.as_ptr().add(s).cast()));
            for t in 0..N {
                total[t] = _mm512_add_epi32(total[t], _mm512_mullo_epi32(acc[t], scale));
            }
        }
        if T::OFFSET != 0 {
            let above = pairs::<T, N>(&slab.scale_pairs, x);
            for t in 0..N {
                total[t] = _mm512_sub_epi32(total[t], _mm512_mullo_epi32(above[t], _mm512_set1_epi32(T::OFFSET)));
            }
        }
        let d = _mm512_load_ps(slab.d.as_ptr().cast());
        let mut row = [_mm512_setzero_ps(); N];
        for t in 0..N {
            row[t] = _mm512_mul_ps(d, _mm512_cvtepi32_ps(total[t]));
        }
        if T::MINIMA {
            let (m, least) = (_mm512_load_ps(slab.m.as_ptr().cast()), pairs::<T, N>(&slab.min_pairs, x));
            for t in 0..N {
                let least = _mm512_mul_ps(m, _mm512_cvtepi32_ps(least[t]));
                row[t] = _mm512_fmsub_ps(d, _mm512_cvtepi32_ps(total[t]), least);
            }
        }
        for t in 0..N {
            let y = _mm512_loadu_ps(sums[t].as_ptr());
            _mm512_storeu_ps(sums[t].as_mut_ptr(), _mm512_fmadd_ps(_mm512_set1_ps(x[t].scale), row[t], y));
        }
    }
}

/// Sums over the stretches of a number for each row and stretch times the stretch's sum of integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn pairs<T: Super, const N: usize>(numbers: &[[i16; 32]; 8], x: [&Block256; N]) -> [__m512i; N] {
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
