//! Arcee's AFM: Llama with a feed-forward part without gate, of squared ReLU.

use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn},
    hf::{Hf, INTERLEAVED_QK, LLAMA_LIKE},
};
use allod_plan::{Act, RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "arcee",
    model_type: "arcee",
    classes: &["ArceeForCausalLM", "ArceeModel"],
    defaults: "hidden_size=2560 intermediate_size=18432 num_hidden_layers=32 num_attention_heads=32 \
               max_position_embeddings=4096 rms_norm_eps=1e-05 attention_bias=false mlp_bias=false",
    keys,
    names: &[LLAMA_LIKE, INTERLEAVED_QK],
    forward,
};

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["relu2"]);
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            l.attention(h, Attn { rope: Some(c.rope(RopeStyle::Interleaved)), ..Attn::gqa(c, i) })
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("ffn_norm", x, c.eps);
            l.ffn(h, Ffn::plain(c.ff(i), Act::Relu2))
        });
    }
    m.logits(x, c)
}
