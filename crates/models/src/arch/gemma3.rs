//! Gemma 3 text: Gemma 2 with norms on queries and keys instead of soft caps, five sliding layers to a global one,
//! and a rotary base of its own for each kind. (A soft cap on the scores is a field, which Transformers does not apply.)

use super::{gemma, gemma2};
use crate::{
    Arch, Config,
    blocks::{Attn, QkNorm, RopeSpec},
    hf::{GEMMA_NORMS, Hf, LLAMA_LIKE, SANDWICH_NORMS},
};
use allod_plan::{RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "gemma3",
    model_type: "gemma3_text",
    classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    defaults: "hidden_size=2304 intermediate_size=9216 num_hidden_layers=26 num_attention_heads=8 \
               num_key_value_heads=4 head_dim=256 max_position_embeddings=131072 rms_norm_eps=1e-06 \
               query_pre_attn_scalar=256.0 sliding_window=4096 rope_theta=1000000.0 rope_local_base_freq=10000.0 \
               sliding_window_pattern=6 attention_bias=false",
    keys,
    names: &[LLAMA_LIKE, GEMMA_NORMS, SANDWICH_NORMS],
    forward,
};

fn keys(h: &mut Hf) {
    h.sliding_layers(|h, i| (i + 1) % h.uint("sliding_window_pattern").unwrap_or(1).max(1) != 0);
    gemma2::keys(h);
    h.copy_float_unless_set("rope_local_base_freq", "rope.freq_base_swa");
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let global = c.rope(RopeStyle::Half);
    let base = c.float("rope.freq_base_swa").unwrap_or(10_000.0);
    let local = RopeSpec { base, ..global.plain() };
    let mut x = gemma::embed(m, c);
    for i in 0..c.layers {
        let mask = c.mask(i, 6);
        let rope = if c.slides(i, 6) { &local } else { &global };
        let attn = Attn {
            rope: Some(rope.clone()),
            mask,
            qk_norm: QkNorm::PerHead,
            scale: gemma2::scale(c),
            ..Attn::gqa(c, i)
        };
        let mut l = m.layer(i);
        x = gemma2::sandwich(&mut l, x, c, attn, i);
    }
    gemma2::capped_logits(m, x, c)
}
