//! ModernBERT: an encoder with rotary positions, layer norms without bias before each part, a gated feed-forward part,
//! and two of three layers that see only their neighbourhood.

use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn, RopeSpec},
    hf::{FULL, Hf, Name, SLIDING, ignored, same},
};
use allod_formats::{Array, Value as Meta};
use allod_plan::{Act, RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "modern-bert",
    model_type: "modernbert",
    classes: &["ModernBertModel", "ModernBertForMaskedLM"],
    defaults: "hidden_size=768 intermediate_size=1152 num_hidden_layers=22 num_attention_heads=12 \
               max_position_embeddings=8192 norm_eps=1e-05 local_attention=128 global_rope_theta=160000.0 \
               local_rope_theta=10000.0 norm_bias=false attention_bias=false mlp_bias=false",
    keys,
    names: &[NAMES],
    forward,
};

const NAMES: &[Name] = &[
    same("token_embd", "embeddings.tok_embeddings"),
    same("token_embd_norm", "embeddings.norm"),
    same("output_norm", "final_norm"),
    same("blk.{}.attn_norm", "layers.{}.attn_norm"),
    same("blk.{}.attn_qkv", "layers.{}.attn.Wqkv"),
    same("blk.{}.attn_output", "layers.{}.attn.Wo"),
    same("blk.{}.ffn_norm", "layers.{}.mlp_norm"),
    same("blk.{}.ffn_up", "layers.{}.mlp.Wi"),
    same("blk.{}.ffn_down", "layers.{}.mlp.Wo"),
    ignored("head.dense"),
    ignored("head.norm"),
    ignored("decoder"),
];

/// Every how many layers one sees all, the first among them.
const PERIOD: &str = "attention.sliding_window_pattern";

fn keys(h: &mut Hf) {
    h.prefix("");
    h.copy_str("hidden_activation", "hidden_activation");
    h.unset("attention.layer_norm_rms_epsilon");
    h.copy_float("norm_eps", "attention.layer_norm_epsilon");
    h.copy_float_unless_set("global_rope_theta", "rope.freq_base");
    h.copy_float_unless_set("local_rope_theta", "rope.freq_base_swa");
    h.field("norm_bias", h.stored.contains_key("token_embd_norm.bias"));
    if h.get(&["rope_scaling"]).is_some() {
        h.reject("rope_scaling", "null", "a stretched context");
    }
    h.copy_uint("local_attention", "attention.sliding_window");
    h.copy_uint("global_attn_every_n_layers", PERIOD);
    h.set("attention.causal", false);
    if h.back && h.meta.ints(&h.key(PERIOD)).is_some() {
        return h.layer_types_back();
    }
    if let Some(types) = h.kinds("layer_types", &[SLIDING, FULL]) {
        let slides: Vec<bool> = types.iter().map(|t| t == SLIDING).collect();
        let period = slides.iter().skip(1).position(|s| !s).map_or(slides.len(), |i| i + 1);
        let regular = slides.iter().enumerate().all(|(i, &s)| s == (i % period != 0));
        let pattern = if regular { Meta::U32(period as u32) } else { Meta::Array(Array::Bool(slides)) };
        h.set(PERIOD, pattern);
    }
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let global = c.rope(RopeStyle::Half);
    let local = RopeSpec { base: c.float("rope.freq_base_swa").unwrap_or(10_000.0), ..global.plain() };
    let (listed, period) = (c.list(PERIOD), c.uint(PERIOD).unwrap_or(3));
    let mut x = m.tokens(c);
    x = m.layer_norm("token_embd_norm", x, c.eps);
    for i in 0..c.layers {
        let slides = listed.as_ref().map_or(period > 0 && i % period != 0, |l| l.get(i).is_some_and(|&s| s != 0));
        let rope = if slides { &local } else { &global }.clone();
        let attn = Attn { rope: Some(rope), mask: c.mask_if(slides), ..Attn::gqa(c, i) };
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            // The embedding's norm stands for that of the first layer.
            let normed = i == 0 && !l.has("attn_norm.weight");
            let h = if normed { x } else { l.layer_norm("attn_norm", x, c.eps) };
            l.attention(h, attn)
        });
        x = l.residual(x, |l, x| {
            let h = l.layer_norm("ffn_norm", x, c.eps);
            l.ffn(h, Ffn::glu(c.ff(i), c.act.unwrap_or(Act::Gelu)))
        });
    }
    m.output(x, c, |m, x| m.layer_norm("output_norm", x, c.eps), |_, x| x)
}
