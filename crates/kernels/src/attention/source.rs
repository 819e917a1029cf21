//! How each type's planes are read, sixteen numbers at a time (the layout is drawn in [`cache`](super::cache)).

#![expect(unsafe_code, reason = "reads by pointer, as vector instructions do")]

use super::cache::{BLOCK, PAGE};
use super::integer;
use super::wide::Sixteen;

/// A cached type.
///
/// # Safety
/// All functions: the plane is as long as the indices say, and `V`'s instructions are there.
pub(super) trait Source {
    /// Bytes of 16 numbers, scales aside.
    const ROW: usize;
    /// Bytes of a position in a block of 32 elements that has a scale, which stands before the numbers and by which
    /// whoever reads them multiplies; 0 for types without.
    const SCALED: usize;
    /// Where 32 elements of the values begin, scales aside.
    unsafe fn values(plane: *const u8, block: usize) -> *const u8;
    /// Half of them at position `slot`.
    unsafe fn value<V: Sixteen>(rows: *const u8, slot: usize, second: bool) -> V;
}

/// A type whose numbers need no scale.
pub(super) trait Plain: Source {
    /// Element `d` of the keys, at all positions.
    unsafe fn key<V: Sixteen>(plane: *const u8, d: usize) -> V;
}

/// A type whose keys are integers, two or four elements to a word of 32 bits. Elements that share a scale are a block.
///
/// # Safety
/// As [`Source`]'s.
pub(super) trait Coded {
    /// A word at all positions.
    type Codes<V: Sixteen>: Copy;
    /// Elements of a word.
    const IN_WORD: usize;
    /// Bytes of a word at all positions, as far as they move what is read next.
    const ROW: usize;
    /// Words and bytes of a block of keys of `k_dim` elements.
    fn block(k_dim: usize) -> (usize, usize);
    /// Bytes of the scales, which stand before a block's words.
    const SCALES: usize;
    unsafe fn scales<V: Sixteen>(block: *const u8) -> V;
    /// Word `g` of those that begin at `words`.
    unsafe fn codes<V: Sixteen>(words: *const u8, g: usize) -> Self::Codes<V>;
    /// By how much codes stand above the integers: [`dot`](Self::dot) gives the sum for those.
    fn above<V: Sixteen>() -> i32;
    /// Adds the products of a word's codes with those of the query.
    unsafe fn dot<V: Sixteen>(sums: V::Sums, codes: Self::Codes<V>, q: i32) -> V::Sums;
}

/// Bytes of a word at all positions.
const WORDS: usize = 4 * PAGE;

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct BF16;
pub(super) struct I16;
pub(super) struct Q8;
pub(super) struct Q4;

macro_rules! plain {
    ($name:ident, $bytes:literal, $load:expr) => {
        impl Source for $name {
            const ROW: usize = $bytes * PAGE;
            const SCALED: usize = 0;
            #[inline(always)]
            unsafe fn values(plane: *const u8, block: usize) -> *const u8 {
                // SAFETY: the trait's contract, here and below.
                unsafe { plane.add(block * PAGE * 2 * Self::ROW) }
            }
            #[inline(always)]
            unsafe fn value<V: Sixteen>(rows: *const u8, slot: usize, second: bool) -> V {
                // SAFETY: see `values`.
                unsafe { $load(rows.add((2 * slot + usize::from(second)) * Self::ROW)) }
            }
        }

        impl Plain for $name {
            #[inline(always)]
            unsafe fn key<V: Sixteen>(plane: *const u8, d: usize) -> V {
                // SAFETY: see `values`.
                unsafe { $load(plane.add(d * Self::ROW)) }
            }
        }
    };
}

plain!(F32, 4, |p: *const u8| V::load(p.cast()));
plain!(F16, 2, |p: *const u8| V::from_f16(p));
plain!(BF16, 2, |p: *const u8| V::from_bf16(p));

impl Source for Q8 {
    const ROW: usize = PAGE;
    const SCALED: usize = 34;
    #[inline(always)]
    unsafe fn values(plane: *const u8, block: usize) -> *const u8 {
        // SAFETY: the trait's contract, here and below.
        unsafe { plane.add(block * 34 * PAGE + 2 * PAGE) }
    }
    #[inline(always)]
    unsafe fn value<V: Sixteen>(rows: *const u8, slot: usize, second: bool) -> V {
        // SAFETY: see `values`.
        unsafe { V::from_i8(rows.add((2 * slot + usize::from(second)) * PAGE)) }
    }
}

impl Coded for I16 {
    type Codes<V: Sixteen> = V::Pairs;
    const IN_WORD: usize = 2;
    const ROW: usize = WORDS;
    const SCALES: usize = integer::SCALES;
    #[inline(always)]
    fn block(k_dim: usize) -> (usize, usize) {
        (k_dim / 2, Self::SCALES + k_dim / 2 * WORDS)
    }
    #[inline(always)]
    unsafe fn scales<V: Sixteen>(block: *const u8) -> V {
        // SAFETY: the trait's contract, here and below.
        unsafe { V::load(block.cast()) }
    }
    #[inline(always)]
    unsafe fn codes<V: Sixteen>(words: *const u8, g: usize) -> V::Pairs {
        // SAFETY: see `scales`.
        unsafe { V::pairs(words.add(g * WORDS)) }
    }
    #[inline(always)]
    fn above<V: Sixteen>() -> i32 {
        0
    }
    #[inline(always)]
    unsafe fn dot<V: Sixteen>(sums: V::Sums, codes: V::Pairs, q: i32) -> V::Sums {
        // SAFETY: see `scales`.
        unsafe { V::dot_pairs(sums, codes, q) }
    }
}

/// A quantized type with `$bytes` to a block of 32 and position.
macro_rules! blocks {
    ($name:ident, $bytes:literal, $row:expr, |$words:ident, $g:ident| $codes:expr) => {
        impl Coded for $name {
            type Codes<V: Sixteen> = V::Codes;
            const IN_WORD: usize = 4;
            const ROW: usize = $row;
            const SCALES: usize = 2 * PAGE;
            #[inline(always)]
            fn block(_: usize) -> (usize, usize) {
                (BLOCK / 4, $bytes * PAGE)
            }
            #[inline(always)]
            unsafe fn scales<V: Sixteen>(block: *const u8) -> V {
                // SAFETY: the trait's contract, here and below.
                unsafe { V::from_f16(block) }
            }
            #[inline(always)]
            unsafe fn codes<V: Sixteen>($words: *const u8, $g: usize) -> V::Codes {
                // SAFETY: see `scales`.
                unsafe { $codes }
            }
            #[inline(always)]
            fn above<V: Sixteen>() -> i32 {
                V::ABOVE
            }
            #[inline(always)]
            unsafe fn dot<V: Sixteen>(sums: V::Sums, codes: V::Codes, q: i32) -> V::Sums {
                // SAFETY: see `scales`.
                unsafe { V::dot(sums, codes, q) }
            }
        }
    };
}

blocks!(Q8, 34, WORDS, |words, g| V::byte_codes(words.add(g * WORDS)));
blocks!(Q4, 18, WORDS / 2, |words, g| V::nibble_codes(words.add(g % 4 * WORDS), g >= 4));

impl Source for Q4 {
    const ROW: usize = PAGE / 2;
    const SCALED: usize = 18;
    #[inline(always)]
    unsafe fn values(plane: *const u8, block: usize) -> *const u8 {
        // SAFETY: see `Q8`.
        unsafe { plane.add(block * 18 * PAGE + 2 * PAGE) }
    }
    #[inline(always)]
    unsafe fn value<V: Sixteen>(rows: *const u8, slot: usize, second: bool) -> V {
        // SAFETY: see `Q8`.
        unsafe { V::from_nibbles(rows.add(slot * PAGE), second) }
    }
}

/// Evaluates `$body` with `$S` standing for the source of a type known at run time, one of those listed: where none are, all but
/// I16.
macro_rules! with_source {
    ($dtype:expr, $S:ident => $body:expr) => {
        with_source!($dtype, $S => $body; F32 F32, F16 F16, BF16 BF16, Q8_0 Q8, Q4_0 Q4)
    };
    ($dtype:expr, $S:ident => $body:expr; $($kind:ident $source:ident),*) => {
        match $dtype {
            $($crate::attention::KvType::$kind => {
                type $S = $crate::attention::source::$source;
                $body
            })*
            other => unreachable!("{other:?} is not read so"),
        }
    };
}
pub(super) use with_source;

/// Likewise, of a type that has no scales.
macro_rules! with_plain {
    ($dtype:expr, $S:ident => $body:expr) => {
        $crate::attention::source::with_source!($dtype, $S => $body; F32 F32, F16 F16, BF16 BF16)
    };
}
pub(super) use with_plain;

/// Likewise, of a type whose keys are integers.
macro_rules! with_coded {
    ($dtype:expr, $S:ident => $body:expr) => {
        $crate::attention::source::with_source!($dtype, $S => $body; I16 I16, Q8_0 Q8, Q4_0 Q4)
    };
}
pub(super) use with_coded;

/// Calls `$f::<V, …>(…)` with an instruction set's vectors, from a function of its own that enables the instructions:
/// a function per call, because the compiler runs out of registers where several such loops meet in one. The
/// arguments' types are spelled out because they become those of that function.
macro_rules! with_wide {
    (avx2 $f:ident::<$($g:tt),*>($($arg:ident: $ty:ty),*)) => {{
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2($($arg: $ty),*) {
            // SAFETY: the caller's promises.
            unsafe { $f::<$crate::attention::wide::x86::Pair $(, $g)*>($($arg),*) }
        }
        avx2($($arg),*)
    }};
    (scalar $f:ident::<$($g:tt),*>($($arg:ident: $ty:ty),*)) => {
        $f::<[f32; $crate::attention::PAGE] $(, $g)*>($($arg),*)
    };
    (avx512 $f:ident::<$($g:tt),*>($($arg:ident: $ty:ty),*)) => {{
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
        unsafe fn avx512($($arg: $ty),*) {
            // SAFETY: the caller's promises.
            unsafe { $f::<std::arch::x86_64::__m512 $(, $g)*>($($arg),*) }
        }
        avx512($($arg),*)
    }};
    ($isa:expr, $f:ident::<$($g:tt),*>($($arg:ident: $ty:ty),*)) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Isa::Avx2 => with_wide!(avx2 $f::<$($g),*>($($arg: $ty),*)),
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Isa::Avx512 => with_wide!(avx512 $f::<$($g),*>($($arg: $ty),*)),
            _ => with_wide!(scalar $f::<$($g),*>($($arg: $ty),*)),
        }
    };
}
pub(super) use with_wide;
