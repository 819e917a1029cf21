//! Gemma 3 text: Gemma 2 with norms on queries and keys instead of soft caps, five sliding layers to a global one,
//! and a rotary base of its own for each kind.

use super::{gemma, gemma2};
use crate::{
    Arch, Config, Scaling,
    blocks::{Attn, QkNorm, RopeSpec},
    hf::{GEMMA_NORMS, Hf, LLAMA_LIKE, SANDWICH_NORMS},
};
use allod_plan::{RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "gemma3",
    model_type: "gemma3_text",
    classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    keys,
    names: &[LLAMA_LIKE, GEMMA_NORMS, SANDWICH_NORMS],
    forward,
};

fn keys(h: &mut Hf) {
    gemma2::keys(h);
    h.copy_float("rope_local_base_freq", "rope.freq_base_swa");
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let global = c.rope(RopeStyle::Half);
    let base = c.float("rope.freq_base_swa").unwrap_or(10_000.0);
    let local = RopeSpec { base, scaling: Scaling::None, ..global.clone() };
    let mut x = gemma::embed(m, c);
    for i in 0..c.layers {
        let mask = c.mask(i, 6);
        let rope = if c.slides(i, 6) { &local } else { &global };
        let attn = Attn {
            rope: Some(rope.clone()),
            mask,
            qk_norm: QkNorm::PerHead,
            softcap: c.float("attn_logit_softcapping"),
            scale: gemma2::scale(c),
            ..Attn::gqa(c, i)
        };
        let mut l = m.layer(i);
        x = gemma2::sandwich(&mut l, x, c, attn, i);
    }
    gemma2::capped_logits(m, x, c)
}
