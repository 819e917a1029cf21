//! Adjoints of activations and gated units.

use crate::act::{Act, choose};
use crate::math::{self, erf, exp};
use crate::twin::twin;

/// Value and slope of each activation.
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let s = math::sigmoid(x);
    (x * s, s * (1.0 + x * (1.0 - s)))
}

#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    const INVERSE_ROOT_TAU: f32 = 0.398_942_3;
    let phi = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    (x * phi, phi + x * INVERSE_ROOT_TAU * exp(-0.5 * x * x))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let t = math::tanh(SQRT_2_OVER_PI * (0.044_715 * x * x).mul_add(x, x));
    let slope = SQRT_2_OVER_PI * (3.0 * 0.044_715 * x).mul_add(x, 1.0);
    (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope)
}

#[inline(always)]
fn quick_gelu(x: f32) -> (f32, f32) {
    let s = math::sigmoid(1.702 * x);
    (x * s, s * (1.0 + 1.702 * x * (1.0 - s)))
}

#[inline(always)]
fn relu(x: f32) -> (f32, f32) {
    if x > 0.0 { (x, 1.0) } else { (0.0, 0.0) }
}

#[inline(always)]
fn relu2(x: f32) -> (f32, f32) {
    let r = relu(x).0;
    (r * r, 2.0 * r)
}

#[inline(always)]
fn sigmoid(x: f32) -> (f32, f32) {
    let s = math::sigmoid(x);
    (s, s * (1.0 - s))
}

#[inline(always)]
fn softplus(x: f32) -> (f32, f32) {
    (math::softplus(x), math::sigmoid(x))
}

#[inline(always)]
fn tanh(x: f32) -> (f32, f32) {
    let t = math::tanh(x);
    (t, 1.0 - t * t)
}

#[inline(always)]
fn identity(x: f32) -> (f32, f32) {
    (x, 1.0)
}

#[inline(always)]
fn xielu(x: f32, alpha_p: f32, alpha_n: f32, beta: f32, eps: f32) -> (f32, f32) {
    let m = if x < eps { x } else { eps };
    let t = math::tanh(0.5 * m);
    let expm1 = if m > -1.0 { 2.0 * t / (1.0 - t) } else { exp(m) - 1.0 };
    let inner = if x < eps { expm1 } else { -1.0 };
    if x > 0.0 {
        ((alpha_p * x).mul_add(x, beta * x), (2.0 * alpha_p).mul_add(x, beta))
    } else {
        ((expm1 - x).mul_add(alpha_n, beta * x), inner.mul_add(alpha_n, beta))
    }
}

twin! {
    /// Of `y = act(x)`: `dx += dy · act'(x)`.
    pub fn act(act: Act, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        macro_rules! each {
            ($f:tt) => {
                for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                    *dx += dy * $f(*x).1;
                }
            };
        }
        choose!(act, each)
    }
}

twin! {
    /// Of `y = act(gate) · up`: `dgate += dy · up · act'(gate)`, `dup += dy · act(gate)`.
    pub fn glu(act: Act, gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        macro_rules! each {
            ($f:tt) => {
                for ((((dg, du), g), u), dy) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(dy) {
                    let (value, slope) = $f(*g);
                    *dg += dy * u * slope;
                    *du += dy * value;
                }
            };
        }
        choose!(act, each)
    }
}

twin! {
    /// Of gpt-oss's gate (see [`crate::act::swiglu_clamped`]); `bounds` are alpha and the limit. Where an input is clamped its derivative is 0.
    pub fn swiglu_clamped(
        bounds: (f32, f32),
        gate: &[f32],
        up: &[f32],
        dy: &[f32],
        dgate: &mut [f32],
        dup: &mut [f32],
    ) {
        let (alpha, limit) = bounds;
        for ((((dg, du), g), u), dy) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(dy) {
            let (free_g, free_u) = (*g <= limit, *u <= limit && *u >= -limit);
            let g = if free_g { *g } else { limit };
            let u = if *u > limit { limit } else { *u };
            let u = if u < -limit { -limit } else { u };
            let s = math::sigmoid(alpha * g);
            let slope = s * (1.0 + alpha * g * (1.0 - s));
            *dg += if free_g { dy * (u + 1.0) * slope } else { 0.0 };
            *du += if free_u { dy * g * s } else { 0.0 };
        }
    }
}

twin! {
    /// Of `y = cap · math::tanh(x / cap)`, by its input.
    pub fn soft_cap(cap: f32, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
            let t = math::tanh(*x / cap);
            *dx += dy * (1.0 - t * t);
        }
    }
}

twin! {
    /// Of a clamp to `± limit`.
    pub fn clamp(limit: f32, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx += if x.abs() <= limit { *dy } else { 0.0 };
        }
    }
}
