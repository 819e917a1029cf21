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
    keys,
    names: &[LLAMA_LIKE, GEMMA_NORMS],
    forward,
};

/// Early checkpoints say `gelu` and mean its tanh form.
pub(super) fn keys(h: &mut Hf) {
    h.expect_str("hidden_activation", &["gelu_pytorch_tanh"]);
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
            l.ffn(h, Ffn::glu(c.ff(i), Act::GeluTanh))
        });
    }
    m.logits(x, c)
}
