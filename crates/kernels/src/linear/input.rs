//! The rows that go into matrix products, in the forms the weights ask for.

use super::{
    Weights,
    quant::{self, Form},
    rows8::{Block32, Block256, Wide, quantize32, quantize256},
    rows16::round16,
};
use crate::{
    isa::Isa,
    pool::{Parts, Pool},
};
use half::bf16;
use std::cell::RefCell;

/// Numbers that one task of the pool turns into integers at least.
const MIN_NUMBERS: usize = 8 << 10;

/// Buffers that a caller keeps from step to step, so that products allocate nothing once they have grown.
#[derive(Default)]
pub struct Scratch {
    floats: Vec<f32>,
    halves: Vec<bf16>,
    fine: Vec<Block32>,
    superblocks: Vec<Block256>,
    paired: Vec<Block256>,
    wide32: Vec<Wide<32>>,
    wide256: Vec<Wide<256>>,
}

impl Scratch {
    /// Empty buffers; they grow with use.
    pub fn new() -> Scratch {
        Scratch::default()
    }
}

/// Rows shared by several products. Rounded forms are made when a product first needs them, once for all that follow.
pub struct Input<'a> {
    source: Source<'a>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    scratch: &'a mut Scratch,
    has: Forms,
    /// What computed rows make besides, and its width.
    side: (Parts<'a, f32>, usize),
}

/// Where rows come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// `x[t * stride ..][..cols]`.
    Memory { x: &'a [f32], stride: usize },
    /// What the function writes for row `t`. It is called once for each row.
    Computed(Row<'a>),
}

/// Writes row `t` of an input: `row(t, side, x)`, where `side` is that row of what else it makes.
pub type Row<'a> = &'a (dyn Fn(usize, &mut [f32], &mut [f32]) + Sync);

/// Forms of rows.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Forms {
    floats: bool,
    halves: bool,
    fine: bool,
    superblocks: bool,
    wide32: bool,
    wide256: bool,
}

thread_local! {
    /// A computed row on its way to its forms.
    static ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl<'a> Input<'a> {
    /// `rows` rows of `cols` numbers that follow each other.
    ///
    /// # Panics
    /// When `x` is shorter than that.
    pub fn new(scratch: &'a mut Scratch, x: &'a [f32], rows: usize, cols: usize) -> Input<'a> {
        Input::strided(scratch, x, rows, cols, cols)
    }

    /// `rows` rows of `cols` numbers, one starting every `stride` numbers.
    ///
    /// # Panics
    /// When `x` is shorter than that.
    pub fn strided(scratch: &'a mut Scratch, x: &'a [f32], rows: usize, cols: usize, stride: usize) -> Input<'a> {
        assert!(rows == 0 || (rows - 1) * stride + cols <= x.len(), "an input shorter than its rows");
        let has = Forms { floats: true, ..Forms::default() };
        Input { source: Source::Memory { x, stride }, rows, cols, scratch, has, side: (Parts::new(&mut []), 0) }
    }

    /// Rows that `row` writes: an operation that belongs to the product. It is called once for each row, on any thread,
    /// and its rows are never stored where only rounded forms are needed. `side` is what else the operation
    /// makes, `[rows × width]`, or empty.
    ///
    /// # Panics
    /// When `side` is no whole number of rows.
    pub fn computed(
        scratch: &'a mut Scratch,
        rows: usize,
        cols: usize,
        side: &'a mut [f32],
        row: Row<'a>,
    ) -> Input<'a> {
        let width = side.len() / rows.max(1);
        assert!(rows * width == side.len(), "a side that is no whole number of rows");
        let side = (Parts::new(side), width);
        Input { source: Source::Computed(row), rows, cols, scratch, has: Forms::default(), side }
    }

    /// Makes the forms that are not there and that products with `weights` want, `most` rows at a time.
    ///
    /// # Panics
    /// When computed rows have forms already and want others: they are computed once.
    pub(super) fn prepare<'w>(
        &mut self,
        pool: &Pool,
        isa: Isa,
        most: usize,
        weights: impl Iterator<Item = &'w Weights>,
    ) {
        let mut make = Forms::default();
        for w in weights {
            let wide = quant::in_16_bits(isa, w.dtype(), most);
            match w.form() {
                Form::Float | Form::Decoded => make.floats |= !self.has.floats,
                Form::Half => make.halves |= !self.has.halves,
                Form::Fine => {
                    make.wide32 |= wide && !self.has.wide32;
                    make.fine |= make.wide32 || !self.has.fine;
                }
                Form::Super => {
                    make.wide256 |= wide && !self.has.wide256;
                    make.superblocks |= make.wide256 || !self.has.superblocks;
                }
            }
        }
        if make == Forms::default() {
            return;
        }
        let computed = matches!(self.source, Source::Computed(_));
        assert!(!computed || self.has == Forms::default(), "computed rows belong to one call");
        let (source, rows, cols) = (self.source, self.rows, self.cols);
        let floats = Rows::new(&mut self.scratch.floats, make.floats, rows, cols, 0.0);
        let halves = Rows::new(&mut self.scratch.halves, make.halves, rows, cols, bf16::ZERO);
        let fine = Rows::new(&mut self.scratch.fine, make.fine, rows, cols / 32, Block32::ZERO);
        let superblocks = Rows::new(&mut self.scratch.superblocks, make.superblocks, rows, cols / 256, Block256::ZERO);
        let pair = make.superblocks && isa == Isa::Avx2;
        let paired = Rows::new(&mut self.scratch.paired, pair, rows, cols / 256, Block256::ZERO);
        let wide32 = Rows::new(&mut self.scratch.wide32, make.wide32, rows, cols / 32, Wide::ZERO);
        let wide256 = Rows::new(&mut self.scratch.wide256, make.wide256, rows, cols / 256, Wide::ZERO);
        let group = MIN_NUMBERS.div_ceil(cols.max(1));
        let (side, width) = &self.side;
        pool.run(rows.div_ceil(group), |i| {
            for t in i * group..rows.min((i + 1) * group) {
                let quantize = |x: &[f32]| {
                    if let Some(to) = halves.row(t) {
                        round16(isa, x, to);
                    }
                    if let Some(to) = fine.row(t) {
                        quantize32(isa, x, to, wide32.row(t).unwrap_or_default());
                    }
                    if let Some(to) = superblocks.row(t) {
                        let (paired, wide) = (paired.row(t).unwrap_or_default(), wide256.row(t).unwrap_or_default());
                        quantize256(isa, x, to, paired, wide);
                    }
                };
                #[expect(unsafe_code, reason = "tasks write disjoint rows")]
                // SAFETY: each row belongs to one task.
                let side = unsafe { side.part(t * width, *width) };
                match (source, floats.row(t)) {
                    (Source::Memory { x, stride }, _) => quantize(&x[t * stride..][..cols]),
                    (Source::Computed(row), Some(x)) => {
                        row(t, side, x);
                        quantize(x);
                    }
                    (Source::Computed(row), None) => ROW.with_borrow_mut(|x| {
                        x.resize(cols, 0.0);
                        row(t, side, x);
                        quantize(x);
                    }),
                }
            }
        });
        self.has.floats |= make.floats;
        self.has.halves |= make.halves;
        self.has.fine |= make.fine;
        self.has.superblocks |= make.superblocks;
        self.has.wide32 |= make.wide32;
        self.has.wide256 |= make.wide256;
    }

    /// Row `t`.
    pub(super) fn row(&self, t: usize) -> &[f32] {
        match self.source {
            Source::Memory { x, stride } => &x[t * stride..][..self.cols],
            Source::Computed(_) => &self.scratch.floats[t * self.cols..][..self.cols],
        }
    }

    /// Row `t` in BF16.
    pub(super) fn half(&self, t: usize) -> &[bf16] {
        &self.scratch.halves[t * self.cols..][..self.cols]
    }

    /// Row `t` in blocks of 32 integers.
    pub(super) fn fine(&self, t: usize) -> &[Block32] {
        let blocks = self.cols / 32;
        &self.scratch.fine[t * blocks..][..blocks]
    }

    /// Row `t` in blocks of 32 integers of 16 bits.
    pub(super) fn wide32(&self, t: usize) -> &[Wide<32>] {
        let blocks = self.cols / 32;
        &self.scratch.wide32[t * blocks..][..blocks]
    }

    /// Row `t` in blocks of 256 integers of 16 bits.
    pub(super) fn wide256(&self, t: usize) -> &[Wide<256>] {
        let blocks = self.cols / 256;
        &self.scratch.wide256[t * blocks..][..blocks]
    }

    /// Row `t` in blocks of 256 integers, `paired` or not: see [`quantize256`].
    pub(super) fn superblocks(&self, t: usize, paired: bool) -> &[Block256] {
        let blocks = self.cols / 256;
        let all = if paired { &self.scratch.paired } else { &self.scratch.superblocks };
        &all[t * blocks..][..blocks]
    }
}

/// Rows of a form that tasks fill, where it is wanted.
struct Rows<'a, B> {
    all: Option<Parts<'a, B>>,
    len: usize,
}

impl<'a, B: Copy> Rows<'a, B> {
    fn new(buffer: &'a mut Vec<B>, wanted: bool, rows: usize, len: usize, zero: B) -> Rows<'a, B> {
        if wanted && buffer.len() < rows * len {
            buffer.resize(rows * len, zero);
        }
        Rows { all: wanted.then(|| Parts::new(buffer)), len }
    }

    #[expect(clippy::mut_from_ref, reason = "rows are disjoint, and each is one task's")]
    fn row(&self, t: usize) -> Option<&mut [B]> {
        #[expect(unsafe_code, reason = "tasks write disjoint rows")]
        // SAFETY: each row belongs to one task, which holds it once at a time.
        self.all.as_ref().map(|all| unsafe { all.part(t * self.len, self.len) })
    }
}
