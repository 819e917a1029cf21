//! The rows that go into matrix products, in the forms the weights ask for.

use super::{
    quant::Form,
    rows8::{Block32, Block256, quantize32, quantize256},
};
use crate::{
    isa::Isa,
    pool::{Parts, Pool},
};

/// Numbers that one task of the pool turns into integers at least.
const MIN_NUMBERS: usize = 8 << 10;

/// Buffers that a caller keeps from step to step, so that products allocate nothing once they have grown.
#[derive(Default)]
pub struct Scratch {
    fine: Vec<Block32>,
    superblocks: Vec<Block256>,
}

impl Scratch {
    /// Empty buffers; they grow with use.
    pub fn new() -> Scratch {
        Scratch::default()
    }
}

/// Rows `x[t * stride ..][..cols]` shared by several products. Eight-bit forms are made when a product first needs
/// them, once for all that follow.
pub struct Input<'a> {
    x: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    stride: usize,
    scratch: &'a mut Scratch,
    has_fine: bool,
    has_super: bool,
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
        Input { x, rows, cols, stride, scratch, has_fine: false, has_super: false }
    }

    /// Makes a form unless it is there.
    pub(super) fn prepare(&mut self, pool: &Pool, isa: Isa, form: Form) {
        let numbers = Numbers { x: self.x, rows: self.rows, cols: self.cols, stride: self.stride };
        match form {
            Form::Float | Form::Decoded => {}
            Form::Fine if self.has_fine => {}
            Form::Super if self.has_super => {}
            Form::Fine => {
                numbers.fill(pool, &mut self.scratch.fine, Block32::ZERO, 32, |x, to| quantize32(isa, x, to));
                self.has_fine = true;
            }
            Form::Super => {
                numbers.fill(pool, &mut self.scratch.superblocks, Block256::ZERO, 256, |x, to| quantize256(isa, x, to));
                self.has_super = true;
            }
        }
    }

    /// Row `t`.
    pub(super) fn row(&self, t: usize) -> &[f32] {
        &self.x[t * self.stride..][..self.cols]
    }

    /// Row `t` in blocks of 32 integers.
    pub(super) fn fine(&self, t: usize) -> &[Block32] {
        let blocks = self.cols / 32;
        &self.scratch.fine[t * blocks..][..blocks]
    }

    /// Row `t` in blocks of 256 integers.
    pub(super) fn superblocks(&self, t: usize) -> &[Block256] {
        let blocks = self.cols / 256;
        &self.scratch.superblocks[t * blocks..][..blocks]
    }
}

struct Numbers<'a> {
    x: &'a [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl Numbers<'_> {
    /// Fills `out` with `block` numbers a piece, a group of rows to a task.
    fn fill<B: Copy + Send>(
        &self,
        pool: &Pool,
        out: &mut Vec<B>,
        zero: B,
        block: usize,
        quantize: impl Fn(&[f32], &mut [B]) + Sync,
    ) {
        let blocks = self.cols / block;
        if out.len() < self.rows * blocks {
            out.resize(self.rows * blocks, zero);
        }
        let out = Parts::new(out);
        let group = MIN_NUMBERS.div_ceil(self.cols.max(1));
        pool.run(self.rows.div_ceil(group), |i| {
            for t in i * group..self.rows.min((i + 1) * group) {
                #[expect(unsafe_code, reason = "tasks write disjoint rows")]
                // SAFETY: each row belongs to one task.
                let to = unsafe { out.part(t * blocks, blocks) };
                quantize(&self.x[t * self.stride..][..self.cols], to);
            }
        });
    }
}
