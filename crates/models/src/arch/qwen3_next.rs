//! Qwen3-Next: gated DeltaNet in three of four layers, gated attention in the fourth, and Qwen 2's mixtures of experts
//! with a gated shared one.

use super::{qwen2_moe, qwen2_moe::SHARED_EXPERT};
use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Delta, Gate, Moe, QkNorm},
    hf::{EXPERTS, FULL, Fix, GEMMA_NORMS, Hf, LLAMA_LIKE, Name, fixed, same},
};
use allod_formats::{Array, Value as Meta};
use allod_plan::{RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "qwen3next",
    model_type: "qwen3_next",
    classes: &["Qwen3NextForCausalLM", "Qwen3NextModel"],
    defaults: "hidden_size=2048 intermediate_size=5632 num_hidden_layers=48 num_attention_heads=16 \
               num_key_value_heads=2 max_position_embeddings=32768 rms_norm_eps=1e-06 head_dim=256 \
               linear_conv_kernel_dim=4 linear_key_head_dim=128 linear_value_head_dim=128 linear_num_key_heads=16 \
               linear_num_value_heads=32 moe_intermediate_size=512 shared_expert_intermediate_size=512 \
               num_experts_per_tok=10 num_experts=512 partial_rotary_factor=0.25 attention_bias=false",
    keys: |h| {
        keys(h);
        h.copy_uint("shared_expert_intermediate_size", "expert_shared_feed_forward_length");
        h.default_flag("norm_topk_prob", true);
        qwen2_moe::experts(h, true);
    },
    names: &[LLAMA_LIKE, GEMMA_NORMS, EXPERTS, SHARED_EXPERT, NAMES, GROUPED],
    forward,
};

/// What Qwen3-Next and Qwen3.5 share.
pub(super) const NAMES: &[Name] = &[
    fixed("blk.{}.post_attention_norm", "layers.{}.post_attention_layernorm", Fix::PlusOne),
    same("blk.{}.ssm_norm", "layers.{}.linear_attn.norm"),
];

/// Projections by key head.
const GROUPED: &[Name] = &[
    fixed("blk.{}.attn_qkv", "layers.{}.linear_attn.in_proj_qkvz", Fix::QkvOfGroups),
    fixed("blk.{}.attn_gate", "layers.{}.linear_attn.in_proj_qkvz", Fix::GatesOfGroups),
    same("blk.{}.ssm_ba", "layers.{}.linear_attn.in_proj_ba"),
    fixed("blk.{}.ssm_conv1d", "layers.{}.linear_attn.conv1d", Fix::Squeeze),
    fixed("blk.{}.ssm_a", "layers.{}.linear_attn.A_log", Fix::NegExp),
    same("blk.{}.ssm_dt.bias", "layers.{}.linear_attn.dt_bias"),
    same("blk.{}.ssm_out", "layers.{}.linear_attn.out_proj"),
];

/// Layers of attention, where no list says: every so many.
const PERIOD: usize = 4;

pub(super) fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    h.copy_uint("linear_conv_kernel_dim", "ssm.conv_kernel");
    h.copy_uint("linear_key_head_dim", "ssm.state_size");
    h.copy_uint("linear_num_key_heads", "ssm.group_count");
    h.copy_uint("linear_num_value_heads", "ssm.time_step_rank");
    if let Some((n, width)) = h.uint("linear_num_value_heads").zip(h.uint("linear_value_head_dim")) {
        h.set("ssm.inner_size", n.saturating_mul(width));
    }
    h.copy_uint("full_attention_interval", "full_attention_interval");
    if h.back {
        keys_back(h);
    }
    let types = h.kinds("layer_types", &["linear_attention", FULL]).unwrap_or_default();
    let recurrent: Vec<bool> = types.iter().map(|t| t == "linear_attention").collect();
    let period = recurrent.iter().position(|r| !r).map(|first| first + 1);
    let regular = |n: &usize| recurrent.iter().enumerate().all(|(i, &r)| r == ((i + 1) % n != 0));
    match period.filter(regular).and_then(|n| u32::try_from(n).ok()) {
        Some(period) => h.set("full_attention_interval", period),
        None if recurrent.is_empty() => {}
        None => h.set("attention.recurrent_layers", Meta::Array(Array::Bool(recurrent))),
    }
}

fn keys_back(h: &mut Hf) {
    let width = h.known("ssm.inner_size").zip(h.known("ssm.time_step_rank")).and_then(|(i, n)| i.checked_div(n));
    width.into_iter().for_each(|w| h.field("linear_value_head_dim", w));
    let period = h.known("full_attention_interval").unwrap_or(PERIOD).max(1);
    let regular = (1..=h.known("block_count").unwrap_or(0)).map(|i| usize::from(i % period != 0)).collect();
    let recurrent: Vec<usize> = h.known_each("attention.recurrent_layers").unwrap_or(regular);
    let kind = |&r: &usize| if r != 0 { "linear_attention" } else { "full_attention" };
    h.field("layer_types", recurrent.iter().map(kind).collect::<Vec<_>>());
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    network(m, c, Delta::of(c))
}

/// The network, with recurrent layers as `delta` says.
pub(super) fn network(m: &mut Scope<'_, '_>, c: &Config, delta: Delta) -> Value {
    let listed = c.list("attention.recurrent_layers");
    let period = c.uint("full_attention_interval").unwrap_or(PERIOD).max(1);
    let normalize = c.flag("expert_weights_norm").unwrap_or(true);
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let recurrent = listed.as_ref().map_or((i + 1) % period != 0, |l| l.get(i).is_some_and(|&r| r != 0));
        let rope = Some(c.rope(RopeStyle::Half));
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            match recurrent {
                true => l.delta(h, delta),
                false => {
                    l.attention(h, Attn { rope, qk_norm: QkNorm::PerHead, gate: Gate::InQuery, ..Attn::gqa(c, i) })
                }
            }
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("post_attention_norm", x, c.eps);
            qwen2_moe::feed_forward(l, h, c, i, Moe { normalize, shared_gate: true, ..Moe::of(c, i) })
        });
    }
    m.logits(x, c)
}
