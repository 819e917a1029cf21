//! The one product of attention: a few rows times panels of 16 columns. Scores are queries × key panels, outputs are
//! weights × value panels. Every element is one chain of fused multiply-adds over the depth, so blocking and vector
//! width leave no trace in the result.

#![expect(unsafe_code, reason = "vector loads and instructions chosen at run time")]

use super::cache::PAGE;
use crate::isa::Isa;

/// `C (+)= A · B` for `rows <= MAX_ROWS`.
pub(super) struct Product<'a> {
    /// `[rows × depth]`, rows `a_stride` apart.
    pub(super) a: &'a [f32],
    pub(super) a_stride: usize,
    /// Panels of `[depth × 16]`, `b_stride` apart.
    pub(super) b: &'a [f32],
    pub(super) b_stride: usize,
    /// `[rows × 16 · panels]`, rows `c_stride` apart.
    pub(super) c: &'a mut [f32],
    pub(super) c_stride: usize,
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) panels: usize,
    /// Whether C's numbers start the chains, instead of 0.
    pub(super) accumulate: bool,
}

/// Rows that one call may have.
pub(super) fn max_rows(isa: Isa) -> usize {
    if isa == Isa::Avx512 { 12 } else { 6 }
}

impl Product<'_> {
    fn check(&self) {
        let last = self.rows - 1;
        assert!(last * self.a_stride + self.depth <= self.a.len());
        assert!((self.panels - 1) * self.b_stride + self.depth * PAGE <= self.b.len());
        assert!(last * self.c_stride + self.panels * PAGE <= self.c.len());
    }

    /// Computes it.
    pub(super) fn run(&mut self, isa: Isa) {
        if self.rows == 0 || self.panels == 0 {
            return;
        }
        self.check();
        match isa {
            Isa::Scalar => self.scalar(),
            // SAFETY: the machine has what its `Isa` says; `check` proved that every access lies inside the slices.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::avx2(self) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { x86::avx512(self) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => self.scalar(),
        }
    }

    fn scalar(&mut self) {
        for r in 0..self.rows {
            for p in 0..self.panels {
                let c = &mut self.c[r * self.c_stride + p * PAGE..][..PAGE];
                if !self.accumulate {
                    c.fill(0.0);
                }
                let a = &self.a[r * self.a_stride..][..self.depth];
                let b = self.b[p * self.b_stride..][..self.depth * PAGE].as_chunks::<PAGE>().0;
                for (a, b) in a.iter().zip(b) {
                    for (c, b) in c.iter_mut().zip(b) {
                        *c = a.mul_add(*b, *c);
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{PAGE, Product};

    /// Runs `$block::<rows, n>` over all panels, `n` side by side so that enough chains are in flight to hide latency.
    macro_rules! drive {
        ($x:expr, $block:ident, $($rows:literal => $n:literal),*) => {
            match $x.rows {
                $($rows => {
                    let mut p = 0;
                    while $x.panels - p >= $n {
                        // SAFETY: the caller's promise.
                        unsafe { $block::<$rows, $n>($x, p) };
                        p += $n;
                    }
                    while p < $x.panels {
                        // SAFETY: the caller's promise.
                        unsafe { $block::<$rows, 1>($x, p) };
                        p += 1;
                    }
                })*
                rows => unreachable!("{rows} rows in one product"),
            }
        };
    }

    /// # Safety
    /// The machine has AVX2 and FMA, and the slices hold what the fields say.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(x: &mut Product<'_>) {
        drive!(x, block2, 1 => 4, 2 => 2, 3 => 1, 4 => 1, 5 => 1, 6 => 1);
    }

    /// # Safety
    /// As [`avx2`], with AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512(x: &mut Product<'_>) {
        drive!(x, block5, 1 => 8, 2 => 4, 3 => 4, 4 => 4, 5 => 2, 6 => 2, 7 => 2, 8 => 1, 9 => 1, 10 => 1, 11 => 1, 12 => 1);
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn block2<const ROWS: usize, const N: usize>(x: &mut Product<'_>, panel: usize) {
        // SAFETY: rows, depth and panels stay below what the caller checked.
        unsafe {
            let a = x.a.as_ptr();
            let b = x.b.as_ptr().add(panel * x.b_stride);
            let c = x.c.as_mut_ptr().add(panel * PAGE);
            let mut acc = [[[_mm256_setzero_ps(); 2]; N]; ROWS];
            if x.accumulate {
                for (r, acc) in acc.iter_mut().enumerate() {
                    for (n, acc) in acc.iter_mut().enumerate() {
                        let c = c.add(r * x.c_stride + n * PAGE);
                        *acc = [_mm256_loadu_ps(c), _mm256_loadu_ps(c.add(8))];
                    }
                }
            }
            for k in 0..x.depth {
                for n in 0..N {
                    let b = b.add(n * x.b_stride + k * PAGE);
                    let (low, high) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                    for (r, acc) in acc.iter_mut().enumerate() {
                        let a = _mm256_broadcast_ss(&*a.add(r * x.a_stride + k));
                        acc[n][0] = _mm256_fmadd_ps(a, low, acc[n][0]);
                        acc[n][1] = _mm256_fmadd_ps(a, high, acc[n][1]);
                    }
                }
            }
            for (r, acc) in acc.iter().enumerate() {
                for (n, acc) in acc.iter().enumerate() {
                    let c = c.add(r * x.c_stride + n * PAGE);
                    _mm256_storeu_ps(c, acc[0]);
                    _mm256_storeu_ps(c.add(8), acc[1]);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn block5<const ROWS: usize, const N: usize>(x: &mut Product<'_>, panel: usize) {
        // SAFETY: rows, depth and panels stay below what the caller checked.
        unsafe {
            let a = x.a.as_ptr();
            let b = x.b.as_ptr().add(panel * x.b_stride);
            let c = x.c.as_mut_ptr().add(panel * PAGE);
            let mut acc = [[_mm512_setzero_ps(); N]; ROWS];
            if x.accumulate {
                for (r, acc) in acc.iter_mut().enumerate() {
                    for (n, acc) in acc.iter_mut().enumerate() {
                        *acc = _mm512_loadu_ps(c.add(r * x.c_stride + n * PAGE));
                    }
                }
            }
            for k in 0..x.depth {
                for n in 0..N {
                    let b = _mm512_loadu_ps(b.add(n * x.b_stride + k * PAGE));
                    for (r, acc) in acc.iter_mut().enumerate() {
                        acc[n] = _mm512_fmadd_ps(_mm512_set1_ps(*a.add(r * x.a_stride + k)), b, acc[n]);
                    }
                }
            }
            for (r, acc) in acc.iter().enumerate() {
                for (n, acc) in acc.iter().enumerate() {
                    _mm512_storeu_ps(c.add(r * x.c_stride + n * PAGE), *acc);
                }
            }
        }
    }
}
