//! Llama 1 to 3 and what kept its form (SmolLM, TinyLlama, Yi, …): pre-norm, grouped-query attention, rotary positions,
//! SwiGLU. GGUF files of this name also hold Mistral (sliding window) and Mixtral (experts).

use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn, Moe},
    hf::{Hf, INTERLEAVED_QK, LLAMA_LIKE},
};
use allod_plan::{Act, RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "llama",
    model_type: "llama",
    classes: &["LlamaForCausalLM"],
    defaults: "hidden_size=4096 intermediate_size=11008 num_hidden_layers=32 num_attention_heads=32 \
               max_position_embeddings=2048 rms_norm_eps=1e-06 attention_bias=false mlp_bias=false",
    keys,
    names: &[LLAMA_LIKE, INTERLEAVED_QK],
    forward,
};

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
}

pub(super) fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            l.attention(h, Attn { rope: Some(c.rope(RopeStyle::Interleaved)), mask: c.mask(i, 0), ..Attn::gqa(c, i) })
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("ffn_norm", x, c.eps);
            match l.has("ffn_gate_inp.weight") {
                true => l.moe(h, Moe { normalize: true, ..Moe::of(c, i) }),
                false => l.ffn(h, Ffn::glu(c.ff(i), Act::Silu)),
            }
        });
    }
    m.logits(x, c)
}
