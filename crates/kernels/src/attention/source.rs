//! How each type's planes are read, sixteen numbers at a time (the layout is drawn in [`cache`](super::cache)).

#![expect(unsafe_code, reason = "reads by pointer, as vector instructions do")]

use super::cache::PAGE;
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

/// A type whose keys are integers, four elements side by side.
pub(super) trait Coded: Source {
    /// Elements `4 g .. 4 g + 4` of a block whose numbers begin at `rows`, at all positions.
    unsafe fn codes<V: Sixteen>(rows: *const u8, g: usize) -> V::Codes;
}

/// Bytes of four elements at all positions.
pub(super) const FOURS: usize = 4 * PAGE;

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct BF16;
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

impl Coded for Q8 {
    #[inline(always)]
    unsafe fn codes<V: Sixteen>(rows: *const u8, g: usize) -> V::Codes {
        // SAFETY: see `values`.
        unsafe { V::byte_codes(rows.add(g * FOURS)) }
    }
}

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

impl Coded for Q4 {
    #[inline(always)]
    unsafe fn codes<V: Sixteen>(rows: *const u8, g: usize) -> V::Codes {
        // SAFETY: see `Q8`.
        unsafe { V::nibble_codes(rows.add(g % 4 * FOURS), g >= 4) }
    }
}

/// Evaluates `$body` with `$S` standing for the source of a type known at run time.
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
        }
    };
}
pub(super) use with_source;

/// Likewise, of a type that has no scales.
macro_rules! with_plain {
    ($dtype:expr, $S:ident => $body:expr) => {
        match $dtype {
            $crate::attention::KvType::F32 => {
                type $S = $crate::attention::source::F32;
                $body
            }
            $crate::attention::KvType::BF16 => {
                type $S = $crate::attention::source::BF16;
                $body
            }
            _ => {
                debug_assert_eq!($dtype, $crate::attention::KvType::F16);
                type $S = $crate::attention::source::F16;
                $body
            }
        }
    };
}
pub(super) use with_plain;

/// Likewise, of a quantized type.
macro_rules! with_coded {
    ($dtype:expr, $S:ident => $body:expr) => {
        if $dtype == $crate::attention::KvType::Q4_0 {
            type $S = $crate::attention::source::Q4;
            $body
        } else {
            debug_assert_eq!($dtype, $crate::attention::KvType::Q8_0);
            type $S = $crate::attention::source::Q8;
            $body
        }
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
