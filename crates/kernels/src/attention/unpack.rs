//! From a plane of the cache to rows of 16 f32, exactly.

use half::f16;

use super::cache::{BLOCK, KvType, PAGE, half_to_f32};
use crate::twin::twin;

/// Sixteen scales of a block.
#[inline(always)]
fn scales(block: &[u8]) -> [f32; PAGE] {
    let mut out = [0f32; PAGE];
    for (o, b) in out.iter_mut().zip(block.as_chunks::<2>().0) {
        *o = half_to_f32(f16::from_le_bytes(*b));
    }
    out
}

twin! {
    /// The rows of 16 of a plane of F32, F16 or BF16; `out` says how many. Row `r` goes to `out[r·16 ..]`.
    fn unpack_plain(dtype: KvType, plane: &[u8], out: &mut [f32]) {
        match dtype {
            KvType::F32 => {
                for (o, b) in out.iter_mut().zip(plane.as_chunks::<4>().0) {
                    *o = f32::from_le_bytes(*b);
                }
            }
            KvType::F16 => {
                for (o, b) in out.iter_mut().zip(plane.as_chunks::<2>().0) {
                    *o = half_to_f32(f16::from_le_bytes(*b));
                }
            }
            _ => {
                for (o, b) in out.iter_mut().zip(plane.as_chunks::<2>().0) {
                    *o = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                }
            }
        }
    }
}

twin! {
    /// Keys: `out` becomes `[k_dim][16 positions]`.
    fn unpack_q8_keys(plane: &[u8], out: &mut [f32]) {
        for (block, out) in plane.chunks_exact(34 * PAGE).zip(out.chunks_exact_mut(BLOCK * PAGE)) {
            let (head, rows) = block.split_at(2 * PAGE);
            let scales = scales(head);
            for (o, q) in out.as_chunks_mut::<PAGE>().0.iter_mut().zip(rows.as_chunks::<PAGE>().0) {
                for i in 0..PAGE {
                    o[i] = f32::from(q[i] as i8) * scales[i];
                }
            }
        }
    }
}

twin! {
    /// Values: row `r` of 16 elements (`[v_dim/16][16 positions]`) goes to `panel(r / 16)` of `out`, at `r % 16`.
    fn unpack_q8_values(plane: &[u8], out: &mut [f32], stride: usize) {
        for (b, block) in plane.chunks_exact(34 * PAGE).enumerate() {
            let (head, rows) = block.split_at(2 * PAGE);
            let scales = scales(head);
            for (half, rows) in rows.chunks_exact(PAGE * PAGE).enumerate() {
                let out = &mut out[(2 * b + half) * stride..][..PAGE * PAGE];
                for (slot, (o, q)) in out.as_chunks_mut::<PAGE>().0.iter_mut().zip(rows.as_chunks::<PAGE>().0).enumerate() {
                    for i in 0..PAGE {
                        o[i] = f32::from(q[i] as i8) * scales[slot];
                    }
                }
            }
        }
    }
}

twin! {
    /// As [`unpack_q8_keys`] for nibbles.
    fn unpack_q4_keys(plane: &[u8], out: &mut [f32]) {
        for (block, out) in plane.chunks_exact(18 * PAGE).zip(out.chunks_exact_mut(BLOCK * PAGE)) {
            let (head, rows) = block.split_at(2 * PAGE);
            let scales = scales(head);
            let (low, high) = out.split_at_mut(PAGE * PAGE);
            for (r, q) in rows.as_chunks::<PAGE>().0.iter().enumerate() {
                for i in 0..PAGE {
                    low[r * PAGE + i] = (i32::from(q[i] & 15) - 8) as f32 * scales[i];
                    high[r * PAGE + i] = (i32::from(q[i] >> 4) - 8) as f32 * scales[i];
                }
            }
        }
    }
}

twin! {
    /// As [`unpack_q8_values`] for nibbles.
    fn unpack_q4_values(plane: &[u8], out: &mut [f32], stride: usize) {
        for (b, block) in plane.chunks_exact(18 * PAGE).enumerate() {
            let (head, rows) = block.split_at(2 * PAGE);
            let scales = scales(head);
            for (slot, q) in rows.as_chunks::<PAGE>().0.iter().enumerate() {
                let low = &mut out[2 * b * stride + slot * PAGE..][..PAGE];
                for i in 0..PAGE {
                    low[i] = (i32::from(q[i] & 15) - 8) as f32 * scales[slot];
                }
                let high = &mut out[(2 * b + 1) * stride + slot * PAGE..][..PAGE];
                for i in 0..PAGE {
                    high[i] = (i32::from(q[i] >> 4) - 8) as f32 * scales[slot];
                }
            }
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

/// A key plane as `[k_dim][16 positions]`.
pub(super) fn keys(isa: crate::isa::Isa, dtype: KvType, plane: &[u8], out: &mut [f32]) {
    match dtype {
        KvType::Q8_0 => unpack_q8_keys(isa, plane, out),
        KvType::Q4_0 => unpack_q4_keys(isa, plane, out),
        plain => unpack_plain(isa, plain, plane, out),
    }
}

/// A value plane as panels of 16 elements, each `[16 positions][16]`, `stride` numbers apart.
pub(super) fn values(isa: crate::isa::Isa, dtype: KvType, plane: &[u8], out: &mut [f32], stride: usize) {
    match dtype {
        KvType::Q8_0 => unpack_q8_values(isa, plane, out, stride),
        KvType::Q4_0 => unpack_q4_values(isa, plane, out, stride),
        plain => {
            let bytes = if plain == KvType::F32 { 4 } else { 2 };
            for (plane, out) in plane.chunks_exact(PAGE * PAGE * bytes).zip(out.chunks_mut(stride)) {
                unpack_plain(isa, plain, plane, &mut out[..PAGE * PAGE]);
            }
        }
    }
}

/// The first `dims` elements of a key plane as value panels; `spare` holds `[k_dim][16]`.
pub(super) fn values_from_keys(
    isa: crate::isa::Isa,
    dtype: KvType,
    plane: &[u8],
    dims: usize,
    spare: &mut [f32],
    out: &mut [f32],
    stride: usize,
) {
    keys(isa, dtype, plane, spare);
    turn(isa, &spare[..dims * PAGE], out, stride);
}
