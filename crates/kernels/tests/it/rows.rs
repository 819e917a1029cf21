//! Norms, activations, rotations: bytes across instruction sets, and the formula in f64.

use allod_kernels::act::{Act, activate, glu, soft_cap, swiglu_clamped};
use allod_kernels::isa::Isa;
use allod_kernels::norm::{Gate, l2_norm, layer_norm, rms_norm, rms_norm_gated, rms_norm_in_place};
use allod_kernels::rope::{Pairing, angles, apply};
use allod_kernels::softmax::{log_softmax, softmax};
use allod_kernels::{elementwise, hadamard};

use crate::rng::{Rng, bits, wide};

const EPS: f64 = 1.0 / (1 << 23) as f64;

/// Runs `f` on every instruction set, demands the scalar bytes, and returns them.
fn same(what: &str, n: usize, f: impl Fn(Isa, &mut [f32])) -> Vec<f32> {
    let mut want = vec![f32::NAN; n];
    f(Isa::Scalar, &mut want);
    for isa in wide() {
        let mut got = vec![f32::NAN; n];
        f(isa, &mut got);
        assert_eq!(bits(&got), bits(&want), "{what} on {isa:?}");
    }
    want
}

fn close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() <= tolerance * (1.0 + w.abs()), "{what}[{i}]: {g} instead of {w}");
    }
}

fn wide64(x: &[f32]) -> Vec<f64> {
    x.iter().map(|v| f64::from(*v)).collect()
}

#[test]
fn norms() {
    let mut rng = Rng(1);
    for _ in 0..200 {
        let (group, groups, rows) = (1 + rng.below(150), 1 + rng.below(3), 1 + rng.below(4));
        let n = group * groups * rows;
        let (x, z) = (rng.vec(n, 2.0), rng.vec(n, 2.0));
        let whole = rng.below(2) == 1;
        let w = rng.vec(if whole { group * groups } else { group }, 1.0);
        let b = rng.vec(w.len(), 1.0);
        let eps = 1e-5;
        let weight = |i: usize| f64::from(w[i % w.len()]);
        // Roundings: a sum of `group` squares in 8 lanes, and a few more operations.
        let tolerance = EPS * (group as f64 / 8.0 + 16.0);
        let rms = |x: &[f64], i: usize| {
            let g = &x[i / group * group..][..group];
            1.0 / (g.iter().map(|v| v * v).sum::<f64>() / group as f64 + eps).sqrt()
        };
        let silu = |v: f64| v / (1.0 + (-v).exp());

        let x64 = wide64(&x);
        let want: Vec<f64> = (0..n).map(|i| x64[i] * rms(&x64, i) * weight(i)).collect();
        let got = same("rms_norm", n, |isa, out| rms_norm(isa, &x, Some(&w), eps as f32, group, out));
        close("rms_norm", &got, &want, tolerance);
        let in_place = same("rms_norm_in_place", n, |isa, out| {
            out.copy_from_slice(&x);
            rms_norm_in_place(isa, out, Some(&w), eps as f32, group);
        });
        assert_eq!(bits(&in_place), bits(&got));
        let last = n - group * groups;
        let alone =
            same("one row", group * groups, |isa, out| rms_norm(isa, &x[last..], Some(&w), eps as f32, group, out));
        assert_eq!(bits(&alone), bits(&got[last..]));

        let want: Vec<f64> = (0..n)
            .map(|i| {
                let g = &x64[i / group * group..][..group];
                let mean = g.iter().sum::<f64>() / group as f64;
                let var = g.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / group as f64;
                (x64[i] - mean) / (var + eps).sqrt() * weight(i) + f64::from(b[i % b.len()])
            })
            .collect();
        let got = same("layer_norm", n, |isa, out| layer_norm(isa, &x, Some(&w), Some(&b), eps as f32, group, out));
        // Where a group is nearly constant, x - mean cancels: one element has nothing but its rounding.
        if group > 1 {
            close("layer_norm", &got, &want, 300.0 * tolerance);
        }

        let want: Vec<f64> = (0..n)
            .map(|i| {
                let g = &x64[i / group * group..][..group];
                x64[i] / (g.iter().map(|v| v * v).sum::<f64>() + 1e-6).sqrt()
            })
            .collect();
        close("l2_norm", &same("l2_norm", n, |isa, out| l2_norm(isa, &x, 1e-6, group, out)), &want, tolerance);

        let gated: Vec<f64> = (0..n).map(|i| x64[i] * silu(f64::from(z[i]))).collect();
        let want: Vec<f64> = (0..n).map(|i| gated[i] * rms(&gated, i) * weight(i)).collect();
        let got = same("gate before", n, |isa, out| {
            rms_norm_gated(isa, &x, Some(&w), Gate::Before(&z), eps as f32, group, out)
        });
        close("gate before", &got, &want, tolerance);
        let want: Vec<f64> = (0..n).map(|i| x64[i] * rms(&x64, i) * weight(i) * silu(f64::from(z[i]))).collect();
        let got = same("gate after", n, |isa, out| {
            rms_norm_gated(isa, &x, Some(&w), Gate::After(&z), eps as f32, group, out)
        });
        close("gate after", &got, &want, tolerance);
    }
}

#[test]
fn activations() {
    let mut rng = Rng(2);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    type Truth = Box<dyn Fn(f64) -> f64>;
    let acts: Vec<(Act, Truth)> = vec![
        (Act::Silu, Box::new(move |x| x * sigmoid(x))),
        (
            Act::GeluTanh,
            Box::new(|x| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())),
        ),
        (Act::QuickGelu, Box::new(move |x| x * sigmoid(1.702 * x))),
        (Act::Relu, Box::new(|x| x.max(0.0))),
        (Act::Relu2, Box::new(|x| x.max(0.0).powi(2))),
        (Act::Sigmoid, Box::new(sigmoid)),
        (Act::Softplus, Box::new(|x| x.max(0.0) + (-x.abs()).exp().ln_1p())),
        (Act::Tanh, Box::new(f64::tanh)),
        (Act::Identity, Box::new(|x| x)),
        (
            Act::Xielu { alpha_p: 0.8, alpha_n: 1.3, beta: 0.5, eps: -1e-6 },
            Box::new(|x| if x > 0.0 { 0.8 * x * x + 0.5 * x } else { (x.min(-1e-6).exp_m1() - x) * 1.3 + 0.5 * x }),
        ),
        // Φ by integrating its density from the left (Simpson's rule).
        (
            Act::Gelu,
            Box::new(|x| {
                let (n, low) = (2000, -9.0);
                let h = (x - low) / f64::from(n);
                let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let inner: f64 =
                    (1..n).map(|i| density(low + f64::from(i) * h) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
                x * h / 3.0 * (density(low) + inner + density(x))
            }),
        ),
    ];
    for (act, truth) in acts {
        let n = 1 + rng.below(200);
        let (x, up) = (rng.vec(n, 2.5), rng.vec(n, 1.0));
        let want: Vec<f64> = x.iter().map(|v| truth(f64::from(*v))).collect();
        let got = same("activate", n, |isa, out| {
            out.copy_from_slice(&x);
            activate(isa, act, out);
        });
        close(&format!("{act:?}"), &got, &want, 8.0 * EPS);
        let want: Vec<f64> = want.iter().zip(&up).map(|(w, u)| w * f64::from(*u)).collect();
        close(&format!("glu {act:?}"), &same("glu", n, |isa, out| glu(isa, act, &x, &up, out)), &want, 24.0 * EPS);
    }
    let (x, up) = (rng.vec(100, 6.0), rng.vec(100, 6.0));
    let want: Vec<f64> = x
        .iter()
        .zip(&up)
        .map(|(g, u)| {
            let (g, u) = (f64::from(*g).min(7.0), f64::from(*u).clamp(-7.0, 7.0));
            (u + 1.0) * g * sigmoid(1.702 * g)
        })
        .collect();
    close("swiglu", &same("swiglu", 100, |isa, out| swiglu_clamped(isa, 1.702, 7.0, &x, &up, out)), &want, 8.0 * EPS);
    let want: Vec<f64> = x.iter().map(|v| 5.0 * (f64::from(*v) / 5.0).tanh()).collect();
    let got = same("soft_cap", 100, |isa, out| {
        out.copy_from_slice(&x);
        soft_cap(isa, 5.0, out);
    });
    close("soft_cap", &got, &want, 8.0 * EPS);
}

#[test]
fn softmaxes() {
    let mut rng = Rng(4);
    for _ in 0..100 {
        let (width, rows) = (1 + rng.below(300), 1 + rng.below(3));
        let x = rng.vec(width * rows, 5.0);
        let total = |i: usize| x[i / width * width..][..width].iter().map(|v| f64::from(*v).exp()).sum::<f64>();
        let want: Vec<f64> = (0..x.len()).map(|i| f64::from(x[i]).exp() / total(i)).collect();
        let run = |f: fn(Isa, &mut [f32], usize)| {
            same("softmax", x.len(), |isa, out| {
                out.copy_from_slice(&x);
                f(isa, out, width);
            })
        };
        // The difference to the maximum is rounded at up to 2⁵.
        close("softmax", &run(softmax), &want, 40.0 * EPS);
        let want: Vec<f64> = (0..x.len()).map(|i| f64::from(x[i]) - total(i).ln()).collect();
        close("log_softmax", &run(log_softmax), &want, 40.0 * EPS);
    }
}

#[test]
fn rotary_positions_up_to_a_million() {
    let mut rng = Rng(5);
    for _ in 0..50 {
        let (heads, head_dim) = (1 + rng.below(3), 2 * (1 + rng.below(40)));
        let dims = 2 * (1 + rng.below(head_dim / 2));
        let rows = 1 + rng.below(4);
        let positions: Vec<u32> = (0..rows).map(|_| rng.below(1_000_000) as u32).collect();
        let freq: Vec<f32> = (0..dims / 2).map(|i| 10000f32.powf(-2.0 * i as f32 / dims as f32)).collect();
        let x = rng.vec(rows * heads * head_dim, 1.0);
        for pairing in [Pairing::Half, Pairing::Interleaved] {
            let got = same("rope", x.len(), |isa, out| {
                let mut table = vec![0.0; rows * dims];
                angles(isa, &positions, &freq, 1.25, &mut table);
                out.copy_from_slice(&x);
                apply(isa, out, heads, head_dim, dims, pairing, &table);
            });
            let mut want = wide64(&x);
            for t in 0..rows {
                for h in 0..heads {
                    let head = &mut want[(t * heads + h) * head_dim..][..head_dim];
                    for (i, f) in freq.iter().enumerate() {
                        let (s, c) = (f64::from(positions[t]) * f64::from(*f)).sin_cos();
                        let (ia, ib) = match pairing {
                            Pairing::Half => (i, i + dims / 2),
                            Pairing::Interleaved => (2 * i, 2 * i + 1),
                        };
                        let (a, b) = (head[ia], head[ib]);
                        head[ia] = 1.25 * (a * c - b * s);
                        head[ib] = 1.25 * (b * c + a * s);
                    }
                }
            }
            close("rope", &got, &want, 8.0 * EPS);
        }
    }
}

#[test]
fn hadamard_is_orthogonal_and_its_own_inverse() {
    let mut rng = Rng(6);
    for block in [32, 64, 128, 256] {
        let (x, y) = (rng.vec(3 * block, 1.0), rng.vec(3 * block, 1.0));
        let rotate = |x: &[f32]| {
            same("hadamard", x.len(), |isa, out| {
                out.copy_from_slice(x);
                hadamard::rotate(isa, out, block);
            })
        };
        let (hx, hy) = (rotate(&x), rotate(&y));
        close("H H x", &rotate(&hx), &wide64(&x), 20.0 * EPS);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        assert!((dot(&hx, &hy) - dot(&x, &y)).abs() < 1e-4);
        // Row 0 of the matrix is constant.
        let mean = x[..block].iter().sum::<f32>() / (block as f32).sqrt();
        assert!((hx[0] - mean).abs() < 1e-5);
    }
    assert_eq!(hadamard::block(128), Some(128));
    assert_eq!(hadamard::block(192), Some(64));
    assert_eq!(hadamard::block(80), None);
    assert_eq!(hadamard::block(0), None);
}

#[test]
fn elementwise_operations() {
    let mut rng = Rng(8);
    let (x, y) = (rng.vec(60, 1.0), rng.vec(60, 1.0));
    let run = |f: &dyn Fn(Isa, &mut [f32])| {
        same("elementwise", 60, |isa, out| {
            out.copy_from_slice(&x);
            f(isa, out);
        })
    };
    let want = |f: &dyn Fn(usize) -> f32| (0..60).map(f).collect::<Vec<f32>>();
    assert_eq!(run(&|isa, o| elementwise::add(isa, o, &y)), want(&|i| x[i] + y[i]));
    assert_eq!(run(&|isa, o| elementwise::sum(isa, &x, &y, o)), want(&|i| x[i] + y[i]));
    assert_eq!(run(&|isa, o| elementwise::scaled(isa, &x, 0.3, o)), want(&|i| x[i] * 0.3));
    assert_eq!(run(&|isa, o| elementwise::mul(isa, o, &y)), want(&|i| x[i] * y[i]));
    assert_eq!(run(&|isa, o| elementwise::scale(isa, o, 3.0)), want(&|i| x[i] * 3.0));
    assert_eq!(run(&|isa, o| elementwise::add_scaled(isa, o, &y, 0.3)), want(&|i| 0.3f32.mul_add(y[i], x[i])));
    assert_eq!(run(&|isa, o| elementwise::add_bias(isa, o, &y[..12])), want(&|i| x[i] + y[i % 12]));
    assert_eq!(run(&|isa, o| elementwise::mul_rows(isa, o, &y[..12])), want(&|i| x[i] * y[i % 12]));
    assert_eq!(run(&|isa, o| elementwise::scale_rows(isa, o, &y[..5], 12)), want(&|i| x[i] * y[i / 12]));
    assert_eq!(run(&|isa, o| elementwise::clamp(isa, o, -0.5, 0.25)), want(&|i| x[i].clamp(-0.5, 0.25)));
    let mut rows = vec![0.0; 24];
    elementwise::gather(&x, 12, &[4, 1], &mut rows);
    assert_eq!(rows, [&x[48..60], &x[12..24]].concat());
    elementwise::embed(&[2, 0], 12, &mut rows, |id, row| row.fill(id as f32));
    assert_eq!(rows, [[2.0; 12], [0.0; 12]].concat());
}
