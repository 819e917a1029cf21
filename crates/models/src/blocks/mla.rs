//! Multi-head latent attention (DeepSeek-AI 2024, arXiv:2405.04434), absorbed: queries go into the latent space of keys
//! and values, so that the cache holds the latent once and decoding computes what a whole prompt does.

use super::{Blocks, RopeSpec};
use crate::Config;
use allod_plan::{Attend, CacheInfo, Mask, RopeStyle, Scope, Value};

/// Latent attention. Weights: `attn_q`, or `attn_q_a`, `attn_q_a_norm` and `attn_q_b`; `attn_kv_a_mqa`,
/// `attn_kv_a_norm`; `attn_k_b` `[heads, latent, nope]`, `attn_v_b` `[heads, value, latent]`; `attn_output`.
#[derive(Clone, Debug)]
pub struct Mla {
    /// Heads.
    pub heads: usize,
    /// Elements of a query head without positions.
    pub nope: usize,
    /// Elements of a value head.
    pub value_dim: usize,
    /// Width of the latent of keys and values.
    pub latent: usize,
    /// Width of the latent of queries, where they have one.
    pub q_latent: Option<usize>,
    /// Factor on the scores.
    pub scale: f32,
    /// Rotary positions of the further elements of a query head, and of the one key head for them.
    pub rope: RopeSpec,
    /// Epsilon of the latents' norms.
    pub eps: f32,
    /// Positions that the plan is for.
    pub context: usize,
}

impl Mla {
    /// Latent attention of layer `i` as the configuration says.
    pub fn of(c: &Config, i: usize) -> Mla {
        let key = c.uint("attention.key_length_mla").unwrap_or(c.head_dim);
        Mla {
            heads: c.heads(i),
            nope: key.saturating_sub(c.rope_dims),
            value_dim: c.uint("attention.value_length_mla").unwrap_or(c.value_dim),
            latent: c.count("attention.kv_lora_rank"),
            q_latent: Some(c.count("attention.q_lora_rank")).filter(|&n| n > 0),
            scale: 1.0 / (key as f32).sqrt(),
            rope: c.rope(RopeStyle::Interleaved),
            eps: c.eps,
            context: c.context,
        }
    }
}

pub(super) fn record(m: &mut Scope<'_, '_>, x: Value, a: Mla) -> Value {
    let (out, rotated) = (m.width(x), a.rope.dims);
    let query = a.nope + rotated;
    let q = match a.q_latent {
        Some(rank) => {
            let q = m.linear("attn_q_a", x, rank);
            let q = m.rms_norm("attn_q_a_norm", q, a.eps);
            m.linear("attn_q_b", q, a.heads * query)
        }
        None => m.linear("attn_q", x, a.heads * query),
    };
    let plain = m.columns(q, query, 0, a.nope);
    let plain = m.head_linear("attn_k_b", plain, a.heads, a.latent);
    let turned = m.columns(q, query, a.nope, rotated);
    let turned = a.rope.apply(m, turned, rotated, a.context);
    let q = m.concat(a.heads, &[plain, turned]);

    let kv = m.linear("attn_kv_a_mqa", x, a.latent + rotated);
    let [latent, turned] = m.split(kv, [a.latent, rotated]);
    let latent = m.rms_norm("attn_kv_a_norm", latent, a.eps);
    let turned = a.rope.apply(m, turned, rotated, a.context);
    let k = m.concat(1, &[latent, turned]);

    let cache = m.cache(CacheInfo {
        kv_heads: 1,
        key_dim: a.latent + rotated,
        value_dim: a.latent,
        value_in_key: true,
        horizon: None,
    });
    let (heads, scale) = (a.heads, a.scale);
    let attend = Attend { cache, heads, scale, softcap: None, mask: Mask::Causal, sinks: None, alibi: None };
    let o = m.attend(&[q, k], attend);
    let o = m.head_linear("attn_v_b", o, a.heads, a.value_dim);
    m.linear("attn_output", o, out)
}
