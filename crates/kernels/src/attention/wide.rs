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
    /// Four small integers at each of 16 positions.
    type Codes: Copy;
    /// Two i16 at each of 16 positions, not -32768.
    type Pairs: Copy;
    /// Sixteen i32.
    type Sums: Copy;
    /// By how much [`Codes`](Self::Codes) stand above the integers: [`dot`](Self::dot) gives the sum for those.
    const ABOVE: i32;
    unsafe fn sums(start: i32) -> Self::Sums;
    unsafe fn from_sums(sums: Self::Sums) -> Self;
    /// 64 bytes as integers.
    unsafe fn byte_codes(p: *const u8) -> Self::Codes;
    /// The low or high halves of 64 bytes, less 8.
    unsafe fn nibble_codes(p: *const u8, high: bool) -> Self::Codes;
    /// Adds at each position the products of its four codes with the four i8 that `q` consists of, each in ±127.
    unsafe fn dot(sums: Self::Sums, codes: Self::Codes, q: i32) -> Self::Sums;
    unsafe fn pairs(p: *const u8) -> Self::Pairs;
    /// Adds at each position the products of its pair with the two i16 that `q` consists of; wraps around.
    unsafe fn dot_pairs(sums: Self::Sums, pairs: Self::Pairs, q: i32) -> Self::Sums;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    /// `self · b + c`, rounded once.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn from_f16(p: *const u8) -> Self;
    unsafe fn from_bf16(p: *const u8) -> Self;
    unsafe fn from_i8(p: *const u8) -> Self;
    /// The low or high halves of 16 bytes, less 8.
    unsafe fn from_nibbles(p: *const u8, high: bool) -> Self;
    /// Asks for the cache line at `p`, which may be any address.
    fn prefetch(p: *const u8);
}

impl Sixteen for [f32; PAGE] {
    type Codes = [[i8; 4]; PAGE];
    type Pairs = [[i16; 2]; PAGE];
    type Sums = [i32; PAGE];
    const ABOVE: i32 = 0;
    #[inline(always)]
    unsafe fn sums(start: i32) -> Self::Sums {
        [start; PAGE]
    }
    #[inline(always)]
    unsafe fn from_sums(sums: Self::Sums) -> Self {
        sums.map(|sum| sum as f32)
    }
    #[inline(always)]
    unsafe fn byte_codes(p: *const u8) -> Self::Codes {
        // SAFETY: the trait's contract.
        unsafe { p.cast::<Self::Codes>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn nibble_codes(p: *const u8, high: bool) -> Self::Codes {
        // SAFETY: the trait's contract.
        let bytes = unsafe { p.cast::<[[u8; 4]; PAGE]>().read_unaligned() };
        bytes.map(|four| four.map(|b| (if high { b >> 4 } else { b & 15 }) as i8 - 8))
    }
    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, codes: Self::Codes, q: i32) -> Self::Sums {
        let q = q.to_le_bytes().map(|b| i32::from(b as i8));
        std::array::from_fn(|i| sums[i] + (0..4).map(|j| i32::from(codes[i][j]) * q[j]).sum::<i32>())
    }
    #[inline(always)]
    unsafe fn pairs(p: *const u8) -> Self::Pairs {
        // SAFETY: the trait's contract.
        let words = unsafe { p.cast::<[[u8; 4]; PAGE]>().read_unaligned() };
        words.map(|[a, b, c, d]| [i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d])])
    }
    #[inline(always)]
    unsafe fn dot_pairs(sums: Self::Sums, pairs: Self::Pairs, q: i32) -> Self::Sums {
        let (low, high) = (i32::from(q as i16), q >> 16);
        std::array::from_fn(|i| {
            let [a, b] = pairs[i].map(i32::from);
            sums[i].wrapping_add(a * low).wrapping_add(b * high)
        })
    }
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
    unsafe fn add(self, b: Self) -> Self {
        std::array::from_fn(|i| self[i] + b[i])
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

    /// Halves of bytes, as bytes.
    macro_rules! halves {
        ($load:ident $and:ident $srl:ident $set:ident; $p:expr, $high:expr) => {{
            let x = $srl($load($p.cast()), _mm_cvtsi32_si128(if $high { 4 } else { 0 }));
            $and(x, $set(15))
        }};
    }

    impl Sixteen for Pair {
        /// Low and high positions, and their magnitudes.
        type Codes = [__m256i; 4];
        type Pairs = [__m256i; 2];
        type Sums = [__m256i; 2];
        const ABOVE: i32 = 0;
        #[inline(always)]
        unsafe fn sums(start: i32) -> Self::Sums {
            // SAFETY: the trait's contract, here and below.
            unsafe { [_mm256_set1_epi32(start); 2] }
        }
        #[inline(always)]
        unsafe fn from_sums(sums: Self::Sums) -> Self {
            // SAFETY: see `sums`.
            unsafe { Pair(_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])) }
        }
        #[inline(always)]
        unsafe fn byte_codes(p: *const u8) -> Self::Codes {
            // SAFETY: see `sums`.
            unsafe {
                let (low, high) = (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast()));
                [low, high, _mm256_abs_epi8(low), _mm256_abs_epi8(high)]
            }
        }
        #[inline(always)]
        unsafe fn nibble_codes(p: *const u8, high: bool) -> Self::Codes {
            // SAFETY: see `sums`.
            unsafe {
                let eight = _mm256_set1_epi8(8);
                let a = halves!(_mm256_loadu_si256 _mm256_and_si256 _mm256_srl_epi16 _mm256_set1_epi8; p, high);
                let b = halves!(_mm256_loadu_si256 _mm256_and_si256 _mm256_srl_epi16 _mm256_set1_epi8; p.add(32), high);
                let (a, b) = (_mm256_sub_epi8(a, eight), _mm256_sub_epi8(b, eight));
                [a, b, _mm256_abs_epi8(a), _mm256_abs_epi8(b)]
            }
        }
        #[inline(always)]
        unsafe fn dot(sums: Self::Sums, codes: Self::Codes, q: i32) -> Self::Sums {
            // SAFETY: see `sums`.
            unsafe {
                let (q, ones) = (_mm256_set1_epi32(q), _mm256_set1_epi16(1));
                // Two products of magnitudes up to 128 · 127 fit 16 bits.
                let low = _mm256_maddubs_epi16(codes[2], _mm256_sign_epi8(q, codes[0]));
                let high = _mm256_maddubs_epi16(codes[3], _mm256_sign_epi8(q, codes[1]));
                [
                    _mm256_add_epi32(sums[0], _mm256_madd_epi16(low, ones)),
                    _mm256_add_epi32(sums[1], _mm256_madd_epi16(high, ones)),
                ]
            }
        }
        #[inline(always)]
        unsafe fn pairs(p: *const u8) -> Self::Pairs {
            // SAFETY: see `sums`.
            unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
        }
        #[inline(always)]
        unsafe fn dot_pairs(sums: Self::Sums, pairs: Self::Pairs, q: i32) -> Self::Sums {
            // SAFETY: see `sums`.
            unsafe {
                let q = _mm256_set1_epi32(q);
                [
                    _mm256_add_epi32(sums[0], _mm256_madd_epi16(pairs[0], q)),
                    _mm256_add_epi32(sums[1], _mm256_madd_epi16(pairs[1], q)),
                ]
            }
        }
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
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { Pair(_mm256_add_ps(self.0, b.0), _mm256_add_ps(self.1, b.1)) }
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

    /// AVX-512 F, BW and VNNI.
    impl Sixteen for __m512 {
        /// Unsigned, 128 above.
        type Codes = __m512i;
        type Pairs = __m512i;
        type Sums = __m512i;
        const ABOVE: i32 = 128;
        #[inline(always)]
        unsafe fn sums(start: i32) -> Self::Sums {
            // SAFETY: the trait's contract, here and below.
            unsafe { _mm512_set1_epi32(start) }
        }
        #[inline(always)]
        unsafe fn from_sums(sums: Self::Sums) -> Self {
            // SAFETY: see `sums`.
            unsafe { _mm512_cvtepi32_ps(sums) }
        }
        #[inline(always)]
        unsafe fn byte_codes(p: *const u8) -> Self::Codes {
            // SAFETY: see `sums`.
            unsafe { _mm512_xor_si512(_mm512_loadu_si512(p.cast()), _mm512_set1_epi8(-128)) }
        }
        #[inline(always)]
        unsafe fn nibble_codes(p: *const u8, high: bool) -> Self::Codes {
            // SAFETY: see `sums`.
            unsafe {
                let x = halves!(_mm512_loadu_si512 _mm512_and_si512 _mm512_srl_epi16 _mm512_set1_epi8; p, high);
                _mm512_add_epi8(x, _mm512_set1_epi8(120))
            }
        }
        #[inline(always)]
        unsafe fn dot(sums: Self::Sums, codes: Self::Codes, q: i32) -> Self::Sums {
            // SAFETY: see `sums`.
            unsafe { _mm512_dpbusd_epi32(sums, codes, _mm512_set1_epi32(q)) }
        }
        #[inline(always)]
        unsafe fn pairs(p: *const u8) -> Self::Pairs {
            // SAFETY: see `sums`.
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        unsafe fn dot_pairs(sums: Self::Sums, pairs: Self::Pairs, q: i32) -> Self::Sums {
            // SAFETY: see `sums`.
            unsafe { _mm512_dpwssd_epi32(sums, pairs, _mm512_set1_epi32(q)) }
        }
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
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: see `splat`.
            unsafe { _mm512_add_ps(self, b) }
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
