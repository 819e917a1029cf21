//! Qwen3.5 text: Qwen3-Next with dense feed-forward parts and separate projections. GGUF puts value heads that share a
//! key head apart.

use super::qwen3_next;
use crate::{
    Arch, Config,
    blocks::Delta,
    hf::{Fix, GEMMA_NORMS, Hf, LLAMA_LIKE, Name, fixed},
};
use allod_formats::{Array, Value as Meta};
use allod_plan::{Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "qwen35",
    model_type: "qwen3_5_text",
    classes: &["Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration", "Qwen3_5TextModel"],
    defaults: "hidden_size=4096 intermediate_size=12288 num_hidden_layers=32 num_attention_heads=16 \
               num_key_value_heads=4 max_position_embeddings=32768 rms_norm_eps=1e-06 head_dim=256 \
               linear_conv_kernel_dim=4 linear_key_head_dim=128 linear_value_head_dim=128 linear_num_key_heads=16 \
               linear_num_value_heads=32 partial_rotary_factor=0.25 attention_bias=false",
    keys,
    names: &[LLAMA_LIKE, GEMMA_NORMS, qwen3_next::NAMES, TILED],
    forward,
};

const TILED: &[Name] = &[
    fixed("blk.{}.attn_qkv", "layers.{}.linear_attn.in_proj_qkv", Fix::TileValues),
    fixed("blk.{}.attn_gate", "layers.{}.linear_attn.in_proj_z", Fix::TileRows),
    fixed("blk.{}.ssm_beta", "layers.{}.linear_attn.in_proj_b", Fix::TileRows),
    fixed("blk.{}.ssm_alpha", "layers.{}.linear_attn.in_proj_a", Fix::TileRows),
    fixed("blk.{}.ssm_conv1d", "layers.{}.linear_attn.conv1d", Fix::Then(&[Fix::Squeeze, Fix::TileValues])),
    fixed("blk.{}.ssm_a", "layers.{}.linear_attn.A_log", Fix::Then(&[Fix::NegExp, Fix::TileRows])),
    fixed("blk.{}.ssm_dt.bias", "layers.{}.linear_attn.dt_bias", Fix::TileRows),
    fixed("blk.{}.ssm_out", "layers.{}.linear_attn.out_proj", Fix::TileColumns),
];

fn keys(h: &mut Hf) {
    qwen3_next::keys(h);
    keys_back(h);
    // Shares of the rotation for time, height and width: all the same for text.
    let sections = h.get(&["rope_parameters", "rope_scaling"]).and_then(|p| p["mrope_section"].as_array());
    if let Some(sections) = sections {
        let mut list: Vec<i32> = sections.iter().filter_map(|v| v.as_i64()?.try_into().ok()).collect();
        list.resize(4, 0);
        h.set("rope.dimension_sections", Meta::Array(Array::I32(list)));
    }
}

/// Sections are part of what rotates.
fn keys_back(h: &mut Hf) {
    let Some(mut sections) = h.known_each("rope.dimension_sections") else { return };
    sections.truncate(3);
    if h.back {
        h.config["rope_parameters"]["mrope_section"] = sections.into();
        h.config["rope_parameters"]["mrope_interleaved"] = true.into();
    }
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    qwen3_next::network(m, c, Delta { tiled: true, ..Delta::of(c) })
}
