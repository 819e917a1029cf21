//! Nemotron-H: every layer is one part, Mamba-2, attention without positions, a dense part or a mixture of experts, which
//! may work in a narrower space.

use super::{mamba, mamba2};
use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn, Mamba2, Moe},
    hf::{Fix, Hf, Name, fixed, mamba2_names, same},
};
use allod_plan::{Act, Scope, Score, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "nemotron_h",
    model_type: "nemotron_h",
    classes: &["NemotronHForCausalLM", "NemotronHModel"],
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
fn kinds(h: &Hf) -> Vec<char> {
    if let Some(pattern) = h.str("hybrid_override_pattern") {
        return pattern.chars().map(|c| if c == 'E' || c == '*' || c == '-' { c } else { 'M' }).collect();
    }
    let kind = |name: &&str| match *name {
        "full_attention" | "attention" => '*',
        "mlp" => '-',
        "moe" => 'E',
        _ => 'M',
    };
    h.strs("layers_block_type").unwrap_or_default().iter().map(kind).collect()
}

fn keys(h: &mut Hf) {
    h.prefix("backbone.");
    h.expect_str("mlp_hidden_act", &["relu2"]);
    h.expect_str("mamba_hidden_act", &["silu"]);
    h.copy_float("layer_norm_epsilon", "attention.layer_norm_rms_epsilon");
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
    h.omit(&["num_hidden_layers", "rope_parameters"]);
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
    h.field("intermediate_size", dense);
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
