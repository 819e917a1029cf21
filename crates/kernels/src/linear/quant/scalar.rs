//! The definition.

use super::{Done, Fine, Slab, Sums, Super, Type, chunks, vector::Plain};
use crate::linear::rows8::{Block32, Block256};

pub(super) fn fine<T: Fine>(slab: &mut Slab, panel: &[u8], x: &[&[Block32]], sums: &mut [Sums], done: &mut Done) {
    for (first, n, chunk) in chunks::<T>(panel) {
        slab.unpack::<T, Plain>(chunk);
        for (x, sums) in x.iter().zip(&mut *sums) {
            for (b, x) in x[first / 32..][..n / 32].iter().enumerate() {
                for (r, y) in sums.iter_mut().enumerate() {
                    let sum = dot::<T>(slab, b * 8, r, &x.q) as f32;
                    let d = slab.d[b][r];
                    let row = if T::MINIMA {
                        let all: i32 = x.q.iter().map(|&q| i32::from(q)).sum();
                        d.mul_add(sum, slab.m[b][r] * all as f32)
                    } else {
                        d * sum
                    };
                    *y = x.scale.mul_add(row, *y);
                }
            }
        }
    }
    done(0, sums, &mut []);
}

pub(super) fn superblock<T: Super>(
    slab: &mut Slab,
    panel: &[u8],
    x: &[&[Block256]],
    sums: &mut [Sums],
    done: &mut Done,
) {
    for (first, _, chunk) in chunks::<T>(panel) {
        slab.unpack::<T, Plain>(chunk);
        for (x, sums) in x.iter().zip(&mut *sums) {
            let x = &x[first / 256];
            for (r, y) in sums.iter_mut().enumerate() {
                let (mut sum, mut least) = (0, 0);
                for (i, q) in x.q.chunks_exact(T::STRETCH).enumerate() {
                    let all: i32 = q.iter().map(|&q| i32::from(q)).sum();
                    sum += slab.scales[i].int(2 * r) * dot::<T>(slab, i * T::STRETCH / 4, r, q);
                    least += slab.min_pairs[i / 2].int(2 * r + i % 2) * all;
                }
                let d = slab.d[0][r];
                let row =
                    if T::MINIMA { d.mul_add(sum as f32, -(slab.m[0][r] * least as f32)) } else { d * sum as f32 };
                *y = x.scale.mul_add(row, *y);
            }
        }
    }
    done(0, sums, &mut []);
}

/// The integer product of row `r`, from group `first` of 4 columns on, with `q`.
fn dot<T: Type>(slab: &Slab, first: usize, r: usize, q: &[i8]) -> i32 {
    let codes = slab.codes[first..].iter().flat_map(|group| &group.0[4 * r..][..4]);
    codes.zip(q).map(|(&c, &q)| (i32::from(c) - T::OFFSET) * i32::from(q)).sum()
}
