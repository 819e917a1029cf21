//! Nemotron-H: every layer is one part, Mamba-2, attention without positions, a dense part or a mixture of experts, which
//! may work in a narrower space.

use super::{mamba, mamba2};
use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn, Mamba2, Moe},
    hf::{Fix, Hf, Name, fixed, mamba2_names, number, same},
};
use allod_plan::{Act, Scope, Score, Value};
use serde_json::{Value as Json, json};

pub(super) static ARCH: Arch = Arch {
    gguf: "nemotron_h",
    model_type: "nemotron_h",
    classes: &["NemotronHForCausalLM", "NemotronHModel"],
    defaults: "hidden_size=4096 num_attention_heads=32 num_key_value_heads=8 head_dim=128 \
               max_position_embeddings=4096 intermediate_size=21504 ssm_state_size=128 mamba_num_heads=128 \
               mamba_head_dim=64 n_groups=8 conv_kernel=4 time_step_min=0.001 n_routed_experts=8 n_shared_experts=1 \
               moe_intermediate_size=7688 moe_shared_expert_intermediate_size=7688 num_experts_per_tok=2 \
               routed_scaling_factor=1.0 n_group=1 topk_group=1 layer_norm_epsilon=1e-05 attention_bias=false \
               mlp_bias=false use_conv_bias=true use_bias=false",
    keys,
    names: &[mamba::NAMES, mamba2_names!("mixer"), NAMES],
    forward,
};

/// GGUF's name of those with experts.
pub(super) static MOE: Arch = Arch { gguf: "nemotron_h_moe", model_type: "nemotron_h_moe", ..ARCH };

const NAMES: &[Name] = &[
    same("blk.{}.attn_q", "layers.{}.mixer.q_proj"),
    same("blk.{}.attn_k", "layers.{}.mixer.k_proj"),
    same("blk.{}.attn_v", "layers.{}.mixer.v_proj"),
    same("blk.{}.attn_output", "layers.{}.mixer.o_proj"),
    same("blk.{}.ffn_up", "layers.{}.mixer.up_proj"),
    same("blk.{}.ffn_down", "layers.{}.mixer.down_proj"),
    same("blk.{}.ffn_gate_inp", "layers.{}.mixer.gate"),
    same("blk.{}.exp_probs_b.bias", "layers.{}.mixer.gate.e_score_correction_bias"),
    same("blk.{}.ffn_latent_down", "layers.{}.mixer.fc1_latent_proj"),
    same("blk.{}.ffn_latent_up", "layers.{}.mixer.fc2_latent_proj"),
    same("blk.{}.ffn_up_exps", "layers.{}.mixer.experts.{e}.up_proj"),
    same("blk.{}.ffn_down_exps", "layers.{}.mixer.experts.{e}.down_proj"),
    same("blk.{}.ffn_up_exps.weight", "layers.{}.mixer.experts.up_proj"),
    same("blk.{}.ffn_down_exps.weight", "layers.{}.mixer.experts.down_proj"),
    same("blk.{}.ffn_up_shexp", "layers.{}.mixer.shared_experts.up_proj"),
    same("blk.{}.ffn_down_shexp", "layers.{}.mixer.shared_experts.down_proj"),
];

/// What a layer is, by the names that configurations have for it.
fn kinds(h: &mut Hf) -> Vec<char> {
    let listed = h.strs("layers_block_type").or(h.strs("layer_types"));
    let pattern: String = match (h.str("hybrid_override_pattern"), listed) {
        (_, Some(names)) => names.iter().map(|name| KINDS.iter().find(|k| k.0 == *name).map_or('?', |k| k.1)).collect(),
        (Some(pattern), None) => pattern.to_owned(),
        (None, None) if h.back => return vec![],
        (None, None) => "ME*-".into(),
    };
    if let Some(at) = pattern.chars().position(|c| KINDS.iter().all(|k| k.1 != c)) {
        h.reject("layers_block_type", "linear_attention, full_attention, mlp or moe", format!("another at layer {at}"));
    }
    pattern.chars().collect()
}

/// Transformers' names, new and old, and the letters that a pattern has for them.
const KINDS: [(&str, char); 6] = [
    ("linear_attention", 'M'),
    ("mamba", 'M'),
    ("full_attention", '*'),
    ("attention", '*'),
    ("mlp", '-'),
    ("moe", 'E'),
];

fn keys(h: &mut Hf) {
    h.prefix("backbone.");
    h.expect_str("mlp_hidden_act", &["relu2"]);
    h.expect_str("mamba_hidden_act", &["silu"]);
    h.copy_float("layer_norm_epsilon", "attention.layer_norm_rms_epsilon");
    for (old, name) in
        [("mamba_n_groups", "n_groups"), ("mamba_d_conv", "conv_kernel"), ("mamba_dt_min", "time_step_min")]
    {
        if let Some(v) = h.get(&[old]).cloned() {
            h.config[name] = v;
        }
    }
    // Transformers bounds dt from below only, by what is elsewhere said for training.
    if let Some(least) = h.float("time_step_min").filter(|_| !h.back) {
        h.config["time_step_limit"] = json!([least, Json::Null]);
    }
    mamba2::mixer(h, ["mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups", "conv_kernel"]);
    keys_back(h);
    let kinds = kinds(h);
    if kinds.is_empty() {
        return;
    }
    h.set("block_count", kinds.len() as u32);
    let each = |kind: char, n: u32| kinds.iter().map(move |&k| if k == kind { n } else { 0 });
    let size = |h: &Hf, name: &str| h.uint(name).unwrap_or(0);
    h.set_each("attention.head_count_kv", each('*', size(h, "num_key_value_heads")));
    let (dense, expert) = (size(h, "intermediate_size"), size(h, "moe_intermediate_size"));
    h.set_each("feed_forward_length", each('-', dense).zip(each('E', expert)).map(|(a, b)| a + b));
    if !kinds.contains(&'E') {
        for key in ["expert_count", "expert_used_count", "expert_feed_forward_length"] {
            h.unset(key);
        }
        return;
    }
    h.rename_architecture(MOE.gguf);
    h.set("expert_gating_func", 2u32);
    h.copy_uint("n_shared_experts", "expert_shared_count");
    h.copy_uint("moe_shared_expert_intermediate_size", "expert_shared_feed_forward_length");
    h.default_flag("norm_topk_prob", true);
    h.copy_flag("norm_topk_prob", "expert_weights_norm");
    h.field_if_absent("norm_topk_prob", false);
    h.copy_float("routed_scaling_factor", "expert_weights_scale");
    h.copy_uint("n_group", "expert_group_count");
    h.copy_uint("topk_group", "expert_group_used_count");
    h.copy_uint("moe_latent_size", "moe_latent_size");
}

fn keys_back(h: &mut Hf) {
    h.field("model_type", ARCH.model_type);
    h.rename("num_local_experts", "n_routed_experts");
    h.omit(&["num_hidden_layers", "rope_parameters", "time_step_limit"]);
    let least = h.meta.floats(&h.key("ssm.time_step_limit")).and_then(|l| l.first().copied());
    h.field("time_step_min", number(least.unwrap_or(0.0)));
    mamba::biases_back(h, ["use_bias", "use_conv_bias"]);
    let attends = h.known_each("attention.head_count_kv").unwrap_or_default();
    let widths = h.known_each("feed_forward_length").unwrap_or_default();
    let mut dense = 0;
    let layers = attends.into_iter().zip(widths).zip(h.layers_with("ffn_gate_inp.weight"));
    let kinds: Vec<&str> = layers
        .map(|layer| match layer {
            ((0, 0), _) => "linear_attention",
            ((0, _), true) => "moe",
            ((0, width), false) => {
                dense = width;
                "mlp"
            }
            _ => "full_attention",
        })
        .collect();
    // Where no layer is dense, any width will do.
    h.field("intermediate_size", if dense > 0 { dense } else { h.known("embedding_length").unwrap_or(1) });
    h.field("layers_block_type", kinds);
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        x = m.layer(i).residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            match (c.kv_heads(i), c.ff(i)) {
                (0, 0) => l.mamba2(h, Mamba2::of(c)),
                (0, ff) if !l.has("ffn_gate_inp.weight") => l.ffn(h, Ffn::plain(ff, Act::Relu2)),
                (0, _) => l.moe(h, experts(c, i)),
                _ => l.attention(h, Attn::gqa(c, i)),
            }
        });
    }
    m.logits(x, c)
}

fn experts(c: &Config, i: usize) -> Moe {
    let latent = Some(c.count("moe_latent_size")).filter(|&n| n > 0);
    Moe { gated: false, act: Act::Relu2, score: Score::Sigmoid, bias: true, latent, ..Moe::of(c, i) }
}
