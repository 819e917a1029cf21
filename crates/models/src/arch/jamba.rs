//! Jamba: Mamba with norms of dt, B and C in most layers, attention without positions in some; every other
//! feed-forward part is a mixture of experts.

use super::{mamba, qwen2_moe};
use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Mamba, Moe},
    hf::{Fix, Hf, LLAMA_LIKE, Name, fixed, mamba_names, same},
};
use allod_plan::{Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "jamba",
    model_type: "jamba",
    classes: &["JambaForCausalLM", "JambaModel"],
    defaults: "hidden_size=4096 intermediate_size=14336 num_hidden_layers=32 num_attention_heads=32 \
               num_key_value_heads=8 rms_norm_eps=1e-06 max_position_embeddings=262144 num_experts_per_tok=2 \
               num_experts=16 expert_layer_period=2 expert_layer_offset=1 attn_layer_period=8 attn_layer_offset=4 \
               mamba_d_state=16 mamba_d_conv=4 mamba_expand=2 mamba_conv_bias=true mamba_proj_bias=false",
    keys,
    names: &[LLAMA_LIKE, NAMES, mamba_names!("mamba")],
    forward,
};

const NAMES: &[Name] = &[
    same("output_norm", "final_layernorm"),
    same("blk.{}.ffn_norm", "layers.{}.pre_ff_layernorm"),
    same("blk.{}.ffn_gate", "layers.{}.feed_forward.gate_proj"),
    same("blk.{}.ffn_up", "layers.{}.feed_forward.up_proj"),
    same("blk.{}.ffn_down", "layers.{}.feed_forward.down_proj"),
    same("blk.{}.ffn_gate_inp", "layers.{}.feed_forward.router"),
    same("blk.{}.ffn_gate_exps", "layers.{}.feed_forward.experts.{e}.gate_proj"),
    same("blk.{}.ffn_up_exps", "layers.{}.feed_forward.experts.{e}.up_proj"),
    same("blk.{}.ffn_down_exps", "layers.{}.feed_forward.experts.{e}.down_proj"),
    fixed("blk.{}.ffn_gate_exps.weight", "layers.{}.feed_forward.experts.gate_up_proj", Fix::Part { index: 0, of: 2 }),
    fixed("blk.{}.ffn_up_exps.weight", "layers.{}.feed_forward.experts.gate_up_proj", Fix::Part { index: 1, of: 2 }),
    same("blk.{}.ffn_down_exps.weight", "layers.{}.feed_forward.experts.down_proj"),
];

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    h.copy_uint("mamba_d_state", "ssm.state_size");
    h.copy_uint("mamba_d_conv", "ssm.conv_kernel");
    let width = h.uint("hidden_size").unwrap_or(0);
    h.set("ssm.inner_size", h.uint("mamba_expand").unwrap_or(2).saturating_mul(width));
    h.set("ssm.time_step_rank", h.uint("mamba_dt_rank").unwrap_or(width.div_ceil(16)));
    keys_back(h);
    let layers = h.uint("num_hidden_layers").unwrap_or(0).min(1 << 12);
    let (period, offset) = (h.uint("attn_layer_period").unwrap_or(8), h.uint("attn_layer_offset").unwrap_or(4));
    let heads = h.uint("num_key_value_heads").unwrap_or(0);
    h.set_each(
        "attention.head_count_kv",
        (0..layers).map(|i| if i.checked_rem(period) == Some(offset) { heads } else { 0 }),
    );
}

fn keys_back(h: &mut Hf) {
    h.rename("num_local_experts", "num_experts");
    h.copy_back("mamba_dt_rank", "ssm.time_step_rank");
    mamba::expand_back(h, "mamba_expand");
    mamba::biases_back(h, ["mamba_proj_bias", "mamba_conv_bias"]);
    h.omit(&["rope_parameters"]);
    let attends = h.known_each("attention.head_count_kv").unwrap_or_default().iter().map(|&n| n > 0).collect();
    for (kind, layers) in [("attn", attends), ("expert", h.layers_with("ffn_gate_inp.weight"))] {
        if let Some((period, offset)) = period(&layers) {
            h.field(&format!("{kind}_layer_period"), period);
            h.field(&format!("{kind}_layer_offset"), offset);
        }
    }
}

/// Every so many layers, and the first of them, where `layers` are spaced like this.
fn period(layers: &[bool]) -> Option<(usize, usize)> {
    let offset = layers.iter().position(|&l| l).unwrap_or(layers.len());
    let fits = |&n: &usize| layers.iter().enumerate().all(|(i, &l)| l == (i % n == offset));
    (offset + 1..=layers.len() + 1).find(fits).map(|n| (n, offset))
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            match c.kv_heads(i) {
                0 => l.mamba(h, Mamba { norms: Some(c.eps), ..Mamba::of(c) }),
                _ => l.attention(h, Attn::gqa(c, i)),
            }
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("ffn_norm", x, c.eps);
            qwen2_moe::feed_forward(l, h, c, i, Moe::of(c, i))
        });
    }
    m.logits(x, c)
}
