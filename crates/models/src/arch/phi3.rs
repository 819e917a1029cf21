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
    keys,
    names: &[LLAMA_LIKE, FUSED],
    forward,
};

/// Gate and up are one matrix.
const FUSED: &[Name] = &[same("blk.{}.ffn_up", "layers.{}.mlp.gate_up_proj")];

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    h.sliding_window();
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
