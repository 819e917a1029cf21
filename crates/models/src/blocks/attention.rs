//! Grouped-query attention with every variation that dense decoders have shown.

use super::{Blocks, RopeSpec};
use crate::Config;
use allod_plan::{Attend, CacheInfo, Constants, Mask, Norm, NormKind, Scope, Value};

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
    /// Bound on the absolute value of queries, keys and values after their projection.
    pub clamp: Option<f32>,
    /// Biases of the projections of queries, keys and values.
    pub bias: Bias,
    /// Llama 4's temperature tuning of the queries: positions per step, strength.
    pub temperature: Option<(f32, f32)>,
    /// Width of the output; the input's where `None`.
    pub out: Option<usize>,
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
            out: None,
        }
    }
}

pub(super) fn record(m: &mut Scope<'_, '_>, x: Value, a: Attn) -> Value {
    let out = a.out.unwrap_or_else(|| m.width(x));
    let o = heads(m, x, a);
    m.linear("attn_output", o, out)
}

/// Attention up to, not including, the output projection.
pub(crate) fn heads(m: &mut Scope<'_, '_>, x: Value, a: Attn) -> Value {
    let widths = [a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.value_dim];
    let [mut q, mut k, v] = project(m, x, widths, &a);
    if !a.norm_after_rope {
        (q, k) = qk_norm(m, q, k, &a);
    }
    if let Some(rope) = &a.rope {
        q = rope.apply(m, q, a.head_dim, a.context);
        k = rope.apply(m, k, a.head_dim, a.context);
    }
    if a.norm_after_rope {
        (q, k) = qk_norm(m, q, k, &a);
    }
    if let Some((floor, scale)) = a.temperature {
        q = m.position_scale(q, floor, scale);
    }
    let horizon = match a.mask {
        Mask::Window(n) | Mask::Chunk(n) => Some(n),
        Mask::Causal | Mask::Full | Mask::Local(_) => None,
    };
    let cache = m.cache(CacheInfo {
        kv_heads: a.kv_heads,
        key_dim: a.head_dim,
        value_dim: a.value_dim,
        value_in_key: false,
        horizon,
    });
    let sinks = a.sinks.then(|| m.param("attn_sinks.weight", &[a.heads]));
    let attend =
        Attend { cache, heads: a.heads, scale: a.scale, softcap: a.softcap, mask: a.mask, sinks, alibi: a.alibi };
    m.attend(&[q, k, v], attend)
}

fn project(m: &mut Scope<'_, '_>, x: Value, widths: [usize; 3], a: &Attn) -> [Value; 3] {
    let fused = m.has("attn_qkv.weight");
    let names: &[&str] = if fused { &["attn_qkv"] } else { &["attn_q", "attn_k", "attn_v"] };
    if a.bias == Bias::Required {
        let total = [widths.iter().sum()];
        let outs: &[usize] = if fused { &total } else { &widths };
        for (name, &out) in names.iter().zip(outs) {
            m.param(&format!("{name}.bias"), &[out]);
        }
    }
    let parts = if fused {
        let qkv = m.linear("attn_qkv", x, widths.iter().sum());
        m.split(qkv, widths)
    } else {
        [0, 1, 2].map(|i| m.linear(names[i], x, widths[i]))
    };
    match a.clamp {
        Some(limit) => parts.map(|p| m.clamp(p, limit)),
        None => parts,
    }
}

fn qk_norm(m: &mut Scope<'_, '_>, q: Value, k: Value, a: &Attn) -> (Value, Value) {
    let bare = Norm { kind: NormKind::Rms, group: a.head_dim, eps: a.eps, weight: None, bias: None };
    match a.qk_norm {
        QkNorm::None => (q, k),
        QkNorm::PerHead => {
            (m.head_norm("attn_q_norm", q, a.head_dim, a.eps), m.head_norm("attn_k_norm", k, a.head_dim, a.eps))
        }
        QkNorm::Full => (m.rms_norm("attn_q_norm", q, a.eps), m.rms_norm("attn_k_norm", k, a.eps)),
        QkNorm::Bare => (m.norm("attn_q_norm", q, bare.clone()), m.norm("attn_k_norm", k, bare)),
    }
}

/// Slopes of the linear position bias (Press et al. 2021): powers of `2^(-8 / n)`, `n` the greatest power of two up to
/// `heads`; further heads take the odd powers for `2n`.
pub fn alibi_slopes(heads: usize) -> Vec<f32> {
    let n = if heads == 0 { 1 } else { 1 << heads.ilog2() };
    let slope = |power: usize, of: usize| libm::exp2(-8.0 * power as f64 / of as f64) as f32;
    (0..heads).map(|h| if h < n { slope(h + 1, n) } else { slope(2 * (h - n) + 1, 2 * n) }).collect()
}
