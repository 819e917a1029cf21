//! OLMo 1: Llama with layer norms that have no parameters, and bounded queries, keys and values.

use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn},
    hf::{Hf, INTERLEAVED_QK, LLAMA_LIKE},
};
use allod_plan::{Act, NormKind, RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "olmo",
    model_type: "olmo",
    classes: &["OlmoForCausalLM", "OlmoModel"],
    defaults: "hidden_size=4096 intermediate_size=11008 num_hidden_layers=32 num_attention_heads=32 \
               max_position_embeddings=2048 attention_bias=false",
    keys,
    names: &[LLAMA_LIKE, INTERLEAVED_QK],
    forward,
};

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    h.set("attention.layer_norm_epsilon", 1e-5_f32);
    h.copy_float("clip_qkv", "attention.clamp_kqv");
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let norm = |m: &mut Scope<'_, '_>, name: &str, x| m.bare_norm(name, x, NormKind::Layer, c.dim, c.eps);
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let (rope, clamp) = (Some(c.rope(RopeStyle::Interleaved)), c.float("attention.clamp_kqv"));
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = norm(l, "attn_norm", x);
            l.attention(h, Attn { rope, clamp, ..Attn::gqa(c, i) })
        });
        x = l.residual(x, |l, x| {
            let h = norm(l, "ffn_norm", x);
            l.ffn(h, Ffn::glu(c.ff(i), Act::Silu))
        });
    }
    m.output(x, c, |m, x| norm(m, "output_norm", x), |m, x| m.head(x, c))
}
