//! Sixteen numbers at once, the unit of the cache's layout, on each instruction set. Kernels are written once over
//! [`Sixteen`] and called from functions that enable the instructions, into which everything here is inlined.

#![expect(unsafe_code, reason = "vector instructions")]

use half::f16;

use super::cache::{PAGE, half_to_f32};

/// Sixteen f32.
///
/// # Safety
/// All functions: the machine has the instructions of the type, and pointers have as many bytes behind them as 16
/// numbers of the named type take. Pointers need no alignment.
pub(super) trait Sixteen: Copy {
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    /// `self · b + c`, rounded once.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    unsafe fn from_f16(p: *const u8) -> Self;
    unsafe fn from_bf16(p: *const u8) -> Self;
    unsafe fn from_i8(p: *const u8) -> Self;
    /// The low or high halves of 16 bytes, less 8.
    unsafe fn from_nibbles(p: *const u8, high: bool) -> Self;
    /// Asks for the cache line at `p`, which may be any address.
    fn prefetch(p: *const u8);
}

impl Sixteen for [f32; PAGE] {
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; PAGE]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the trait's contract.
        unsafe { p.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the trait's contract.
        unsafe { p.cast::<Self>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        std::array::from_fn(|i| self[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        std::array::from_fn(|i| self[i] * b[i])
    }
    #[inline(always)]
    unsafe fn from_f16(p: *const u8) -> Self {
        // SAFETY: the trait's contract.
        let bits = unsafe { p.cast::<[[u8; 2]; PAGE]>().read_unaligned() };
        bits.map(|b| half_to_f32(f16::from_le_bytes(b)))
    }
    #[inline(always)]
    unsafe fn from_bf16(p: *const u8) -> Self {
        // SAFETY: the trait's contract.
        let bits = unsafe { p.cast::<[[u8; 2]; PAGE]>().read_unaligned() };
        bits.map(|b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
    }
    #[inline(always)]
    unsafe fn from_i8(p: *const u8) -> Self {
        // SAFETY: the trait's contract.
        unsafe { p.cast::<[i8; PAGE]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn from_nibbles(p: *const u8, high: bool) -> Self {
        // SAFETY: the trait's contract.
        let bytes = unsafe { p.cast::<[u8; PAGE]>().read_unaligned() };
        bytes.map(|b| f32::from(if high { b >> 4 } else { b & 15 }) - 8.0)
    }
    #[inline(always)]
    fn prefetch(_: *const u8) {}
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    use super::Sixteen;

    /// AVX2, FMA, F16C.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Pair(__m256, __m256);

    /// Into the second cache: the first has too few requests in flight to keep the memory busy.
    #[inline(always)]
    fn prefetch(p: *const u8) {
        // SAFETY: a hint, which no address makes fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }

    /// Sixteen bytes as 8 + 8 i32 → f32.
    #[inline(always)]
    unsafe fn pair_from_i8(x: __m128i) -> Pair {
        // SAFETY: the caller's promise that these instructions are there.
        unsafe {
            let low = _mm256_cvtepi8_epi32(x);
            let high = _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(x, x));
            Pair(_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
        }
    }

    /// Nibbles less 8.
    #[inline(always)]
    unsafe fn nibbles(p: *const u8, high: bool) -> __m128i {
        // SAFETY: the caller's promise about `p`.
        unsafe {
            let x = _mm_loadu_si128(p.cast());
            // A shift by a number costs less than a branch.
            let x = _mm_srl_epi16(x, _mm_cvtsi32_si128(if high { 4 } else { 0 }));
            _mm_sub_epi8(_mm_and_si128(x, _mm_set1_epi8(15)), _mm_set1_epi8(8))
        }
    }

    impl Sixteen for Pair {
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the trait's contract, here and below.
            unsafe { Pair(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: see `splat`.
            unsafe { Pair(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: see `splat`.
            unsafe {
                _mm256_storeu_ps(p, self.0);
                _mm256_storeu_ps(p.add(8), self.1);
            }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { Pair(_mm256_fmadd_ps(self.0, b.0, c.0), _mm256_fmadd_ps(self.1, b.1, c.1)) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { Pair(_mm256_mul_ps(self.0, b.0), _mm256_mul_ps(self.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn from_f16(p: *const u8) -> Self {
            // SAFETY: see `splat`.
            unsafe {
                let half = |p: *const u8| _mm_loadu_si128(p.cast());
                Pair(_mm256_cvtph_ps(half(p)), _mm256_cvtph_ps(half(p.add(16))))
            }
        }
        #[inline(always)]
        unsafe fn from_bf16(p: *const u8) -> Self {
            // SAFETY: see `splat`.
            unsafe {
                let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(16).cast()));
                Pair(
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
                )
            }
        }
        #[inline(always)]
        unsafe fn from_i8(p: *const u8) -> Self {
            // SAFETY: see `splat`.
            unsafe { pair_from_i8(_mm_loadu_si128(p.cast())) }
        }
        #[inline(always)]
        unsafe fn from_nibbles(p: *const u8, high: bool) -> Self {
            // SAFETY: see `splat`.
            unsafe { pair_from_i8(nibbles(p, high)) }
        }
        #[inline(always)]
        fn prefetch(p: *const u8) {
            prefetch(p);
        }
    }

    /// AVX-512F.
    impl Sixteen for __m512 {
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the trait's contract, here and below.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: see `splat`.
            unsafe { _mm512_storeu_ps(p, self) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm512_fmadd_ps(self, b, c) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm512_mul_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn from_f16(p: *const u8) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
        }
        #[inline(always)]
        unsafe fn from_bf16(p: *const u8) -> Self {
            // SAFETY: see `splat`.
            unsafe {
                let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
            }
        }
        #[inline(always)]
        unsafe fn from_i8(p: *const u8) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
        }
        #[inline(always)]
        unsafe fn from_nibbles(p: *const u8, high: bool) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(nibbles(p, high))) }
        }
        #[inline(always)]
        fn prefetch(p: *const u8) {
            prefetch(p);
        }
    }
}
