//! How trained tensors begin.

use super::tensor;
use allod_kernels::{
    gradient::{ByColumns, Matrix, Start, Term, product, transpose},
    isa::Isa,
    pool::Pool,
};
use allod_plan::{Adapter, AdapterInit, Role, TrainedTensor};

/// A stream of random bits (SplitMix64, Steele et al. 2014).
pub(super) struct Random(pub(super) u64);

impl Random {
    /// The stream of a name.
    pub(super) fn named(seed: u64, name: &str) -> Random {
        let hash = blake3::hash(name.as_bytes());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash.as_bytes()[..8]);
        Random(seed ^ u64::from_le_bytes(bytes))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform in `0 .. 1`.
    pub(super) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Normal with deviation 1 (Box & Muller 1958).
    pub(super) fn normal(&mut self) -> f32 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        let (sin, _) = allod_kernels::math::sin_cos(f64::from(v) * std::f64::consts::TAU);
        (-2.0 * allod_kernels::math::ln(u)).sqrt() * sin as f32
    }
}

/// The finalizer of SplitMix64: a hash of 64 bits.
pub(super) fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The Euclidean length of a row, summed in f64.
pub(super) fn norm(row: &[f32]) -> f32 {
    row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32
}

/// LoRA's A.
pub(super) fn down(a: &Adapter, experts: usize, width: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::named(seed, &a.weight);
    let n = experts * a.rank * width;
    match a.init {
        AdapterInit::Gaussian => (0..n).map(|_| random.normal() / a.rank as f32).collect(),
        _ => {
            let bound = 1.0 / (width as f32).sqrt();
            (0..n).map(|_| bound * (2.0 * random.unit() - 1.0)).collect()
        }
    }
}

/// A value head: normal with deviation `1 / √(width + 1)`.
pub(super) fn value_head(width: usize, seed: u64) -> TrainedTensor {
    let mut random = Random::named(seed, "value_head.weight");
    let data = (0..width).map(|_| random.normal() / (width as f32 + 1.0).sqrt()).collect();
    tensor("value_head.weight".into(), Role::ValueHead, vec![1, width], data)
}

/// Rounds of the subspace iteration, which converges with the ratio of neighbouring singular values.
const ROUNDS: usize = 16;

/// PiSSA: `A = √(S/s) Vᵀ`, `B = U √(S/s)` of the leading singular triples of each matrix, s being the adapter's scale;
/// `w` is left with the rest. By subspace iteration (Halko et al. 2011, arXiv:0909.4061), with a few directions more
/// than are kept.
pub(super) fn pissa(
    w: &mut [f32],
    (experts, out, width): (usize, usize, usize),
    a: &Adapter,
    pool: &Pool,
) -> (Vec<f32>, Vec<f32>) {
    let (mut down, mut up) = (vec![], vec![]);
    let most = out.min(width);
    let k = (a.rank + 8).min(most);
    for (e, w) in w.chunks_exact_mut(out * width).enumerate().take(experts) {
        let mut random = Random::named(e as u64, &a.weight);
        let mut turned = vec![0.0; w.len()];
        transpose(pool, w, (out, width), 1.0, &mut turned);
        // Rows are directions: V [k × width], then U [k × out].
        let mut v: Vec<f32> = (0..k * width).map(|_| random.normal()).collect();
        let mut u = vec![0.0; k * out];
        let mut lengths = vec![0.0; k];
        for _ in 0..ROUNDS {
            multiply(pool, &v, width, &turned, out, k, &mut u);
            orthonormal(&mut u, out);
            multiply(pool, &u, out, w, width, k, &mut v);
            lengths = orthonormal(&mut v, width);
        }
        // Aligns the directions: the singular vectors of the small matrix U W Vᵀ, which is nearly diagonal by now.
        multiply(pool, &v, width, &turned, out, k, &mut u);
        lengths = orthonormal(&mut u, out).into_iter().zip(lengths).map(|(a, _)| a).collect();
        let rank = a.rank.min(k);
        let mut order: Vec<usize> = (0..k).collect();
        order.sort_by(|&x, &y| lengths[y].total_cmp(&lengths[x]));
        let (mut a_rows, mut b_cols) = (vec![0.0; a.rank * width], vec![0.0; out * a.rank]);
        for (j, &i) in order.iter().take(rank).enumerate() {
            let root = (lengths[i] / a.scale).sqrt();
            a_rows[j * width..][..width].iter_mut().zip(&v[i * width..]).for_each(|(o, v)| *o = root * v);
            (0..out).for_each(|o| b_cols[o * a.rank + j] = root * u[i * out + o]);
        }
        let (scaled, right) =
            (b_cols.iter().map(|v| -a.scale * v).collect::<Vec<_>>(), Matrix::Numbers { data: &a_rows, cols: width });
        let term = Term { a: &scaled, stride: a.rank, k: a.rank, b: &ByColumns(right) };
        product(pool, Isa::best(), &[term], Start::Held, (w, width), (out, width));
        down.extend(a_rows);
        up.extend(b_cols);
    }
    (down, up)
}

/// `out = x · m` with x `[k × inner]`, m `[inner × width]`.
fn multiply(pool: &Pool, x: &[f32], inner: usize, m: &[f32], width: usize, k: usize, out: &mut [f32]) {
    let right = ByColumns(Matrix::Numbers { data: m, cols: width });
    product(
        pool,
        Isa::best(),
        &[Term { a: x, stride: inner, k: inner, b: &right }],
        Start::Zero,
        (out, width),
        (k, width),
    );
}

/// Makes rows orthonormal (modified Gram-Schmidt, twice) and returns the lengths they had.
fn orthonormal(rows: &mut [f32], width: usize) -> Vec<f32> {
    let mut lengths = vec![];
    for i in 0..rows.len() / width {
        let (done, rest) = rows.split_at_mut(i * width);
        let row = &mut rest[..width];
        for other in done.chunks_exact(width).chain(done.chunks_exact(width)) {
            let dot: f64 = row.iter().zip(other).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            row.iter_mut().zip(other).for_each(|(a, b)| *a -= dot as f32 * b);
        }
        let length = norm(row);
        row.iter_mut().for_each(|v| *v /= length.max(f32::MIN_POSITIVE));
        lengths.push(length);
    }
    lengths
}
