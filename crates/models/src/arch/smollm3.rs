//! SmolLM 3: Llama in which every fourth layer has no positions.

use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn},
    hf::{Hf, INTERLEAVED_QK, LLAMA_LIKE},
};
use allod_plan::{Act, RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "smollm3",
    model_type: "smollm3",
    classes: &["SmolLM3ForCausalLM"],
    defaults: "hidden_size=2048 intermediate_size=11008 num_hidden_layers=36 num_attention_heads=16 \
               num_key_value_heads=4 max_position_embeddings=32768 rms_norm_eps=1e-06 no_rope_layer_interval=4 \
               rope_theta=2000000.0 attention_bias=false mlp_bias=false",
    keys,
    names: &[LLAMA_LIKE, INTERLEAVED_QK],
    forward,
};

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    h.regular("no_rope_layers", "no_rope_layer_interval");
    let rotated = h.uints("no_rope_layers").unwrap_or_default();
    h.sliding_layers(|_, i| rotated.get(i as usize) == Some(&0));
    h.sliding_window_if("use_sliding_window");
    h.copy_flags("no_rope_layers", "rope.layers");
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let rotated = c.list("rope.layers");
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let positions = rotated.as_ref().map_or((i + 1) % 4 != 0, |flags| flags.get(i).is_none_or(|&f| f != 0));
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            let rope = positions.then(|| c.rope(RopeStyle::Interleaved));
            l.attention(h, Attn { rope, mask: c.mask(i, 0), ..Attn::gqa(c, i) })
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("ffn_norm", x, c.eps);
            l.ffn(h, Ffn::glu(c.ff(i), Act::Silu))
        });
    }
    m.logits(x, c)
}
