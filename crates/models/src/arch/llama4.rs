//! Llama 4 text: attention within chunks and rotary positions in three of four layers; the fourth sees all, has none,
//! and a temperature by position. Mixtures of experts whose weight scales their input, beside a shared expert.

use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn, Moe, QkNorm},
    hf::{FULL, Fix, Hf, LLAMA_LIKE, Name, fixed, same},
};
use allod_formats::{Array, Value as Meta};
use allod_plan::{Act, Mask, RopeStyle, Scope, Score, Value, Weigh};

pub(super) static ARCH: Arch = Arch {
    gguf: "llama4",
    model_type: "llama4_text",
    classes: &["Llama4ForCausalLM", "Llama4ForConditionalGeneration", "Llama4TextModel"],
    defaults: "hidden_size=5120 intermediate_size=8192 intermediate_size_mlp=16384 num_hidden_layers=48 \
               num_attention_heads=40 num_key_value_heads=8 head_dim=128 max_position_embeddings=131072 \
               rms_norm_eps=1e-05 num_experts_per_tok=1 num_local_experts=16 interleave_moe_layer_step=1 \
               no_rope_layer_interval=4 floor_scale=8192 attn_scale=0.1 rope_theta=500000.0 attention_bias=false",
    keys,
    names: &[LLAMA_LIKE, NAMES],
    forward,
};

/// Experts are `[in, out]`, gate before up.
const NAMES: &[Name] = &[
    same("blk.{}.ffn_gate", "layers.{}.feed_forward.gate_proj"),
    same("blk.{}.ffn_up", "layers.{}.feed_forward.up_proj"),
    same("blk.{}.ffn_down", "layers.{}.feed_forward.down_proj"),
    same("blk.{}.ffn_gate_inp", "layers.{}.feed_forward.router"),
    fixed("blk.{}.ffn_gate_exps.weight", "layers.{}.feed_forward.experts.gate_up_proj", part(0)),
    fixed("blk.{}.ffn_up_exps.weight", "layers.{}.feed_forward.experts.gate_up_proj", part(1)),
    fixed("blk.{}.ffn_down_exps.weight", "layers.{}.feed_forward.experts.down_proj", Fix::Transpose),
    same("blk.{}.ffn_gate_shexp", "layers.{}.feed_forward.shared_expert.gate_proj"),
    same("blk.{}.ffn_up_shexp", "layers.{}.feed_forward.shared_expert.up_proj"),
    same("blk.{}.ffn_down_shexp", "layers.{}.feed_forward.shared_expert.down_proj"),
];

const fn part(index: usize) -> Fix {
    const PARTS: [&[Fix]; 2] =
        [&[Fix::Transpose, Fix::Part { index: 0, of: 2 }], &[Fix::Transpose, Fix::Part { index: 1, of: 2 }]];
    Fix::Then(PARTS[index])
}

/// Layers that see all positions, where no list says: every so many.
const PERIOD: usize = 4;
/// Transformers' name of layers that attend within chunks.
const CHUNKED: &str = "chunked_attention";
/// Experts of Maverick, the one that has no norms of queries and keys.
const UNNORMED: usize = 128;
/// Positions of a chunk, and of a step of the temperature, where the file does not say.
const CHUNK: usize = 8192;

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    h.copy_uint("intermediate_size", "expert_feed_forward_length");
    h.copy_uint("intermediate_size_mlp", "feed_forward_length");
    h.copy_uint("interleave_moe_layer_step", "interleave_moe_layer_step");
    h.copy_uint("attention_chunk_size", "attention.sliding_window");
    h.copy_uint("floor_scale", "attention.temperature_length");
    h.copy_float("attn_scale", "attention.temperature_scale");
    h.field("attn_temperature_tuning", h.known_float("attention.temperature_scale") != Some(0.0));
    h.default_flag("attn_temperature_tuning", true);
    if !h.flag("attn_temperature_tuning") {
        h.set("attention.temperature_scale", 0.0);
    }
    h.default_flag("use_qk_norm", true);
    h.copy_flag("use_qk_norm", "attention.qk_norm");
    if h.back {
        h.field_if_absent("use_qk_norm", h.known("expert_count") != Some(UNNORMED));
        let experts = h.layers_with("ffn_gate_inp.weight").into_iter().enumerate();
        h.field("moe_layers", experts.filter(|l| l.1).map(|l| l.0).collect::<Vec<_>>());
        let regular = (1..=h.known("block_count").unwrap_or(0)).map(|i| usize::from(i % PERIOD != 0)).collect();
        let rotated = h.known_each("attention.sliding_window_pattern").unwrap_or(regular);
        h.field("no_rope_layers", rotated);
    }
    h.regular("no_rope_layers", "no_rope_layer_interval");
    if let Some(rotated) = h.uints("no_rope_layers") {
        // One list says both in GGUF.
        let kinds = h.kinds("layer_types", &[CHUNKED, FULL]);
        if kinds.is_some_and(|k| k.iter().zip(&rotated).any(|(k, &r)| (k == CHUNKED) != (r != 0))) {
            h.reject("layer_types", "chunked_attention where no_rope_layers is 1", "another layer");
        }
        let regular = rotated.iter().enumerate().all(|(i, &r)| (r != 0) == ((i + 1) % PERIOD != 0));
        if !regular {
            let flags = rotated.iter().map(|&r| r != 0).collect();
            h.set("attention.sliding_window_pattern", Meta::Array(Array::Bool(flags)));
        }
    }
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let chunk = c.uint("attention.sliding_window").unwrap_or(CHUNK).max(1);
    let floor = c.uint("attention.temperature_length").unwrap_or(CHUNK) as f32;
    let temperature = c.float("attention.temperature_scale").unwrap_or(0.1);
    let normed = c.flag("attention.qk_norm").unwrap_or(c.count("expert_count") != UNNORMED);
    let rotated = c.list("attention.sliding_window_pattern");
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let local = rotated.as_ref().map_or((i + 1) % PERIOD != 0, |l| l.get(i).is_none_or(|&f| f != 0));
        let attn = match local {
            true => Attn {
                rope: Some(c.rope(RopeStyle::Interleaved)),
                mask: Mask::Chunk(chunk),
                qk_norm: if normed { QkNorm::Bare } else { QkNorm::None },
                norm_after_rope: true,
                ..Attn::gqa(c, i)
            },
            false => Attn { temperature: (temperature != 0.0).then_some((floor, temperature)), ..Attn::gqa(c, i) },
        };
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            l.attention(h, attn)
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("ffn_norm", x, c.eps);
            if !l.has("ffn_gate_inp.weight") {
                return l.ffn(h, Ffn::glu(c.ff(i), Act::Silu));
            }
            let moe = Moe::of(c, i);
            l.moe(h, Moe { score: Score::Sigmoid, weigh: Weigh::Input, shared: moe.hidden, ..moe })
        });
    }
    m.logits(x, c)
}
