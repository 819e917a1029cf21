//! From a plane of the cache to rows of 16 f32, exactly: for tiles with many rows, where unpacking once pays.
#![expect(unsafe_code, reason = "vector instructions chosen at run time")]

use super::KvType;
use super::cache::{BLOCK, PAGE};
use super::source::{Source, with_source, with_wide};
use super::wide::Sixteen;
use crate::isa::Isa;
use crate::twin::twin;

/// A key plane as `[k_dim][16 positions]`: `out` says how many elements.
pub(super) fn keys(isa: Isa, dtype: KvType, plane: &[u8], out: &mut [f32]) {
    debug_assert!(out.len() / PAGE <= numbers(dtype, plane));
    // SAFETY: the machine has what its `Isa` says; the plane holds the rows that `out` asks for.
    unsafe { with_source!(dtype, S => with_wide!(isa, all_keys::<S>(plane: &[u8], out: &mut [f32]))) }
}

/// A value plane as panels of 16 elements, each `[16 positions][16]`, `stride` numbers apart.
pub(super) fn values(isa: Isa, dtype: KvType, plane: &[u8], out: &mut [f32], stride: usize) {
    let panels = numbers(dtype, plane) / PAGE;
    assert!(panels == 0 || (panels - 1) * stride + PAGE * PAGE <= out.len());
    // SAFETY: as above; the assertion bounds what is written.
    unsafe {
        with_source!(dtype, S => {
            with_wide!(isa, all_values::<S>(plane: &[u8], out: &mut [f32], stride: usize, panels: usize))
        })
    }
}

/// The first `dims` elements of a key plane as value panels; `spare` holds `[k_dim][16]`.
pub(super) fn values_from_keys(
    isa: Isa,
    dtype: KvType,
    plane: &[u8],
    spare: &mut [f32],
    out: &mut [f32],
    stride: usize,
) {
    keys(isa, dtype, plane, spare);
    turn(isa, spare, out, stride);
}

/// Rows of 16 that a plane holds.
fn numbers(dtype: KvType, plane: &[u8]) -> usize {
    match dtype {
        KvType::F32 => plane.len() / (4 * PAGE),
        KvType::F16 | KvType::BF16 => plane.len() / (2 * PAGE),
        KvType::Q8_0 => plane.len() / (34 * PAGE) * BLOCK,
        KvType::Q4_0 => plane.len() / (18 * PAGE) * BLOCK,
    }
}

#[inline(always)]
unsafe fn all_keys<V: Sixteen, S: Source>(plane: &[u8], out: &mut [f32]) {
    for (block, out) in out.chunks_mut(BLOCK * PAGE).enumerate() {
        // SAFETY: the plane holds as many blocks as `out`.
        let (scale, keys) = unsafe { (S::key_scale::<V>(plane.as_ptr(), block), S::key_rows(plane.as_ptr(), block)) };
        for (i, row) in out.as_chunks_mut::<PAGE>().0.iter_mut().enumerate() {
            // SAFETY: as above, and a row holds 16 numbers.
            unsafe { S::key::<V>(keys, i, scale).store(row.as_mut_ptr()) };
        }
    }
}

#[inline(always)]
unsafe fn all_values<V: Sixteen, S: Source>(plane: &[u8], out: &mut [f32], stride: usize, panels: usize) {
    for panel in 0..panels {
        let rows = &mut out[panel * stride..][..PAGE * PAGE];
        // SAFETY: the plane holds `panels` panels.
        let (scales, values) =
            unsafe { (S::value_scales::<V>(plane.as_ptr(), panel / 2), S::value_rows(plane.as_ptr(), panel)) };
        for (slot, row) in rows.as_chunks_mut::<PAGE>().0.iter_mut().enumerate() {
            // SAFETY: as above, and a row holds 16 numbers.
            unsafe { S::value::<V>(values, slot, panel % 2 == 1, scales[slot]).store(row.as_mut_ptr()) };
        }
    }
}

twin! {
    /// Turns keys `[dims][16 positions]` into value panels: element `d` of position `s` to
    /// `out[d/16 · stride + s·16 + d%16]`.
    fn turn(keys: &[f32], out: &mut [f32], stride: usize) {
        for (b, keys) in keys.chunks(PAGE * PAGE).enumerate() {
            let out = &mut out[b * stride..][..PAGE * PAGE];
            for (i, row) in keys.as_chunks::<PAGE>().0.iter().enumerate() {
                for s in 0..PAGE {
                    out[s * PAGE + i] = row[s];
                }
            }
        }
    }
}
