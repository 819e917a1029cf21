//! Gemma 1: scaled embeddings, norms that store their distance from 1, GELU-gated feed-forward, tied head.

use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn},
    hf::{GEMMA_NORMS, Hf, LLAMA_LIKE},
};
use allod_plan::{Act, RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "gemma",
    model_type: "gemma",
    classes: &["GemmaForCausalLM"],
    defaults: "hidden_size=3072 intermediate_size=24576 num_hidden_layers=28 num_attention_heads=16 \
               num_key_value_heads=16 head_dim=256 max_position_embeddings=8192 rms_norm_eps=1e-06 attention_bias=false",
    keys,
    names: &[LLAMA_LIKE, GEMMA_NORMS],
    forward,
};

/// Early checkpoints say `gelu` and mean its tanh form.
fn keys(h: &mut Hf) {
    if h.str("hidden_act") == Some("gelu") {
        h.config["hidden_act"] = TANH.into();
    }
    activation(h, "hidden_act");
    h.expect_unset("use_bidirectional_attention");
}

/// What GGUF has no key for, as llama.cpp knows no other.
const TANH: &str = "gelu_pytorch_tanh";

/// The activation function, which stands in the field `name`.
pub(super) fn activation(h: &mut Hf, name: &str) {
    h.field(name, TANH);
    if h.back || h.str(name).is_some_and(|f| f != TANH) {
        h.copy_str(name, "hidden_activation");
    }
}

/// The same for the network.
pub(super) fn act(c: &Config) -> Act {
    c.act.unwrap_or(Act::GeluTanh)
}

/// The embedding, multiplied by the root of its width.
pub(super) fn embed(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let x = m.tokens(c);
    m.scale(x, (c.dim as f32).sqrt())
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = embed(m, c);
    for i in 0..c.layers {
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            l.attention(h, Attn { rope: Some(c.rope(RopeStyle::Half)), ..Attn::gqa(c, i) })
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("ffn_norm", x, c.eps);
            l.ffn(h, Ffn::glu(c.ff(i), act(c)))
        });
    }
    m.logits(x, c)
}
