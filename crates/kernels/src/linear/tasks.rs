//! Cutting products into tasks for the pool.

use super::{
    Done, Input, Routes, Sums, Weights, float,
    layout::ROWS,
    quant::{self, Form, Slab},
    rows8::{Block32, Block256, Wide},
};
use crate::{
    act::Glu,
    isa::Isa,
    pool::{Parts, Pool},
};
use half::bf16;
use std::{cell::RefCell, ops::Range};

/// Input rows that one task takes at most: their sums with one panel lie on the stack, their blocks in the L2 cache.
pub(super) const MAX_ROWS: usize = 192;
/// Weight bytes that one task reads at least, so that handing it out costs little, and at most with few input rows.
const BYTES: Range<usize> = 24 << 10..1 << 20;
/// Tasks for each thread, with few input rows: fewer read longer stretches of memory, more even out the threads.
const TASKS: usize = 4;
/// Input rows below which reading the weights is what a task is about.
const FEW_ROWS: usize = 64;
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

/// Two products whose results are joined before they are written: `y = act(gate) · up`.
pub struct Gated<'a> {
    /// Weights of the gate, and its bias.
    pub gate: (&'a Weights, Option<&'a [f32]>),
    /// The same of the other product, with as many rows.
    pub up: (&'a Weights, Option<&'a [f32]>),
    /// How they are joined.
    pub glu: Glu,
    /// Where the results go.
    pub y: &'a mut [f32],
    /// Elements from one output row to the next.
    pub stride: usize,
}

/// Runs the products of one input in one parallel region.
///
/// # Panics
/// When a product's shapes do not fit: columns unlike the input's, an output or a bias too short, a stack of experts.
pub fn linear(pool: &Pool, isa: Isa, input: &mut Input, products: &mut [Product]) {
    for p in &*products {
        check((p.w, p.bias), (&*p.y, p.stride), input.cols, input.rows);
    }
    plain(pool, isa, input, &outs(products));
}

/// Runs a gated product; the bytes are those of two products and [`Glu::apply`] on their results.
///
/// # Panics
/// As [`linear`], and when gate and up differ in rows.
pub fn gated(pool: &Pool, isa: Isa, input: &mut Input, g: &mut Gated) {
    check(g.gate, (&*g.y, g.stride), input.cols, input.rows);
    check(g.up, (&*g.y, g.stride), input.cols, input.rows);
    plain(pool, isa, input, &[Some(Out::gated(g))]);
}

fn plain(pool: &Pool, isa: Isa, input: &mut Input, outs: &[Option<Out>]) {
    let (rows, threads) = (input.rows, pool.threads());
    let total = outs.iter().flatten().map(|out| {
        assert!(out.w.experts() == 1, "a stack of experts needs routes");
        Job::new(out, rows, threads).tasks()
    });
    let total = total.sum();
    input.prepare(pool, isa, rows, outs.iter().flatten().flat_map(Out::weights));
    let input = &*input;
    pool.run(total, |mut i| {
        for out in outs.iter().flatten() {
            let job = Job::new(out, rows, threads);
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
    for p in &*products {
        check((p.w, p.bias), (&*p.y, p.stride), input.cols, routes.slots());
    }
    routed(pool, isa, input, from, routes, &outs(products));
}

/// Runs a gated product with stacks of experts, as [`gated`] and [`experts`].
///
/// # Panics
/// As those do.
pub fn gated_experts(pool: &Pool, isa: Isa, input: &mut Input, from: From, routes: &Routes, g: &mut Gated) {
    check(g.gate, (&*g.y, g.stride), input.cols, routes.slots());
    check(g.up, (&*g.y, g.stride), input.cols, routes.slots());
    routed(pool, isa, input, from, routes, &[Some(Out::gated(g))]);
}

fn routed(pool: &Pool, isa: Isa, input: &mut Input, from: From, routes: &Routes, outs: &[Option<Out>]) {
    let needed = match from {
        From::Token => routes.slots() / routes.per_token().max(1),
        From::Slot => routes.slots(),
    };
    assert!(input.rows >= needed, "routes ask for more rows than the input has");
    let threads = pool.threads();
    let jobs = |out: &Out| {
        assert!(out.w.experts() == routes.experts(), "routes and weights disagree about the number of experts");
        (0..routes.experts()).map(|e| Job::new(out, routes.bucket(e).len(), threads).tasks()).sum::<usize>()
    };
    let total = outs.iter().flatten().map(jobs).sum();
    input.prepare(pool, isa, routes.slots(), outs.iter().flatten().flat_map(Out::weights));
    let input = &*input;
    pool.run(total, |mut i| {
        for out in outs.iter().flatten() {
            for e in 0..routes.experts() {
                let bucket = routes.bucket(e);
                let job = Job::new(out, bucket.len(), threads);
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

fn check((w, bias): (&Weights, Option<&[f32]>), (y, stride): (&[f32], usize), cols: usize, rows: usize) {
    assert!(w.cols() == cols, "weights of {} columns for an input of {cols}", w.cols());
    assert!(stride >= w.rows(), "output rows overlap");
    assert!(rows == 0 || (rows - 1) * stride + w.rows() <= y.len(), "an output shorter than its rows");
    assert!(bias.is_none_or(|b| b.len() == w.experts() * w.rows()), "a bias unlike its rows");
}

/// Products that one call takes without allocating.
const MAX_PRODUCTS: usize = 8;

fn outs<'a>(products: &'a mut [Product]) -> [Option<Out<'a>>; MAX_PRODUCTS] {
    assert!(products.len() <= MAX_PRODUCTS, "more than {MAX_PRODUCTS} products in one call");
    let mut products = products.iter_mut();
    std::array::from_fn(|_| {
        products.next().map(|p| Out { w: p.w, bias: p.bias, up: None, y: Parts::new(p.y), stride: p.stride })
    })
}

/// How one matrix and its input rows are cut: groups of panels × groups of rows, panels running faster so that a
/// thread meets the same input rows again.
struct Job {
    panels: usize,
    rows: usize,
    group: usize,
}

impl Job {
    fn new(out: &Out, rows: usize, threads: usize) -> Job {
        let row_bytes = out.w.row_bytes() + out.up.as_ref().map_or(0, |up| up.w.row_bytes());
        let (panels, panel_bytes) = (out.w.panels(), (row_bytes * ROWS).max(1));
        let group = if rows < FEW_ROWS {
            let share = panels * panel_bytes / (threads * TASKS);
            if threads == 1 { panels } else { share.clamp(BYTES.start, BYTES.end) / panel_bytes }
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
    up: Option<Up<'a>>,
    y: Parts<'a, f32>,
    stride: usize,
}

/// The other half of a gated product.
struct Up<'a> {
    w: &'a Weights,
    bias: Option<&'a [f32]>,
    glu: Glu,
}

/// The input rows of a task in the form that its weights ask for.
enum Rows<'a> {
    Float([&'a [f32]; MAX_ROWS]),
    Half([&'a [bf16]; MAX_ROWS]),
    Fine([&'a [Block32]; MAX_ROWS]),
    Super([&'a [Block256]; MAX_ROWS]),
    Wide32([&'a [Wide<32>]; MAX_ROWS]),
    Wide256([&'a [Wide<256>]; MAX_ROWS]),
}

impl<'a> Rows<'a> {
    fn of(isa: Isa, input: &'a Input, w: &Weights, from: &[usize]) -> Rows<'a> {
        let wide = quant::in_16_bits(isa, w.dtype(), from.len());
        match w.form() {
            Form::Float | Form::Decoded => Rows::Float(gather(from, |t| input.row(t))),
            Form::Half => Rows::Half(gather(from, |t| input.half(t))),
            Form::Fine if wide => Rows::Wide32(gather(from, |t| input.wide32(t))),
            Form::Super if wide => Rows::Wide256(gather(from, |t| input.wide256(t))),
            Form::Fine => Rows::Fine(gather(from, |t| input.fine(t))),
            Form::Super => {
                let paired = quant::in_pairs(isa, w.dtype(), from.len());
                Rows::Super(gather(from, |t| input.superblocks(t, paired)))
            }
        }
    }

    /// Adds to `sums` the products of its first rows with a panel.
    fn add(&self, isa: Isa, w: &Weights, slab: &mut Slab, panel: &[u8], sums: &mut [Sums], done: &mut Done) {
        let n = sums.len();
        match (self, w.form()) {
            (Rows::Float(x), Form::Float) => float::panels(isa, w.dtype(), [panel], &x[..n], [sums], done),
            (Rows::Float(x), _) => float::decoded(isa, w.dtype(), panel, &x[..n], sums, done),
            (Rows::Half(x), _) => float::halves(isa, [panel], &x[..n], [sums], done),
            (Rows::Fine(x), _) => quant::fine(isa, w.dtype(), slab, panel, &x[..n], sums, done),
            (Rows::Super(x), _) => quant::superblock(isa, w.dtype(), slab, panel, &x[..n], sums, done),
            (Rows::Wide32(x), _) => quant::fine_wide(w.dtype(), slab, panel, &x[..n], sums, done),
            (Rows::Wide256(x), _) => quant::superblock_wide(w.dtype(), slab, panel, &x[..n], sums, done),
        }
    }
}

impl<'a> Out<'a> {
    fn gated(g: &'a mut Gated) -> Out<'a> {
        let ((w, bias), (up, up_bias)) = (g.gate, g.up);
        assert!(up.rows() == w.rows() && up.experts() == w.experts(), "a gate unlike what it gates");
        let up = Some(Up { w: up, bias: up_bias, glu: g.glu });
        Out { w, bias, up, y: Parts::new(g.y), stride: g.stride }
    }

    /// The weights that its input is multiplied with.
    fn weights(&self) -> impl Iterator<Item = &'a Weights> + use<'a> {
        [self.w].into_iter().chain(self.up.as_ref().map(|up| up.w))
    }

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
        let side = |panel| Side { w: self.w, bias: self.bias, expert, panel };
        let task = Task::of(isa, input, self.w, from);
        let Some(up) = &self.up else {
            let start = |panel| self.expect(panel, to);
            return task.each(panels, side, start, |panel, rows, sums| self.write(panel, &to[rows], sums));
        };
        let other = |panel| Side { w: up.w, bias: up.bias, expert, panel };
        if n >= FEW_ROWS && (up.w.dtype(), up.w.form()) == (self.w.dtype(), self.w.form()) {
            for panel in panels {
                self.expect(panel, to);
                task.sums(&side(panel), Some(&other(panel)), |rows, gate, sums| {
                    up.glu.apply(isa, gate.as_flattened_mut(), sums.as_flattened());
                    self.write(panel, &to[rows], gate);
                });
            }
            return;
        }
        // Not by turns: a machine that reads two stretches of memory at once reads slower.
        task.each(panels.clone(), side, |_| {}, |panel, rows, sums| self.write(panel, &to[rows], sums));
        Task::of(isa, input, up.w, from).each(
            panels,
            other,
            |_| {},
            |panel, rows, sums| self.join(up.glu, isa, panel, &to[rows], sums),
        );
    }

    /// Writes the sums of one panel.
    fn write(&self, panel: usize, to: &[usize], sums: &[Sums]) {
        let n = self.w.panel_rows(panel);
        let rows = to.iter().zip(sums);
        // A copy of known length is no call.
        if n == ROWS {
            rows.for_each(|(&t, sums)| self.part(panel, t, n).as_chunks_mut::<ROWS>().0[0] = *sums);
        } else {
            rows.for_each(|(&t, sums)| self.part(panel, t, n).copy_from_slice(&sums[..n]));
        }
    }

    /// The `n` numbers of a panel in output row `t`.
    #[expect(clippy::mut_from_ref, unsafe_code, reason = "tasks write disjoint parts")]
    fn part(&self, panel: usize, t: usize, n: usize) -> &mut [f32] {
        // SAFETY: no two tasks share both a panel and an output row, and no task keeps a part.
        unsafe { self.y.part(t * self.stride + panel * ROWS, n) }
    }

    /// Asks for the memory that the sums of many rows with two panels go to while they are computed: other cores had it last.
    fn expect(&self, panel: usize, to: &[usize]) {
        if to.len() < FEW_ROWS {
            return;
        }
        for &t in to {
            let first = t * self.stride + panel * ROWS;
            self.y.prefetch(first);
            self.y.prefetch(first + ROWS);
        }
    }

    /// Joins what is written of one panel with the sums of the other half.
    fn join(&self, glu: Glu, isa: Isa, panel: usize, to: &[usize], up: &[Sums]) {
        let (mut room, n) = ([[0.0; ROWS]; 8], self.w.panel_rows(panel));
        for (to, up) in to.chunks(room.len()).zip(up.chunks(room.len())) {
            let gate = &mut room[..to.len()];
            for (&t, gate) in to.iter().zip(&mut *gate) {
                gate[..n].copy_from_slice(self.part(panel, t, n));
            }
            glu.apply(isa, gate.as_flattened_mut(), up.as_flattened());
            self.write(panel, to, gate);
        }
    }
}

/// Input rows, and how they are multiplied with panels of one type.
struct Task<'a> {
    isa: Isa,
    x: Rows<'a>,
    n: usize,
    /// Whether two panels at a time are faster than one.
    pairs: bool,
}

impl<'a> Task<'a> {
    /// The input rows numbered `from`, for weights like `w`.
    fn of(isa: Isa, input: &'a Input, w: &Weights, from: &[usize]) -> Task<'a> {
        let (form, n) = (w.form(), from.len());
        Task { isa, x: Rows::of(isa, input, w, from), n, pairs: quant::pairs(isa, form, n) && w.cols() > 0 }
    }

    /// Hands over the sums of each panel, some rows at a time: panel, rows, sums. Tells of one panel or two before they are
    /// computed.
    fn each<'b>(
        &self,
        mut panels: Range<usize>,
        side: impl Fn(usize) -> Side<'b>,
        start: impl Fn(usize),
        mut finish: impl FnMut(usize, Range<usize>, &mut [Sums]),
    ) {
        while let Some(panel) = panels.next() {
            let second = if self.pairs { panels.next() } else { None };
            start(panel);
            self.sums(&side(panel), second.map(&side).as_ref(), |rows, a, b| {
                finish(panel, rows.clone(), a);
                if let Some(second) = second {
                    finish(second, rows, b);
                }
            });
        }
    }

    /// Hands over the sums of one panel or of two, some rows at a time: rows, sums of the first, sums of the second.
    fn sums(
        &self,
        first: &Side,
        second: Option<&Side>,
        mut finish: impl FnMut(Range<usize>, &mut [Sums], &mut [Sums]),
    ) {
        WORK.with_borrow_mut(|work| {
            let Work { slabs, sums: [a, b] } = &mut **work;
            let (a, b) = (&mut a[..self.n], &mut b[..self.n]);
            let mut done = |start: usize, a: &mut [Sums], b: &mut [Sums]| {
                first.add_bias(a);
                if let Some(second) = second {
                    second.add_bias(b);
                }
                finish(start..start + a.len(), a, b);
            };
            match second {
                // A short panel is filled up in the one buffer there is for it.
                Some(second) if self.pairs && !(first.is_short() && second.is_short()) => {
                    products(self.isa, [first, second], &self.x, slabs, [a, b], &mut done);
                }
                Some(second) => {
                    first.product(self.isa, &self.x, &mut slabs[0], a, &mut |_, _, _| {});
                    let mut done = |start, b: &mut [Sums], _: &mut _| done(start, &mut a[start..][..b.len()], b);
                    second.product(self.isa, &self.x, &mut slabs[1], b, &mut done);
                }
                None => first.product(self.isa, &self.x, &mut slabs[0], a, &mut done),
            }
        });
    }
}

/// One panel of a matrix, and the bias of its rows.
struct Side<'a> {
    w: &'a Weights,
    bias: Option<&'a [f32]>,
    expert: usize,
    panel: usize,
}

impl Side<'_> {
    /// Rows of the matrix in the panel.
    fn rows(&self) -> usize {
        self.w.panel_rows(self.panel)
    }

    fn is_short(&self) -> bool {
        self.rows() < ROWS
    }

    fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        self.w.with_panel(self.expert, self.panel, f)
    }

    /// Its products with all input rows.
    fn product(&self, isa: Isa, x: &Rows, slab: &mut Slab, sums: &mut [Sums], done: &mut Done) {
        sums.fill([0.0; ROWS]);
        if self.w.cols() == 0 {
            return done(0, sums, &mut []);
        }
        self.with_bytes(|bytes| x.add(isa, self.w, slab, bytes, sums, done));
    }

    fn add_bias(&self, sums: &mut [Sums]) {
        if let Some(bias) = self.bias {
            let bias = &bias[self.expert * self.w.rows() + self.panel * ROWS..][..self.rows()];
            for sums in sums {
                sums.iter_mut().zip(bias).for_each(|(s, b)| *s += b);
            }
        }
    }
}

/// As [`Side::product`], of two panels of one type that are not both short.
fn products(isa: Isa, sides: [&Side; 2], x: &Rows, slabs: &mut [Slab; 2], sums: [&mut [Sums]; 2], done: &mut Done) {
    let [a, b] = sums;
    a.fill([0.0; ROWS]);
    b.fill([0.0; ROWS]);
    let (n, dtype) = (a.len(), sides[0].w.dtype());
    sides[0].with_bytes(|first| {
        sides[1].with_bytes(|second| match x {
            Rows::Fine(x) => quant::fine_pair(isa, dtype, slabs, [first, second], &x[..n], [a, b], done),
            Rows::Super(x) => quant::superblock_pair(isa, dtype, slabs, [first, second], &x[..n], [a, b], done),
            Rows::Half(x) => float::halves(isa, [first, second], &x[..n], [a, b], done),
            Rows::Float(x) => float::panels(isa, dtype, [first, second], &x[..n], [a, b], done),
            Rows::Wide32(_) | Rows::Wide256(_) => debug_assert!(false, "these panels do not go in pairs"),
        });
    });
}

/// What a task works in, kept from task to task: clearing it would cost as much as a small task does.
struct Work {
    slabs: [Slab; 2],
    sums: [[Sums; MAX_ROWS]; 2],
}

thread_local! {
    static WORK: RefCell<Box<Work>> = RefCell::new(Box::new(Work {
        slabs: [Slab::new(), Slab::new()],
        sums: [[[0.0; ROWS]; MAX_ROWS]; 2],
    }));
}

/// The rows numbered `from`; what is left of the array stays empty.
fn gather<'a, T>(from: &[usize], row: impl Fn(usize) -> &'a [T]) -> [&'a [T]; MAX_ROWS] {
    let mut rows: [&[T]; MAX_ROWS] = [&[]; MAX_ROWS];
    for (to, &t) in rows.iter_mut().zip(from) {
        *to = row(t);
    }
    rows
}
