//! Products with float weights: for each output one chain of fused multiply-adds over the columns, or, of BF16 with
//! rounded rows, over pairs of them, the second of a pair before the first.

#[cfg(target_arch = "x86_64")]
mod native;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::{Done, ROWS, Sums, layout::CHUNK, tasks::MAX_ROWS};
use crate::isa::Isa;
use allod_tensor::DType;
use half::{bf16, f16};

/// Adds to `sums[p][t]` the products of input row `x[t]` with the 16 rows of panel `p`, of F32, F16 or BF16. There is one
/// panel or there are two.
pub(super) fn panels<const P: usize>(
    isa: Isa,
    dtype: DType,
    panels: [&[u8]; P],
    x: &[&[f32]],
    sums: [&mut [Sums]; P],
    done: &mut Done,
) {
    match isa {
        Isa::Scalar => scalar(dtype, panels, x, sums, done),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::avx2(dtype, panels, x, sums, done),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::avx512(dtype, panels, x, sums, done),
        #[cfg(not(target_arch = "x86_64"))]
        _ => scalar(dtype, panels, x, sums, done),
    }
}

/// As [`panels`], of BF16 with rounded rows.
pub(super) fn halves<const P: usize>(
    isa: Isa,
    panels: [&[u8]; P],
    x: &[&[bf16]],
    sums: [&mut [Sums]; P],
    done: &mut Done,
) {
    match isa {
        Isa::Scalar => scalar_halves(panels, x, sums, done),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::avx2_halves(panels, x, sums, done),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::avx512_halves(panels, x, sums, done),
        #[cfg(not(target_arch = "x86_64"))]
        _ => scalar_halves(panels, x, sums, done),
    }
}

/// As [`panels`] for one panel of any other type: its numbers, as the reference codec decodes them, are multiplied as F32.
pub(super) fn decoded(isa: Isa, dtype: DType, bytes: &[u8], x: &[&[f32]], sums: &mut [Sums], done: &mut Done) {
    let (block, block_bytes) = (dtype.block(), dtype.block_bytes());
    let (mut numbers, mut row) = ([0; 4 * CHUNK * ROWS], [0.0; CHUNK]);
    for (i, blocks) in bytes.chunks(CHUNK / block * block_bytes * ROWS).enumerate() {
        for (j, bytes) in blocks.chunks_exact(block_bytes).enumerate() {
            let (first, r) = (j / ROWS * block, j % ROWS);
            super::decode(dtype, bytes, &mut row[..block]);
            let column = numbers.as_chunks_mut::<{ 4 * ROWS }>().0[first..].iter_mut();
            for (column, v) in column.zip(&row[..block]) {
                column[4 * r..][..4].copy_from_slice(&v.to_le_bytes());
            }
        }
        let (first, len) = (i * CHUNK, blocks.len() / (block_bytes * ROWS) * block);
        let mut part: [&[f32]; MAX_ROWS] = [&[]; MAX_ROWS];
        for (part, x) in part.iter_mut().zip(x) {
            *part = &x[first..first + len];
        }
        let numbers = [&numbers[..4 * len * ROWS]];
        panels(isa, DType::F32, numbers, &part[..x.len()], [&mut *sums], &mut |_, _, _| {});
    }
    done(0, sums, &mut []);
}

/// The definition.
fn scalar<const P: usize>(dtype: DType, panels: [&[u8]; P], x: &[&[f32]], mut sums: [&mut [Sums]; P], done: &mut Done) {
    for (panel, sums) in panels.iter().zip(&mut sums) {
        for (x, sums) in x.iter().zip(sums.iter_mut()) {
            for (column, &x) in panel.chunks_exact(dtype.block_bytes() * ROWS).zip(*x) {
                for (w, sum) in column.chunks_exact(dtype.block_bytes()).zip(sums.iter_mut()) {
                    *sum = number(dtype, w).mul_add(x, *sum);
                }
            }
        }
    }
    hand_over(done, 0, sums);
}

/// The definition for rounded rows.
fn scalar_halves<const P: usize>(panels: [&[u8]; P], x: &[&[bf16]], mut sums: [&mut [Sums]; P], done: &mut Done) {
    for (panel, sums) in panels.iter().zip(&mut sums) {
        for (x, sums) in x.iter().zip(sums.iter_mut()) {
            for (columns, x) in panel.chunks(2 * 2 * ROWS).zip(x.chunks(2)) {
                for (column, &x) in columns.chunks_exact(2 * ROWS).zip(x).rev() {
                    for (w, sum) in column.as_chunks().0.iter().zip(sums.iter_mut()) {
                        *sum = bf16::from_le_bytes(*w).to_f32().mul_add(x.to_f32(), *sum);
                    }
                }
            }
        }
    }
    hand_over(done, 0, sums);
}

/// Tells of the rows from `first` on, with one panel or two.
fn hand_over<const P: usize>(done: &mut Done, first: usize, sums: [&mut [Sums]; P]) {
    let mut sums = sums.into_iter();
    done(first, sums.next().unwrap_or_default(), sums.next().unwrap_or_default());
}

fn number(dtype: DType, w: &[u8]) -> f32 {
    match dtype {
        DType::F32 => f32::from_le_bytes([w[0], w[1], w[2], w[3]]),
        DType::F16 => f16::from_le_bytes([w[0], w[1]]).to_f32(),
        _ => bf16::from_le_bytes([w[0], w[1]]).to_f32(),
    }
}
