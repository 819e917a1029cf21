//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864).
//!
//! The frequencies are given: scaling them (YaRN, llama3, longrope, …) is the business of who reads the config. The
//! angle `position · frequency` is taken in f64, whose product of two f32-sized numbers is exact; in f32 it would be
//! off by 0.03 radians at position 1,000,000.

use crate::math::sin_cos;
use crate::twin::twin;

/// Which elements of a head are the two coordinates of plane `i`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pairing {
    /// `(i, i + dims/2)`: GPT-NeoX, LLaMA in Transformers' layout.
    Half,
    /// `(2i, 2i + 1)`: GPT-J, LLaMA in GGUF's layout, DeepSeek, Llama 4.
    Interleaved,
}

twin! {
    /// Cosines and sines of every row's planes: `out[t] = [cos θ₀ … cos θₙ₋₁ | sin θ₀ … sin θₙ₋₁] · mscale` with `n =
    /// inv_freq.len()`, `θᵢ = positions[t] · inv_freq[i]`. `out` is `[positions.len() × 2n]`.
    pub fn angles(positions: &[u32], inv_freq: &[f32], mscale: f32, out: &mut [f32]) {
        let n = inv_freq.len();
        for (row, &p) in out.chunks_exact_mut((2 * n).max(1)).zip(positions) {
            let (cos, sin) = row.split_at_mut(n);
            for ((c, s), f) in cos.iter_mut().zip(sin).zip(inv_freq) {
                let (sin, cos) = sin_cos(f64::from(p) * f64::from(*f));
                *c = cos as f32 * mscale;
                *s = sin as f32 * mscale;
            }
        }
    }
}

/// Rotates `(a, b)` by the angle whose cosine and sine are given.
#[inline(always)]
fn rotate(a: f32, b: f32, c: f32, s: f32) -> (f32, f32) {
    (a.mul_add(c, -(b * s)), b.mul_add(c, a * s))
}

twin! {
    /// Rotates the first `dims` elements of every head, in place. `x` is `[rows × heads × head_dim]`; `table` is what
    /// [`angles`] made for these rows, `[rows × dims]`.
    pub fn apply(x: &mut [f32], heads: usize, head_dim: usize, dims: usize, pairing: Pairing, table: &[f32]) {
        if dims == 0 {
            return;
        }
        for (row, table) in x.chunks_exact_mut(heads * head_dim).zip(table.chunks_exact(dims)) {
            let (cos, sin) = table.split_at(dims / 2);
            for head in row.chunks_exact_mut(head_dim) {
                match pairing {
                    Pairing::Half => {
                        let (a, b) = head[..dims].split_at_mut(dims / 2);
                        for (((a, b), c), s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                            (*a, *b) = rotate(*a, *b, *c, *s);
                        }
                    }
                    Pairing::Interleaved => {
                        for ((pair, c), s) in head[..dims].as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                            (pair[0], pair[1]) = rotate(pair[0], pair[1], *c, *s);
                        }
                    }
                }
            }
        }
    }
}
