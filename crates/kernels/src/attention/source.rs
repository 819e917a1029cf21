//! How each type's planes are read, sixteen numbers at a time (the layout is drawn in [`cache`](super::cache)).

#![expect(unsafe_code, reason = "reads by pointer, as vector instructions do")]

use super::cache::{BLOCK, PAGE};
use super::wide::Sixteen;

/// A cached type.
///
/// # Safety
/// All functions: the plane is as long as the indices say, and `V`'s instructions are there.
pub(super) trait Source {
    /// Bytes of 16 numbers, scales aside: how far products advance per step.
    const ROW: usize;
    /// The scales that a block of keys has in common, one per position.
    type Scale<V: Copy>: Copy;
    unsafe fn key_scale<V: Sixteen>(plane: *const u8, block: usize) -> Self::Scale<V>;
    /// Where a block of keys begins.
    unsafe fn key_rows(plane: *const u8, block: usize) -> *const u8;
    /// Element `i` of a block of keys, at all positions.
    unsafe fn key<V: Sixteen>(rows: *const u8, i: usize, scale: Self::Scale<V>) -> V;
    /// The scales of a block of values, one per position.
    unsafe fn value_scales<V: Sixteen>(plane: *const u8, block: usize) -> [f32; PAGE];
    /// Where a panel of 16 elements of the values begins.
    unsafe fn value_rows(plane: *const u8, panel: usize) -> *const u8;
    /// The value at `slot` in a panel; `odd` says whether the panel is the second of its block.
    unsafe fn value<V: Sixteen>(rows: *const u8, slot: usize, odd: bool, scale: f32) -> V;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct BF16;
pub(super) struct Q8;
pub(super) struct Q4;

macro_rules! plain {
    ($name:ident, $bytes:literal, $load:expr) => {
        impl Source for $name {
            const ROW: usize = $bytes * PAGE;
            type Scale<V: Copy> = ();
            #[inline(always)]
            unsafe fn key_scale<V: Sixteen>(_: *const u8, _: usize) {}
            #[inline(always)]
            unsafe fn key_rows(plane: *const u8, block: usize) -> *const u8 {
                // SAFETY: the trait's contract, here and below.
                unsafe { plane.add(block * BLOCK * Self::ROW) }
            }
            #[inline(always)]
            unsafe fn key<V: Sixteen>(rows: *const u8, i: usize, (): ()) -> V {
                // SAFETY: see `key_rows`.
                unsafe { $load(rows.add(i * Self::ROW)) }
            }
            #[inline(always)]
            unsafe fn value_scales<V: Sixteen>(_: *const u8, _: usize) -> [f32; PAGE] {
                [1.0; PAGE]
            }
            #[inline(always)]
            unsafe fn value_rows(plane: *const u8, panel: usize) -> *const u8 {
                // SAFETY: see `key_rows`.
                unsafe { plane.add(panel * PAGE * Self::ROW) }
            }
            #[inline(always)]
            unsafe fn value<V: Sixteen>(rows: *const u8, slot: usize, _: bool, _: f32) -> V {
                // SAFETY: see `key_rows`.
                unsafe { $load(rows.add(slot * Self::ROW)) }
            }
        }
    };
}

plain!(F32, 4, |p: *const u8| V::load(p.cast()));
plain!(F16, 2, |p: *const u8| V::from_f16(p));
plain!(BF16, 2, |p: *const u8| V::from_bf16(p));

/// Sixteen f16 as an array.
#[inline(always)]
unsafe fn scales<V: Sixteen>(p: *const u8) -> [f32; PAGE] {
    let mut out = [0f32; PAGE];
    // SAFETY: the caller's promise about `p`; `out` holds 16 numbers.
    unsafe { V::from_f16(p).store(out.as_mut_ptr()) };
    out
}

/// What the two quantized types share: blocks that begin with 16 scales.
macro_rules! blocks {
    ($bytes:literal) => {
        type Scale<V: Copy> = V;
        #[inline(always)]
        unsafe fn key_scale<V: Sixteen>(plane: *const u8, block: usize) -> V {
            // SAFETY: the trait's contract, here and below.
            unsafe { V::from_f16(plane.add(block * $bytes * PAGE)) }
        }
        #[inline(always)]
        unsafe fn key_rows(plane: *const u8, block: usize) -> *const u8 {
            // SAFETY: see `key_scale`.
            unsafe { plane.add(block * $bytes * PAGE + 2 * PAGE) }
        }
        #[inline(always)]
        unsafe fn value_scales<V: Sixteen>(plane: *const u8, block: usize) -> [f32; PAGE] {
            // SAFETY: see `key_scale`.
            unsafe { scales::<V>(plane.add(block * $bytes * PAGE)) }
        }
    };
}

impl Source for Q8 {
    const ROW: usize = PAGE;
    blocks!(34);
    #[inline(always)]
    unsafe fn key<V: Sixteen>(rows: *const u8, i: usize, scale: V) -> V {
        // SAFETY: see `key_scale`.
        unsafe { V::from_i8(rows.add(i * PAGE)).mul(scale) }
    }
    #[inline(always)]
    unsafe fn value_rows(plane: *const u8, panel: usize) -> *const u8 {
        // SAFETY: see `key_scale`.
        unsafe { plane.add(panel / 2 * 34 * PAGE + 2 * PAGE + panel % 2 * PAGE * PAGE) }
    }
    #[inline(always)]
    unsafe fn value<V: Sixteen>(rows: *const u8, slot: usize, _: bool, scale: f32) -> V {
        // SAFETY: see `key_scale`.
        unsafe { V::from_i8(rows.add(slot * PAGE)).mul(V::splat(scale)) }
    }
}

impl Source for Q4 {
    const ROW: usize = PAGE / 2;
    blocks!(18);
    #[inline(always)]
    unsafe fn key<V: Sixteen>(rows: *const u8, i: usize, scale: V) -> V {
        // SAFETY: see `key_scale`.
        unsafe { V::from_nibbles(rows.add(i % PAGE * PAGE), i >= PAGE).mul(scale) }
    }
    #[inline(always)]
    unsafe fn value_rows(plane: *const u8, panel: usize) -> *const u8 {
        // SAFETY: see `key_scale`.
        unsafe { plane.add(panel / 2 * 18 * PAGE + 2 * PAGE) }
    }
    #[inline(always)]
    unsafe fn value<V: Sixteen>(rows: *const u8, slot: usize, odd: bool, scale: f32) -> V {
        // SAFETY: see `key_scale`.
        unsafe { V::from_nibbles(rows.add(slot * PAGE), odd).mul(V::splat(scale)) }
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
    (avx512 $f:ident::<$($g:tt),*>($($arg:ident: $ty:ty),*)) => {{
        #[target_feature(enable = "avx512f,avx2,fma,f16c")]
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
            _ => $f::<[f32; $crate::attention::PAGE] $(, $g)*>($($arg),*),
        }
    };
}
pub(super) use with_wide;
