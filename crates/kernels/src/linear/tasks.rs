//! Cutting products into tasks for the pool.

use super::{
    Input, Routes, Sums, Weights, float,
    layout::ROWS,
    quant::{self, Form, Slab},
};
use crate::{
    isa::Isa,
    pool::{Parts, Pool},
};
use std::ops::Range;

/// Input rows that one task takes at most: their sums with one panel lie on the stack, their blocks in the L2 cache.
pub(super) const MAX_ROWS: usize = 128;
/// Weight bytes that one task reads at least, so that handing it out costs little, and at most with few input rows.
const BYTES: Range<usize> = 24 << 10..256 << 10;
/// Tasks for each thread, with few input rows: fewer read longer stretches of memory, more even out the threads.
const TASKS: usize = 8;
/// Panels of one task when there are many input rows.
const MAX_PANELS: usize = 4;

/// One product: `y[t * stride + r] = Σ_k x[t, k] · w[r, k] (+ bias[r])`.
pub struct Product<'a> {
    /// The weights `[rows, cols]`, or a stack of them.
    pub w: &'a Weights,
    /// One number for each row of the weights (for each row of each expert).
    pub bias: Option<&'a [f32]>,
    /// Where the sums go; begin the slice at the first row to write.
    pub y: &'a mut [f32],
    /// Elements from one output row to the next, at least `w.rows()`.
    pub stride: usize,
}

/// Which input row a slot of [`Routes`] reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// The row of the slot's token: gate and up.
    Token,
    /// The row with the slot's number: down.
    Slot,
}

/// Runs the products of one input in one parallel region.
///
/// # Panics
/// When a product's shapes do not fit: columns unlike the input's, an output or a bias too short, a stack of experts.
pub fn linear(pool: &Pool, isa: Isa, input: &mut Input, products: &mut [Product]) {
    let rows = input.rows;
    let threads = pool.threads();
    let jobs = |p: &Product| {
        assert!(p.w.experts() == 1, "a stack of experts needs routes");
        check(p, input.cols, rows);
        Job::new(p.w, rows, threads).tasks()
    };
    let total = products.iter().map(jobs).sum();
    for p in &*products {
        input.prepare(pool, isa, Form::of(p.w.dtype()));
    }
    let input = &*input;
    let outs = outs(products);
    pool.run(total, |mut i| {
        for out in outs.iter().flatten() {
            let job = Job::new(out.w, rows, threads);
            if i < job.tasks() {
                let (panels, range) = job.task(i);
                return out.run(isa, input, 0, panels, &mut range.map(|t| (t, t)));
            }
            i -= job.tasks();
        }
    });
}

/// Runs products with stacks of experts: output row `slot` is the product of the slot's input row with the matrix of
/// the expert it goes to.
///
/// # Panics
/// As [`linear`], and when routes and weights disagree about the number of experts.
pub fn experts(pool: &Pool, isa: Isa, input: &mut Input, from: From, routes: &Routes, products: &mut [Product]) {
    let needed = match from {
        From::Token => routes.slots() / routes.per_token().max(1),
        From::Slot => routes.slots(),
    };
    assert!(input.rows >= needed, "routes ask for more rows than the input has");
    let threads = pool.threads();
    let jobs = |p: &Product| {
        assert!(p.w.experts() == routes.experts(), "routes and weights disagree about the number of experts");
        check(p, input.cols, routes.slots());
        (0..routes.experts()).map(|e| Job::new(p.w, routes.bucket(e).len(), threads).tasks()).sum::<usize>()
    };
    let total = products.iter().map(jobs).sum();
    for p in &*products {
        input.prepare(pool, isa, Form::of(p.w.dtype()));
    }
    let input = &*input;
    let outs = outs(products);
    pool.run(total, |mut i| {
        for out in outs.iter().flatten() {
            for e in 0..routes.experts() {
                let bucket = routes.bucket(e);
                let job = Job::new(out.w, bucket.len(), threads);
                if i < job.tasks() {
                    let (panels, range) = job.task(i);
                    let rows = bucket[range].iter().map(|&slot| match from {
                        From::Token => (slot as usize / routes.per_token(), slot as usize),
                        From::Slot => (slot as usize, slot as usize),
                    });
                    return out.run(isa, input, e, panels, &mut { rows });
                }
                i -= job.tasks();
            }
        }
    });
}

fn check(p: &Product, cols: usize, rows: usize) {
    assert!(p.w.cols() == cols, "weights of {} columns for an input of {cols}", p.w.cols());
    assert!(p.stride >= p.w.rows(), "output rows overlap");
    assert!(rows == 0 || (rows - 1) * p.stride + p.w.rows() <= p.y.len(), "an output shorter than its rows");
    assert!(p.bias.is_none_or(|b| b.len() == p.w.experts() * p.w.rows()), "a bias unlike its rows");
}

/// Products that one call takes without allocating.
const MAX_PRODUCTS: usize = 8;

fn outs<'a>(products: &'a mut [Product]) -> [Option<Out<'a>>; MAX_PRODUCTS] {
    assert!(products.len() <= MAX_PRODUCTS, "more than {MAX_PRODUCTS} products in one call");
    let mut products = products.iter_mut();
    std::array::from_fn(|_| products.next().map(|p| Out { w: p.w, bias: p.bias, y: Parts::new(p.y), stride: p.stride }))
}

/// How one matrix and its input rows are cut: groups of panels × groups of rows, panels running faster so that a
/// thread meets the same input rows again.
struct Job {
    panels: usize,
    rows: usize,
    group: usize,
}

impl Job {
    fn new(w: &Weights, rows: usize, threads: usize) -> Job {
        let (panels, panel_bytes) = (w.panels(), (w.row_bytes() * ROWS).max(1));
        let group = if rows < 8 {
            let share = panels * panel_bytes / (threads * TASKS);
            share.clamp(BYTES.start, BYTES.end) / panel_bytes
        } else {
            MAX_PANELS.max(BYTES.start / (panel_bytes * rows.min(MAX_ROWS)))
        };
        Job { panels, rows, group: group.clamp(1, panels.max(1)) }
    }

    fn tasks(&self) -> usize {
        self.panels.div_ceil(self.group) * self.rows.div_ceil(MAX_ROWS)
    }

    /// Panels and input rows of task `i`.
    fn task(&self, i: usize) -> (Range<usize>, Range<usize>) {
        let groups = self.panels.div_ceil(self.group);
        let (panel, row) = (i % groups * self.group, i / groups * MAX_ROWS);
        (panel..(panel + self.group).min(self.panels), row..(row + MAX_ROWS).min(self.rows))
    }
}

struct Out<'a> {
    w: &'a Weights,
    bias: Option<&'a [f32]>,
    y: Parts<'a, f32>,
    stride: usize,
}

impl Out<'_> {
    /// One task: `rows` gives pairs of input row and output row.
    fn run(
        &self,
        isa: Isa,
        input: &Input,
        expert: usize,
        panels: Range<usize>,
        rows: &mut dyn Iterator<Item = (usize, usize)>,
    ) {
        let (mut from, mut to, mut n) = ([0; MAX_ROWS], [0; MAX_ROWS], 0);
        for (i, (x, y)) in rows.enumerate() {
            (from[i], to[i], n) = (x, y, i + 1);
        }
        let (from, to) = (&from[..n], &to[..n]);
        match Form::of(self.w.dtype()) {
            Form::Float => {
                let x = gather(from, |t| input.row(t));
                self.each(expert, panels, to, |panel, sums| float::panel(isa, self.w.dtype(), panel, &x[..n], sums));
            }
            Form::Decoded => {
                let x = gather(from, |t| input.row(t));
                self.each(expert, panels, to, |panel, sums| float::decoded(isa, self.w.dtype(), panel, &x[..n], sums));
            }
            Form::Fine => {
                let (x, mut slab) = (gather(from, |t| input.fine(t)), Slab::new());
                self.each(expert, panels, to, |panel, sums| {
                    quant::fine(isa, self.w.dtype(), &mut slab, panel, &x[..n], sums);
                });
            }
            Form::Super => {
                let (x, mut slab) = (gather(from, |t| input.superblocks(t)), Slab::new());
                self.each(expert, panels, to, |panel, sums| {
                    quant::superblock(isa, self.w.dtype(), &mut slab, panel, &x[..n], sums);
                });
            }
        }
    }

    /// Panel after panel: sums from 0, what `add` adds to them, and their way out.
    fn each(&self, expert: usize, panels: Range<usize>, to: &[usize], mut add: impl FnMut(&[u8], &mut [Sums])) {
        let mut all = [[0.0; ROWS]; MAX_ROWS];
        let sums = &mut all[..to.len()];
        for panel in panels {
            sums.fill([0.0; ROWS]);
            self.w.with_panel(expert, panel, |bytes| add(bytes, sums));
            self.write(expert, panel, to, sums);
        }
    }

    /// Adds the bias and writes the sums of one panel.
    fn write(&self, expert: usize, panel: usize, to: &[usize], sums: &[Sums]) {
        let (first, rows) = (panel * ROWS, self.w.rows());
        let n = ROWS.min(rows - first);
        let bias = self.bias.map(|b| &b[expert * rows + first..][..n]);
        for (&t, sums) in to.iter().zip(sums) {
            #[expect(unsafe_code, reason = "tasks write disjoint parts")]
            // SAFETY: no two tasks share both a panel and an output row.
            let y = unsafe { self.y.part(t * self.stride + first, n) };
            match bias {
                Some(bias) => y.iter_mut().zip(sums).zip(bias).for_each(|((y, s), b)| *y = s + b),
                None => y.copy_from_slice(&sums[..n]),
            }
        }
    }
}

/// The rows numbered `from`; what is left of the array stays empty.
fn gather<'a, T>(from: &[usize], row: impl Fn(usize) -> &'a [T]) -> [&'a [T]; MAX_ROWS] {
    let mut rows: [&[T]; MAX_ROWS] = [&[]; MAX_ROWS];
    for (to, &t) in rows.iter_mut().zip(from) {
        *to = row(t);
    }
    rows
}
