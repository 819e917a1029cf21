//! AVX2: products of unsigned with signed bytes in pairs of 16 bits. They add up over a chain of groups before the
//! integer scales are applied in the step that widens them to 32 bits; where the codes have an offset, the chain starts
//! at minus offset times the input's sums, so that what it ends at fits 16 bits (what it passes wraps around).

use super::{
    super::{Fine, Lookup, Slab, Super, Type, chunks},
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
#[target_feature(enable = "avx2,fma,f16c")]
fn lookup(table: &[u8; 16], halves: &[u8; 64]) -> ([u8; 64], [u8; 64]) {
    let (mut low, mut high) = ([0; 64], [0; 64]);
    // SAFETY: the loads and stores are within the arrays.
    unsafe {
        let (table, mask) = (_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), _mm256_set1_epi8(15));
        for at in [0, 32] {
            let halves = _mm256_loadu_si256(halves.as_ptr().add(at).cast());
            let (l, h) = (_mm256_and_si256(halves, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(halves), mask));
            _mm256_storeu_si256(low.as_mut_ptr().add(at).cast(), _mm256_shuffle_epi8(table, l));
            _mm256_storeu_si256(high.as_mut_ptr().add(at).cast(), _mm256_shuffle_epi8(table, h));
        }
    }
    (low, high)
}

/// The lower and the upper 8 rows.
type Halves = [__m256i; 2];

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load<E>(from: &[E; 32]) -> Halves {
    // SAFETY: 64 bytes (the elements are bytes or more), of any alignment.
    unsafe { [_mm256_loadu_si256(from.as_ptr().cast()), _mm256_loadu_si256(from.as_ptr().cast::<u8>().add(32).cast())] }
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

/// Adds to `total` the products of `groups` groups of 4 columns, from `first` on, with the rows' `scale`; `start` is
/// where the chain of row `t` starts.
///
/// # Safety
/// The groups must be in the slab, and each `q` must have their columns, counted from its beginning.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn stretch<T: Type, const N: usize>(
    slab: &Slab,
    first: usize,
    groups: usize,
    q: [&[i8]; N],
    start: [__m256i; N],
    scale: Halves,
    total: &mut [Halves; N],
) {
    // SAFETY: inside by contract.
    unsafe {
        if T::CHAIN == 1 {
            let top = _mm256_set1_epi8(-128);
            for g in 0..groups {
                let codes = slab.codes.as_ptr().add(first + g).cast::<__m256i>();
                let w = [
                    _mm256_xor_si256(_mm256_load_si256(codes), top),
                    _mm256_xor_si256(_mm256_load_si256(codes.add(1)), top),
                ];
                let size = [_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])];
                for t in 0..N {
                    let q = _mm256_set1_epi32(word(q[t], g * 4));
                    for h in 0..2 {
                        let products = _mm256_maddubs_epi16(size[h], _mm256_sign_epi8(q, w[h]));
                        total[t][h] = _mm256_add_epi32(total[t][h], _mm256_madd_epi16(products, scale[h]));
                    }
                }
            }
            return;
        }
        for chain in 0..groups / T::CHAIN {
            let mut acc: [Halves; N] = [[_mm256_setzero_si256(); 2]; N];
            for t in 0..N {
                acc[t] = [start[t]; 2];
            }
            for g in chain * T::CHAIN..(chain + 1) * T::CHAIN {
                let codes = slab.codes.as_ptr().add(first + g).cast::<__m256i>();
                let w = [_mm256_load_si256(codes), _mm256_load_si256(codes.add(1))];
                for t in 0..N {
                    let q = _mm256_set1_epi32(word(q[t], g * 4));
                    for h in 0..2 {
                        acc[t][h] = _mm256_add_epi16(acc[t][h], _mm256_maddubs_epi16(w[h], q));
                    }
                }
            }
            for t in 0..N {
                for h in 0..2 {
                    total[t][h] = _mm256_add_epi32(total[t][h], _mm256_madd_epi16(acc[t][h], scale[h]));
                }
            }
        }
    }
}

pub(in super::super) fn fine<T: Fine>(slab: &mut Slab, panel: &[u8], x: &[&[Block32]], sums: &mut [Sums]) {
    // SAFETY: this tier is chosen only where the machine has its instructions.
    unsafe { fine_panel::<T>(slab, panel, x, sums) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn fine_panel<T: Fine>(slab: &mut Slab, panel: &[u8], x: &[&[Block32]], sums: &mut [Sums]) {
    for (first, n, chunk) in chunks::<T>(panel) {
        T::unpack::<Shuffle>(chunk, slab);
        tiles!(x, sums, first / 32, n / 32, 4, [1 2 3 4], fine_tile::<T>(slab));
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fine_tile<T: Fine, const N: usize>(slab: &Slab, x: [&[Block32]; N], sums: &mut [Sums]) {
    let blocks = x[0].len();
    assert!(blocks <= 8 && x.iter().all(|x| x.len() == blocks) && sums.len() == N);
    let ones = [_mm256_set1_epi16(1); 2];
    for b in 0..blocks {
        let mut total = [[_mm256_setzero_si256(); 2]; N];
        // SAFETY: every input row has `blocks` blocks, the slab has 8.
        unsafe {
            let x: [&Block32; N] = std::array::from_fn(|t| x[t].get_unchecked(b));
            let mut start = [_mm256_setzero_si256(); N];
            if T::OFFSET != 0 {
                for t in 0..N {
                    start[t] = _mm256_set1_epi32(word(&x[t].lanes16, 0));
                }
            }
            stretch::<T, N>(slab, b * 8, 8, std::array::from_fn(|t| &x[t].q[..]), start, ones, &mut total);
            let (d, m) = (floats(&slab.d[b]), floats(&slab.m[b]));
            for t in 0..N {
                let (s, all) = (_mm256_set1_ps(x[t].scale), _mm256_set1_ps((x[t].offset16 / -16) as f32));
                let mut y = floats(&sums[t]);
                for h in 0..2 {
                    let sum = _mm256_cvtepi32_ps(total[t][h]);
                    let row = if T::MINIMA {
                        _mm256_fmadd_ps(d[h], sum, _mm256_mul_ps(m[h], all))
                    } else {
                        _mm256_mul_ps(d[h], sum)
                    };
                    y[h] = _mm256_fmadd_ps(s, row, y[h]);
                }
                store(&mut sums[t], y);
            }
        }
    }
}

pub(in super::super) fn superblock<T: Super>(slab: &mut Slab, panel: &[u8], x: &[&[Block256]], sums: &mut [Sums]) {
    // SAFETY: this tier is chosen only where the machine has its instructions.
    unsafe { superblock_panel::<T>(slab, panel, x, sums) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn superblock_panel<T: Super>(slab: &mut Slab, panel: &[u8], x: &[&[Block256]], sums: &mut [Sums]) {
    for (first, _, chunk) in chunks::<T>(panel) {
        T::unpack::<Shuffle>(chunk, slab);
        tiles!(x, sums, first / 256, 1, 4, [1 2 3 4], superblock_tile::<T>(slab));
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn superblock_tile<T: Super, const N: usize>(slab: &Slab, x: [&[Block256]; N], sums: &mut [Sums]) {
    assert!(sums.len() == N);
    let x = x.map(|x| &x[0]);
    let mut total = [[_mm256_setzero_si256(); 2]; N];
    for s in 0..256 / T::STRETCH {
        let mut start = [_mm256_setzero_si256(); N];
        // SAFETY: stretches are 256 columns in all.
        unsafe {
            if T::OFFSET == 32 {
                for t in 0..N {
                    start[t] = _mm256_set1_epi32(word(&x[t].lanes32, s * 4));
                }
            }
            let (groups, scale) = (T::STRETCH / 4, load(&slab.scales[s]));
            let q = std::array::from_fn(|t| x[t].q.get_unchecked(s * T::STRETCH..));
            stretch::<T, N>(slab, s * groups, groups, q, start, scale, &mut total);
        }
    }
    let (d, m) = (floats(&slab.d[0]), floats(&slab.m[0]));
    let mut least = [[_mm256_setzero_si256(); 2]; N];
    if T::MINIMA {
        for p in 0..128 / T::STRETCH {
            let minima = load(&slab.min_pairs[p]);
            for t in 0..N {
                // SAFETY: as many sums as there are stretches.
                let sums =
                    unsafe { if T::STRETCH == 16 { word(&x[t].sums16, p * 4) } else { word(&x[t].sums32, p * 4) } };
                for h in 0..2 {
                    let product = _mm256_madd_epi16(minima[h], _mm256_set1_epi32(sums));
                    least[t][h] = _mm256_add_epi32(least[t][h], product);
                }
            }
        }
    }
    for t in 0..N {
        let (s, mut y) = (_mm256_set1_ps(x[t].scale), floats(&sums[t]));
        for h in 0..2 {
            let sum = _mm256_cvtepi32_ps(total[t][h]);
            let row = if T::MINIMA {
                _mm256_fmsub_ps(d[h], sum, _mm256_mul_ps(m[h], _mm256_cvtepi32_ps(least[t][h])))
            } else {
                _mm256_mul_ps(d[h], sum)
            };
            y[h] = _mm256_fmadd_ps(s, row, y[h]);
        }
        store(&mut sums[t], y);
    }
}
