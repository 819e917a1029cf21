//! Qwen 2 MoE: Qwen 2 with mixtures of experts and a gated expert that all rows use; some layers may stay dense.

use super::qwen2;
use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn, Moe},
    hf::{EXPERTS, Hf, LLAMA_LIKE, Name, same},
};
use allod_plan::{Act, RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "qwen2moe",
    model_type: "qwen2_moe",
    classes: &["Qwen2MoeForCausalLM", "Qwen2MoeModel"],
    defaults: "hidden_size=2048 intermediate_size=5632 num_hidden_layers=24 num_attention_heads=16 \
               num_key_value_heads=16 max_position_embeddings=32768 rms_norm_eps=1e-06 sliding_window=4096 \
               max_window_layers=28 moe_intermediate_size=1408 shared_expert_intermediate_size=5632 \
               num_experts_per_tok=4 num_experts=60 qkv_bias=true",
    keys,
    names: &[LLAMA_LIKE, EXPERTS, SHARED_EXPERT],
    forward,
};

pub(super) const SHARED_EXPERT: &[Name] = &[
    same("blk.{}.ffn_gate_inp_shexp", "layers.{}.mlp.shared_expert_gate"),
    same("blk.{}.ffn_gate_shexp", "layers.{}.mlp.shared_expert.gate_proj"),
    same("blk.{}.ffn_up_shexp", "layers.{}.mlp.shared_expert.up_proj"),
    same("blk.{}.ffn_down_shexp", "layers.{}.mlp.shared_expert.down_proj"),
];

fn keys(h: &mut Hf) {
    h.sliding_layers(|h, i| i % 2 == 0 && i < h.uint("max_window_layers").unwrap_or(0));
    qwen2::keys(h);
    h.field("qkv_bias", h.layers_with("attn_q.bias").contains(&true));
    h.copy_uint("shared_expert_intermediate_size", "expert_shared_feed_forward_length");
    experts(h, false);
}

/// Whether the weights of the chosen are normed (in GGUF that does not say: `unsaid`), and which layers have experts.
pub(super) fn experts(h: &mut Hf, unsaid: bool) {
    h.default_flag("norm_topk_prob", false);
    h.copy_flag("norm_topk_prob", "expert_weights_norm");
    h.field_if_absent("norm_topk_prob", unsaid);
    h.rename("num_local_experts", "num_experts");
    let layers = h.layers_with("ffn_gate_inp.weight").into_iter().enumerate();
    h.field("mlp_only_layers", layers.filter(|l| !l.1).map(|l| l.0).collect::<Vec<_>>());
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            let (rope, mask) = (Some(c.rope(RopeStyle::Half)), c.mask(i, 0));
            l.attention(h, Attn { rope, mask, ..Attn::gqa(c, i) })
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("ffn_norm", x, c.eps);
            feed_forward(l, h, c, i, Moe { shared_gate: true, ..Moe::of(c, i) })
        });
    }
    m.logits(x, c)
}

/// Experts where the layer has a router, else a dense part.
pub(super) fn feed_forward(l: &mut Scope<'_, '_>, h: Value, c: &Config, i: usize, experts: Moe) -> Value {
    match l.has("ffn_gate_inp.weight") {
        true => l.moe(h, experts),
        false => l.ffn(h, Ffn::glu(c.ff(i), Act::Silu)),
    }
}
