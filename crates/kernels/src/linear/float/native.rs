//! BF16 by the processor's own instruction, on AVX-512 with that extension.
#![expect(unsafe_code, reason = "vector loads and instructions chosen at run time")]

use super::{
    super::{Done, ROWS, Sums, rows16::LEAST_WEIGHT},
    x86::{Element, HALVES, MOST, STRETCH, columns, next, prefetch, tile_avx512, tiles},
};
use half::bf16;
use std::{arch::x86_64::*, sync::OnceLock};

/// Whether the machine multiplies pairs of BF16 as defined here: the second of a pair first, each sum rounded. What it does
/// with subnormal numbers is its own affair; none is shown to it.
pub(super) fn is_there() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        // SAFETY: called where the machine has the instructions.
        is_x86_feature_detected!("avx512bf16") && unsafe { agrees() }
    })
}

/// Tries pairs of many magnitudes.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,fma")]
fn agrees() -> bool {
    let mut state = 1u32;
    // The upper bits of the sequence are the random ones; exponents are kept within 2^±8.
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from_bits(state & 0x807f_ffff | (119 + (state >> 23 & 15)) << 23)
    };
    let pair = |[a, b]: [f32; 2]| u32::from(bf16::from_f32(a).to_bits()) | u32::from(bf16::from_f32(b).to_bits()) << 16;
    let float = |half: u32| f32::from_bits(half << 16);
    (0..1024).all(|_| {
        let (a, b, c) = (pair([number(), number()]), pair([number(), number()]), number());
        let second = float(a >> 16).mul_add(float(b >> 16), c);
        let expected = float(a & 0xffff).mul_add(float(b & 0xffff), second);
        let sum = dot(_mm512_set1_ps(c), _mm512_set1_epi32(a.cast_signed()), _mm512_set1_epi32(b.cast_signed()));
        _mm512_cvtss_f32(sum).to_bits() == expected.to_bits()
    })
}

/// Adds the products of 16 pairs of BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn dot(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
    // SAFETY: both are 512 bits of anything.
    unsafe {
        _mm512_dpbf16_ps(sum, std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b))
    }
}

/// As the other panels, with the machine's own products of BF16. A stretch with weights so small that these might be others
/// is left to the plain ones.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")]
pub(super) fn panel<const P: usize>(panels: [&[u8]; P], x: &[&[bf16]], mut sums: [&mut [Sums]; P], done: &mut Done) {
    const COLUMN: usize = 2 * ROWS;
    let cols = panels[0].len() / COLUMN;
    // Kept only where another tile follows.
    let mut room;
    let mut pairs: [&mut [[u32; ROWS]]; P] = std::array::from_fn(|_| Default::default());
    if x.len() > MOST {
        room = [[[0; ROWS]; STRETCH / 2]; P];
        pairs = room.each_mut().map(|pairs| &mut pairs[..]);
    }
    for first in (0..cols).step_by(STRETCH) {
        let len = STRETCH.min(cols - first);
        let w = panels.map(|panel| &panel[first * COLUMN..][..len * COLUMN]);
        let next = next::<HALVES, P>(panels, (first + len) * COLUMN);
        let mut plain = false;
        for (i, x) in x.chunks(MOST).enumerate() {
            let mut sums = sums.each_mut().map(|sums| &mut sums[i * MOST..][..x.len()]);
            let mut rows: [&[bf16]; MOST] = [&[]; MOST];
            for (to, x) in rows.iter_mut().zip(x) {
                *to = &x[first..first + len];
            }
            if !plain {
                tiles!([1 2 3 4 5 6 7 8], x.len(), &rows, |rows| plain = !match i {
                    0 => tile::<_, P, true>(w, next, &mut pairs, *rows, &mut sums),
                    _ => tile::<_, P, false>(w, next, &mut pairs, *rows, &mut sums),
                });
            }
            if plain {
                let mut room = [[0.0; STRETCH]; MOST];
                let mut numbers: [&[f32]; MOST] = [&[]; MOST];
                for ((to, x), room) in numbers.iter_mut().zip(&rows).zip(&mut room) {
                    *to = bf16::numbers(x, room);
                }
                tiles!([1 2 3 4 5 6 7 8], x.len(), &numbers, |x| tile_avx512::<_, P, HALVES>(w, *x, &mut sums, None));
            }
            if first + len == cols {
                super::hand_over(done, i * MOST, sums);
            }
        }
    }
}

/// The `FIRST` tile of a stretch brings the weights of two columns together and keeps them in `pairs` for the others, if there is
/// room. It adds nothing and gives `false` when weights are too small.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")]
fn tile<const N: usize, const P: usize, const FIRST: bool>(
    w: [&[u8]; P],
    next: Option<[*const u8; P]>,
    pairs: &mut [&mut [[u32; ROWS]]; P],
    x: [&[bf16]; N],
    sums: &mut [&mut [Sums]; P],
) -> bool {
    let len = columns::<_, N, P, HALVES>(w, x, sums);
    assert!(FIRST || pairs.iter().all(|pairs| len <= 2 * pairs.len()));
    // SAFETY: columns `0..len` lie in each `w` and in every row of `x`, pairs of them in `pairs`, as just checked; `Sums` are 16
    // numbers.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); N]; P];
        for p in 0..P {
            for t in 0..N {
                acc[p][t] = _mm512_loadu_ps(sums[p][t].as_ptr());
            }
        }
        // Of two columns' weights, each row's two beside each other.
        let beside = _mm512_or_si512(
            _mm512_cvtepu16_epi32(_mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)),
            _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_setr_epi16(
                16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
            ))),
        );
        // Twice the magnitude less 1: zero becomes the largest of all.
        let mut least = _mm512_set1_epi16(-1);
        for k in (0..len).step_by(2) {
            let mut column = [_mm512_setzero_si512(); P];
            for p in 0..P {
                if !FIRST {
                    column[p] = _mm512_loadu_si512(pairs[p].get_unchecked(k / 2).as_ptr().cast());
                    continue;
                }
                let at = w[p].as_ptr().add(k * ROWS * 2);
                if let Some(next) = next {
                    prefetch(next[p], k * ROWS * 2);
                }
                column[p] = match k + 1 < len {
                    true => _mm512_permutexvar_epi16(beside, _mm512_loadu_si512(at.cast())),
                    false => _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast())),
                };
                let twice = _mm512_add_epi16(column[p], column[p]);
                least = _mm512_min_epu16(least, _mm512_add_epi16(twice, _mm512_set1_epi16(-1)));
                if let Some(pair) = pairs[p].get_mut(k / 2) {
                    _mm512_storeu_si512(pair.as_mut_ptr().cast(), column[p]);
                }
            }
            for t in 0..N {
                let x = match k + 1 < len {
                    true => x[t].as_ptr().add(k).cast::<i32>().read_unaligned(),
                    false => i32::from(x[t].get_unchecked(k).to_bits()),
                };
                for p in 0..P {
                    acc[p][t] = dot(acc[p][t], column[p], _mm512_set1_epi32(x));
                }
            }
        }
        if FIRST && _mm512_cmplt_epu16_mask(least, _mm512_set1_epi16((2 * LEAST_WEIGHT - 1).cast_signed())) != 0 {
            return false;
        }
        for p in 0..P {
            for t in 0..N {
                _mm512_storeu_ps(sums[p][t].as_mut_ptr(), acc[p][t]);
            }
        }
        true
    }
}
