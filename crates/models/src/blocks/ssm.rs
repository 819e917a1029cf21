//! State-space mixers: Mamba and Mamba-2.

use super::Blocks;
use crate::Config;
use allod_plan::{Act, Conv1d, GateOrder, Param, Scope, SelectiveScan, StateSpaceDual, Value};

/// Mamba (Gu & Dao 2023). Weights: `ssm_in` (x, then gate), `ssm_conv1d`, `ssm_x` (dt, B, C), `ssm_dt`, `ssm_a`,
/// `ssm_d`, `ssm_out`.
#[derive(Clone, Copy, Debug)]
pub struct Mamba {
    /// Channels.
    pub inner: usize,
    /// Size of the state of a channel.
    pub state: usize,
    /// Width of dt before its projection.
    pub rank: usize,
    /// Taps of the convolution.
    pub kernel: usize,
    /// Epsilon of the norms of dt, B and C (`ssm_dt_norm`, `ssm_b_norm`, `ssm_c_norm`), where there are any.
    pub norms: Option<f32>,
}

impl Mamba {
    /// As the configuration says, without norms.
    pub fn of(c: &Config) -> Mamba {
        Mamba {
            inner: c.count("ssm.inner_size"),
            state: c.count("ssm.state_size"),
            rank: c.count("ssm.time_step_rank"),
            kernel: c.count("ssm.conv_kernel"),
            norms: None,
        }
    }
}

pub(super) fn mamba(m: &mut Scope<'_, '_>, x: Value, s: Mamba) -> Value {
    let out = m.width(x);
    let both = m.linear("ssm_in", x, 2 * s.inner);
    let [x, z] = m.split(both, [s.inner; 2]);
    let x = conv(m, x, s.kernel);
    let all = m.linear("ssm_x", x, s.rank + 2 * s.state);
    let [mut dt, mut b, mut c] = m.split(all, [s.rank, s.state, s.state]);
    if let Some(eps) = s.norms {
        dt = m.rms_norm("ssm_dt_norm", dt, eps);
        b = m.rms_norm("ssm_b_norm", b, eps);
        c = m.rms_norm("ssm_c_norm", c, eps);
    }
    let dt = m.linear_without_bias("ssm_dt", dt, s.inner);
    let scan = SelectiveScan {
        state: m.state(s.inner * s.state),
        a: m.param("ssm_a", &[s.inner, s.state]),
        d: m.param("ssm_d", &[s.inner]),
        dt_bias: m.param("ssm_dt.bias", &[s.inner]),
    };
    let y = m.selective_scan([x, dt, b, c], scan);
    let y = m.gated(z, y, Act::Silu);
    m.linear("ssm_out", y, out)
}

/// Mamba-2 (Dao & Gu 2024). Weights: `ssm_in` (gate, x, B, C, dt), `ssm_conv1d`, `ssm_a`, `ssm_d`, `ssm_dt` (a bias),
/// `ssm_norm`, `ssm_out`.
#[derive(Clone, Copy, Debug)]
pub struct Mamba2 {
    /// Channels.
    pub inner: usize,
    /// Heads.
    pub heads: usize,
    /// Groups of heads that share B and C; the norm's groups as well.
    pub groups: usize,
    /// Size of the state of a channel.
    pub state: usize,
    /// Taps of the convolution.
    pub kernel: usize,
    /// Bounds on dt.
    pub dt_limit: (f32, f32),
    /// Epsilon of the norm.
    pub eps: f32,
}

impl Mamba2 {
    /// As the configuration says.
    pub fn of(c: &Config) -> Mamba2 {
        let limit = c.floats("ssm.time_step_limit").unwrap_or_default();
        Mamba2 {
            inner: c.count("ssm.inner_size"),
            heads: c.count("ssm.time_step_rank"),
            groups: c.count("ssm.group_count"),
            state: c.count("ssm.state_size"),
            kernel: c.count("ssm.conv_kernel"),
            dt_limit: (limit.first().copied().unwrap_or(0.0), limit.get(1).copied().unwrap_or(f32::INFINITY)),
            eps: c.eps,
        }
    }
}

pub(super) fn mamba2(m: &mut Scope<'_, '_>, x: Value, s: Mamba2) -> Value {
    let (out, shared) = (m.width(x), s.groups * s.state);
    let all = m.linear("ssm_in", x, 2 * s.inner + 2 * shared + s.heads);
    let [z, xbc, dt] = m.split(all, [s.inner, s.inner + 2 * shared, s.heads]);
    let xbc = conv(m, xbc, s.kernel);
    let [x, b, c] = m.split(xbc, [s.inner, shared, shared]);
    let scan = StateSpaceDual {
        state: m.state(s.inner * s.state),
        a: m.param("ssm_a", &[s.heads]),
        d: m.param("ssm_d", &[s.heads]),
        dt_bias: m.param("ssm_dt.bias", &[s.heads]),
        dt_limit: s.dt_limit,
        heads: s.heads,
        groups: s.groups,
    };
    let y = m.state_space_dual([x, dt, b, c], scan);
    let group = s.inner.checked_div(s.groups).unwrap_or(0);
    let y = m.gated_norm("ssm_norm", (y, z), group, &[s.groups, group], s.eps, GateOrder::GateThenNorm);
    m.linear("ssm_out", y, out)
}

/// The short causal filter `ssm_conv1d` before a scan, with SiLU.
pub(super) fn conv(m: &mut Scope<'_, '_>, x: Value, kernel: usize) -> Value {
    let width = m.width(x);
    if kernel < 1 {
        m.reject("a convolution without taps");
    }
    let weight: Param = m.param("ssm_conv1d.weight", &[width, kernel]);
    let bias = m.optional("ssm_conv1d.bias", &[width]);
    let state = m.state(kernel.saturating_sub(1) * width);
    m.conv1d(x, Conv1d { state, weight, bias, kernel, act: Some(Act::Silu) })
}
