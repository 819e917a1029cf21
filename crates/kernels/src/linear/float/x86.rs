//! Float products on AVX2 and AVX-512.
#![expect(unsafe_code, reason = "vector loads and instructions chosen at run time")]

use super::{
    super::{Done, ROWS, Sums},
    native,
};
use crate::isa::is_zen_4;
use allod_tensor::DType;
use half::bf16;
use std::arch::x86_64::*;

/// Element types, as constants.
const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;
/// BF16 that meets rounded rows, in pairs of columns.
pub(super) const HALVES: u8 = 3;

/// Columns whose weights stay in L1 for all input rows.
pub(super) const STRETCH: usize = 256;

/// What is read after the panels' first `len` bytes: what comes next in each, or the panels after them. The first tile of a
/// stretch asks for it, the others find theirs in L1. Nothing where the processor sees it better for itself.
pub(super) fn next<const KIND: u8, const P: usize>(panels: [&[u8]; P], len: usize) -> Option<[*const u8; P]> {
    let next = |panel: &[u8]| panel.as_ptr().wrapping_add(if len < panel.len() { len } else { P * panel.len() });
    let itself = matches!(KIND, F32 | HALVES) && is_zen_4();
    (!itself).then(|| panels.map(next))
}

/// Asks for a column of what [`next`] says.
#[inline(always)]
pub(super) fn prefetch(next: *const u8, column: usize) {
    // SAFETY: a hint; any address will do.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(column).cast()) }
}

const fn width(kind: u8) -> usize {
    if kind == F32 { 4 } else { 2 }
}

/// Column `k` of `len` in the order in which they are added up.
#[inline(always)]
const fn nth<const KIND: u8>(k: usize, len: usize) -> usize {
    if KIND == HALVES && k ^ 1 < len { k ^ 1 } else { k }
}

/// Elements of input rows.
pub(super) trait Element: Copy {
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

/// Input rows of a tile with AVX-512, at most.
pub(super) const MOST: usize = 8;

macro_rules! tier {
    ($name:ident, $inner:ident, $narrow:ident, $stretch:ident, $tile:ident, $features:literal, $most:expr, $rows:tt) => {
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
                    DType::F16 => $narrow::<F16, P, f32>(panels, x, sums, done),
                    _ => $narrow::<BF16, P, f32>(panels, x, sums, done),
                }
            }
        }

        /// Columns in stretches whose weights stay in L1.
        #[target_feature(enable = $features)]
        fn $inner<const KIND: u8, const P: usize, E: Element>(
            panels: [&[u8]; P],
            x: &[&[E]],
            mut sums: [&mut [Sums]; P],
            done: &mut Done,
        ) {
            let column = ROWS * width(KIND);
            let cols = panels[0].len() / column;
            for first in (0..cols).step_by(STRETCH) {
                let len = STRETCH.min(cols - first);
                let w = panels.map(|panel| &panel[first * column..][..len * column]);
                let next = next::<KIND, P>(panels, (first + len) * column);
                $stretch::<KIND, P, E>(w, next, x, first, &mut sums, done);
            }
        }

        /// The columns from `first` on: input rows in tiles whose sums stay in registers.
        #[inline]
        #[target_feature(enable = $features)]
        fn $stretch<const KIND: u8, const P: usize, E: Element>(
            w: [&[u8]; P],
            next: Option<[*const u8; P]>,
            x: &[&[E]],
            first: usize,
            sums: &mut [&mut [Sums]; P],
            done: &mut Done,
        ) {
            let mut room = [[0.0; STRETCH]; $most];
            let end = first + w[0].len() / (ROWS * width(KIND));
            for (i, x) in x.chunks($most).enumerate() {
                let mut sums = sums.each_mut().map(|sums| &mut sums[i * $most..][..x.len()]);
                let mut rows: [&[f32]; $most] = [&[]; $most];
                for ((to, x), room) in rows.iter_mut().zip(x).zip(&mut room) {
                    *to = E::numbers(&x[first..end], room);
                }
                let next = next.filter(|_| i == 0);
                tiles!($rows, x.len(), &rows, |rows| $tile::<_, P, KIND>(w, *rows, &mut sums, next));
                if end == x[0].len() {
                    super::hand_over(done, i * $most, sums);
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
pub(super) use tiles;

tier!(avx2, panel_avx2, panel_avx2, stretch_avx2, tile_avx2, "avx2,fma,f16c", 6, [1 2 3 4 5 6]);
tier!(
    avx512,
    panel_avx512,
    unpacked,
    stretch_avx512,
    tile_avx512,
    "avx512f,avx512bw,avx512vl,avx512dq,fma",
    MOST,
    [1 2 3 4 5 6 7 8]
);

pub(super) fn avx2_halves<const P: usize>(panels: [&[u8]; P], x: &[&[bf16]], sums: [&mut [Sums]; P], done: &mut Done) {
    // SAFETY: this tier is chosen only where the machine has its instructions.
    unsafe { panel_avx2::<HALVES, P, bf16>(panels, x, sums, done) }
}

pub(super) fn avx512_halves<const P: usize>(
    panels: [&[u8]; P],
    x: &[&[bf16]],
    sums: [&mut [Sums]; P],
    done: &mut Done,
) {
    // SAFETY: this tier is chosen only where the machine has its instructions; those for BF16 are asked for.
    unsafe {
        match native::is_there() {
            true => native::panel(panels, x, sums, done),
            false => panel_avx512::<HALVES, P, bf16>(panels, x, sums, done),
        }
    }
}

/// The columns of a tile, which all of its parts must have.
#[inline]
pub(super) fn columns<E, const N: usize, const P: usize, const KIND: u8>(
    w: [&[u8]; P],
    x: [&[E]; N],
    sums: &[&mut [Sums]; P],
) -> usize {
    let len = w[0].len() / (ROWS * width(KIND));
    assert!(w.iter().all(|other| other.len() == w[0].len()) && x.iter().all(|x| x.len() == len));
    assert!(sums.iter().all(|sums| sums.len() == N));
    len
}

/// Whether AVX2's two vectors are even rows and odd ones: BF16 becomes numbers in two steps so, where rows in their order take
/// four, on a port that multiplies.
const fn by_turns(kind: u8) -> bool {
    matches!(kind, BF16 | HALVES)
}

/// Sums of 16 rows, as [`load_avx2`] gives weights.
#[inline]
#[target_feature(enable = "avx2")]
fn load_sums<const KIND: u8>(sums: &Sums) -> [__m256; 2] {
    // SAFETY: 16 numbers.
    let [low, high] = unsafe { [_mm256_loadu_ps(sums.as_ptr()), _mm256_loadu_ps(sums.as_ptr().add(8))] };
    if !by_turns(KIND) {
        return [low, high];
    }
    // Of rows 0 to 3, 8 to 11, 4 to 7 and 12 to 15, in this order.
    [_mm256_shuffle_ps::<0x88>(low, high), _mm256_shuffle_ps::<0xdd>(low, high)]
        .map(|half| _mm256_castpd_ps(_mm256_permute4x64_pd::<0xd8>(_mm256_castps_pd(half))))
}

/// The reverse of [`load_sums`].
#[inline]
#[target_feature(enable = "avx2")]
fn store_sums<const KIND: u8>([mut low, mut high]: [__m256; 2], sums: &mut Sums) {
    if by_turns(KIND) {
        let [a, b] = [_mm256_unpacklo_ps(low, high), _mm256_unpackhi_ps(low, high)];
        (low, high) = (_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
    }
    // SAFETY: 16 numbers.
    unsafe {
        _mm256_storeu_ps(sums.as_mut_ptr(), low);
        _mm256_storeu_ps(sums.as_mut_ptr().add(8), high);
    }
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
            _ => {
                let rows = _mm256_loadu_si256(w.cast());
                let odd = _mm256_and_si256(rows, _mm256_set1_epi32(!0xffff));
                [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(rows)), _mm256_castsi256_ps(odd)]
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn tile_avx2<const N: usize, const P: usize, const KIND: u8>(
    w: [&[u8]; P],
    x: [&[f32]; N],
    sums: &mut [&mut [Sums]; P],
    next: Option<[*const u8; P]>,
) {
    let len = columns::<_, N, P, KIND>(w, x, sums);
    // SAFETY: columns `0..len` lie in each `w` and in every row of `x`, as just checked; `Sums` are 16 numbers.
    unsafe {
        let mut acc = [[[_mm256_setzero_ps(); 2]; N]; P];
        for p in 0..P {
            for t in 0..N {
                acc[p][t] = load_sums::<KIND>(&sums[p][t]);
            }
        }
        for k in (0..len).map(|k| nth::<KIND>(k, len)) {
            let mut column = [[_mm256_setzero_ps(); 2]; P];
            for p in 0..P {
                let at = w[p].as_ptr().add(k * ROWS * width(KIND));
                column[p] = load_avx2::<KIND>(at);
                if let Some(next) = next {
                    prefetch(next[p], k * ROWS * width(KIND));
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
                store_sums::<KIND>(acc[p][t], &mut sums[p][t]);
            }
        }
    }
}

/// As the other panels, but each stretch of F16 or BF16 becomes F32 once for many input rows, where every tile would do it again
/// on the ports that its products need.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
fn unpacked<const KIND: u8, const P: usize, E: Element>(
    panels: [&[u8]; P],
    x: &[&[E]],
    mut sums: [&mut [Sums]; P],
    done: &mut Done,
) {
    if x.len() <= MOST {
        return panel_avx512::<KIND, P, E>(panels, x, sums, done);
    }
    let column = ROWS * width(KIND);
    let cols = panels[0].len() / column;
    let mut numbers = [[[0.0; ROWS]; STRETCH]; P];
    for first in (0..cols).step_by(STRETCH) {
        let len = STRETCH.min(cols - first);
        let next = next::<KIND, P>(panels, (first + len) * column);
        for p in 0..P {
            let columns = panels[p][first * column..].chunks_exact(column).zip(&mut numbers[p][..len]);
            for (k, (w, to)) in columns.enumerate() {
                if let Some(next) = next {
                    prefetch(next[p], k * column);
                }
                // SAFETY: 16 elements, and as many numbers.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr(), load_avx512::<KIND>(w.as_ptr())) };
            }
        }
        let w = numbers.each_ref().map(|numbers| bytemuck::cast_slice(&numbers[..len]));
        stretch_avx512::<F32, P, E>(w, None, x, first, &mut sums, done);
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
pub(super) fn tile_avx512<const N: usize, const P: usize, const KIND: u8>(
    w: [&[u8]; P],
    x: [&[f32]; N],
    sums: &mut [&mut [Sums]; P],
    next: Option<[*const u8; P]>,
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
                if let Some(next) = next {
                    prefetch(next[p], k * ROWS * width(KIND));
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
