//! From a plane of the cache to rows of 16 f32, exactly: for tiles with many rows, where unpacking once pays.
#![expect(unsafe_code, reason = "vector instructions chosen at run time")]

use half::f16;

use super::KvType;
use super::cache::{BLOCK, PAGE, code_index, half_to_f32};
use super::source::{Plain, Source, with_plain, with_source, with_wide};
use super::wide::Sixteen;
use crate::isa::Isa;
use crate::twin::twin;

/// A key plane of a type without scales as `[k_dim][16 positions]`: `out` says how many elements.
pub(super) fn keys(isa: Isa, dtype: KvType, plane: &[u8], out: &mut [f32]) {
    debug_assert!(out.len() / PAGE <= numbers(dtype, plane));
    // SAFETY: the machine has what its `Isa` says; the plane holds the rows that `out` asks for.
    unsafe { with_plain!(dtype, S => with_wide!(isa, all_keys::<S>(plane: &[u8], out: &mut [f32]))) }
}

/// A value plane as panels of 16 elements, each `[16 positions][16]`, `stride` numbers apart; [`scales`] are left out.
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

/// The first elements of a key plane as value panels: as many as `spare` holds rows of 16. [`scales`] are left out.
pub(super) fn values_from_keys(
    isa: Isa,
    dtype: KvType,
    plane: &[u8],
    spare: &mut [f32],
    out: &mut [f32],
    stride: usize,
) {
    match dtype {
        KvType::F32 | KvType::F16 | KvType::BF16 => keys(isa, dtype, plane, spare),
        KvType::I16 => unreachable!("integers are multiplied as such"),
        KvType::Q8_0 => coded_keys::<34>(plane, spare, |code, _| f32::from(code as i8)),
        KvType::Q4_0 => {
            coded_keys::<18>(plane, spare, |pair, high| f32::from(if high { pair >> 4 } else { pair & 15 }) - 8.0)
        }
    }
    turn(isa, spare, out, stride);
}

/// What the numbers of a plane's block `block` are to be multiplied with, by position.
pub(super) fn scales(isa: Isa, dtype: KvType, plane: &[u8], block: usize) -> [f32; PAGE] {
    let bytes = if dtype == KvType::Q4_0 { 18 } else { 34 };
    halves(isa, &plane[block * bytes * PAGE..][..2 * PAGE])
}

twin! {
    fn halves(bytes: &[u8]) -> [f32; PAGE] {
        let mut out = [0.0; PAGE];
        for (out, half) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *out = half_to_f32(f16::from_le_bytes(*half));
        }
        out
    }
}

/// Keys in fours, `BYTES` to a position and block, as `[elements][16 positions]`. Two elements that share a byte are as
/// far apart as a block has bytes, so that running on past its end gives the second half.
fn coded_keys<const BYTES: usize>(plane: &[u8], out: &mut [f32], number: impl Fn(u8, bool) -> f32) {
    for (block, out) in plane.chunks_exact(BYTES * PAGE).zip(out.chunks_exact_mut(BLOCK * PAGE)) {
        let (codes, len) = (&block[2 * PAGE..], (BYTES - 2) * PAGE);
        for (d, row) in out.as_chunks_mut::<PAGE>().0.iter_mut().enumerate() {
            for (slot, x) in row.iter_mut().enumerate() {
                let at = code_index(d, slot, BYTES - 2, true);
                *x = number(codes[at % len], at >= len);
            }
        }
    }
}

/// Rows of 16 that a plane holds.
fn numbers(dtype: KvType, plane: &[u8]) -> usize {
    match dtype {
        KvType::F32 => plane.len() / (4 * PAGE),
        KvType::F16 | KvType::BF16 => plane.len() / (2 * PAGE),
        KvType::I16 => unreachable!("integers are multiplied as such"),
        KvType::Q8_0 => plane.len() / (34 * PAGE) * BLOCK,
        KvType::Q4_0 => plane.len() / (18 * PAGE) * BLOCK,
    }
}

#[inline(always)]
unsafe fn all_keys<V: Sixteen, S: Plain>(plane: &[u8], out: &mut [f32]) {
    for (d, row) in out.as_chunks_mut::<PAGE>().0.iter_mut().enumerate() {
        // SAFETY: the plane holds as many rows as `out`, and a row 16 numbers.
        unsafe { S::key::<V>(plane.as_ptr(), d).store(row.as_mut_ptr()) };
    }
}

#[inline(always)]
unsafe fn all_values<V: Sixteen, S: Source>(plane: &[u8], out: &mut [f32], stride: usize, panels: usize) {
    for panel in 0..panels {
        let rows = &mut out[panel * stride..][..PAGE * PAGE];
        // SAFETY: the plane holds `panels` panels.
        let values = unsafe { S::values(plane.as_ptr(), panel / 2) };
        for (slot, row) in rows.as_chunks_mut::<PAGE>().0.iter_mut().enumerate() {
            // SAFETY: as above, and a row holds 16 numbers.
            unsafe { S::value::<V>(values, slot, panel % 2 == 1).store(row.as_mut_ptr()) };
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
