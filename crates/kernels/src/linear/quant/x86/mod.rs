//! Quantized products on AVX2 and AVX-512.
//!
//! A few input rows go along with unpacking: codes are multiplied as they leave their registers, and are unpacked again
//! for the next few. Many rows share what was unpacked to the slab.
#![expect(unsafe_code, reason = "vector loads and instructions chosen at run time")]

use crate::isa::is_zen_4;
use allod_tensor::DType;
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

pub(super) mod avx2;
pub(super) mod avx512;
mod vectors;

/// Calls the tile for as many input rows as there are; each asks for its share of what comes after `$chunk`. Tells `$done`
/// of rows that are at their end.
macro_rules! tiles {
    (
        $x:ident, $sums:ident, $first:expr, $len:expr, $chunk:expr, $most:literal, [$($n:literal)*],
        $tile:ident::<$type:ty>($slab:expr), $done:ident
    ) => {
        let tiles = $x.len().div_ceil($most);
        for (i, (x, sums)) in $x.chunks($most).zip($sums.chunks_mut($most)).enumerate() {
            prefetch($chunk, i, tiles);
            match x.len() {
                $($n => {
                    let mut rows = [&x[0][..0]; $n];
                    for t in 0..$n {
                        rows[t] = &x[t][$first..$first + $len];
                    }
                    $tile::<$type, $n>($slab, rows, sums);
                })*
                _ => unreachable!("chunks are no longer than asked"),
            }
            if $first + $len == x[0].len() {
                $done(i * $most, sums, &mut []);
            }
        }
    };
}
use tiles;

/// Four integers of an input row, as one word.
///
/// # Safety
/// `q[at..at + 4]` must be inside, counted in bytes.
#[inline(always)]
unsafe fn word<T>(q: &[T], at: usize) -> i32 {
    // SAFETY: inside by contract; any alignment will do.
    unsafe { q.as_ptr().cast::<u8>().add(at).cast::<i32>().read_unaligned() }
}

/// `n`, which the compiler must not know: it would unroll a loop of so few turns, join what its turns load and keep that on
/// the stack.
#[inline(always)]
fn rolled(n: usize) -> usize {
    std::hint::black_box(n)
}

/// Whether one input row goes through registers of 512 bits with nothing asked for ahead. Where codes are unpacked in the order
/// of memory at little cost, AMD's Zen 4 reads a tenth to a third faster so. Others want requests, and half the width for what
/// costs least.
fn reads_by_itself(dtype: DType) -> bool {
    let in_order = matches!(
        dtype,
        DType::Q4_0 | DType::Q4_1 | DType::Q8_0 | DType::IQ4_NL | DType::MXFP4 | DType::Q4_K | DType::IQ4_XS
    );
    in_order && is_zen_4()
}

/// Asks for a round's share of what comes a few chunks later. The codes of a chunk are not read in the order of memory,
/// so the machine does not guess it; and asked into L2, since the few misses L1 keeps open would bound the rate.
#[inline(always)]
fn prefetch(chunk: &[u8], round: usize, rounds: usize) {
    const AHEAD: usize = 8 << 10;
    let share = chunk.len().div_ceil(rounds).next_multiple_of(64);
    for line in (round * share..(round + 1) * share).step_by(64) {
        // SAFETY: a hint; any address will do.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(chunk.as_ptr().wrapping_add(AHEAD + line).cast()) };
    }
}
