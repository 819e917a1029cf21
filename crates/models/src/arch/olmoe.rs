//! OLMoE: Llama with norms on whole queries and keys, a bound on them and on values, and mixtures of experts.

use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Moe, QkNorm},
    hf::{EXPERTS, Hf, LLAMA_LIKE},
};
use allod_plan::{RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "olmoe",
    model_type: "olmoe",
    classes: &["OlmoeForCausalLM", "OlmoeModel"],
    defaults: "hidden_size=2048 intermediate_size=2048 num_hidden_layers=16 num_attention_heads=16 \
               max_position_embeddings=4096 rms_norm_eps=1e-05 num_experts_per_tok=8 num_experts=64 \
               attention_bias=false",
    keys,
    names: &[LLAMA_LIKE, EXPERTS],
    forward,
};

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    h.copy_float("clip_qkv", "attention.clamp_kqv");
    h.copy_flag("norm_topk_prob", "expert_weights_norm");
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let attn = Attn {
            rope: Some(c.rope(RopeStyle::Half)),
            qk_norm: QkNorm::Full,
            clamp: c.float("attention.clamp_kqv").filter(|&limit| limit > 0.0),
            ..Attn::gqa(c, i)
        };
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            l.attention(h, attn)
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("ffn_norm", x, c.eps);
            l.moe(h, Moe::of(c, i))
        });
    }
    m.logits(x, c)
}
