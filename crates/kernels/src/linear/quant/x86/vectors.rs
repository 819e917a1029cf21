//! [`Vector`] on AVX2 and AVX-512.
//!
//! The methods are inlined into the tiers' functions, where the instructions are there; nothing else makes such values.

use super::super::vector::Vector;
use std::arch::x86_64::*;

/// Two registers of AVX2: the lower and the upper 8 rows.
#[derive(Clone, Copy)]
pub(super) struct Two(pub(super) [__m256i; 2]);

/// One register of AVX-512.
#[derive(Clone, Copy)]
pub(super) struct One(pub(super) __m512i);

macro_rules! each {
    ($f:expr) => {
        // SAFETY: see above.
        Two(unsafe { [$f(0), $f(1)] })
    };
}

impl Vector for Two {
    #[inline(always)]
    unsafe fn load(from: *const u8) -> Two {
        // SAFETY: readable by contract.
        Two(unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] })
    }
    #[inline(always)]
    fn store(self, to: &mut [u8; 64]) {
        // SAFETY: 64 bytes.
        unsafe {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), self.0[0]);
            _mm256_storeu_si256(to.as_mut_ptr().add(32).cast(), self.0[1]);
        }
    }
    #[inline(always)]
    fn splat(byte: u8) -> Two {
        each!(|_| _mm256_set1_epi8(byte as i8))
    }
    #[inline(always)]
    fn and(self, other: Two) -> Two {
        each!(|i: usize| _mm256_and_si256(self.0[i], other.0[i]))
    }
    #[inline(always)]
    fn or(self, other: Two) -> Two {
        each!(|i: usize| _mm256_or_si256(self.0[i], other.0[i]))
    }
    #[inline(always)]
    fn xor(self, other: Two) -> Two {
        each!(|i: usize| _mm256_xor_si256(self.0[i], other.0[i]))
    }
    #[inline(always)]
    fn add(self, other: Two) -> Two {
        each!(|i: usize| _mm256_add_epi8(self.0[i], other.0[i]))
    }
    #[inline(always)]
    fn shr(self, n: u32) -> Two {
        each!(|i: usize| _mm256_srl_epi16(self.0[i], _mm_cvtsi32_si128(n as i32)))
    }
    #[inline(always)]
    fn shl(self, n: u32) -> Two {
        each!(|i: usize| _mm256_sll_epi16(self.0[i], _mm_cvtsi32_si128(n as i32)))
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16]) -> Two {
        // SAFETY: 16 bytes; and see above.
        let table = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())) };
        each!(|i: usize| _mm256_shuffle_epi8(table, self.0[i]))
    }
    #[inline(always)]
    fn widen(self, i: u8, j: u8, offset: i16) -> Two {
        // SAFETY: 16 bytes; and see above.
        let pick = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(picks(i, j).as_ptr().cast())) };
        each!(|h: usize| _mm256_sub_epi16(_mm256_shuffle_epi8(self.0[h], pick), _mm256_set1_epi16(offset)))
    }
    #[inline(always)]
    fn sixteens(self, own: Two) -> Two {
        each!(|i: usize| {
            let has = _mm256_cmpeq_epi8(_mm256_and_si256(self.0[i], own.0[i]), own.0[i]);
            _mm256_and_si256(has, _mm256_set1_epi8(16))
        })
    }
    #[inline(always)]
    unsafe fn halves(from: *const u8) -> [f32; 16] {
        let mut out = [0.0; 16];
        // SAFETY: readable by contract.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.cast())));
            _mm256_storeu_ps(out.as_mut_ptr().add(8), _mm256_cvtph_ps(_mm_loadu_si128(from.add(16).cast())));
        }
        out
    }
}

impl Vector for One {
    #[inline(always)]
    unsafe fn load(from: *const u8) -> One {
        // SAFETY: readable by contract.
        One(unsafe { _mm512_loadu_si512(from.cast()) })
    }
    #[inline(always)]
    fn store(self, to: &mut [u8; 64]) {
        // SAFETY: 64 bytes.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), self.0) }
    }
    #[inline(always)]
    fn splat(byte: u8) -> One {
        // SAFETY: see above; so for all that follow.
        One(unsafe { _mm512_set1_epi8(byte as i8) })
    }
    #[inline(always)]
    fn and(self, other: One) -> One {
        // SAFETY: see above.
        One(unsafe { _mm512_and_si512(self.0, other.0) })
    }
    #[inline(always)]
    fn or(self, other: One) -> One {
        // SAFETY: see above.
        One(unsafe { _mm512_or_si512(self.0, other.0) })
    }
    #[inline(always)]
    fn xor(self, other: One) -> One {
        // SAFETY: see above.
        One(unsafe { _mm512_xor_si512(self.0, other.0) })
    }
    #[inline(always)]
    fn add(self, other: One) -> One {
        // SAFETY: see above.
        One(unsafe { _mm512_add_epi8(self.0, other.0) })
    }
    #[inline(always)]
    fn shr(self, n: u32) -> One {
        // SAFETY: see above.
        One(unsafe { _mm512_srl_epi16(self.0, _mm_cvtsi32_si128(n as i32)) })
    }
    #[inline(always)]
    fn shl(self, n: u32) -> One {
        // SAFETY: see above.
        One(unsafe { _mm512_sll_epi16(self.0, _mm_cvtsi32_si128(n as i32)) })
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16]) -> One {
        // SAFETY: 16 bytes; and see above.
        One(unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), self.0) })
    }
    #[inline(always)]
    fn widen(self, i: u8, j: u8, offset: i16) -> One {
        // SAFETY: 16 bytes; and see above.
        One(unsafe {
            let pick = _mm512_broadcast_i32x4(_mm_loadu_si128(picks(i, j).as_ptr().cast()));
            _mm512_sub_epi16(_mm512_shuffle_epi8(self.0, pick), _mm512_set1_epi16(offset))
        })
    }
    #[inline(always)]
    fn sixteens(self, own: One) -> One {
        // SAFETY: see above.
        One(unsafe { _mm512_maskz_set1_epi8(_mm512_test_epi8_mask(self.0, own.0), 16) })
    }
    #[inline(always)]
    unsafe fn halves(from: *const u8) -> [f32; 16] {
        let mut out = [0.0; 16];
        // SAFETY: readable by contract.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) };
        out
    }
}

/// Bytes `i` and `j` of each row, zeros between them.
#[inline(always)]
const fn picks(i: u8, j: u8) -> [u8; 16] {
    let mut out = [0x80; 16];
    let mut row = 0;
    while row < 4 {
        out[row * 4] = row as u8 * 4 + i;
        out[row * 4 + 2] = row as u8 * 4 + j;
        row += 1;
    }
    out
}
