//! Keys and values of 16 bits, which are multiplied as integers: an instruction takes twice as many of them as of floats, and
//! their sum is exact.
//!
//! A key, like a query, is so scaled that its norm is at most 2^15.5 and its largest element an i16. A product of two is then
//! below 2^31 (Cauchy–Schwarz). A value's largest element is an i16. The weights that a row gives to the values of a split are
//! multiplied by the values' scales and then so scaled that those of any page add up to less than 2^15, so that their products
//! with values fit as well; pages are added up as floats, in order.
#![expect(clippy::needless_range_loop, reason = "rows and panels each index several arrays")]
#![expect(unsafe_code, reason = "vector instructions chosen at run time")]

use std::hint::black_box;

use super::KvType;
use super::cache::{PAGE, pair_index, round};
use super::product::{plane_bytes, side_by_side};
use super::source::{Coded, I16, with_wide};
use super::wide::Sixteen;
use crate::isa::Isa;
use crate::lanes::{sum_of_maxima, sum_squares_and_magnitude};
use crate::twin::twin;

/// Bytes of the scales that stand before a plane of keys: the keys', then the values'.
pub(super) const SCALES: usize = 2 * 4 * PAGE;

/// Largest integer.
const LARGEST: f32 = 32_767.0;
/// Norm of a key: rounding adds at most half the root of its length, so that up to 65,536 elements stay below √2^31.
const NORM: f32 = 46_200.0;
/// What a page's weights may come to, and so the largest of them; rounding adds at most 8.
const WEIGHT: f32 = 32_750.0;

/// What the integers that stand for a vector are worth.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    /// One of them; NaN for a vector that is not finite, whose integers are 0.
    pub(super) value: f32,
    factor: f32,
}

impl Scale {
    /// Of a key or a query, whose norm is bounded too, or of a value.
    #[inline(always)]
    pub(super) fn of(x: &[f32], is_key: bool) -> Scale {
        let (squares, largest) = sum_squares_and_magnitude(x);
        if squares < f32::MIN_POSITIVE {
            return Scale { value: 0.0, factor: 0.0 };
        }
        if !squares.is_finite() {
            return Scale { value: f32::NAN, factor: 0.0 };
        }
        let (by_norm, by_largest) = (NORM / squares.sqrt(), LARGEST / largest);
        let factor = if is_key && by_norm < by_largest { by_norm } else { by_largest };
        Scale { value: 1.0 / factor, factor }
    }

    #[inline(always)]
    pub(super) fn integer(&self, x: f32) -> i16 {
        let x = if self.factor == 0.0 { 0.0 } else { x * self.factor };
        round(x.clamp(-LARGEST, LARGEST)) as i16
    }

    /// Up to `N` numbers as integers, then zeros.
    #[inline(always)]
    pub(super) fn integers<const N: usize>(&self, x: &[f32]) -> [i16; N] {
        let mut integers = [0; N];
        for (integer, x) in integers.iter_mut().zip(x) {
            *integer = self.integer(*x);
        }
        integers
    }
}

/// What a page's keys are worth, or its values, where the plane of its keys is given.
pub(super) fn scales(plane: &[u8], of_keys: bool) -> [f32; PAGE] {
    let kinds = plane[..SCALES].as_chunks::<4>().0.as_chunks::<PAGE>().0;
    kinds[usize::from(!of_keys)].map(f32::from_le_bytes)
}

/// Two integers in a word, the first in the lower half.
#[inline(always)]
pub(super) fn word(a: i16, b: i16) -> i32 {
    i32::from(a) & 0xffff | i32::from(b) << 16
}

twin! {
    /// Stores one vector at `slot` of a plane, its scale at `slot` of `to`.
    pub(super) fn store(x: &[f32], to: &mut [u8], plane: &mut [u8], slot: usize, is_key: bool) {
        let scale = Scale::of(x, is_key);
        to.as_chunks_mut::<4>().0[slot] = scale.value.to_le_bytes();
        let integers = plane.as_chunks_mut::<2>().0;
        for (d, x) in x.iter().enumerate() {
            integers[pair_index(d, slot, is_key)] = scale.integer(*x).to_le_bytes();
        }
    }
}

/// The scales of a page's 16 vectors, which are also written to `to`.
#[inline(always)]
fn scaled(x: &[f32], width: usize, to: &mut [u8], is_key: bool) -> [Scale; PAGE] {
    let mut scales = [Scale { value: 0.0, factor: 0.0 }; PAGE];
    for ((scale, x), to) in scales.iter_mut().zip(x.chunks_exact(width.max(1))).zip(to.as_chunks_mut::<4>().0) {
        *scale = Scale::of(x, is_key);
        *to = scale.value.to_le_bytes();
    }
    scales
}

twin! {
    /// Stores the keys of a page's 16 positions, which follow each other in `x`.
    pub(super) fn store_keys(x: &[f32], to: &mut [u8], plane: &mut [u8]) {
        let width = x.len() / PAGE;
        let scales = scaled(x, width, to, true);
        for (c, rows) in plane.chunks_mut(4 * PAGE * PAGE).enumerate() {
            // Two positions make a word of 64 bits, so that the compiler turns the matrix with shuffles.
            let mut twos = [[0u64; PAGE]; PAGE / 2];
            for (slot, scale) in scales.iter().enumerate() {
                let x = &x[slot * width..][c * 2 * PAGE..width.min((c + 1) * 2 * PAGE)];
                let integers = scale.integers::<{ 2 * PAGE }>(x);
                for (two, [a, b]) in twos[slot / 2].iter_mut().zip(integers.as_chunks::<2>().0) {
                    *two |= u64::from(word(*a, *b) as u32) << (slot % 2 * 32);
                }
            }
            for (w, row) in rows.as_chunks_mut::<8>().0.as_chunks_mut::<{ PAGE / 2 }>().0.iter_mut().enumerate() {
                for (to, twos) in row.iter_mut().zip(&twos) {
                    *to = twos[w].to_le_bytes();
                }
            }
        }
    }
}

twin! {
    /// Stores the values of a page's 16 positions, which follow each other in `x`.
    pub(super) fn store_values(x: &[f32], to: &mut [u8], plane: &mut [u8]) {
        let width = x.len() / PAGE;
        let scales = scaled(x, width, to, false);
        for (c, panel) in plane.chunks_exact_mut(2 * PAGE * PAGE).take(width.div_ceil(PAGE)).enumerate() {
            let elements = c * PAGE..width.min((c + 1) * PAGE);
            for (two, row) in panel.chunks_exact_mut(4 * PAGE).enumerate() {
                let mut words = [0; PAGE];
                for slot in [2 * two, 2 * two + 1] {
                    let integers = scales[slot].integers::<PAGE>(&x[slot * width..][elements.clone()]);
                    for (word, integer) in words.iter_mut().zip(integers) {
                        *word |= (i32::from(integer) & 0xffff) << (slot % 2 * 16);
                    }
                }
                for (to, word) in row.as_chunks_mut::<4>().0.iter_mut().zip(words) {
                    *to = word.to_le_bytes();
                }
            }
        }
    }
}

twin! {
    /// `weights` times `scales`, which are finite, as integers, of whole pages; returns what one is worth.
    pub(super) fn weigh(weights: &mut [f32], scales: &[f32], codes: &mut [i16]) -> f32 {
        for (weight, scale) in weights.iter_mut().zip(scales) {
            *weight *= scale;
        }
        let most = sum_of_maxima(weights);
        let factor = if most >= f32::MIN_POSITIVE { WEIGHT / most } else { 0.0 };
        for (code, weight) in codes.iter_mut().zip(&*weights) {
            *code = round(weight * factor) as i16;
        }
        most / WEIGHT
    }
}

/// `C += weights · values` of a few rows and the values of some pages, both as integers.
pub(super) struct Values<'a> {
    /// `[rows × 16 · planes]`, rows `w_stride` apart.
    pub(super) w: &'a [i16],
    pub(super) w_stride: usize,
    /// At most [`max_rows`](super::product::max_rows).
    pub(super) rows: usize,
    /// The pages' value planes.
    pub(super) planes: &'a [&'a [u8]],
    /// What will be read next, where that is to be asked for.
    pub(super) ahead: Option<&'a [u8]>,
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
        let bytes = plane_bytes(KvType::I16, self.panels * PAGE);
        assert!((self.rows - 1) * self.w_stride + n * PAGE <= self.w.len());
        assert!(self.planes.iter().all(|p| p.len() >= bytes));
        assert!(self.rows * self.panels * PAGE <= self.c.len());
        let c = self.c.as_mut_ptr();
        let x = &self;
        // SAFETY: the machine has what its `Isa` says; the assertions prove every access.
        unsafe {
            side_by_side!(isa, values::<I16>(x: &Values<'_>, x.panels, c);
                1: 4 8, 2: 2 8, 3: 1 4, 4: 1 2, 5: 1 2, 6: 1 2, 7: 1 2, 8: 1 2)
        }
    }
}

#[inline(always)]
unsafe fn values<V: Sixteen, S: Coded, const ROWS: usize, const N: usize>(x: &Values<'_>, panel: usize, c: *mut f32) {
    // SAFETY: pages, panels and rows stay below what `run` checked; a word of weights may lie anywhere.
    unsafe {
        let c = c.add(panel * PAGE);
        let stride = x.panels * PAGE;
        // Words of a panel, pairs of positions; where the compiler knows their number it splits each step of a sum in two.
        let words = black_box(PAGE / 2);
        for (page, plane) in x.planes.iter().enumerate() {
            let w = x.w.as_ptr().add(page * PAGE);
            let mut sums = [[V::sums(0); N]; ROWS];
            // A macro: intrinsics in a closure become calls.
            macro_rules! step {
                ($n:expr, $word:expr) => {
                    let at = (panel + $n) * words + $word;
                    if let Some(ahead) = x.ahead {
                        V::prefetch(ahead.as_ptr().wrapping_add(at * S::ROW));
                    }
                    let b = S::codes::<V>(plane.as_ptr(), at);
                    for r in 0..ROWS {
                        let w = w.add(r * x.w_stride + 2 * $word).cast::<i32>().read_unaligned();
                        sums[r][$n] = S::dot::<V>(sums[r][$n], b, w);
                    }
                };
            }
            // Few rows read memory in order; many have enough to do to keep as many sums in flight as there are registers.
            if ROWS <= 2 {
                for n in 0..N {
                    for word in 0..words {
                        step!(n, word);
                    }
                }
            } else {
                for word in 0..words {
                    for n in 0..N {
                        step!(n, word);
                    }
                }
            }
            for r in 0..ROWS {
                for n in 0..N {
                    let c = c.add(r * stride + n * PAGE);
                    V::load(c).add(V::from_sums(sums[r][n])).store(c);
                }
            }
        }
    }
}

twin! {
    /// The first elements of a key plane as a value plane, as many as `out` has room for.
    pub(super) fn values_from_keys(plane: &[u8], out: &mut [u8]) {
        let keys = plane[SCALES..].as_chunks::<2>().0;
        let elements = out.len().min(2 * keys.len()) / (2 * PAGE);
        let values = out.as_chunks_mut::<2>().0;
        for d in 0..elements {
            for slot in 0..PAGE {
                values[pair_index(d, slot, false)] = keys[pair_index(d, slot, true)];
            }
        }
    }
}
