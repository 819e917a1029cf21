//! Nemotron 3 and 4, Minitron: layer norms that store their distance from 1, partial rotation, and a feed-forward part
//! without gate, of squared ReLU.

use super::gpt2;
use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn},
    hf::{GEMMA_NORMS, Hf, LLAMA_LIKE},
};
use allod_plan::{Act, RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "nemotron",
    model_type: "nemotron",
    classes: &["NemotronForCausalLM", "NemotronModel"],
    defaults: "hidden_size=6144 intermediate_size=24576 num_hidden_layers=32 num_attention_heads=48 \
               max_position_embeddings=4096 norm_eps=1e-05 partial_rotary_factor=0.5 attention_bias=false \
               mlp_bias=false",
    keys,
    names: &[LLAMA_LIKE, GEMMA_NORMS],
    forward,
};

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["relu2"]);
    h.unset("attention.layer_norm_rms_epsilon");
    h.copy_float("norm_eps", "attention.layer_norm_epsilon");
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let attn = Attn { rope: Some(c.rope(RopeStyle::Half)), ..Attn::gqa(c, i) };
        x = gpt2::layer(&mut m.layer(i), x, c, attn, Ffn::plain(c.ff(i), Act::Relu2));
    }
    m.layer_norm_logits(x, c)
}
