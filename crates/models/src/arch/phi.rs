//! Phi 1, 1.5 and 2: attention and feed-forward side by side on one layer norm, partial rotation, biases everywhere.

use super::gptj;
use crate::{
    Arch, Config,
    blocks::{Attn, Bias, Blocks, Ffn},
    hf::{Hf, LLAMA_LIKE, Name, same},
};
use allod_plan::{Act, RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "phi2",
    model_type: "phi",
    classes: &["PhiForCausalLM", "PhiModel"],
    defaults: "hidden_size=2048 intermediate_size=8192 num_hidden_layers=24 num_attention_heads=32 \
               max_position_embeddings=2048 layer_norm_eps=1e-05 partial_rotary_factor=0.5",
    keys,
    names: &[LLAMA_LIKE, NAMES],
    forward,
};

const NAMES: &[Name] = &[
    same("output_norm", "final_layernorm"),
    same("blk.{}.attn_output", "layers.{}.self_attn.dense"),
    same("blk.{}.ffn_up", "layers.{}.mlp.fc1"),
    same("blk.{}.ffn_down", "layers.{}.mlp.fc2"),
];

fn keys(h: &mut Hf) {
    h.copy_str("hidden_act", "hidden_activation");
    if h.flag("qk_layernorm") {
        h.reject("qk_layernorm", "false", true);
    }
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let attn = Attn { rope: Some(c.rope(RopeStyle::Half)), bias: Bias::Required, ..Attn::gqa(c, i) };
        let ffn = Ffn::plain(c.ff(i), c.act.unwrap_or(Act::GeluTanh));
        x = gptj::layer(&mut m.layer(i), x, c, attn, ffn);
    }
    m.layer_norm_logits(x, c)
}
