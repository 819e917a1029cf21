//! Qwen 3 dense: pre-norm, grouped-query attention with an RMS norm on each query and key head, half-rotated RoPE,
//! SwiGLU.

use super::qwen2;
use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn, QkNorm},
    hf::LLAMA_LIKE,
};
use allod_plan::{Act, RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "qwen3",
    model_type: "qwen3",
    classes: &["Qwen3ForCausalLM"],
    defaults: "hidden_size=4096 intermediate_size=22016 num_hidden_layers=32 num_attention_heads=32 \
               num_key_value_heads=32 head_dim=128 max_position_embeddings=32768 rms_norm_eps=1e-06 sliding_window=4096 \
               max_window_layers=28 attention_bias=false",
    keys: qwen2::keys,
    names: &[LLAMA_LIKE],
    forward,
};

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            let (rope, mask) = (Some(c.rope(RopeStyle::Half)), c.mask(i, 0));
            l.attention(h, Attn { rope, mask, qk_norm: QkNorm::PerHead, ..Attn::gqa(c, i) })
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("ffn_norm", x, c.eps);
            l.ffn(h, Ffn::glu(c.ff(i), Act::Silu))
        });
    }
    m.logits(x, c)
}
