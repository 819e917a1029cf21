//! `C = Σ A · B` in f32, where B is a weight of any type, read along its rows or its columns, or an activation.
//!
//! Each element of C is one chain of fused multiply-adds: through the terms in order, through each term's `k` in order,
//! after what C began with. How C is cut into tasks therefore changes nothing.

use super::Matrix;
use crate::{
    isa::Isa,
    linear::float_panel,
    pool::{Parts, Pool},
};
use std::{cell::RefCell, ops::Range};

/// Columns of a panel: the micro-kernel's width.
const PANEL: usize = 16;
/// Columns of C that a task computes at least, a multiple of every type's block.
pub(super) const COLUMNS: usize = 256;
/// Steps of `k` between two visits of C: a panel of them stays in the first cache. A multiple of every type's block.
const STRETCH: usize = 256;
/// Rows of C whose sums are held at a time.
const ROWS: usize = 128;
/// Rows of C for which decoding B again is worth another task.
const WORTH: usize = 512;

/// One addend of a product: `A · B` with A `[rows × k]`.
pub struct Term<'a> {
    /// The first row of A; further ones follow `stride` apart.
    pub a: &'a [f32],
    /// Elements from one row of A to the next.
    pub stride: usize,
    /// Elements of A's row that take part.
    pub k: usize,
    /// `[k × columns]`
    pub b: &'a dyn Panels,
}

/// What C begins with.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// 0.
    Zero,
    /// The same row everywhere.
    Row(&'a [f32]),
    /// What it holds: the product is added.
    Held,
}

/// The right side of a product, handed out in panels of 16 columns.
pub trait Panels: Sync {
    /// Rows `k` of columns `columns` to `out`, panel by panel, `[panels][k][16]`; 0 beyond the last column. Both ranges
    /// begin at multiples of 256 and end at one or at the matrix's end; `columns` is 256 at most.
    fn fill(&self, columns: Range<usize>, k: Range<usize>, out: &mut [f32]);
}

/// `B = W`: column j of B is column j of W. Of dX = dY · W.
pub struct ByColumns<'a>(pub Matrix<'a>);

/// `B = Wᵀ`: column j of B is row j of W. Of Y = X · Wᵀ.
pub struct ByRows<'a>(pub Matrix<'a>);

impl Panels for ByColumns<'_> {
    fn fill(&self, columns: Range<usize>, k: Range<usize>, out: &mut [f32]) {
        let mut row = [0.0; COLUMNS];
        let (width, steps) = (columns.len(), k.len());
        for (i, k) in k.enumerate() {
            let row = &mut row[..width];
            self.0.read(k, columns.clone(), row);
            for (j, part) in row.chunks(PANEL).enumerate() {
                let to = &mut out[(j * steps + i) * PANEL..][..PANEL];
                to[..part.len()].copy_from_slice(part);
                to[part.len()..].fill(0.0);
            }
        }
    }
}

impl Panels for ByRows<'_> {
    fn fill(&self, columns: Range<usize>, k: Range<usize>, out: &mut [f32]) {
        let steps = k.len();
        let mut rows = [[0.0; STRETCH]; PANEL];
        for (j, panel) in out.chunks_exact_mut(steps * PANEL).take(columns.len().div_ceil(PANEL)).enumerate() {
            let first = columns.start + j * PANEL;
            for (r, row) in rows.iter_mut().enumerate() {
                match first + r < columns.end {
                    true => self.0.read(first + r, k.clone(), &mut row[..steps]),
                    false => row.fill(0.0),
                }
            }
            for (i, to) in panel.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
                *to = std::array::from_fn(|r| rows[r][i]);
            }
        }
    }
}

thread_local! {
    static PANELS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `C = start + Σ A · B`, C `[rows × columns]` with rows `stride` apart.
///
/// # Panics
/// When a slice is too short for its shape.
pub fn product(
    pool: &Pool,
    isa: Isa,
    terms: &[Term<'_>],
    start: Start<'_>,
    (c, stride): (&mut [f32], usize),
    (rows, columns): (usize, usize),
) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(c.len() >= (rows - 1) * stride + columns, "C is too short");
    for t in terms {
        assert!(t.k == 0 || t.a.len() >= (rows - 1) * t.stride + t.k, "A is too short");
    }
    let groups = columns.div_ceil(COLUMNS);
    let wanted = (4 * pool.threads()).div_ceil(groups);
    let piece = rows.div_ceil(wanted).next_multiple_of(ROWS).max(WORTH.min(rows.next_multiple_of(ROWS)));
    let pieces = rows.div_ceil(piece);
    let c = Parts::new(c);
    pool.run(groups * pieces, |task| {
        let (group, piece_at) = (task / pieces, task % pieces);
        let columns = group * COLUMNS..columns.min((group + 1) * COLUMNS);
        let rows = piece_at * piece..rows.min((piece_at + 1) * piece);
        PANELS.with_borrow_mut(|panels| {
            panels.resize(COLUMNS * STRETCH, 0.0);
            part(isa, terms, start, (&c, stride), rows, columns, panels);
        });
    });
}

/// Rows and columns of C that belong to one task.
fn part(
    isa: Isa,
    terms: &[Term<'_>],
    start: Start<'_>,
    (c, stride): (&Parts<'_, f32>, usize),
    rows: Range<usize>,
    columns: Range<usize>,
    panels: &mut [f32],
) {
    let mut first = true;
    for t in terms.iter().filter(|t| t.k > 0) {
        for k in (0..t.k).step_by(STRETCH) {
            let k = k..t.k.min(k + STRETCH);
            t.b.fill(columns.clone(), k.clone(), panels);
            for block in rows.clone().step_by(ROWS) {
                let block = block..rows.end.min(block + ROWS);
                let a: [&[f32]; ROWS] = std::array::from_fn(|i| match block.start + i < block.end {
                    true => &t.a[(block.start + i) * t.stride..][k.clone()],
                    false => &[],
                });
                let begin = if first { start } else { Start::Held };
                for (panel, column) in panels.chunks_exact(k.len() * PANEL).zip(columns.clone().step_by(PANEL)) {
                    let width = PANEL.min(columns.end - column);
                    tile(
                        isa,
                        panel,
                        &a[..block.len()],
                        begin,
                        |t| {
                            #[expect(unsafe_code, reason = "tasks write disjoint parts of C")]
                            // SAFETY: rows and columns of C belong to one task; one row's part is alive at a time.
                            unsafe {
                                c.part((block.start + t) * stride + column, width)
                            }
                        },
                        column,
                    );
                }
            }
            first = false;
        }
    }
    if first {
        for row in rows {
            #[expect(unsafe_code, reason = "tasks write disjoint parts of C")]
            // SAFETY: as above.
            let out = unsafe { c.part(row * stride + columns.start, columns.len()) };
            match start {
                Start::Zero => out.fill(0.0),
                Start::Row(r) => out.copy_from_slice(&r[columns.clone()]),
                Start::Held => {}
            }
        }
    }
}

/// One panel for up to [`ROWS`] rows; `out(t)` is row t's part of C.
fn tile<'c>(
    isa: Isa,
    panel: &[f32],
    a: &[&[f32]],
    start: Start<'_>,
    out: impl Fn(usize) -> &'c mut [f32],
    column: usize,
) {
    let mut sums = [[0f32; PANEL]; ROWS];
    let sums = &mut sums[..a.len()];
    match start {
        Start::Zero => {}
        Start::Row(r) => {
            let width = PANEL.min(r.len() - column);
            sums.iter_mut().for_each(|s| s[..width].copy_from_slice(&r[column..column + width]));
        }
        Start::Held => {
            for (t, s) in sums.iter_mut().enumerate() {
                let c = out(t);
                s[..c.len()].copy_from_slice(c);
            }
        }
    }
    float_panel(isa, panel, a, sums);
    for (t, s) in sums.iter().enumerate() {
        let c = out(t);
        c.copy_from_slice(&s[..c.len()]);
    }
}

/// `out[j, i] = factor · x[i, j]` with x `[rows × cols]`.
pub fn transpose(pool: &Pool, x: &[f32], (rows, cols): (usize, usize), factor: f32, out: &mut [f32]) {
    const BLOCK: usize = 32;
    assert!(x.len() >= rows * cols && out.len() >= rows * cols, "too short");
    let out = Parts::new(out);
    pool.run(cols.div_ceil(BLOCK), |task| {
        let columns = task * BLOCK..cols.min((task + 1) * BLOCK);
        #[expect(unsafe_code, reason = "tasks write disjoint rows")]
        // SAFETY: the rows of the transpose belong to one task.
        let out = unsafe { out.part(columns.start * rows, columns.len() * rows) };
        for i in (0..rows).step_by(BLOCK) {
            for (out, j) in out.chunks_exact_mut(rows).zip(columns.clone()) {
                for (i, o) in (i..rows.min(i + BLOCK)).zip(&mut out[i..]) {
                    *o = factor * x[i * cols + j];
                }
            }
        }
    });
}
