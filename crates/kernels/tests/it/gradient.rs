//! Kernels of training against computations in f64 that hold everything at once; equal bytes on every instruction set
//! and for any number of threads. That the adjoints are derivatives is shown elsewhere, by differences.

use allod_kernels::{
    attention::AttendParams,
    gradient::{
        Attended, Attention, ByColumns, ByRows, Head, Matrix, Panels, Score, Start, Term, attend, attend_adjoint,
        log_probs, log_probs_weight, product,
    },
    isa::Isa,
    pool::Pool,
};
use allod_tensor::DType;

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut z = seed;
    let mut next = || {
        z = z.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (z >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Asserts that numbers are near, relative to the largest of what is expected.
fn near(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-9f64, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*f) - e).abs() <= tolerance * largest, "{what}: {i}: found {f}, expected {e}");
    }
}

/// Runs `f` on every instruction set and on 1, 2 and 3 threads; all must give the same bytes.
fn everywhere(what: &str, f: impl Fn(&Pool, Isa) -> Vec<f32>) -> Vec<f32> {
    let first = f(&Pool::new(1), Isa::Scalar);
    for isa in Isa::available() {
        for threads in 1..=3 {
            let again = f(&Pool::new(threads), isa);
            assert!(
                first.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{what}: {isa}, {threads} threads"
            );
        }
    }
    first
}

#[test]
fn products_of_every_direction_and_type() {
    for (rows, k, n) in [(1, 1, 1), (3, 17, 40), (130, 300, 270), (700, 260, 20)] {
        let (a, w, c) = (random(rows * k, 1), random(n * k, 2), random(rows * n, 3));
        for by_rows in [true, false] {
            // W is [n, k] by rows, [k, n] by columns.
            let at = |j: usize, i: usize| f64::from(if by_rows { w[j * k + i] } else { w[i * n + j] });
            let found = everywhere("product", |pool, isa| {
                let (rows_of, columns_of);
                let b: &dyn Panels = if by_rows {
                    rows_of = ByRows(Matrix::Numbers { data: &w, cols: k });
                    &rows_of
                } else {
                    columns_of = ByColumns(Matrix::Numbers { data: &w, cols: n });
                    &columns_of
                };
                let mut out = c.clone();
                product(pool, isa, &[Term { a: &a, stride: k, k, b }], Start::Held, (&mut out, n), (rows, n));
                out
            });
            let expected: Vec<f64> = (0..rows * n)
                .map(|i| {
                    let (t, j) = (i / n, i % n);
                    f64::from(c[i]) + (0..k).map(|i| f64::from(a[t * k + i]) * at(j, i)).sum::<f64>()
                })
                .collect();
            near("product", &found, &expected, 1e-5);
        }
    }
}

#[test]
fn encoded_matrices_are_the_numbers_they_stand_for() {
    let (rows, n, k) = (5, 33, 512);
    for dtype in [DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::MXFP4] {
        let mut data = vec![];
        allod_codec::encode(dtype, &random(n * k, 4), &mut data).unwrap();
        let mut numbers = vec![0.0; n * k];
        allod_codec::decode(dtype, &data, &mut numbers).unwrap();
        let (encoded, plain) =
            (Matrix::Encoded { dtype, data: &data, cols: k }, Matrix::Numbers { data: &numbers, cols: k });
        let (x, dy, pool) = (random(rows * k, 5), random(rows * n, 6), Pool::new(2));
        let both = |m: Matrix<'_>| {
            let (mut y, mut dx) = (vec![0.0; rows * n], vec![0.0; rows * k]);
            let forward = Term { a: &x, stride: k, k, b: &ByRows(m) };
            product(&pool, Isa::best(), &[forward], Start::Zero, (&mut y, n), (rows, n));
            let back = Term { a: &dy, stride: n, k: n, b: &ByColumns(m) };
            product(&pool, Isa::best(), &[back], Start::Zero, (&mut dx, k), (rows, k));
            [y, dx].concat()
        };
        assert_eq!(both(encoded), both(plain), "{dtype}");
    }
}

/// Attention and its adjoint with whole matrices of weights.
fn whole(a: &Attention<'_>, [q, k, v, dy]: [&[f32]; 4], n: usize) -> [Vec<f64>; 4] {
    let (heads, kd, vd) = (a.params.heads, a.key_dim, a.value_dim);
    let mut out = [vec![0.0; n * heads * vd], vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]];
    for h in 0..heads {
        let g = h / (heads / a.kv_heads);
        let at = |x: &[f32], row: usize, heads: usize, h: usize, dim: usize, i: usize| {
            f64::from(x[(row * heads + h) * dim + i])
        };
        for t in 0..n {
            let sees = |s: usize| {
                let p = &a.params;
                let far = |w: u32| if p.causal { t >= s + w as usize } else { t.abs_diff(s) > w as usize };
                !(p.causal && s > t
                    || p.window.is_some_and(far)
                    || p.chunk.is_some_and(|c| s / c as usize != t / c as usize))
            };
            let keys: Vec<usize> = (0..n).filter(|&s| sees(s)).collect();
            let dot =
                |s: usize| (0..kd).map(|i| at(q, t, heads, h, kd, i) * at(k, s, a.kv_heads, g, kd, i)).sum::<f64>();
            let scores: Vec<f64> = keys.iter().map(|&s| dot(s) * f64::from(a.params.scale)).collect();
            let max = scores.iter().fold(f64::NEG_INFINITY, |m, v| m.max(*v));
            let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            let p: Vec<f64> = scores.iter().map(|s| (s - max).exp() / total).collect();
            let dp: Vec<f64> = keys
                .iter()
                .map(|&s| (0..vd).map(|i| at(dy, t, heads, h, vd, i) * at(v, s, a.kv_heads, g, vd, i)).sum())
                .collect();
            let mean: f64 = p.iter().zip(&dp).map(|(p, d)| p * d).sum();
            for ((&s, p), dp) in keys.iter().zip(&p).zip(&dp) {
                let ds = p * (dp - mean) * f64::from(a.params.scale);
                for i in 0..vd {
                    out[0][(t * heads + h) * vd + i] += p * at(v, s, a.kv_heads, g, vd, i);
                    out[3][(s * a.kv_heads + g) * vd + i] += p * at(dy, t, heads, h, vd, i);
                }
                for i in 0..kd {
                    out[1][(t * heads + h) * kd + i] += ds * at(k, s, a.kv_heads, g, kd, i);
                    out[2][(s * a.kv_heads + g) * kd + i] += ds * at(q, t, heads, h, kd, i);
                }
            }
        }
    }
    out
}

#[test]
fn attention_over_many_tiles() {
    let n = 203;
    let masks: [(&str, bool, Option<u32>, Option<u32>); 5] = [
        ("causal", true, None, None),
        ("window", true, Some(70), None),
        ("chunks", true, None, Some(90)),
        ("both ways", false, None, None),
        ("local", false, Some(66), None),
    ];
    for (name, causal, window, chunk) in masks {
        let params = AttendParams { causal, window, chunk, ..AttendParams::causal(4, 0.3) };
        let a = Attention { params, kv_heads: 2, key_dim: 20, value_dim: 24 };
        // A shorter sequence stands before, so that rows and positions differ.
        let before = 9;
        let total = n + before;
        let [q, k, v, dy] =
            [(total * 80, 1), (total * 40, 2), (total * 48, 3), (total * 96, 4)].map(|(n, s)| random(n, s));
        let sequences = [0..before, before..total];
        let found = everywhere(name, |pool, isa| {
            let (mut out, mut lse) = (vec![0.0; dy.len()], vec![0.0; total * 4]);
            attend(pool, isa, &a, &q, &k, Some(&v), &sequences, &mut out, &mut lse);
            let [mut dq, mut dk, mut dv] = [q.len(), k.len(), v.len()].map(|n| vec![0.0; n]);
            let r = Attended { q: &q, k: &k, v: Some(&v), out: &out, lse: &lse, d_out: &dy };
            attend_adjoint(pool, isa, &a, &r, &sequences, [&mut dq, &mut dk, &mut dv], None);
            [&out[before * 96..], &dq[before * 80..], &dk[before * 40..], &dv[before * 48..]].concat()
        });
        let inputs = [&q[before * 80..], &k[before * 40..], &v[before * 48..], &dy[before * 96..]];
        near(name, &found, &whole(&a, inputs, n).concat(), 2e-5);
    }
}

#[test]
fn the_head_without_its_logits() {
    let (rows, vocabulary, width) = (75, 300, 36);
    let (hidden, w, bias) = (random(rows * width, 1), random(vocabulary * width, 2), random(vocabulary, 3));
    let targets: Vec<u32> = (0..rows).map(|t| (t * 37 % vocabulary) as u32).collect();
    let d_values = random(rows, 4);
    for (scale, softcap, biased) in [(1.0, None, false), (0.4, Some(2.0), true)] {
        let head =
            Head { w: Matrix::Numbers { data: &w, cols: width }, bias: biased.then_some(&bias[..]), scale, softcap };
        let found = everywhere("head", |pool, isa| {
            let (mut scores, mut direction) = (vec![Score::default(); rows], vec![0.0; rows * width]);
            log_probs(pool, isa, &head, &hidden, &targets, Some(&mut direction), &mut scores);
            let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; vocabulary]);
            let grads = (Some(&mut dw[..]), Some(&mut db[..]));
            log_probs_weight(pool, isa, &head, &hidden, &targets, &scores, &d_values, grads.0, grads.1);
            let numbers = scores.iter().flat_map(|s| [s.log_prob, s.entropy, s.best as f32]).collect::<Vec<_>>();
            [numbers, direction, dw, db].concat()
        });
        let (mut scores, mut direction) = (vec![], vec![]);
        let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; vocabulary]);
        for t in 0..rows {
            let h: Vec<f64> = hidden[t * width..(t + 1) * width].iter().map(|&v| f64::from(v)).collect();
            let row = |v: usize| w[v * width..(v + 1) * width].iter().map(|&w| f64::from(w));
            let raw = |v: usize| {
                let z = row(v).zip(&h).map(|(w, h)| w * h).sum::<f64>() + if biased { f64::from(bias[v]) } else { 0.0 };
                z * f64::from(scale)
            };
            let capped = |z: f64| softcap.map_or(z, |c| f64::from(c) * (z / f64::from(c)).tanh());
            let z: Vec<f64> = (0..vocabulary).map(|v| capped(raw(v))).collect();
            let total: f64 = z.iter().map(|z| z.exp()).sum();
            let p: Vec<f64> = z.iter().map(|z| z.exp() / total).collect();
            let best = (0..vocabulary).fold(0, |b, v| if z[v] > z[b] { v } else { b });
            let entropy = -p.iter().map(|p| p * p.ln()).sum::<f64>();
            scores.extend([p[targets[t] as usize].ln(), entropy, best as f64]);
            let mut d = vec![0.0; width];
            for v in 0..vocabulary {
                let slope = softcap.map_or(1.0, |c| 1.0 - (z[v] / f64::from(c)).powi(2)) * f64::from(scale);
                let g = (f64::from(u8::from(v == targets[t] as usize)) - p[v]) * slope;
                d.iter_mut().zip(row(v)).for_each(|(d, w)| *d += g * w);
                let g = g * f64::from(d_values[t]);
                dw[v * width..(v + 1) * width].iter_mut().zip(&h).for_each(|(d, h)| *d += g * h);
                db[v] += g;
            }
            direction.extend(d);
        }
        let (a, b) = (scores.len(), direction.len());
        near("scores", &found[..a], &scores, 2e-6);
        near("direction", &found[a..a + b], &direction, 1e-5);
        near("weights", &found[a + b..], &[dw, db].concat(), 1e-5);
    }
}
