//! The rows that go into matrix products, in the forms the weights ask for.

/// Buffers that a caller keeps from step to step, so that products allocate nothing once they have grown.
#[derive(Default)]
pub struct Scratch {}

impl Scratch {
    /// Empty buffers; they grow with use.
    pub fn new() -> Scratch {
        Scratch::default()
    }
}

/// Rows `x[t * stride ..][..cols]` shared by several products. Eight-bit forms are made when a product first needs
/// them, once for all that follow.
pub struct Input<'a> {
    pub(super) x: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) stride: usize,
    _scratch: &'a mut Scratch,
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
        Input { x, rows, cols, stride, _scratch: scratch }
    }

    /// Row `t`.
    pub(super) fn row(&self, t: usize) -> &[f32] {
        &self.x[t * self.stride..][..self.cols]
    }
}
