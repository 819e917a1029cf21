//! Float products on AVX2 and AVX-512.
#![expect(unsafe_code, reason = "vector loads and instructions chosen at run time")]

use super::super::{Done, ROWS, Sums, rows16::LEAST_WEIGHT};
use allod_tensor::DType;
use half::bf16;
use std::{arch::x86_64::*, sync::OnceLock};

/// Element types, as constants.
const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

/// Columns whose weights stay in L1 for all input rows.
const STRETCH: usize = 256;
/// The first tile of a stretch asks for weights that many bytes ahead, the others find theirs in L1.
const AHEAD: usize = 8 << 10;

const fn width(kind: u8) -> usize {
    if kind == F32 { 4 } else { 2 }
}

/// Column `k` of `len` in the order in which they are added up.
#[inline(always)]
const fn nth<const KIND: u8>(k: usize, len: usize) -> usize {
    if KIND == BF16 && k ^ 1 < len { k ^ 1 } else { k }
}

/// Elements of input rows.
trait Element: Copy {
    /// A stretch of a row as numbers, in `room` where they are not there already.
    fn numbers<'a>(x: &'a [Self], room: &'a mut [f32; STRETCH]) -> &'a [f32];
}

impl Element for f32 {
    #[inline(always)]
    fn numbers<'a>(x: &'a [f32], _: &'a mut [f32; STRETCH]) -> &'a [f32] {
        x
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn numbers<'a>(x: &'a [bf16], room: &'a mut [f32; STRETCH]) -> &'a [f32] {
        let room = &mut room[..x.len()];
        for (to, x) in room.iter_mut().zip(x) {
            *to = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
        room
    }
}

macro_rules! tier {
    ($name:ident, $inner:ident, $tile:ident, $features:literal, $most:literal, $rows:tt) => {
        pub(super) fn $name<const P: usize>(
            dtype: DType,
            panels: [&[u8]; P],
            x: &[&[f32]],
            sums: [&mut [Sums]; P],
            done: &mut Done,
        ) {
            // SAFETY: this tier is chosen only where the machine has its instructions.
            unsafe {
                match dtype {
                    DType::F32 => $inner::<F32, P, f32>(panels, x, sums, done),
                    _ => $inner::<F16, P, f32>(panels, x, sums, done),
                }
            }
        }

        /// Input rows in tiles whose sums stay in registers, and columns in stretches whose weights stay in L1.
        #[target_feature(enable = $features)]
        fn $inner<const KIND: u8, const P: usize, E: Element>(
            panels: [&[u8]; P],
            x: &[&[E]],
            mut sums: [&mut [Sums]; P],
            done: &mut Done,
        ) {
            let mut room = [[0.0; STRETCH]; $most];
            let column = ROWS * width(KIND);
            let cols = panels[0].len() / column;
            for first in (0..cols).step_by(STRETCH) {
                let len = STRETCH.min(cols - first);
                let w = panels.map(|panel| &panel[first * column..][..len * column]);
                for (i, x) in x.chunks($most).enumerate() {
                    let mut sums = sums.each_mut().map(|sums| &mut sums[i * $most..][..x.len()]);
                    let mut rows: [&[f32]; $most] = [&[]; $most];
                    for ((to, x), room) in rows.iter_mut().zip(x).zip(&mut room) {
                        *to = E::numbers(&x[first..first + len], room);
                    }
                    tiles!($rows, x.len(), &rows, |rows| $tile::<_, P, KIND>(w, *rows, &mut sums, i == 0));
                    if first + len == cols {
                        super::hand_over(done, i * $most, sums);
                    }
                }
            }
        }
    };
}

/// Calls a tile with as many rows as there are, their number known to the compiler.
macro_rules! tiles {
    ([$($n:literal)*], $len:expr, $rows:expr, |$x:ident| $call:expr) => {
        match $len {
            $($n => {
                if let Some($x) = $rows.first_chunk::<$n>() {
                    $call
                }
            })*
            _ => unreachable!("chunks are no longer than asked"),
        }
    };
}

tier!(avx2, panel_avx2, tile_avx2, "avx2,fma,f16c", 6, [1 2 3 4 5 6]);
tier!(avx512, panel_avx512, tile_avx512, "avx512f,avx512bw,avx512vl,avx512dq,fma", 8, [1 2 3 4 5 6 7 8]);

pub(super) fn avx2_halves<const P: usize>(panels: [&[u8]; P], x: &[&[bf16]], sums: [&mut [Sums]; P], done: &mut Done) {
    // SAFETY: this tier is chosen only where the machine has its instructions.
    unsafe { panel_avx2::<BF16, P, bf16>(panels, x, sums, done) }
}

pub(super) fn avx512_halves<const P: usize>(
    panels: [&[u8]; P],
    x: &[&[bf16]],
    sums: [&mut [Sums]; P],
    done: &mut Done,
) {
    // SAFETY: this tier is chosen only where the machine has its instructions; those for BF16 are asked for.
    unsafe {
        match multiplies_bf16() {
            true => panel_bf16(panels, x, sums, done),
            false => panel_avx512::<BF16, P, bf16>(panels, x, sums, done),
        }
    }
}

/// Whether the machine multiplies pairs of BF16 as defined here: the second of a pair first, each sum rounded. What it does
/// with subnormal numbers is its own affair; none is shown to it.
fn multiplies_bf16() -> bool {
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
fn panel_bf16<const P: usize>(panels: [&[u8]; P], x: &[&[bf16]], mut sums: [&mut [Sums]; P], done: &mut Done) {
    const MOST: usize = 8;
    const COLUMN: usize = 2 * ROWS;
    let mut room = [[0.0; STRETCH]; MOST];
    let cols = panels[0].len() / COLUMN;
    for first in (0..cols).step_by(STRETCH) {
        let len = STRETCH.min(cols - first);
        let w = panels.map(|panel| &panel[first * COLUMN..][..len * COLUMN]);
        let mut plain = false;
        for (i, x) in x.chunks(MOST).enumerate() {
            let mut sums = sums.each_mut().map(|sums| &mut sums[i * MOST..][..x.len()]);
            let mut rows: [&[bf16]; MOST] = [&[]; MOST];
            for (to, x) in rows.iter_mut().zip(x) {
                *to = &x[first..first + len];
            }
            if !plain {
                tiles!([1 2 3 4 5 6 7 8], x.len(), &rows, |rows| plain = !match i {
                    0 => tile_bf16::<_, P, true>(w, *rows, &mut sums),
                    _ => tile_bf16::<_, P, false>(w, *rows, &mut sums),
                });
            }
            if plain {
                let mut numbers: [&[f32]; MOST] = [&[]; MOST];
                for ((to, x), room) in numbers.iter_mut().zip(&rows).zip(&mut room) {
                    *to = bf16::numbers(x, room);
                }
                tiles!([1 2 3 4 5 6 7 8], x.len(), &numbers, |x| tile_avx512::<_, P, BF16>(w, *x, &mut sums, false));
            }
            if first + len == cols {
                super::hand_over(done, i * MOST, sums);
            }
        }
    }
}

/// Adds nothing and gives `false` when `CHECK`ed weights are too small.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")]
fn tile_bf16<const N: usize, const P: usize, const CHECK: bool>(
    w: [&[u8]; P],
    x: [&[bf16]; N],
    sums: &mut [&mut [Sums]; P],
) -> bool {
    let len = columns::<_, N, P, BF16>(w, x, sums);
    // SAFETY: columns `0..len` lie in each `w` and in every row of `x`, as just checked; `Sums` are 16 numbers.
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
                let at = w[p].as_ptr().add(k * ROWS * 2);
                column[p] = match k + 1 < len {
                    true => _mm512_permutexvar_epi16(beside, _mm512_loadu_si512(at.cast())),
                    false => _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast())),
                };
                if CHECK {
                    let twice = _mm512_add_epi16(column[p], column[p]);
                    least = _mm512_min_epu16(least, _mm512_add_epi16(twice, _mm512_set1_epi16(-1)));
                }
                if CHECK {
                    _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(AHEAD).cast());
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
        if CHECK && _mm512_cmplt_epu16_mask(least, _mm512_set1_epi16((2 * LEAST_WEIGHT - 1).cast_signed())) != 0 {
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

/// The columns of a tile, which all of its parts must have.
#[inline]
fn columns<E, const N: usize, const P: usize, const KIND: u8>(
    w: [&[u8]; P],
    x: [&[E]; N],
    sums: &[&mut [Sums]; P],
) -> usize {
    let len = w[0].len() / (ROWS * width(KIND));
    assert!(w.iter().all(|other| other.len() == w[0].len()) && x.iter().all(|x| x.len() == len));
    assert!(sums.iter().all(|sums| sums.len() == N));
    len
}

/// 16 weights of one column, as two vectors of 8.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_avx2<const KIND: u8>(w: *const u8) -> [__m256; 2] {
    // SAFETY: the caller gives 16 elements.
    unsafe {
        match KIND {
            F32 => [_mm256_loadu_ps(w.cast()), _mm256_loadu_ps(w.add(32).cast())],
            F16 => [_mm256_cvtph_ps(_mm_loadu_si128(w.cast())), _mm256_cvtph_ps(_mm_loadu_si128(w.add(16).cast()))],
            _ => [0, 16].map(|at| {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(w.add(at).cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn tile_avx2<const N: usize, const P: usize, const KIND: u8>(
    w: [&[u8]; P],
    x: [&[f32]; N],
    sums: &mut [&mut [Sums]; P],
    ahead: bool,
) {
    let len = columns::<_, N, P, KIND>(w, x, sums);
    // SAFETY: columns `0..len` lie in each `w` and in every row of `x`, as just checked; `Sums` are 16 numbers.
    unsafe {
        let mut acc = [[[_mm256_setzero_ps(); 2]; N]; P];
        for p in 0..P {
            for t in 0..N {
                let from = sums[p][t].as_ptr();
                acc[p][t] = [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))];
            }
        }
        for k in (0..len).map(|k| nth::<KIND>(k, len)) {
            let mut column = [[_mm256_setzero_ps(); 2]; P];
            for p in 0..P {
                let at = w[p].as_ptr().add(k * ROWS * width(KIND));
                column[p] = load_avx2::<KIND>(at);
                if ahead {
                    _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(AHEAD).cast());
                }
            }
            for t in 0..N {
                let x = _mm256_broadcast_ss(x[t].get_unchecked(k));
                for p in 0..P {
                    for h in 0..2 {
                        acc[p][t][h] = _mm256_fmadd_ps(column[p][h], x, acc[p][t][h]);
                    }
                }
            }
        }
        for p in 0..P {
            for t in 0..N {
                let to = sums[p][t].as_mut_ptr();
                _mm256_storeu_ps(to, acc[p][t][0]);
                _mm256_storeu_ps(to.add(8), acc[p][t][1]);
            }
        }
    }
}

/// 16 weights of one column.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
unsafe fn load_avx512<const KIND: u8>(w: *const u8) -> __m512 {
    // SAFETY: the caller gives 16 elements.
    unsafe {
        match KIND {
            F32 => _mm512_loadu_ps(w.cast()),
            F16 => _mm512_cvtph_ps(_mm256_loadu_si256(w.cast())),
            _ => {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(w.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
fn tile_avx512<const N: usize, const P: usize, const KIND: u8>(
    w: [&[u8]; P],
    x: [&[f32]; N],
    sums: &mut [&mut [Sums]; P],
    ahead: bool,
) {
    let len = columns::<_, N, P, KIND>(w, x, sums);
    // SAFETY: columns `0..len` lie in each `w` and in every row of `x`, as just checked; `Sums` are 16 numbers.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); N]; P];
        for p in 0..P {
            for t in 0..N {
                acc[p][t] = _mm512_loadu_ps(sums[p][t].as_ptr());
            }
        }
        for k in (0..len).map(|k| nth::<KIND>(k, len)) {
            let mut column = [_mm512_setzero_ps(); P];
            for p in 0..P {
                let at = w[p].as_ptr().add(k * ROWS * width(KIND));
                column[p] = load_avx512::<KIND>(at);
                if ahead {
                    _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(AHEAD).cast());
                }
            }
            for t in 0..N {
                let x = _mm512_set1_ps(*x[t].get_unchecked(k));
                for p in 0..P {
                    acc[p][t] = _mm512_fmadd_ps(column[p], x, acc[p][t]);
                }
            }
        }
        for p in 0..P {
            for t in 0..N {
                _mm512_storeu_ps(sums[p][t].as_mut_ptr(), acc[p][t]);
            }
        }
    }
}
