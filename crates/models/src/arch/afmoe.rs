//! AFMoE (Arcee Trinity): gated attention with norms on queries and keys, rotary positions in sliding layers only, norms
//! before and after each part, and experts by sigmoid routing with a correction, beside shared ones.

use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn, Gate, Moe, QkNorm},
    hf::{EXPERTS, Hf, LLAMA_LIKE, Name, same},
};
use allod_plan::{Act, RopeStyle, Scope, Score, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "afmoe",
    model_type: "afmoe",
    classes: &["AfmoeForCausalLM", "AfmoeModel"],
    defaults: "hidden_size=2048 intermediate_size=6144 moe_intermediate_size=1408 num_hidden_layers=32 \
               num_dense_layers=1 num_attention_heads=16 head_dim=128 max_position_embeddings=16384 rms_norm_eps=1e-05 \
               num_experts=64 num_experts_per_tok=6 num_shared_experts=2 route_scale=1.0 global_attn_every_n_layers=4 \
               sliding_window=1024 attention_bias=false",
    keys,
    names: &[LLAMA_LIKE, EXPERTS, NAMES],
    forward,
};

const NAMES: &[Name] = &[
    same("blk.{}.post_attention_norm", "layers.{}.post_attention_layernorm"),
    same("blk.{}.ffn_norm", "layers.{}.pre_mlp_layernorm"),
    same("blk.{}.post_ffw_norm", "layers.{}.post_mlp_layernorm"),
    same("blk.{}.attn_gate", "layers.{}.self_attn.gate_proj"),
    same("blk.{}.ffn_gate_inp", "layers.{}.mlp.router.gate"),
    same("blk.{}.exp_probs_b.bias", "layers.{}.mlp.expert_bias"),
    same("blk.{}.ffn_gate_shexp", "layers.{}.mlp.shared_experts.gate_proj"),
    same("blk.{}.ffn_up_shexp", "layers.{}.mlp.shared_experts.up_proj"),
    same("blk.{}.ffn_down_shexp", "layers.{}.mlp.shared_experts.down_proj"),
];

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    h.sliding_layers(|h, i| (i + 1) % h.uint("global_attn_every_n_layers").unwrap_or(1).max(1) != 0);
    h.sliding_window();
    h.copy_uint("num_dense_layers", "leading_dense_block_count");
    h.copy_uint("num_shared_experts", "expert_shared_count");
    h.copy_float("route_scale", "expert_weights_scale");
    h.set("expert_weights_norm", true);
    h.set("expert_gating_func", 2u32);
    h.rename("num_local_experts", "num_experts");
    // GGUF has no key for what all of them do.
    h.field("mup_enabled", h.known_float("embedding_scale") != Some(1.0));
    if !h.flag("mup_enabled") {
        h.set("embedding_scale", 1.0);
    }
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let normalize = c.flag("expert_weights_norm").unwrap_or(true);
    let x = m.tokens(c);
    let mut x = m.scale(x, c.float("embedding_scale").unwrap_or((c.dim as f32).sqrt()));
    for i in 0..c.layers {
        let slides = c.slides(i, 4);
        let attn = Attn {
            rope: slides.then(|| c.rope(RopeStyle::Half)),
            mask: c.mask_if(slides),
            qk_norm: QkNorm::PerHead,
            gate: Gate::Projected,
            ..Attn::gqa(c, i)
        };
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            let h = l.attention(h, attn);
            l.rms_norm("post_attention_norm", h, c.eps)
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("ffn_norm", x, c.eps);
            let h = match i < c.count("leading_dense_block_count") {
                true => l.ffn(h, Ffn::glu(c.ff(i), Act::Silu)),
                false => l.moe(h, Moe { score: Score::Sigmoid, bias: true, normalize, ..Moe::of(c, i) }),
            };
            l.rms_norm("post_ffw_norm", h, c.eps)
        });
    }
    m.logits(x, c)
}
