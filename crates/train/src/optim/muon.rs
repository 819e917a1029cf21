//! Muon: the momentum of a matrix is brought near the closest orthogonal matrix by five Newton-Schulz steps, here in
//! single precision.

use super::{Muon, Parameter, Rate, Slot, State};
use allod_kernels::{
    gradient::{ByColumns, ByRows, Matrix, Panels, Start, Term, product},
    isa::Isa,
    pool::Pool,
};

/// Coefficients of the quintic.
const A: f32 = 3.4445;
const B: f32 = -4.775;
const C: f32 = 2.0315;
/// Least norm that is divided by.
const EPS: f32 = 1e-7;

pub(super) fn slot(shape: &[usize]) -> Slot {
    vec![("momentum_buffer", State::F32(vec![0.0; shape.iter().product()]))]
}

pub(super) fn step(muon: &Muon, p: &mut Parameter<'_>, slot: &mut Slot, rate: Rate, pool: &Pool) {
    let [rows, columns] = *p.shape else { return };
    let [(_, State::F32(buffer))] = slot.as_mut_slice() else { return };
    let m = muon.momentum as f32;
    let mut update = Vec::with_capacity(buffer.len());
    for (b, g) in buffer.iter_mut().zip(&*p.grad) {
        *b += (g - *b) * (1.0 - m);
        update.push(if muon.nesterov { g + (*b - g) * m } else { *b });
    }
    let update = orthogonal(update, rows, columns, muon.steps, pool);
    let ratio = match muon.match_rms {
        true => 0.2 * (rows.max(columns) as f64).sqrt(),
        false => (rows as f64 / columns as f64).max(1.0).sqrt(),
    };
    let (keep, size) = (rate.keep(), (rate.rate * ratio) as f32);
    for (p, u) in p.data.iter_mut().zip(update) {
        *p = *p * keep - size * u;
    }
}

/// Newton-Schulz on the wide one of the matrix and its transpose.
fn orthogonal(x: Vec<f32>, rows: usize, columns: usize, steps: usize, pool: &Pool) -> Vec<f32> {
    let tall = rows > columns;
    let (n, k) = if tall { (columns, rows) } else { (rows, columns) };
    let mut x = if tall { transposed(&x, rows, columns) } else { x };
    let norm = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32;
    x.iter_mut().for_each(|v| *v /= norm.max(EPS));
    let (mut a, mut square, mut bx) = (vec![0.0; n * n], vec![0.0; n * n], vec![0.0; n * k]);
    for _ in 0..steps {
        // a is symmetric, so a·a = a·aᵀ.
        times(pool, &x, &ByRows(Matrix::Numbers { data: &x, cols: k }), (n, k, n), &mut a);
        times(pool, &a, &ByRows(Matrix::Numbers { data: &a, cols: n }), (n, n, n), &mut square);
        square.iter_mut().zip(&a).for_each(|(s, a)| *s = B * a + C * *s);
        times(pool, &square, &ByColumns(Matrix::Numbers { data: &x, cols: k }), (n, n, k), &mut bx);
        x.iter_mut().zip(&bx).for_each(|(x, bx)| *x = A * *x + bx);
    }
    if tall { transposed(&x, n, k) } else { x }
}

fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|j| (0..rows).map(move |i| x[i * columns + j])).collect()
}

/// The product of `a [rows × inner]` and `b [inner × columns]`.
fn times(pool: &Pool, a: &[f32], b: &dyn Panels, (rows, inner, columns): (usize, usize, usize), out: &mut [f32]) {
    let term = Term { a, stride: inner, k: inner, b };
    product(pool, Isa::best(), &[term], Start::Zero, (out, columns), (rows, columns));
}
