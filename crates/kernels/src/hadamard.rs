//! The Walsh–Hadamard rotation that makes 4-bit keys usable: it spreads outlier channels over a head, and as it is
//! orthogonal and symmetric, `⟨Hq, Hk⟩ = ⟨q, k⟩` and `H H = 1` (Ashkboos et al. 2024, QuaRot, arXiv:2404.00456).

use crate::twin::twin;

/// Length of the blocks that [`rotate`] turns for heads of `head_dim`: its largest power-of-two divisor; `None` below
/// 32, where a rotation would not even reach across one quantization block.
pub fn block(head_dim: usize) -> Option<usize> {
    let size = 1usize.checked_shl(head_dim.trailing_zeros())?;
    (head_dim > 0 && size >= 32).then_some(size)
}

twin! {
    /// Multiplies each `block` of `x` by the normalized Hadamard matrix, in place; `block` is a power of two.
    pub fn rotate(x: &mut [f32], block: usize) {
        let norm = 1.0 / (block as f32).sqrt();
        for x in x.chunks_exact_mut(block) {
            let mut half = 1;
            while half < block {
                for pair in x.chunks_exact_mut(2 * half) {
                    let (a, b) = pair.split_at_mut(half);
                    for (a, b) in a.iter_mut().zip(b) {
                        (*a, *b) = (*a + *b, *a - *b);
                    }
                }
                half *= 2;
            }
            for v in x {
                *v *= norm;
            }
        }
    }
}
