use allod_kernels::isa::Isa;
use allod_kernels::math::*;

use crate::rng::{Rng, bits, wide};

/// Distance of `got` from `want` in units in the last place of `want`.
fn ulps(got: f32, want: f64) -> f64 {
    let w = want as f32;
    if got == w || (got.is_nan() && w.is_nan()) {
        return 0.0;
    }
    let ulp =
        f64::from(f32::from_bits((w.abs().max(f32::MIN_POSITIVE)).to_bits() + 1) - w.abs().max(f32::MIN_POSITIVE));
    (f64::from(got) - want).abs() / ulp
}

fn worst(f: impl Fn(f32) -> f32, truth: impl Fn(f64) -> f64, low: f32, high: f32) -> (f64, f32) {
    let mut rng = Rng(7);
    let mut worst = (0.0, 0.0);
    for _ in 0..400_000 {
        let x = low + (high - low) * (rng.unit() * 0.5 + 0.5);
        let e = ulps(f(x), truth(f64::from(x)));
        if e > worst.0 {
            worst = (e, x);
        }
    }
    worst
}

/// erf by its Taylor series (small x) or continued fraction (large x), in f64.
fn erf64(x: f64) -> f64 {
    let a = x.abs();
    let y = if a < 2.5 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-18 {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..80).rev().fold(a, |f, k| a + f64::from(k) / 2.0 / f);
        1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    y.copysign(x)
}

#[test]
fn elementary_functions_are_accurate() {
    let check = |name: &str, (ulps, at): (f64, f32), limit: f64| assert!(ulps < limit, "{name}: {ulps} ulp at {at:e}");
    check("exp", worst(exp, f64::exp, -86.5, 88.7), 1.5);
    check("exp near 0", worst(exp, f64::exp, -1.0, 1.0), 1.5);
    check("ln", worst(ln, f64::ln, 1e-30, 10.0), 2.0);
    check("ln near 1", worst(ln, f64::ln, 0.5, 2.0), 2.0);
    check("ln large", worst(ln, f64::ln, 1.0, 1e38), 2.0);
    check("tanh", worst(tanh, f64::tanh, -10.0, 10.0), 2.0);
    check("tanh near 0", worst(tanh, f64::tanh, -0.7, 0.7), 2.0);
    check("erf", worst(erf, erf64, -5.0, 5.0), 3.0);
    check("erf near 0", worst(erf, erf64, -0.95, 0.95), 3.0);
    check("sigmoid", worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -80.0, 80.0), 3.0);
    check("softplus", worst(softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), -80.0, 80.0), 3.0);
}

#[test]
fn special_values() {
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(exp(-87.0), 0.0);
    assert_eq!(exp(f32::INFINITY), f32::INFINITY);
    assert_eq!(exp(89.0), f32::INFINITY);
    assert!(exp(88.7).is_finite());
    assert_eq!(exp(0.0), 1.0);
    assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan() && erf(f32::NAN).is_nan());
    assert!(softplus(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan() && ln(f32::NAN).is_nan());
    assert_eq!(ln(0.0), f32::NEG_INFINITY);
    assert_eq!(ln(f32::INFINITY), f32::INFINITY);
    assert!(ln(-1.0).is_nan());
    assert_eq!((tanh(50.0), tanh(-50.0), tanh(0.0)), (1.0, -1.0, 0.0));
    assert_eq!((erf(6.0), erf(-6.0), erf(0.0)), (1.0, -1.0, 0.0));
    assert_eq!((sigmoid(200.0), sigmoid(-200.0)), (1.0, 0.0));
    assert_eq!(softplus(1000.0), 1000.0);
    assert_eq!(softplus(-1000.0), 0.0);
}

#[test]
fn sine_and_cosine_of_large_angles() {
    let mut rng = Rng(3);
    for _ in 0..100_000 {
        let x = f64::from(rng.unit()) * 2e6;
        let (s, c) = sin_cos(x);
        // The standard library's are within an ulp; ours are compared absolutely.
        assert!((s - x.sin()).abs() < 1e-15 && (c - x.cos()).abs() < 1e-15, "{x}: {s} {} {c} {}", x.sin(), x.cos());
    }
}

#[test]
fn vectors_give_the_bytes_of_scalars() {
    let mut rng = Rng(11);
    type Map = fn(Isa, &mut [f32]);
    let maps: [(&str, Map); 6] = [
        ("exp", exp_rows),
        ("ln", ln_rows),
        ("softplus", softplus_rows),
        ("sigmoid", sigmoid_rows),
        ("tanh", tanh_rows),
        ("erf", erf_rows),
    ];
    for (name, map) in maps {
        for _ in 0..50 {
            let n = rng.below(100);
            let scale = rng.pick(&[0.1, 1.0, 30.0, 1e20]);
            let mut x = rng.vec(n, scale);
            x.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 1e-40, -1e-40]);
            let mut want = x.clone();
            map(Isa::Scalar, &mut want);
            for isa in wide() {
                let mut got = x.clone();
                map(isa, &mut got);
                for ((g, w), x) in got.iter().zip(&want).zip(&x) {
                    assert!(
                        g.to_bits() == w.to_bits() || (g.is_nan() && w.is_nan()),
                        "{name}({x:e}): {g:e}, scalar {w:e}"
                    );
                }
            }
            assert_eq!(bits(&want).len(), x.len());
        }
    }
}
