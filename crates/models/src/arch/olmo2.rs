//! OLMo 2 and 3: Llama with norms on queries and keys over whole rows, and a norm after each part instead of before.
//! In OLMo 3 three of four layers slide, and only the others have a stretched context.

use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn, QkNorm, RopeSpec},
    hf::{Hf, LLAMA_LIKE, Name, same},
};
use allod_plan::{Act, RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "olmo2",
    model_type: "olmo2",
    classes: &["Olmo2ForCausalLM", "Olmo2Model"],
    defaults: "hidden_size=4096 intermediate_size=11008 num_hidden_layers=32 num_attention_heads=32 \
               max_position_embeddings=2048 rms_norm_eps=1e-05 attention_bias=false",
    keys,
    names: &[LLAMA_LIKE, NAMES],
    forward,
};

pub(super) const NAMES: &[Name] = &[
    same("blk.{}.post_attention_norm", "layers.{}.post_attention_layernorm"),
    same("blk.{}.post_ffw_norm", "layers.{}.post_feedforward_layernorm"),
];

pub(super) fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
}

pub(super) fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let global = c.rope(RopeStyle::Half);
    let base = c.float("rope.freq_base_swa").unwrap_or(c.rope_base);
    let local = RopeSpec { base, ..global.plain() };
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let slides = c.slides(i, 4);
        let rope = if slides { &local } else { &global }.clone();
        let attn = Attn { rope: Some(rope), mask: c.mask_if(slides), qk_norm: QkNorm::Full, ..Attn::gqa(c, i) };
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.attention(x, attn);
            l.rms_norm("post_attention_norm", h, c.eps)
        });
        x = l.residual(x, |l, x| {
            let h = l.ffn(x, Ffn::glu(c.ff(i), Act::Silu));
            l.rms_norm("post_ffw_norm", h, c.eps)
        });
    }
    m.logits(x, c)
}
