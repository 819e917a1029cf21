//! Qwen 3 MoE: Qwen 3 with mixtures of experts; some layers may stay dense.

use super::{qwen2, qwen2_moe};
use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Moe, QkNorm},
    hf::{EXPERTS, Hf, LLAMA_LIKE},
};
use allod_plan::{RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "qwen3moe",
    model_type: "qwen3_moe",
    classes: &["Qwen3MoeForCausalLM", "Qwen3MoeModel"],
    defaults: "hidden_size=2048 intermediate_size=6144 num_hidden_layers=24 num_attention_heads=32 \
               num_key_value_heads=4 max_position_embeddings=32768 rms_norm_eps=1e-06 sliding_window=4096 \
               moe_intermediate_size=768 num_experts_per_tok=8 num_experts=128 attention_bias=false",
    keys,
    names: &[LLAMA_LIKE, EXPERTS],
    forward,
};

fn keys(h: &mut Hf) {
    h.sliding_layers(|_, _| true);
    qwen2::keys(h);
    qwen2_moe::experts(h, true);
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let normalize = c.flag("expert_weights_norm").unwrap_or(true);
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            let (rope, mask) = (Some(c.rope(RopeStyle::Half)), c.mask(i, 0));
            l.attention(h, Attn { rope, mask, qk_norm: QkNorm::PerHead, ..Attn::gqa(c, i) })
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("ffn_norm", x, c.eps);
            qwen2_moe::feed_forward(l, h, c, i, Moe { normalize, ..Moe::of(c, i) })
        });
    }
    m.logits(x, c)
}
