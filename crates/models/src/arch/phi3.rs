//! Phi 3 and 3.5, Phi 4: Llama with fused projections, partial rotation, LongRoPE and a sliding window.

use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn},
    hf::{Hf, LLAMA_LIKE, Name, same},
};
use allod_plan::{Act, RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "phi3",
    model_type: "phi3",
    classes: &["Phi3ForCausalLM"],
    defaults: "hidden_size=3072 intermediate_size=8192 num_hidden_layers=32 num_attention_heads=32 \
               max_position_embeddings=4096 original_max_position_embeddings=4096 rms_norm_eps=1e-05",
    keys,
    names: &[LLAMA_LIKE, FUSED],
    forward,
};

/// Gate and up are one matrix.
const FUSED: &[Name] = &[same("blk.{}.ffn_up", "layers.{}.mlp.gate_up_proj")];

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    h.sliding_window();
    let kind = h.meta.str(&h.key("rope.scaling.type")).unwrap_or("longrope").to_owned();
    if kind != "longrope" {
        h.reject("rope_parameters.rope_type", "default or longrope", kind);
    }
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            l.attention(h, Attn { rope: Some(c.rope(RopeStyle::Half)), mask: c.mask(i, 0), ..Attn::gqa(c, i) })
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("ffn_norm", x, c.eps);
            l.ffn(h, Ffn::glu(c.ff(i), Act::Silu))
        });
    }
    m.logits(x, c)
}
