//! Products with one matrix and its adapter, forwards and backwards, on rows that lie together.

use allod_kernels::{
    elementwise,
    gradient::{ByColumns, ByRows, Matrix, Start, Term, product, transpose},
    isa::Isa,
    linear,
    pool::Pool,
    rows::for_rows,
};

/// A matrix `[out, in]` with what belongs to it.
#[derive(Clone, Copy)]
pub(super) struct Projection<'a> {
    pub(super) w: Matrix<'a>,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) low: Option<LowRank<'a>>,
}

/// An adapter: A `[rank, in]`, B `[out, rank]`.
#[derive(Clone, Copy)]
pub(super) struct LowRank<'a> {
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) rank: usize,
    pub(super) scale: f32,
}

/// Gradients of a projection's weights, those that are wanted.
#[derive(Default)]
pub(super) struct Gradients<'a> {
    pub(super) w: Option<&'a mut [f32]>,
    pub(super) bias: Option<&'a mut [f32]>,
    pub(super) a: Option<&'a mut [f32]>,
    pub(super) b: Option<&'a mut [f32]>,
}

/// Where products run, and a buffer for transposes.
pub(super) struct Desk<'a> {
    pub(super) pool: &'a Pool,
    pub(super) isa: Isa,
    pub(super) turned: &'a mut Vec<f32>,
}

impl LowRank<'_> {
    fn a(&self) -> Matrix<'_> {
        Matrix::Numbers { data: self.a, cols: self.a.len() / self.rank }
    }
    fn b(&self) -> Matrix<'_> {
        Matrix::Numbers { data: self.b, cols: self.rank }
    }
}

pub(super) fn scale(pool: &Pool, isa: Isa, x: &mut [f32], width: usize, factor: f32) {
    if factor != 1.0 {
        for_rows(pool, x.len() / width.max(1), width, x, |_, x| elementwise::scale(isa, x, factor));
    }
}

impl Desk<'_> {
    /// `xs = scale · x Aᵀ`
    pub(super) fn down(&self, low: &LowRank<'_>, x: &[f32], rows: usize, xs: &mut [f32]) {
        let width = low.a().cols();
        let term = Term { a: x, stride: width, k: width, b: &ByRows(low.a()) };
        product(self.pool, self.isa, &[term], Start::Zero, (xs, low.rank), (rows, low.rank));
        scale(self.pool, self.isa, xs, low.rank, low.scale);
    }

    /// `y = x Wᵀ + xs Bᵀ + bias`
    pub(super) fn up(&self, p: &Projection<'_>, x: &[f32], rows: usize, xs: &[f32], y: &mut [f32]) {
        let (width, out) = (p.w.cols(), p.w.rows());
        let w = ByRows(p.w);
        let mut terms = vec![Term { a: x, stride: width, k: width, b: &w }];
        let b = p.low.as_ref().map(|l| (ByRows(l.b()), l.rank));
        if let Some((b, rank)) = &b {
            terms.push(Term { a: xs, stride: *rank, k: *rank, b });
        }
        let start = p.bias.map_or(Start::Zero, Start::Row);
        product(self.pool, self.isa, &terms, start, (y, out), (rows, out));
    }

    /// As [`Desk::up`], with the serving kernel for `x Wᵀ`.
    pub(super) fn served(
        &self,
        w: &linear::Weights,
        p: &Projection<'_>,
        x: &[f32],
        rows: usize,
        xs: &[f32],
        y: &mut [f32],
    ) {
        let mut scratch = linear::Scratch::default();
        let mut input = linear::Input::new(&mut scratch, x, rows, w.cols());
        let mut products = [linear::Product { w, bias: p.bias, y: &mut *y, stride: w.rows() }];
        linear::linear(self.pool, self.isa, &mut input, &mut products);
        if let Some(low) = &p.low {
            let term = Term { a: xs, stride: low.rank, k: low.rank, b: &ByRows(low.b()) };
            product(self.pool, self.isa, &[term], Start::Held, (y, w.rows()), (rows, w.rows()));
        }
    }

    /// The adjoint of both: `dy` is the derivative by y, `xs` what [`Desk::down`] gave. Returns the derivative by
    /// `x Aᵀ`, for a caller that gives no `dx` and adds to it in a way of its own.
    pub(super) fn adjoint(
        &mut self,
        p: &Projection<'_>,
        (x, xs, dy): (&[f32], &[f32], &[f32]),
        rows: usize,
        dx: Option<&mut [f32]>,
        g: Gradients<'_>,
    ) -> Vec<f32> {
        let (pool, isa, width, out) = (self.pool, self.isa, p.w.cols(), p.w.rows());
        if let Some(db) = g.bias {
            columns(pool, dy, out, db);
        }
        if let Some(dw) = g.w {
            self.outer((dy, out), (x, width), rows, 1.0, dw);
        }
        let mut d_down = vec![];
        if let Some(low) = &p.low {
            d_down.resize(rows * low.rank, 0.0);
            let term = Term { a: dy, stride: out, k: out, b: &ByColumns(low.b()) };
            product(pool, isa, &[term], Start::Zero, (&mut d_down, low.rank), (rows, low.rank));
            scale(pool, isa, &mut d_down, low.rank, low.scale);
            if let Some(db) = g.b {
                // Bᵀ's gradient, whose long side makes panels.
                let mut d = vec![0.0; low.rank * out];
                self.outer((xs, low.rank), (dy, out), rows, 1.0, &mut d);
                for (o, db) in db.chunks_exact_mut(low.rank).enumerate() {
                    db.iter_mut().enumerate().for_each(|(j, db)| *db += d[j * out + o]);
                }
            }
            if let Some(da) = g.a {
                self.outer((&d_down, low.rank), (x, width), rows, 1.0, da);
            }
        }
        if let Some(dx) = dx {
            let w = ByColumns(p.w);
            let mut terms = vec![Term { a: dy, stride: out, k: out, b: &w }];
            let a = p.low.as_ref().map(|l| (ByColumns(l.a()), l.rank));
            if let Some((a, rank)) = &a {
                terms.push(Term { a: &d_down, stride: *rank, k: *rank, b: a });
            }
            product(pool, isa, &terms, Start::Held, (dx, width), (rows, width));
        }
        d_down
    }

    /// `out += dy · W`, what the input of a matrix gets.
    pub(super) fn through(&self, w: Matrix<'_>, dy: &[f32], rows: usize, out: &mut [f32]) {
        let (width, k) = (w.cols(), w.rows());
        let term = Term { a: dy, stride: k, k, b: &ByColumns(w) };
        product(self.pool, self.isa, &[term], Start::Held, (out, width), (rows, width));
    }

    /// `out += d · A`, what an adapter's input gets.
    pub(super) fn back(&self, low: &LowRank<'_>, d: &[f32], rows: usize, out: &mut [f32]) {
        let width = low.a().cols();
        let term = Term { a: d, stride: low.rank, k: low.rank, b: &ByColumns(low.a()) };
        product(self.pool, self.isa, &[term], Start::Held, (out, width), (rows, width));
    }

    /// `out += factor · xᵀ y`, the sum over rows in order.
    fn outer(&mut self, (x, m): (&[f32], usize), (y, n): (&[f32], usize), rows: usize, factor: f32, out: &mut [f32]) {
        self.turned.resize(rows * m, 0.0);
        transpose(self.pool, x, (rows, m), factor, self.turned);
        let right = ByColumns(Matrix::Numbers { data: &y[..rows * n], cols: n });
        let term = Term { a: self.turned, stride: rows, k: rows, b: &right };
        product(self.pool, self.isa, &[term], Start::Held, (out, n), (m, n));
    }
}

/// `out[j] += Σ x[t, j]`, rows in order.
pub(super) fn columns(pool: &Pool, x: &[f32], width: usize, out: &mut [f32]) {
    for_rows(pool, width, 1, out, |range, out| {
        for row in x.chunks_exact(width) {
            out.iter_mut().zip(&row[range.clone()]).for_each(|(o, v)| *o += v);
        }
    });
}
