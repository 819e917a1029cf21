//! Activations and gated linear units.

use crate::isa::Isa;
use crate::math::{erf, exp, sigmoid, softplus, tanh};
use crate::twin::twin;

/// An activation function, named as in the configs of Transformers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Act {
    /// `x σ(x)`, also called swish.
    Silu,
    /// `x Φ(x)` with the error function (Hendrycks & Gimpel 2016, arXiv:1606.08415).
    Gelu,
    /// The tanh approximation of GELU from the same paper: `gelu_new`, `gelu_pytorch_tanh`.
    GeluTanh,
    /// `x σ(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²` (So et al. 2021, arXiv:2109.08668).
    Relu2,
    /// `σ(x)`.
    Sigmoid,
    /// `ln(1 + eˣ)`.
    Softplus,
    /// `tanh x`.
    Tanh,
    /// `x`.
    Identity,
    /// xIELU (arXiv:2411.13010) with its two learned slopes already made positive: `αp x² + βx` for `x > 0`,
    /// else `αn (eᵐ - 1 - x) + βx` with `m = min(x, eps)`.
    Xielu {
        /// `softplus(alpha_p)`.
        alpha_p: f32,
        /// `beta + softplus(alpha_n)`.
        alpha_n: f32,
        /// The slope at 0.
        beta: f32,
        /// A small negative bound on the exponent.
        eps: f32,
    },
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let inner = SQRT_2_OVER_PI * (0.044_715 * x * x).mul_add(x, x);
    0.5 * x * (1.0 + tanh(inner))
}

#[inline(always)]
fn quick_gelu(x: f32) -> f32 {
    x * sigmoid(1.702 * x)
}

#[inline(always)]
fn clamped(alpha: f32, limit: f32, g: f32, u: f32) -> f32 {
    let g = if g > limit { limit } else { g };
    let u = if u > limit { limit } else { u };
    let u = if u < -limit { -limit } else { u };
    (u + 1.0) * (g * sigmoid(g * alpha))
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    if x > 0.0 { x } else { 0.0 }
}

#[inline(always)]
fn relu2(x: f32) -> f32 {
    relu(x) * relu(x)
}

#[inline(always)]
fn identity(x: f32) -> f32 {
    x
}

#[inline(always)]
fn xielu(x: f32, alpha_p: f32, alpha_n: f32, beta: f32, eps: f32) -> f32 {
    let m = if x < eps { x } else { eps };
    // eᵐ - 1 through tanh(m/2), which keeps its digits near 0.
    let t = tanh(0.5 * m);
    let expm1 = if m > -1.0 { 2.0 * t / (1.0 - t) } else { exp(m) - 1.0 };
    let positive = (alpha_p * x).mul_add(x, beta * x);
    let negative = (expm1 - x).mul_add(alpha_n, beta * x);
    if x > 0.0 { positive } else { negative }
}

/// Calls the loop `$go` with the chosen function, so that each is a loop of its own.
macro_rules! choose {
    ($act:expr, $go:ident) => {
        match $act {
            Act::Silu => $go!(silu),
            Act::Gelu => $go!(gelu),
            Act::GeluTanh => $go!(gelu_tanh),
            Act::QuickGelu => $go!(quick_gelu),
            Act::Relu => $go!(relu),
            Act::Relu2 => $go!(relu2),
            Act::Sigmoid => $go!(sigmoid),
            Act::Softplus => $go!(softplus),
            Act::Tanh => $go!(tanh),
            Act::Identity => $go!(identity),
            Act::Xielu { alpha_p, alpha_n, beta, eps } => {
                macro_rules! bound {
                    () => {
                        |x| xielu(x, alpha_p, alpha_n, beta, eps)
                    };
                }
                $go!((bound!()))
            }
        }
    };
}

pub(crate) use choose;

twin! {
    /// `act(x)` of every element, in place.
    pub fn activate(act: Act, x: &mut [f32]) {
        macro_rules! each {
            ($f:tt) => {
                for v in x.iter_mut() {
                    *v = $f(*v);
                }
            };
        }
        choose!(act, each)
    }
}

twin! {
    /// `out = act(gate) · up` (Shazeer 2020, arXiv:2002.05202).
    pub fn glu(act: Act, gate: &[f32], up: &[f32], out: &mut [f32]) {
        macro_rules! each {
            ($f:tt) => {
                for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
                    *o = $f(*g) * u;
                }
            };
        }
        choose!(act, each)
    }
}

twin! {
    /// gpt-oss's gate: `min(gate, limit) σ(alpha · min(gate, limit)) · (clamp(up, ±limit) + 1)`.
    pub fn swiglu_clamped(alpha: f32, limit: f32, gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
            *o = clamped(alpha, limit, *g, *u);
        }
    }
}

twin! {
    /// [`glu`] in place of the gate.
    fn glu_in_place(act: Act, gate: &mut [f32], up: &[f32]) {
        macro_rules! each {
            ($f:tt) => {
                for (g, u) in gate.iter_mut().zip(up) {
                    *g = $f(*g) * u;
                }
            };
        }
        choose!(act, each)
    }
}

twin! {
    /// [`swiglu_clamped`] in place of the gate.
    fn swiglu_clamped_in_place(alpha: f32, limit: f32, gate: &mut [f32], up: &[f32]) {
        for (g, u) in gate.iter_mut().zip(up) {
            *g = clamped(alpha, limit, *g, *u);
        }
    }
}

/// How a gate acts on what it gates.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Glu {
    /// [`glu`]
    Act(Act),
    /// [`swiglu_clamped`]
    Clamped {
        /// Factor inside the sigmoid.
        alpha: f32,
        /// Bound on both.
        limit: f32,
    },
}

impl Glu {
    /// `gate ← act(gate) · up`.
    pub fn apply(self, isa: Isa, gate: &mut [f32], up: &[f32]) {
        match self {
            Glu::Act(act) => glu_in_place(isa, act, gate, up),
            Glu::Clamped { alpha, limit } => swiglu_clamped_in_place(isa, alpha, limit, gate, up),
        }
    }
}

twin! {
    /// `cap · tanh(x / cap)`, in place (Gemma 2).
    pub fn soft_cap(cap: f32, x: &mut [f32]) {
        for v in x {
            *v = cap * tanh(*v / cap);
        }
    }
}
