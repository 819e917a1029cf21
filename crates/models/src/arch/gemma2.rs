//! Gemma 2: Gemma with norms after each part as well, soft caps on scores and logits, and a sliding window in every
//! other layer.

use super::gemma;
use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn},
    hf::{GEMMA_NORMS, Hf, LLAMA_LIKE, SANDWICH_NORMS},
};
use allod_plan::{RopeStyle, Scope, Value};
use serde_json::Value as Json;

pub(super) static ARCH: Arch = Arch {
    gguf: "gemma2",
    model_type: "gemma2",
    classes: &["Gemma2ForCausalLM"],
    defaults: "hidden_size=2304 intermediate_size=9216 num_hidden_layers=26 num_attention_heads=8 \
               num_key_value_heads=4 head_dim=256 max_position_embeddings=8192 rms_norm_eps=1e-06 \
               query_pre_attn_scalar=256.0 sliding_window=4096 final_logit_softcapping=30.0 attn_logit_softcapping=50.0 \
               attention_bias=false",
    keys,
    names: &[LLAMA_LIKE, GEMMA_NORMS, SANDWICH_NORMS],
    forward,
};

pub(super) fn keys(h: &mut Hf) {
    gemma::activation(h, "hidden_activation");
    h.expect_unset("use_bidirectional_attention");
    h.sliding_window();
    h.copy_float("attn_logit_softcapping", "attn_logit_softcapping");
    h.copy_float("final_logit_softcapping", "final_logit_softcapping");
    for cap in ["attn_logit_softcapping", "final_logit_softcapping"] {
        h.field_if_absent(cap, Json::Null);
    }
    h.derive("query_pre_attn_scalar", "attention.scale", |n| 1.0 / n.sqrt(), |s| 1.0 / (s * s));
    let size = |h: &Hf, key: &str| h.known(key).unwrap_or(0);
    let by_heads = size(h, "embedding_length").checked_div(size(h, "attention.head_count")).unwrap_or(0);
    let by_size = h.known("attention.key_length").unwrap_or(by_heads);
    let odd = ODD.contains(&(h.arch, size(h, "block_count")));
    h.field_if_absent("query_pre_attn_scalar", if odd { by_heads } else { by_size });
}

/// The sizes, by layers, whose factor on the scores goes by heads.
const ODD: [(&str, usize); 2] = [("gemma2", 46), ("gemma3", 62)];

/// Factor on the scores: as the file says, else by head size, or by heads in the sizes that differ.
pub(super) fn scale(c: &Config) -> f32 {
    let by_heads = if ODD.contains(&(c.arch.as_str(), c.layers)) { c.dim / c.heads(0).max(1) } else { c.head_dim };
    c.float("attention.scale").unwrap_or(1.0 / (by_heads as f32).sqrt())
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = gemma::embed(m, c);
    for i in 0..c.layers {
        let attn = Attn {
            rope: Some(c.rope(RopeStyle::Half)),
            mask: c.mask(i, 2),
            softcap: c.float("attn_logit_softcapping"),
            scale: scale(c),
            ..Attn::gqa(c, i)
        };
        let mut l = m.layer(i);
        x = sandwich(&mut l, x, c, attn, i);
    }
    capped_logits(m, x, c)
}

/// Logits with a soft cap where the file says so.
pub(super) fn capped_logits(m: &mut Scope<'_, '_>, x: Value, c: &Config) -> Value {
    let norm = |m: &mut Scope<'_, '_>, x| m.rms_norm("output_norm", x, c.eps);
    m.output(x, c, norm, |m, x| {
        let logits = m.head(x, c);
        m.softcap(logits, c.float("final_logit_softcapping"))
    })
}

/// A block with a norm before and after each of its parts.
pub(super) fn sandwich(l: &mut Scope<'_, '_>, x: Value, c: &Config, attn: Attn, i: usize) -> Value {
    let x = l.residual(x, |l, x| {
        let h = l.rms_norm("attn_norm", x, c.eps);
        let h = l.attention(h, attn);
        l.rms_norm("post_attention_norm", h, c.eps)
    });
    l.residual(x, |l, x| {
        let h = l.rms_norm("ffn_norm", x, c.eps);
        let h = l.ffn(h, Ffn::glu(c.ff(i), gemma::act(c)));
        l.rms_norm("post_ffw_norm", h, c.eps)
    })
}
