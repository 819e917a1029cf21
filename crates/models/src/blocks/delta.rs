//! Gated DeltaNet (Yang et al. 2024, arXiv:2412.06464) as Qwen3-Next has it.

use super::{Blocks, ssm};
use crate::Config;
use allod_plan::{Act, DeltaRule, GateOrder, NormKind, Scope, Value};

/// A gated delta rule with its projections. Weights: `attn_qkv`, `attn_gate`, `ssm_beta` and `ssm_alpha` or both as
/// `ssm_ba`, `ssm_conv1d`, `ssm_a`, `ssm_dt` (a bias), `ssm_norm`, `ssm_out`.
#[derive(Clone, Copy, Debug)]
pub struct Delta {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values.
    pub value_heads: usize,
    /// Elements of a query or key head.
    pub key_dim: usize,
    /// Elements of a value head.
    pub value_dim: usize,
    /// Taps of the convolution.
    pub kernel: usize,
    /// Value heads of one key head stand `key_heads` apart instead of side by side.
    pub tiled: bool,
    /// Epsilon of the norm of the result.
    pub eps: f32,
}

impl Delta {
    /// As the configuration says.
    pub fn of(c: &Config) -> Delta {
        let value_heads = c.count("ssm.time_step_rank");
        Delta {
            key_heads: c.count("ssm.group_count"),
            value_heads,
            key_dim: c.count("ssm.state_size"),
            value_dim: c.count("ssm.inner_size").checked_div(value_heads).unwrap_or(0),
            kernel: c.count("ssm.conv_kernel"),
            tiled: false,
            eps: c.eps,
        }
    }
}

/// Added to the squared length of queries and keys.
const EPS: f32 = 1e-6;

pub(super) fn record(m: &mut Scope<'_, '_>, x: Value, d: Delta) -> Value {
    let (out, keys, values) = (m.width(x), d.key_heads * d.key_dim, d.value_heads * d.value_dim);
    let qkv = m.linear("attn_qkv", x, 2 * keys + values);
    let z = m.linear("attn_gate", x, values);
    let [beta, alpha] = rates(m, x, &d);
    let qkv = ssm::conv(m, qkv, d.kernel);
    let [q, k, v] = m.split(qkv, [keys, keys, values]);
    let q = m.bare_norm("ssm_q_norm", q, NormKind::L2, d.key_dim, EPS);
    let k = m.bare_norm("ssm_k_norm", k, NormKind::L2, d.key_dim, EPS);
    let beta = m.act(beta, Act::Sigmoid);
    let decay = m.add_vector("ssm_dt.bias", alpha);
    let decay = m.act(decay, Act::Softplus);
    let a = m.param("ssm_a", &[d.value_heads]);
    let decay = m.scale_with(a, decay);
    let rule = DeltaRule {
        state: m.state(values * d.key_dim),
        key_heads: d.key_heads,
        value_heads: d.value_heads,
        key_dim: d.key_dim,
        value_dim: d.value_dim,
        scale: 1.0 / (d.key_dim as f32).sqrt(),
        tiled: d.tiled,
    };
    let o = m.delta_rule([q, k, v, beta, decay], rule);
    let o = m.gated_norm("ssm_norm", (o, z), d.value_dim, &[d.value_dim], d.eps, GateOrder::NormThenGate);
    m.linear("ssm_out", o, out)
}

/// Logits of beta and of the decay, for each value head.
fn rates(m: &mut Scope<'_, '_>, x: Value, d: &Delta) -> [Value; 2] {
    if !m.has("ssm_ba.weight") {
        return [m.linear("ssm_beta", x, d.value_heads), m.linear("ssm_alpha", x, d.value_heads)];
    }
    let both = m.linear("ssm_ba", x, 2 * d.value_heads);
    let share = d.value_heads.checked_div(d.key_heads).unwrap_or(0);
    [m.columns(both, 2 * share, 0, share), m.columns(both, 2 * share, share, share)]
}
