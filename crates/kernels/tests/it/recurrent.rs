//! Convolution and scans: whole prompts, chunks and single tokens agree in bytes, and with the recurrence in f64.

use allod_kernels::conv::{Conv, conv1d, taps_first};
use allod_kernels::delta::{Delta, gated_delta, gates};
use allod_kernels::isa::Isa;
use allod_kernels::pool::Pool;
use allod_kernels::ssm::{Mamba, Mamba2, mamba, mamba2};
use allod_kernels::state::{Columns, StateRows};

use crate::rng::{Rng, bits};

const SLOTS: usize = 4;

/// Cuts sequences of `lengths` into steps of at most `chunk` rows each and runs them through `step(from, rows, states,
/// out)`, where row `r` of the step is row `from[r]` of the whole, which has the sequences one after the other. Returns
/// the whole's outputs and the final states.
fn in_steps(
    lengths: &[usize],
    chunk: usize,
    (state, width): (usize, usize),
    step: impl Fn(&[usize], &[StateRows], &mut [f32], &mut [f32]),
) -> (Vec<f32>, Vec<f32>) {
    let mut states = vec![0f32; SLOTS * state];
    let total: usize = lengths.iter().sum();
    let mut out = vec![f32::NAN; total * width];
    for at in (0..lengths.iter().copied().max().unwrap()).step_by(chunk) {
        let (mut from, mut seqs, mut start) = (vec![], vec![], 0);
        for (s, &length) in lengths.iter().enumerate() {
            let rows = at.min(length)..(at + chunk).min(length);
            // Slots in another order than sequences.
            seqs.push(StateRows { rows: from.len()..from.len() + rows.len(), slot: SLOTS - 1 - s });
            from.extend(rows.map(|r| start + r));
            start += length;
        }
        let mut part = vec![f32::NAN; from.len() * width];
        step(&from, &seqs, &mut states, &mut part);
        for (row, &to) in part.chunks_exact(width.max(1)).zip(&from) {
            out[to * width..][..width].copy_from_slice(row);
        }
    }
    (out, states)
}

/// Demands that every way of cutting, every instruction set and thread count gives the same bytes; returns the outputs.
fn same(
    what: &str,
    lengths: &[usize],
    sizes: (usize, usize),
    step: impl Fn(&Pool, Isa, &[usize], &[StateRows], &mut [f32], &mut [f32]),
) -> Vec<f32> {
    let whole = lengths.iter().copied().max().unwrap();
    let run = |isa: Isa, threads: usize, chunk: usize| {
        let pool = Pool::new(threads);
        in_steps(lengths, chunk, sizes, |from, seqs, states, out| step(&pool, isa, from, seqs, states, out))
    };
    let (out, states) = run(Isa::Scalar, 1, whole);
    assert!(out.iter().all(|v| v.is_finite()));
    for isa in Isa::available() {
        for (threads, chunk) in [(1, whole), (2, whole), (3, 7), (4, 1)] {
            let got = run(isa, threads, chunk);
            assert_eq!(bits(&got.0), bits(&out), "{what}: {isa}, {threads} threads, {chunk} rows a step");
            assert_eq!(bits(&got.1), bits(&states), "{what}: states, {isa}, {threads} threads, {chunk} rows a step");
        }
    }
    out
}

/// Rows `from` of `x`.
fn rows(x: &[f32], width: usize, from: &[usize]) -> Vec<f32> {
    from.iter().flat_map(|&r| x[r * width..][..width].to_vec()).collect()
}

fn close(what: &str, got: &[f32], want: &[f64]) {
    let scale = want.iter().fold(1f64, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() <= 2e-5 * scale, "{what}[{i}]: {g} instead of {w}");
    }
    assert_eq!(got.len(), want.len());
}

fn f(x: f32) -> f64 {
    f64::from(x)
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Calls `f(sequence's first row, row)` for all rows in order.
fn each_row(lengths: &[usize], mut f: impl FnMut(usize, usize)) {
    let mut start = 0;
    for &length in lengths {
        (start..start + length).for_each(|t| f(start, t));
        start += length;
    }
}

#[test]
fn convolution() {
    for seed in 0..20 {
        let mut rng = Rng(seed);
        let (width, taps, silu) = (1 + rng.below(40), 2 + rng.below(7), rng.below(2) == 1);
        let lengths: Vec<usize> = (0..1 + rng.below(3)).map(|_| 1 + rng.below(80)).collect();
        let total: usize = lengths.iter().sum();
        let (x, file, bias) = (rng.vec(total * width, 1.0), rng.vec(width * taps, 1.0), rng.vec(width, 1.0));
        let w = taps_first(&file, taps);
        let conv = Conv { w: &w, bias: (seed % 3 > 0).then_some(&bias), taps, silu };
        let got = same("conv", &lengths, ((taps - 1) * width, width), |pool, isa, from, seqs, states, out| {
            conv1d(pool, isa, &conv, Columns::all(&rows(&x, width, from), width), seqs, states, out);
        });
        let mut want = vec![];
        each_row(&lengths, |start, t| {
            for c in 0..width {
                let mut y = conv.bias.map_or(0.0, |b| f(b[c]));
                for j in 0..taps {
                    if t + j + 1 >= taps + start {
                        y += f(file[c * taps + j]) * f(x[(t + j + 1 - taps) * width + c]);
                    }
                }
                want.push(if silu { y / (1.0 + (-y).exp()) } else { y });
            }
        });
        close("conv", &got, &want);
    }
}

#[test]
fn mamba_scan() {
    for seed in 0..12 {
        let mut rng = Rng(seed);
        let (inner, n) = (1 + rng.below(70), rng.pick(&[4, 8, 16, 19]));
        let lengths: Vec<usize> = (0..1 + rng.below(3)).map(|_| 1 + rng.below(25)).collect();
        let total: usize = lengths.iter().sum();
        // B and C come in one matrix.
        let (x, dt, bc) = (rng.vec(total * inner, 1.0), rng.vec(total * inner, 1.0), rng.vec(total * 2 * n, 1.0));
        let a: Vec<f32> = rng.vec(inner * n, 1.0).iter().map(|v| -v.exp()).collect();
        let (d, dt_bias) = (rng.vec(inner, 1.0), rng.vec(inner, 1.0));
        let params = Mamba { a: &a, d: &d, dt_bias: &dt_bias };
        let got = same("mamba", &lengths, (inner * n, inner), |pool, isa, from, seqs, states, out| {
            let (x, dt, bc) = (rows(&x, inner, from), rows(&dt, inner, from), rows(&bc, 2 * n, from));
            let inputs = [
                Columns::all(&x, inner),
                Columns::all(&dt, inner),
                Columns::of(&bc, 2 * n, 0..n),
                Columns::of(&bc, 2 * n, n..2 * n),
            ];
            mamba(pool, isa, &params, inputs, seqs, states, out);
        });
        let (mut h, mut want) = (vec![0f64; inner * n], vec![]);
        each_row(&lengths, |start, t| {
            if t == start {
                h.fill(0.0);
            }
            for c in 0..inner {
                let delta = softplus(f(dt[t * inner + c]) + f(dt_bias[c]));
                let u = f(x[t * inner + c]);
                let mut y = f(d[c]) * u;
                for i in 0..n {
                    let h = &mut h[c * n + i];
                    *h = *h * (delta * f(a[c * n + i])).exp() + delta * f(bc[t * 2 * n + i]) * u;
                    y += f(bc[t * 2 * n + n + i]) * *h;
                }
                want.push(y);
            }
        });
        close("mamba", &got, &want);
    }
}

#[test]
fn mamba2_scan() {
    for seed in 0..12 {
        let mut rng = Rng(seed);
        let (groups, per, dim, n) =
            (1 + rng.below(2), 1 + rng.below(3), rng.pick(&[4, 16, 33]), rng.pick(&[8, 12, 64]));
        let heads = groups * per;
        let lengths: Vec<usize> = (0..1 + rng.below(3)).map(|_| 1 + rng.below(25)).collect();
        let total: usize = lengths.iter().sum();
        let (inner, gn) = (heads * dim, groups * n);
        let width = inner + 2 * gn;
        let (xbc, dt) = (rng.vec(total * width, 1.0), rng.vec(total * heads, 1.0));
        let a: Vec<f32> = rng.vec(heads, 1.0).iter().map(|v| -v.exp()).collect();
        let (d, dt_bias) = (rng.vec(heads, 1.0), rng.vec(heads, 1.0));
        let limit = if seed % 2 == 0 { (0.0, f32::INFINITY) } else { (0.3, 1.5) };
        let params = Mamba2 { head_dim: dim, groups, a: &a, d: &d, dt_bias: &dt_bias, dt_limit: limit };
        let got = same("mamba2", &lengths, (inner * n, inner), |pool, isa, from, seqs, states, out| {
            let (xbc, dt) = (rows(&xbc, width, from), rows(&dt, heads, from));
            let inputs = [
                Columns::of(&xbc, width, 0..inner),
                Columns::all(&dt, heads),
                Columns::of(&xbc, width, inner..inner + gn),
                Columns::of(&xbc, width, inner + gn..width),
            ];
            mamba2(pool, isa, &params, inputs, seqs, states, out);
        });
        let (mut h, mut want) = (vec![0f64; inner * n], vec![]);
        each_row(&lengths, |start, t| {
            if t == start {
                h.fill(0.0);
            }
            let row = &xbc[t * width..][..width];
            for p in 0..inner {
                let head = p / dim;
                let delta = softplus(f(dt[t * heads + head]) + f(dt_bias[head])).clamp(f(limit.0), f(limit.1));
                let mut y = f(d[head]) * f(row[p]);
                for i in 0..n {
                    let at = head / per * n + i;
                    let h = &mut h[p * n + i];
                    *h = *h * (delta * f(a[head])).exp() + delta * f(row[inner + at]) * f(row[p]);
                    y += f(row[inner + gn + at]) * *h;
                }
                want.push(y);
            }
        });
        close("mamba2", &got, &want);
    }
}

#[test]
fn gated_delta_rule() {
    for seed in 0..12 {
        let mut rng = Rng(seed);
        let (k_heads, per, k_dim, v_dim) =
            (1 + rng.below(2), 1 + rng.below(3), rng.pick(&[8, 32, 50]), rng.pick(&[8, 32, 70]));
        let v_heads = k_heads * per;
        let lengths: Vec<usize> = (0..1 + rng.below(3)).map(|_| 1 + rng.below(25)).collect();
        let total: usize = lengths.iter().sum();
        let (kw, vw) = (k_heads * k_dim, v_heads * v_dim);
        let mut unit = |width: usize| {
            let mut x = rng.vec(total * width, 1.0);
            for head in x.chunks_exact_mut(k_dim) {
                let norm = head.iter().map(|v| v * v).sum::<f32>().sqrt();
                head.iter_mut().for_each(|v| *v /= norm);
            }
            x
        };
        let (q, k) = (unit(kw), unit(kw));
        let (v, a, b) = (rng.vec(total * vw, 1.0), rng.vec(total * v_heads, 1.0), rng.vec(total * v_heads, 1.0));
        let a_neg: Vec<f32> = rng.vec(v_heads, 1.0).iter().map(|v| -v.exp()).collect();
        let dt_bias = rng.vec(v_heads, 1.0);
        let shape = Delta { v_heads, k_heads, k_dim, v_dim, scale: 1.0 / (k_dim as f32).sqrt(), tiled: false };
        let got = same("delta", &lengths, (v_heads * k_dim * v_dim, vw), |pool, isa, from, seqs, states, out| {
            let (q, k, v) = (rows(&q, kw, from), rows(&k, kw, from), rows(&v, vw, from));
            let (mut g, mut beta) = (rows(&a, v_heads, from), rows(&b, v_heads, from));
            gates(isa, &a_neg, &dt_bias, &mut g, &mut beta);
            let inputs = [
                Columns::all(&q, kw),
                Columns::all(&k, kw),
                Columns::all(&v, vw),
                Columns::all(&g, v_heads),
                Columns::all(&beta, v_heads),
            ];
            gated_delta(pool, isa, &shape, inputs, seqs, states, out);
        });
        let (mut s, mut want) = (vec![0f64; v_heads * k_dim * v_dim], vec![]);
        each_row(&lengths, |start, t| {
            if t == start {
                s.fill(0.0);
            }
            for h in 0..v_heads {
                let key = |x: &[f32], i: usize| f(x[t * kw + h / per * k_dim + i]);
                let g = f(a_neg[h]) * softplus(f(a[t * v_heads + h]) + f(dt_bias[h]));
                let beta = 1.0 / (1.0 + (-f(b[t * v_heads + h])).exp());
                let s = &mut s[h * k_dim * v_dim..][..k_dim * v_dim];
                s.iter_mut().for_each(|s| *s *= g.exp());
                for j in 0..v_dim {
                    let read: f64 = (0..k_dim).map(|i| s[i * v_dim + j] * key(&k, i)).sum();
                    let change = (f(v[t * vw + h * v_dim + j]) - read) * beta;
                    (0..k_dim).for_each(|i| s[i * v_dim + j] += key(&k, i) * change);
                    let o: f64 = (0..k_dim).map(|i| s[i * v_dim + j] * key(&q, i)).sum();
                    want.push(o / (k_dim as f64).sqrt());
                }
            }
        });
        close("delta", &got, &want);
    }
}

#[test]
#[should_panic(expected = "two sequences share a state")]
fn states_are_not_shared() {
    let seqs = [StateRows { rows: 0..1, slot: 0 }, StateRows { rows: 1..2, slot: 0 }];
    let conv = Conv { w: &[1.0, 1.0], bias: None, taps: 2, silu: false };
    conv1d(&Pool::new(1), Isa::Scalar, &conv, Columns::all(&[1.0, 2.0], 1), &seqs, &mut [0.0], &mut [0.0; 2]);
}
