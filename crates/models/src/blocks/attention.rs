//! Grouped-query attention with every variation that dense decoders have shown.

use super::{Blocks, RopeSpec};
use crate::Config;
use allod_plan::{Act, Attend, Cache, CacheInfo, Constants, Mask, NormKind, Scope, Value};

/// Attention of one layer. Weights: `attn_q`, `attn_k`, `attn_v` or `attn_qkv`, and `attn_output`; biases where the
/// source has them.
#[derive(Clone, Debug)]
pub struct Attn {
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a query or key head.
    pub head_dim: usize,
    /// Elements of a value head.
    pub value_dim: usize,
    /// Positions that the plan is for.
    pub context: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Rotary positions.
    pub rope: Option<RopeSpec>,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// Norm the queries and keys after they are rotated, not before.
    pub norm_after_rope: bool,
    /// Epsilon of those norms.
    pub eps: f32,
    /// Which keys a row sees.
    pub mask: Mask,
    /// Soft cap on the scores.
    pub softcap: Option<f32>,
    /// Learned sinks, the tensor `attn_sinks`.
    pub sinks: bool,
    /// Linear position bias: slope per head.
    pub alibi: Option<Constants>,
    /// Bound on the absolute value of queries, keys and values, after their norms and before rotation.
    pub clamp: Option<f32>,
    /// Biases of the projections of queries, keys and values.
    pub bias: Bias,
    /// Llama 4's temperature tuning of the queries: positions per step, strength.
    pub temperature: Option<(f32, f32)>,
    /// A gate on what is attended to, before the output projection.
    pub gate: Gate,
    /// RMS norm of each value head, without weights.
    pub v_norm: bool,
    /// Values are the projected keys, before their norm and rotation; there is no `attn_v`.
    pub v_is_k: bool,
    /// Whose keys and values are attended to.
    pub kv: Kv,
    /// Width of the output; the input's where `None`.
    pub out: Option<usize>,
}

/// A sigmoid gate on the result of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// None.
    None,
    /// From the input by `attn_gate`.
    Projected,
    /// From the second half of each head of `attn_q`.
    InQuery,
}

/// Whose keys and values a layer attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kv {
    /// Its own.
    Own,
    /// Its own, in a cache that the caller declared and that later layers read as well (see [`Attn::declare`]).
    Declared(Cache),
    /// Those of an earlier layer.
    Earlier(Cache),
}

/// Norms of queries and keys: the tensors `attn_q_norm` and `attn_k_norm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// RMS norm of each head, one weight for all.
    PerHead,
    /// RMS norm of the whole row.
    Full,
    /// RMS norm of each head without weights.
    Bare,
}

/// Whether projections have biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// Where the source has them.
    IfPresent,
    /// Always: their absence is an error.
    Required,
}

impl Attn {
    /// Plain grouped-query attention of layer `i` as the configuration says: no positions, no window.
    pub fn gqa(c: &Config, i: usize) -> Attn {
        Attn {
            heads: c.heads(i),
            kv_heads: c.kv_heads(i),
            head_dim: c.head_dim,
            value_dim: c.value_dim,
            context: c.context,
            scale: 1.0 / (c.head_dim as f32).sqrt(),
            rope: None,
            qk_norm: QkNorm::None,
            norm_after_rope: false,
            eps: c.eps,
            mask: c.mask_if(false),
            softcap: None,
            sinks: false,
            alibi: None,
            clamp: None,
            bias: Bias::IfPresent,
            temperature: None,
            gate: Gate::None,
            v_norm: false,
            v_is_k: false,
            kv: Kv::Own,
            out: None,
        }
    }

    /// Declares the cache that this attention needs.
    pub fn declare(&self, m: &mut Scope<'_, '_>) -> Cache {
        m.cache(CacheInfo {
            kv_heads: self.kv_heads,
            key_dim: self.head_dim,
            value_dim: self.value_dim,
            value_in_key: false,
            horizon: match self.mask {
                Mask::Window(n) | Mask::Chunk(n) => Some(n),
                Mask::Causal | Mask::Full | Mask::Local(_) => None,
            },
        })
    }
}

pub(super) fn record(m: &mut Scope<'_, '_>, x: Value, a: Attn) -> Value {
    let out = a.out.unwrap_or_else(|| m.width(x));
    let o = heads(m, x, a);
    m.linear("attn_output", o, out)
}

/// Attention up to, not including, the output projection.
pub(crate) fn heads(m: &mut Scope<'_, '_>, x: Value, a: Attn) -> Value {
    let parts = project(m, x, &a);
    let (mut q, mut gate) = (parts[0], None);
    match a.gate {
        Gate::None => {}
        Gate::Projected => gate = Some(m.linear("attn_gate", x, a.heads * a.value_dim)),
        Gate::InQuery => {
            gate = Some(m.columns(q, 2 * a.head_dim, a.head_dim, a.head_dim));
            q = m.columns(q, 2 * a.head_dim, 0, a.head_dim);
        }
    }
    q = place(m, q, "attn_q_norm", &a);
    if let Some((floor, scale)) = a.temperature {
        q = m.position_scale(q, floor, scale);
    }
    let mut inputs = vec![q];
    if let Some(&k) = parts.get(1) {
        let mut v = parts.get(2).copied().unwrap_or(k);
        if a.v_norm {
            v = m.bare_norm("attn_v_norm", v, NormKind::Rms, a.value_dim, a.eps);
        }
        inputs.extend([place(m, k, "attn_k_norm", &a), clamp(m, v, &a)]);
    }
    let cache = match a.kv {
        Kv::Own => a.declare(m),
        Kv::Declared(cache) | Kv::Earlier(cache) => cache,
    };
    let sinks = a.sinks.then(|| m.param("attn_sinks.weight", &[a.heads]));
    let attend =
        Attend { cache, heads: a.heads, scale: a.scale, softcap: a.softcap, mask: a.mask, sinks, alibi: a.alibi };
    let o = m.attend(&inputs, attend);
    match gate {
        Some(gate) => {
            let gate = m.act(gate, Act::Sigmoid);
            m.mul(o, gate)
        }
        None => o,
    }
}

/// Queries, and where the layer has its own, keys and values.
fn project(m: &mut Scope<'_, '_>, x: Value, a: &Attn) -> Vec<Value> {
    let query = a.head_dim * if a.gate == Gate::InQuery { 2 } else { 1 };
    let widths = [a.heads * query, a.kv_heads * a.head_dim, a.kv_heads * a.value_dim];
    let needed = match a.kv {
        Kv::Earlier(_) => 1,
        _ if a.v_is_k => 2,
        _ => 3,
    };
    let fused = m.has("attn_qkv.weight");
    let names: &[&str] = if fused { &["attn_qkv"] } else { &["attn_q", "attn_k", "attn_v"][..needed] };
    if a.bias == Bias::Required {
        let total = [widths.iter().sum()];
        let outs: &[usize] = if fused { &total } else { &widths };
        for (name, &out) in names.iter().zip(outs) {
            m.param(&format!("{name}.bias"), &[out]);
        }
    }
    if fused {
        let qkv = m.linear("attn_qkv", x, widths.iter().sum());
        return m.split(qkv, widths).to_vec();
    }
    names.iter().zip(widths).map(|(name, width)| m.linear(name, x, width)).collect()
}

/// Queries or keys as their scores want them: normed, bounded, rotated.
fn place(m: &mut Scope<'_, '_>, mut x: Value, name: &str, a: &Attn) -> Value {
    if !a.norm_after_rope {
        x = qk_norm(m, x, name, a);
    }
    x = clamp(m, x, a);
    if let Some(rope) = &a.rope {
        x = rope.apply(m, x, a.head_dim, a.context);
    }
    if a.norm_after_rope { qk_norm(m, x, name, a) } else { x }
}

fn clamp(m: &mut Scope<'_, '_>, x: Value, a: &Attn) -> Value {
    match a.clamp {
        Some(limit) => m.clamp(x, limit),
        None => x,
    }
}

fn qk_norm(m: &mut Scope<'_, '_>, x: Value, name: &str, a: &Attn) -> Value {
    match a.qk_norm {
        QkNorm::None => x,
        QkNorm::PerHead => m.head_norm(name, x, a.head_dim, a.eps),
        QkNorm::Full => m.rms_norm(name, x, a.eps),
        QkNorm::Bare => m.bare_norm(name, x, NormKind::Rms, a.head_dim, a.eps),
    }
}

/// Slopes of the linear position bias (Press et al. 2021): powers of `2^(-8 / n)`, `n` the greatest power of two up to
/// `heads`; further heads take the odd powers for `2n`.
pub fn alibi_slopes(heads: usize) -> Vec<f32> {
    let n = if heads == 0 { 1 } else { 1 << heads.ilog2() };
    let slope = |power: usize, of: usize| libm::exp2(-8.0 * power as f64 / of as f64) as f32;
    (0..heads).map(|h| if h < n { slope(h + 1, n) } else { slope(2 * (h - n) + 1, 2 * n) }).collect()
}
