//! What this machine can do at most: the measure of every kernel, and the kernels measured by it.
#![expect(unsafe_code, reason = "vector instructions chosen at run time")]

mod kernel;

pub use kernel::{Timing, time_attention, time_linear};

use crate::{
    isa::Isa,
    pool::{Parts, Pool},
};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// How long each measurement repeats its work; the best repetition counts.
const TIME: Duration = Duration::from_millis(200);

/// Gigabytes a second that the pool's threads read together from memory: stretches as long as a matrix, in turn, of a
/// buffer far larger than the caches. The best stretch counts, as the best call of a kernel does; every other one asks for
/// memory ahead, which some machines are faster with and others slower.
pub fn read_bandwidth(pool: &Pool, isa: Isa) -> f64 {
    const PIECE: usize = 256 << 10;
    const STRETCH: usize = 16 << 20;
    let mut buffer = vec![0u8; 256 << 20];
    let pieces = buffer.len() / PIECE;
    let parts = Parts::new(&mut buffer);
    // SAFETY: a piece belongs to one task.
    pool.run(pieces, |i| unsafe { parts.part(i * PIECE, PIECE) }.fill(i as u8));
    let mut turn = buffer.chunks_exact(STRETCH).cycle();
    let mut ahead = false;
    let seconds = best(|| {
        let Some(stretch) = turn.next() else { return };
        ahead = !ahead;
        pool.run(STRETCH / PIECE, |i| {
            black_box(sum(isa, &stretch[i * PIECE..][..PIECE], ahead));
        });
    });
    STRETCH as f64 / seconds / 1e9
}

/// Thousand millions of 8-bit multiply-adds a second.
pub fn int8_products(pool: &Pool, isa: Isa) -> f64 {
    products(pool, move |n| match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the tier is there, or `isa` would not be it.
        Isa::Avx2 => unsafe { x86::int8_avx2(n) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { x86::int8_avx512(n) },
        _ => {
            let mut acc = [1i32; 16];
            for _ in 0..n {
                for a in &mut acc {
                    *a = black_box(*a).wrapping_mul(3).wrapping_add(*a);
                }
            }
            black_box(acc);
            16
        }
    })
}

/// Thousand millions of single-precision multiply-adds a second.
pub fn f32_products(pool: &Pool, isa: Isa) -> f64 {
    products(pool, move |n| match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the tier is there, or `isa` would not be it.
        Isa::Avx2 => unsafe { x86::f32_avx2(n) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { x86::f32_avx512(n) },
        _ => {
            let mut acc = [1f32; 16];
            for _ in 0..n {
                for a in &mut acc {
                    *a = black_box(*a).mul_add(0.5, 1.0);
                }
            }
            black_box(acc);
            16
        }
    })
}

/// `work(n)` runs `n` steps and gives the multiply-adds of one.
fn products(pool: &Pool, work: impl Fn(usize) -> usize + Sync) -> f64 {
    const STEPS: usize = 20_000;
    let per_step = work(1);
    let tasks = pool.threads() * 8;
    let seconds = best(|| {
        pool.run(tasks, |_| {
            black_box(work(STEPS));
        });
    });
    (tasks * STEPS * per_step) as f64 / seconds / 1e9
}

/// Seconds of the best repetition.
fn best(mut work: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < TIME {
        let begin = Instant::now();
        work();
        best = best.min(begin.elapsed().as_secs_f64());
    }
    best
}

fn sum(isa: Isa, bytes: &[u8], ahead: bool) -> u64 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the tiers are there, or `isa` would not be one of them.
        Isa::Avx2 | Isa::Avx512 => unsafe { x86::sum(bytes, ahead) },
        _ => plain_sum(bytes),
    }
}

#[inline(always)]
fn plain_sum(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 16];
    for chunk in bytes.as_chunks::<128>().0 {
        for (s, b) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
            *s ^= u64::from_le_bytes(*b);
        }
    }
    sums.iter().fold(0, |a, b| a ^ b)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{arch::x86_64::*, hint::black_box};

    #[target_feature(enable = "avx2")]
    pub(super) fn sum(bytes: &[u8], ahead: bool) -> u64 {
        const PAGE: usize = 4 << 10;
        bytes.chunks(PAGE).fold(0, |sum, page| {
            if ahead {
                for line in (0..PAGE).step_by(64) {
                    _mm_prefetch::<_MM_HINT_T1>(page.as_ptr().wrapping_add(2 * PAGE + line).cast());
                }
            }
            sum ^ super::plain_sum(page)
        })
    }

    /// Eight products of pairs for each one that widens: what types of four bits can reach.
    #[target_feature(enable = "avx2")]
    pub(super) fn int8_avx2(n: usize) -> usize {
        let (w, q) = (black_box(_mm256_set1_epi8(3)), black_box(_mm256_set1_epi8(-5)));
        let (mut acc, mut total) = ([_mm256_setzero_si256(); 6], [_mm256_setzero_si256(); 6]);
        for _ in 0..n {
            for _ in 0..8 {
                for a in &mut acc {
                    *a = _mm256_add_epi16(*a, _mm256_maddubs_epi16(w, renewed(q)));
                }
            }
            for (t, a) in total.iter_mut().zip(&acc) {
                *t = _mm256_add_epi32(*t, _mm256_madd_epi16(*a, q));
            }
        }
        black_box(total);
        8 * 6 * 32
    }

    /// The same register, though the compiler must think it another: products stay in the loop.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn renewed(mut q: __m256i) -> __m256i {
        // SAFETY: an empty instruction.
        unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) q, options(nomem, nostack, preserves_flags)) };
        q
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn int8_avx512(n: usize) -> usize {
        let (w, q) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(-5)));
        let mut acc = [_mm512_setzero_si512(); 16];
        for _ in 0..n {
            for a in &mut acc {
                *a = _mm512_dpbusd_epi32(*a, w, q);
            }
        }
        black_box(acc);
        16 * 64
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn f32_avx2(n: usize) -> usize {
        let (w, x) = (black_box(_mm256_set1_ps(0.5)), black_box(_mm256_set1_ps(1.5)));
        let mut acc = [_mm256_setzero_ps(); 12];
        for _ in 0..n {
            for a in &mut acc {
                *a = _mm256_fmadd_ps(w, x, *a);
            }
        }
        black_box(acc);
        12 * 8
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn f32_avx512(n: usize) -> usize {
        let (w, x) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(1.5)));
        let mut acc = [_mm512_setzero_ps(); 16];
        for _ in 0..n {
            for a in &mut acc {
                *a = _mm512_fmadd_ps(w, x, *a);
            }
        }
        black_box(acc);
        16 * 16
    }
}
