//! Qwen 2 and 2.5: Llama with biases on queries, keys and values, and half-rotated RoPE.

use crate::{
    Arch, Config,
    blocks::{Attn, Bias, Blocks, Ffn},
    hf::{Hf, LLAMA_LIKE},
};
use allod_plan::{Act, RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "qwen2",
    model_type: "qwen2",
    classes: &["Qwen2ForCausalLM"],
    defaults: "hidden_size=4096 intermediate_size=22016 num_hidden_layers=32 num_attention_heads=32 \
               num_key_value_heads=32 max_position_embeddings=32768 rms_norm_eps=1e-06 sliding_window=4096 \
               max_window_layers=28",
    keys,
    names: &[LLAMA_LIKE],
    forward,
};

/// Qwen declares a window that only counts when `use_sliding_window` is set, and for the last layers.
pub(super) fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    h.sliding_layers(|h, i| i >= h.uint("max_window_layers").unwrap_or(0));
    h.sliding_window_if("use_sliding_window");
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            let (rope, mask) = (Some(c.rope(RopeStyle::Half)), c.mask(i, 0));
            l.attention(h, Attn { rope, mask, bias: Bias::Required, ..Attn::gqa(c, i) })
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("ffn_norm", x, c.eps);
            l.ffn(h, Ffn::glu(c.ff(i), Act::Silu))
        });
    }
    m.logits(x, c)
}
