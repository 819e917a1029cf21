//! The products of attention: a few rows times panels of 16 columns. Scores are queries × keys, outputs are weights ×
//! values. Every element is one chain of fused multiply-adds over the depth, so blocking and vector width leave no
//! trace in the result. Panels are f32 that many rows share ([`Product`]), or a page of the cache itself where few rows
//! read it once ([`Keys`], [`Values`]).
#![expect(clippy::needless_range_loop, reason = "rows, panels and depth each index several matrices")]
#![expect(unsafe_code, reason = "vector loads and instructions chosen at run time")]

use super::KvType;
use super::cache::{BLOCK, PAGE};
use super::source::{Plain, Source, with_plain, with_source, with_wide};
use super::wide::Sixteen;
use crate::isa::Isa;

/// Rows that a product may have on any instruction set.
pub(super) const MAX_ROWS: usize = 8;

/// Rows that one product may have.
pub(super) fn max_rows(isa: Isa) -> usize {
    match isa {
        Isa::Scalar | Isa::Avx2 => 6,
        Isa::Avx512 => MAX_ROWS,
    }
}

/// Rows up to which products read the cache itself.
pub(super) const DIRECT_ROWS: usize = 6;

/// Pages that [`Keys`] takes at a time.
pub(super) const KEY_PAGES: usize = 4;

/// `C (+)= A · B`.
pub(super) struct Product<'a> {
    /// `[rows × depth]`, rows `a_stride` apart.
    pub(super) a: &'a [f32],
    pub(super) a_stride: usize,
    /// Panels of `[depth × 16]`, `b_stride` apart.
    pub(super) b: &'a [f32],
    pub(super) b_stride: usize,
    /// One or two.
    pub(super) panels: usize,
    /// `[rows × 16 · panels]`, rows `c_stride` apart.
    pub(super) c: &'a mut [f32],
    pub(super) c_stride: usize,
    pub(super) rows: usize,
    pub(super) depth: usize,
    /// Whether C's numbers start the chains, instead of 0.
    pub(super) accumulate: bool,
}

impl Product<'_> {
    /// Computes it.
    ///
    /// # Panics
    /// When a slice is shorter than the sizes say.
    pub(super) fn run(self, isa: Isa) {
        let (last, last_panel) = (self.rows - 1, self.panels - 1);
        assert!(last * self.a_stride + self.depth <= self.a.len());
        assert!(last_panel * self.b_stride + self.depth * PAGE <= self.b.len());
        assert!(last * self.c_stride + self.panels * PAGE <= self.c.len());
        let c = self.c.as_mut_ptr();
        let x = &self;
        macro_rules! rows {
            ($($n:literal)*) => {
                match (isa, x.rows) {
                    // SAFETY: the machine has what its `Isa` says; the assertions prove every access.
                    $(#[cfg(target_arch = "x86_64")]
                    (Isa::Avx512, $n) if x.panels == 2 => unsafe {
                        let first = 0;
                        with_wide!(avx512 panel::<$n, 2>(x: &Product<'_>, first: usize, c: *mut f32));
                    },
                    (_, $n) => for p in 0..x.panels {
                        unsafe { with_wide!(isa, panel::<$n, 1>(x: &Product<'_>, p: usize, c: *mut f32)) };
                    },)*
                    (_, rows) => unreachable!("{rows} rows in one product"),
                }
            };
        }
        rows!(1 2 3 4 5 6 7 8)
    }
}

/// `PANELS` panels from `first` on.
#[inline(always)]
unsafe fn panel<V: Sixteen, const ROWS: usize, const PANELS: usize>(x: &Product<'_>, first: usize, c: *mut f32) {
    // SAFETY: rows, panels and depth stay below what `run` checked.
    unsafe {
        let (a, b, c) = (x.a.as_ptr(), x.b.as_ptr().add(first * x.b_stride), c.add(first * PAGE));
        let mut acc = [[V::splat(0.0); PANELS]; ROWS];
        if x.accumulate {
            for r in 0..ROWS {
                for p in 0..PANELS {
                    acc[r][p] = V::load(c.add(r * x.c_stride + p * PAGE));
                }
            }
        }
        for k in 0..x.depth {
            let mut column = [V::splat(0.0); PANELS];
            for p in 0..PANELS {
                column[p] = V::load(b.add(p * x.b_stride + k * PAGE));
            }
            for r in 0..ROWS {
                let a = V::splat(*a.add(r * x.a_stride + k));
                for p in 0..PANELS {
                    acc[r][p] = a.mul_add(column[p], acc[r][p]);
                }
            }
        }
        for r in 0..ROWS {
            for p in 0..PANELS {
                acc[r][p].store(c.add(r * x.c_stride + p * PAGE));
            }
        }
    }
}

/// `⟨q, k⟩` of a few rows with the keys of up to [`KEY_PAGES`] pages.
pub(super) struct Keys<'a> {
    pub(super) dtype: KvType,
    /// `[rows × k_dim]`.
    pub(super) q: &'a [f32],
    pub(super) rows: usize,
    pub(super) k_dim: usize,
    /// The pages' key planes.
    pub(super) planes: &'a [&'a [u8]],
    /// What will be read next; as many.
    pub(super) ahead: &'a [&'a [u8]],
    /// `[rows × 16 · planes]`, rows `c_stride` apart.
    pub(super) c: &'a mut [f32],
    pub(super) c_stride: usize,
}

/// Calls `$f::<V, S, rows, n>($x, at, $c)` for all of `0..$count`, `n` at a time: as many as registers hold and as keep
/// enough chains in flight to hide the latency of a multiply-add.
macro_rules! side_by_side {
    ($isa:expr, $f:ident::<$S:ident>($x:ident: $X:ty, $count:expr, $c:ident);
     $($rows:literal: $two:literal $five:literal),*) => {{
        let mut at = 0;
        match ($isa, $x.rows) {
            $(#[cfg(target_arch = "x86_64")]
            (Isa::Avx2, $rows) => {
                while $count - at >= $two {
                    with_wide!(avx2 $f::<$S, $rows, $two>($x: $X, at: usize, $c: *mut f32));
                    at += $two;
                }
                while at < $count {
                    with_wide!(avx2 $f::<$S, $rows, 1>($x: $X, at: usize, $c: *mut f32));
                    at += 1;
                }
            }
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, $rows) => {
                while $count - at >= $five {
                    with_wide!(avx512 $f::<$S, $rows, $five>($x: $X, at: usize, $c: *mut f32));
                    at += $five;
                }
                while at < $count {
                    with_wide!(avx512 $f::<$S, $rows, 1>($x: $X, at: usize, $c: *mut f32));
                    at += 1;
                }
            })*
            $((Isa::Scalar, $rows) => {
                while at < $count {
                    with_wide!(scalar $f::<$S, $rows, 1>($x: $X, at: usize, $c: *mut f32));
                    at += 1;
                }
            })*
            (isa, rows) => unreachable!("{rows} rows read the cache on {isa}"),
        }
    }};
}

pub(super) use side_by_side;

impl Keys<'_> {
    /// Computes it.
    ///
    /// # Panics
    /// When a slice is shorter than the sizes say.
    pub(super) fn run(self, isa: Isa) {
        let n = self.planes.len();
        let bytes = plane_bytes(self.dtype, self.k_dim);
        assert!(self.rows * self.k_dim <= self.q.len() && self.ahead.len() == n);
        assert!(self.planes.iter().all(|p| p.len() >= bytes));
        assert!((self.rows - 1) * self.c_stride + n * PAGE <= self.c.len());
        let c = self.c.as_mut_ptr();
        let x = &self;
        // SAFETY: the machine has what its `Isa` says; the assertions prove every access.
        unsafe {
            with_plain!(x.dtype, S => side_by_side!(isa, keys::<S>(x: &Keys<'_>, n, c);
                1: 2 4, 2: 2 4, 3: 1 4, 4: 1 2, 5: 1 2, 6: 1 2))
        }
    }
}

/// Bytes that products read of a plane of `elements` numbers per position.
pub(super) fn plane_bytes(dtype: KvType, elements: usize) -> usize {
    match dtype {
        KvType::F32 => elements * PAGE * 4,
        KvType::I16 | KvType::F16 | KvType::BF16 => elements * PAGE * 2,
        KvType::Q8_0 => elements.div_ceil(BLOCK) * PAGE * 34,
        KvType::Q4_0 => elements.div_ceil(BLOCK) * PAGE * 18,
    }
}

#[inline(always)]
unsafe fn keys<V: Sixteen, S: Plain, const ROWS: usize, const N: usize>(x: &Keys<'_>, page: usize, c: *mut f32) {
    // SAFETY: pages, rows and depth stay below what `run` checked.
    unsafe {
        let planes: [*const u8; N] = std::array::from_fn(|n| x.planes[page + n].as_ptr());
        let ahead: [*const u8; N] = std::array::from_fn(|n| x.ahead[page + n].as_ptr());
        let (q, c) = (x.q.as_ptr(), c.add(page * PAGE));
        let mut acc = [[V::splat(0.0); N]; ROWS];
        // A macro: intrinsics in a closure become calls.
        macro_rules! step {
            ($d:expr) => {
                let mut b = [V::splat(0.0); N];
                for n in 0..N {
                    if $d * S::ROW % 64 == 0 {
                        V::prefetch(ahead[n].wrapping_add($d * S::ROW));
                    }
                    b[n] = S::key::<V>(planes[n], $d);
                }
                for r in 0..ROWS {
                    let q = V::splat(*q.add(r * x.k_dim + $d));
                    for n in 0..N {
                        acc[r][n] = q.mul_add(b[n], acc[r][n]);
                    }
                }
            };
        }
        for d in (0..x.k_dim / 4 * 4).step_by(4) {
            step!(d);
            step!(d + 1);
            step!(d + 2);
            step!(d + 3);
        }
        for d in x.k_dim / 4 * 4..x.k_dim {
            step!(d);
        }
        for r in 0..ROWS {
            for n in 0..N {
                acc[r][n].store(c.add(r * x.c_stride + n * PAGE));
            }
        }
    }
}

/// `C += weights · values` of a few rows and the values of some pages.
pub(super) struct Values<'a> {
    pub(super) dtype: KvType,
    /// `[rows × 16 · planes]`, rows `w_stride` apart.
    pub(super) w: &'a [f32],
    pub(super) w_stride: usize,
    pub(super) rows: usize,
    /// The pages' value planes.
    pub(super) planes: &'a [&'a [u8]],
    /// What to ask for meanwhile; as many.
    pub(super) ahead: &'a [&'a [u8]],
    /// Panels of 16 elements, an even number.
    pub(super) panels: usize,
    /// `[rows × 16 · panels]`, dense.
    pub(super) c: &'a mut [f32],
}

impl Values<'_> {
    /// Computes it.
    ///
    /// # Panics
    /// When a slice is shorter than the sizes say.
    pub(super) fn run(self, isa: Isa) {
        let n = self.planes.len();
        let bytes = plane_bytes(self.dtype, self.panels * PAGE);
        assert!((self.rows - 1) * self.w_stride + n * PAGE <= self.w.len() && self.ahead.len() == n);
        assert!(self.planes.iter().all(|p| p.len() >= bytes));
        assert!(self.rows * self.panels * PAGE <= self.c.len());
        let c = self.c.as_mut_ptr();
        let x = &self;
        // SAFETY: the machine has what its `Isa` says; the assertions prove every access.
        unsafe {
            with_source!(x.dtype, S => side_by_side!(isa, values::<S>(x: &Values<'_>, x.panels, c);
                1: 2 4, 2: 2 4, 3: 2 4, 4: 1 4, 5: 1 2, 6: 1 2))
        }
    }
}

#[inline(always)]
unsafe fn values<V: Sixteen, S: Source, const ROWS: usize, const N: usize>(x: &Values<'_>, panel: usize, c: *mut f32) {
    // SAFETY: pages, panels and rows stay below what `run` checked.
    unsafe {
        let c = c.add(panel * PAGE);
        let stride = x.panels * PAGE;
        let mut acc = [[V::splat(0.0); N]; ROWS];
        for r in 0..ROWS {
            for n in 0..N {
                acc[r][n] = V::load(c.add(r * stride + n * PAGE));
            }
        }
        for (page, (plane, ahead)) in x.planes.iter().zip(x.ahead).enumerate() {
            let (plane, w) = (plane.as_ptr(), x.w.as_ptr().add(page * PAGE));
            // Weights times scales, where there are any. Two panels have the same, but each its own copy: a multiply-add
            // that reads its factor from memory is faster than two that share a register.
            let mut scaled = [[[0f32; PAGE]; N]; ROWS];
            if S::SCALED > 0 {
                for n in 0..N {
                    let scales = V::from_f16(plane.add((panel + n) / 2 * S::SCALED * PAGE));
                    for r in 0..ROWS {
                        V::load(w.add(r * x.w_stride)).mul(scales).store(scaled[r][n].as_mut_ptr());
                    }
                }
            }
            // Known to the compiler where panels come in pairs.
            let second = |n: usize| if N.is_multiple_of(2) { n % 2 == 1 } else { (panel + n) % 2 == 1 };
            let blocks: [*const u8; N] = std::array::from_fn(|n| S::values(plane, (panel + n) / 2));
            for slot in 0..PAGE {
                let mut b = [V::splat(0.0); N];
                for n in 0..N {
                    let at = (2 * slot + n % 2) * S::ROW;
                    if at.is_multiple_of(64) {
                        V::prefetch(ahead.as_ptr().wrapping_add(blocks[n].offset_from_unsigned(plane) + at));
                    }
                    b[n] = S::value::<V>(blocks[n], slot, second(n));
                }
                for r in 0..ROWS {
                    for n in 0..N {
                        let w = if S::SCALED > 0 { scaled[r][n][slot] } else { *w.add(r * x.w_stride + slot) };
                        acc[r][n] = V::splat(w).mul_add(b[n], acc[r][n]);
                    }
                }
            }
        }
        for r in 0..ROWS {
            for n in 0..N {
                acc[r][n].store(c.add(r * stride + n * PAGE));
            }
        }
    }
}
