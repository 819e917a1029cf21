//! Work on rows of logits: every row by itself, so that the number of threads changes nothing.

use crate::Error;
use allod_kernels::{
    isa::{Isa, Job},
    math,
    pool::Pool,
};
use std::sync::{Mutex, PoisonError};

/// `f` of every row number, in order.
pub(crate) fn each_row<T: Send>(pool: &Pool, rows: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let slots: Vec<Mutex<Option<T>>> = (0..rows).map(|_| Mutex::new(None)).collect();
    pool.run(rows, |i| *slots[i].lock().unwrap_or_else(PoisonError::into_inner) = Some(f(i)));
    slots.into_iter().filter_map(|s| s.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}

/// What a softmax needs to know of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Softmax {
    /// Greatest logit and where it stands, the first of equals.
    pub(crate) max: f32,
    pub(crate) at: usize,
    pub(crate) min: f32,
    /// `ln Σ e^(x - max)`.
    pub(crate) log_sum: f64,
}

impl Softmax {
    /// # Errors
    /// The first value that is no finite number.
    pub(crate) fn of(row: &[f32], position: usize) -> Result<Softmax, Error> {
        let (max, min, sum) = Isa::best().run(Sums(row));
        if !(max.is_finite() && min.is_finite() && sum.is_finite()) {
            let value = row.iter().copied().find(|v| !v.is_finite()).unwrap_or(f32::NAN);
            return Err(Error::NotFinite { position, value });
        }
        let at = row.iter().position(|&v| v == max).unwrap_or(0);
        Ok(Softmax { max, at, min, log_sum: libm::log(sum) })
    }

    /// Minus the logarithm of a token's probability, from its logit.
    pub(crate) fn nll(&self, logit: f32) -> f64 {
        f64::from(self.max) + self.log_sum - f64::from(logit)
    }
}

const LANES: usize = 8;

/// Maximum, minimum and `Σ e^(x - max)`. A NaN anywhere makes the sum one.
struct Sums<'a>(&'a [f32]);

impl Job for Sums<'_> {
    type Out = (f32, f32, f64);

    #[inline(always)]
    fn run(self) -> Self::Out {
        let (blocks, tail) = self.0.as_chunks::<LANES>();
        let (mut most, mut least) = ([f32::NEG_INFINITY; LANES], [f32::INFINITY; LANES]);
        for b in blocks {
            for l in 0..LANES {
                most[l] = if b[l] > most[l] { b[l] } else { most[l] };
                least[l] = if b[l] < least[l] { b[l] } else { least[l] };
            }
        }
        let all = most.iter().chain(tail).fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
        let min = least.iter().chain(tail).fold(f32::INFINITY, |m, &v| if v < m { v } else { m });
        let mut sums = [0f64; LANES];
        for b in blocks {
            for l in 0..LANES {
                sums[l] += f64::from(math::exp(b[l] - all));
            }
        }
        for (l, &v) in tail.iter().enumerate() {
            sums[l] += f64::from(math::exp(v - all));
        }
        (all, min, sums.iter().sum())
    }
}
