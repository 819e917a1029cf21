//! Adjoints of normalizations. Shapes are those of [`crate::norm`]: rows of groups, a weight for each group or for all.

use crate::lanes::{LANES, sum, sum_squares, sum_squares_around, tree};
use crate::math::sigmoid;
use crate::norm::{Gate, weight_of};
use crate::twin::twin;

/// `Σ a · b · w` by lanes.
#[inline(always)]
fn dot3(a: &[f32], b: &[f32], w: Option<&[f32]>) -> f32 {
    let mut lanes = [0f32; LANES];
    match w {
        Some(w) => {
            for (i, ((a, b), w)) in a.iter().zip(b).zip(w).enumerate() {
                lanes[i % LANES] = (a * w).mul_add(*b, lanes[i % LANES]);
            }
        }
        None => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                lanes[i % LANES] = a.mul_add(*b, lanes[i % LANES]);
            }
        }
    }
    tree(lanes)
}

/// `dx += r · dy · w - x · c`, the adjoint of every norm that divides by a length.
#[inline(always)]
fn along(x: &[f32], w: Option<&[f32]>, dy: &[f32], r: f32, c: f32, dx: &mut [f32]) {
    match w {
        Some(w) => {
            for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(w) {
                *dx += (dy * w).mul_add(r, -(x * c));
            }
        }
        None => {
            for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                *dx += dy.mul_add(r, -(x * c));
            }
        }
    }
}

twin! {
    /// Of [`crate::norm::rms_norm`], by its input: with `r = 1 / √(mean x² + eps)`, `dx += r (w dy - x r² mean(x w dy))`.
    pub fn rms_norm(x: &[f32], w: Option<&[f32]>, eps: f32, group: usize, dy: &[f32], dx: &mut [f32]) {
        let groups = x.chunks_exact(group).zip(dy.chunks_exact(group)).zip(dx.chunks_exact_mut(group));
        for (i, ((x, dy), dx)) in groups.enumerate() {
            let w = weight_of(w, i, group);
            let r = 1.0 / (sum_squares(x) / group as f32 + eps).sqrt();
            let c = dot3(dy, x, w) * r * r * r / group as f32;
            along(x, w, dy, r, c, dx);
        }
    }
}

twin! {
    /// Of [`crate::norm::l2_norm`].
    pub fn l2_norm(x: &[f32], eps: f32, group: usize, dy: &[f32], dx: &mut [f32]) {
        for ((x, dy), dx) in x.chunks_exact(group).zip(dy.chunks_exact(group)).zip(dx.chunks_exact_mut(group)) {
            let r = 1.0 / (sum_squares(x) + eps).sqrt();
            along(x, None, dy, r, dot3(dy, x, None) * r * r * r, dx);
        }
    }
}

twin! {
    /// Of [`crate::norm::layer_norm`], by its input: with `g = w dy` and the normalized `n`,
    /// `dx += r (g - mean g - n mean(g n))`.
    pub fn layer_norm(x: &[f32], w: Option<&[f32]>, eps: f32, group: usize, dy: &[f32], dx: &mut [f32]) {
        let n = group as f32;
        let mut g = vec![0f32; group];
        let mut normal = vec![0f32; group];
        let groups = x.chunks_exact(group).zip(dy.chunks_exact(group)).zip(dx.chunks_exact_mut(group));
        for (i, ((x, dy), dx)) in groups.enumerate() {
            let mean = sum(x) / n;
            let r = 1.0 / (sum_squares_around(x, mean) / n + eps).sqrt();
            normal.iter_mut().zip(x).for_each(|(o, v)| *o = (v - mean) * r);
            g.copy_from_slice(dy);
            if let Some(w) = weight_of(w, i, group) {
                g.iter_mut().zip(w).for_each(|(g, w)| *g *= w);
            }
            let (mean_g, mean_gn) = (sum(&g) / n, dot3(&g, &normal, None) / n);
            for ((dx, g), normal) in dx.iter_mut().zip(&g).zip(&normal) {
                *dx += r * (g - mean_g - normal * mean_gn);
            }
        }
    }
}

/// `dw += n · dy`, and `db += dy` where there is a bias, for one group.
#[inline(always)]
fn add_weight(i: usize, group: usize, dw: &mut [f32], term: impl Fn(usize) -> f32) {
    let groups = (dw.len() / group).max(1);
    let dw = &mut dw[i % groups * group..][..group];
    for (j, dw) in dw.iter_mut().enumerate() {
        *dw += term(j);
    }
}

twin! {
    /// Of [`crate::norm::rms_norm`], by its weight.
    pub fn rms_norm_weight(x: &[f32], eps: f32, group: usize, dy: &[f32], dw: &mut [f32]) {
        for (i, (x, dy)) in x.chunks_exact(group).zip(dy.chunks_exact(group)).enumerate() {
            let r = 1.0 / (sum_squares(x) / group as f32 + eps).sqrt();
            add_weight(i, group, dw, |j| x[j] * r * dy[j]);
        }
    }
}

twin! {
    /// Of [`crate::norm::layer_norm`], by its weight (into `dw`) and its bias (into `db`).
    pub fn layer_norm_weight(
        x: &[f32],
        eps: f32,
        group: usize,
        dy: &[f32],
        dw: Option<&mut [f32]>,
        db: Option<&mut [f32]>,
    ) {
        let n = group as f32;
        if let Some(dw) = dw {
            for (i, (x, dy)) in x.chunks_exact(group).zip(dy.chunks_exact(group)).enumerate() {
                let mean = sum(x) / n;
                let r = 1.0 / (sum_squares_around(x, mean) / n + eps).sqrt();
                add_weight(i, group, dw, |j| (x[j] - mean) * r * dy[j]);
            }
        }
        if let Some(db) = db {
            for (i, dy) in dy.chunks_exact(group).enumerate() {
                add_weight(i, group, db, |j| dy[j]);
            }
        }
    }
}

/// `silu(z)` and its slope.
#[inline(always)]
fn silu(z: f32) -> (f32, f32) {
    let s = sigmoid(z);
    (z * s, s * (1.0 + z * (1.0 - s)))
}

twin! {
    /// Of [`crate::norm::rms_norm_gated`], by x and by the gate's z; `shape` are group and eps.
    pub fn gated_norm(
        x: &[f32],
        w: Option<&[f32]>,
        gate: Gate<'_>,
        shape: (usize, f32),
        dy: &[f32],
        d: [&mut [f32]; 2],
    ) {
        let ((group, eps), [dx, dz]) = (shape, d);
        let (Gate::Before(z) | Gate::After(z)) = gate;
        let (mut u, mut du) = (vec![0f32; group], vec![0f32; group]);
        let rows = x.chunks_exact(group).zip(z.chunks_exact(group)).zip(dy.chunks_exact(group));
        let out = dx.chunks_exact_mut(group).zip(dz.chunks_exact_mut(group));
        for (i, (((x, z), dy), (dx, dz))) in rows.zip(out).enumerate() {
            let w = weight_of(w, i, group);
            du.fill(0.0);
            if let Gate::Before(_) = gate {
                u.iter_mut().zip(x).zip(z).for_each(|((u, x), z)| *u = x * silu(*z).0);
                let r = 1.0 / (sum_squares(&u) / group as f32 + eps).sqrt();
                let c = dot3(dy, &u, w) * r * r * r / group as f32;
                along(&u, w, dy, r, c, &mut du);
                for ((((dx, dz), x), z), du) in dx.iter_mut().zip(dz).zip(x).zip(z).zip(&du) {
                    let (value, slope) = silu(*z);
                    *dx += du * value;
                    *dz += du * x * slope;
                }
            } else {
                // y = n · silu(z) with n = x r w.
                let r = 1.0 / (sum_squares(x) / group as f32 + eps).sqrt();
                u.iter_mut().zip(dy).zip(z).for_each(|((u, dy), z)| *u = dy * silu(*z).0);
                let c = dot3(&u, x, w) * r * r * r / group as f32;
                along(x, w, &u, r, c, dx);
                for (j, dz) in dz.iter_mut().enumerate() {
                    let normal = x[j] * r * w.map_or(1.0, |w| w[j]);
                    *dz += dy[j] * normal * silu(z[j]).1;
                }
            }
        }
    }
}

twin! {
    /// Of [`crate::norm::rms_norm_gated`], by its weight.
    pub fn gated_norm_weight(x: &[f32], gate: Gate<'_>, eps: f32, group: usize, dy: &[f32], dw: &mut [f32]) {
        let (Gate::Before(z) | Gate::After(z)) = gate;
        let mut u = vec![0f32; group];
        for (i, ((x, z), dy)) in x.chunks_exact(group).zip(z.chunks_exact(group)).zip(dy.chunks_exact(group)).enumerate() {
            let before = matches!(gate, Gate::Before(_));
            u.iter_mut().zip(x).zip(z).for_each(|((u, x), z)| *u = if before { x * silu(*z).0 } else { *x });
            let r = 1.0 / (sum_squares(&u) / group as f32 + eps).sqrt();
            add_weight(i, group, dw, |j| u[j] * r * dy[j] * if before { 1.0 } else { silu(z[j]).0 });
        }
    }
}
