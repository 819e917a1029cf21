//! gpt-oss: every other layer slides, scores have a learned sink, all projections have biases, and experts a clamped
//! SwiGLU. The experts of published files are MXFP4.

use crate::{
    Arch, Config,
    blocks::{Attn, Bias, Blocks, Moe},
    hf::{Fix, Hf, LLAMA_LIKE, Name, fixed, ignored, same},
};
use allod_plan::{Act, RopeStyle, Scope, Score, Value};
use serde_json::json;

pub(super) static ARCH: Arch = Arch {
    gguf: "gpt-oss",
    model_type: "gpt_oss",
    classes: &["GptOssForCausalLM", "GptOssModel"],
    defaults: "num_hidden_layers=36 num_local_experts=128 hidden_size=2880 intermediate_size=2880 \
               head_dim=64 num_attention_heads=64 num_key_value_heads=8 sliding_window=128 \
               max_position_embeddings=131072 rms_norm_eps=1e-05 num_experts_per_tok=4 swiglu_alpha=1.702 \
               swiglu_limit=7.0 rope_theta=150000.0 attention_bias=true",
    keys,
    names: &[LLAMA_LIKE, NAMES],
    forward,
};

const GATES: Fix = Fix::Every { index: 0, of: 2 };
const UPS: Fix = Fix::Every { index: 1, of: 2 };

/// Gate and up alternate. Plain experts are `[in, out]`, those in MXFP4 `[out, in]`.
const NAMES: &[Name] = &[
    same("blk.{}.post_attention_norm", "layers.{}.post_attention_layernorm"),
    same("blk.{}.attn_sinks.weight", "layers.{}.self_attn.sinks"),
    same("blk.{}.ffn_gate_inp", "layers.{}.mlp.router"),
    fixed("blk.{}.ffn_gate_exps.weight", "layers.{}.mlp.experts.gate_up_proj", Fix::Then(&[Fix::Transpose, GATES])),
    fixed("blk.{}.ffn_up_exps.weight", "layers.{}.mlp.experts.gate_up_proj", Fix::Then(&[Fix::Transpose, UPS])),
    fixed("blk.{}.ffn_down_exps.weight", "layers.{}.mlp.experts.down_proj", Fix::Transpose),
    fixed("blk.{}.ffn_gate_exps.weight", "layers.{}.mlp.experts.gate_up_proj_blocks", GATES),
    fixed("blk.{}.ffn_up_exps.weight", "layers.{}.mlp.experts.gate_up_proj_blocks", UPS),
    same("blk.{}.ffn_down_exps.weight", "layers.{}.mlp.experts.down_proj_blocks"),
    // Read with their blocks.
    ignored("layers.{}.mlp.experts.gate_up_proj_scales"),
    ignored("layers.{}.mlp.experts.down_proj_scales"),
    fixed("blk.{}.ffn_gate_exps.bias", "layers.{}.mlp.experts.gate_up_proj_bias", GATES),
    fixed("blk.{}.ffn_up_exps.bias", "layers.{}.mlp.experts.gate_up_proj_bias", UPS),
    same("blk.{}.ffn_down_exps.bias", "layers.{}.mlp.experts.down_proj_bias"),
];

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    h.sliding_window();
    if !h.back && h.get(&["rope_parameters", "rope_scaling"]).is_none() {
        h.config["rope_parameters"] = json!({
            "rope_type": "yarn", "factor": 32, "beta_fast": 32, "beta_slow": 1, "truncate": false,
            "original_max_position_embeddings": 4096,
        });
        h.rope();
    }
    h.copy_uint("intermediate_size", "expert_feed_forward_length");
    h.copy_float("swiglu_alpha", "swiglu_alpha");
    h.copy_float("swiglu_limit", "swiglu_limit");
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let act = Act::ClampedSwiglu {
        alpha: c.float("swiglu_alpha").unwrap_or(1.702),
        limit: c.float("swiglu_limit").unwrap_or(7.0),
    };
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let (rope, mask) = (Some(c.rope(RopeStyle::Half)), c.mask(i, 2));
        let attn = Attn { rope, mask, sinks: true, bias: Bias::Required, ..Attn::gqa(c, i) };
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            l.attention(h, attn)
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("post_attention_norm", x, c.eps);
            l.moe(h, Moe { score: Score::SoftmaxOfChosen, act, ..Moe::of(c, i) })
        });
    }
    m.logits(x, c)
}
