//! Granite 3: Llama with factors on embedding, scores, residuals and logits.

use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn},
    hf::{Hf, INTERLEAVED_QK, LLAMA_LIKE},
};
use allod_plan::{Act, RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "granite",
    model_type: "granite",
    classes: &["GraniteForCausalLM", "GraniteModel"],
    defaults: "hidden_size=4096 intermediate_size=11008 num_hidden_layers=32 num_attention_heads=32 \
               max_position_embeddings=2048 rms_norm_eps=1e-06 embedding_multiplier=1.0 logits_scaling=1.0 \
               residual_multiplier=1.0 attention_multiplier=1.0 attention_bias=false mlp_bias=false",
    keys,
    names: &[LLAMA_LIKE, INTERLEAVED_QK],
    forward,
};

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    h.copy_float("attention_multiplier", "attention.scale");
    h.copy_float("embedding_multiplier", "embedding_scale");
    h.copy_float("residual_multiplier", "residual_scale");
    h.copy_float("logits_scaling", "logit_scale");
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let factor = |key| c.float(key).unwrap_or(1.0);
    let x = m.tokens(c);
    let mut x = m.scale(x, factor("embedding_scale"));
    for i in 0..c.layers {
        let plain = Attn::gqa(c, i);
        let scale = c.float("attention.scale").unwrap_or(plain.scale);
        let attn = Attn { rope: Some(c.rope(RopeStyle::Interleaved)), scale, ..plain };
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            let h = l.attention(h, attn);
            l.scale(h, factor("residual_scale"))
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("ffn_norm", x, c.eps);
            let h = l.ffn(h, Ffn::glu(c.ff(i), Act::Silu));
            l.scale(h, factor("residual_scale"))
        });
    }
    let norm = |m: &mut Scope<'_, '_>, x| m.rms_norm("output_norm", x, c.eps);
    m.output(x, c, norm, |m, x| {
        let logits = m.head(x, c);
        m.scale(logits, 1.0 / factor("logit_scale"))
    })
}
