//! DeepSeek V2: multi-head latent attention, and mixtures of many small experts beside shared ones after the first
//! layers. V3 differs in routing (see [`super::deepseek_v3`]); GGUF has one name for both.

use crate::{
    Arch, Config,
    blocks::{Blocks, Ffn, Mla, Moe},
    hf::{EXPERTS, Fix, Hf, LLAMA_LIKE, Name, fixed, same},
};
use allod_plan::{Act, Groups, Scope, Score, Value};
use serde_json::Value as Json;

pub(super) static ARCH: Arch = Arch {
    gguf: "deepseek2",
    model_type: "deepseek_v2",
    classes: &["DeepseekV2ForCausalLM", "DeepseekV2Model"],
    defaults: "hidden_size=4096 intermediate_size=11008 num_hidden_layers=32 num_attention_heads=32 \
               max_position_embeddings=2048 rms_norm_eps=1e-06 first_k_dense_replace=0 kv_lora_rank=512 \
               q_lora_rank=1536 n_routed_experts=64 n_shared_experts=2 qk_nope_head_dim=128 qk_rope_head_dim=64 \
               routed_scaling_factor=1.0 v_head_dim=128 moe_intermediate_size=1407 attention_bias=false mlp_bias=false",
    keys: |h| {
        let limited = if h.known("expert_group_count").is_some() { LIMITED } else { "greedy" };
        h.field("topk_method", limited);
        if let Some(other) = h.str("topk_method").filter(|&m| m != LIMITED && m != "greedy").map(str::to_owned) {
            h.reject("topk_method", "greedy or group_limited_greedy", other);
        }
        keys(h, h.str("topk_method") == Some(LIMITED));
        h.set("expert_gating_func", SOFTMAX);
    },
    names: &[LLAMA_LIKE, EXPERTS, NAMES],
    forward,
};

/// Transformers' name for choosing experts among the best groups.
const LIMITED: &str = "group_limited_greedy";

/// llama.cpp's number for softmax routing.
const SOFTMAX: u32 = 1;

pub(super) const NAMES: &[Name] = &[
    same("blk.{}.attn_q_a", "layers.{}.self_attn.q_a_proj"),
    same("blk.{}.attn_q_a_norm", "layers.{}.self_attn.q_a_layernorm"),
    same("blk.{}.attn_q_b", "layers.{}.self_attn.q_b_proj"),
    same("blk.{}.attn_kv_a_mqa", "layers.{}.self_attn.kv_a_proj_with_mqa"),
    same("blk.{}.attn_kv_a_norm", "layers.{}.self_attn.kv_a_layernorm"),
    fixed("blk.{}.attn_k_b", "layers.{}.self_attn.kv_b_proj", Fix::KeysOfKvB),
    fixed("blk.{}.attn_v_b", "layers.{}.self_attn.kv_b_proj", Fix::ValuesOfKvB),
    same("blk.{}.exp_probs_b.bias", "layers.{}.mlp.gate.e_score_correction_bias"),
    same("blk.{}.ffn_gate_shexp", "layers.{}.mlp.shared_experts.gate_proj"),
    same("blk.{}.ffn_up_shexp", "layers.{}.mlp.shared_experts.up_proj"),
    same("blk.{}.ffn_down_shexp", "layers.{}.mlp.shared_experts.down_proj"),
];

/// What V2 and V3 share; `grouped` where experts are chosen among the best groups.
pub(super) fn keys(h: &mut Hf, grouped: bool) {
    h.expect_str("hidden_act", &["silu"]);
    let size = |h: &Hf, name: &str| h.uint(name).unwrap_or(0);
    let (rotated, latent) = (size(h, "qk_rope_head_dim"), size(h, "kv_lora_rank"));
    let plain = size(h, "qk_nope_head_dim");
    h.set("attention.head_count_kv", 1u32);
    h.set("attention.key_length", latent.saturating_add(rotated));
    h.set("attention.value_length", latent);
    h.set("attention.key_length_mla", plain.saturating_add(rotated));
    h.copy_uint("v_head_dim", "attention.value_length_mla");
    h.set("rope.dimension_count", rotated);
    h.copy_uint("kv_lora_rank", "attention.kv_lora_rank");
    h.copy_uint("q_lora_rank", "attention.q_lora_rank");
    h.copy_uint("first_k_dense_replace", "leading_dense_block_count");
    h.copy_uint("n_shared_experts", "expert_shared_count");
    h.copy_float("routed_scaling_factor", "expert_weights_scale");
    if grouped {
        h.copy_uint("n_group", "expert_group_count");
        h.copy_uint("topk_group", "expert_group_used_count");
    }
    keys_back(h);
}

/// Sizes that GGUF states as those of the cache, and defaults that are none of GGUF's.
fn keys_back(h: &mut Hf) {
    let size = |h: &Hf, key: &str| h.known(key).unwrap_or(0);
    let rotated = size(h, "rope.dimension_count");
    h.field("head_dim", rotated);
    h.field("qk_rope_head_dim", rotated);
    h.field("qk_nope_head_dim", size(h, "attention.key_length_mla").saturating_sub(rotated));
    h.field("num_key_value_heads", size(h, "attention.head_count"));
    h.rename("num_local_experts", "n_routed_experts");
    h.field_if_absent("q_lora_rank", Json::Null);
    h.field_if_absent("first_k_dense_replace", 0);
    h.field_if_absent("routed_scaling_factor", 1.0);
    h.field_if_absent("n_group", 1);
    h.field_if_absent("topk_group", 1);
}

pub(super) fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let stretched = c.float("rope.scaling.factor").unwrap_or(1.0).max(1.0);
    let temper = 1.0 + c.float("rope.scaling.yarn_log_multiplier").unwrap_or(0.0) * libm::logf(stretched);
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let plain = Mla::of(c, i);
        let attn = Mla { scale: plain.scale * temper * temper, ..plain };
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            l.mla(h, attn)
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("ffn_norm", x, c.eps);
            if i < c.count("leading_dense_block_count") {
                return l.ffn(h, Ffn::glu(c.ff(i), Act::Silu));
            }
            let moe = Moe { bias: l.has("exp_probs_b.bias"), ..Moe::of(c, i) };
            // V2 ranks a group by its best expert, V3 by its best two.
            let best = if moe.score == Score::Softmax { 1 } else { 2 };
            l.moe(h, Moe { groups: moe.groups.map(|g| Groups { best, ..g }), ..moe })
        });
    }
    m.logits(x, c)
}
