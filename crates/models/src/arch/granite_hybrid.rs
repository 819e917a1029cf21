//! Granite 4: Granite with Mamba-2 in most layers and, in some models, experts beside a shared dense part. Models without
//! Mamba layers and experts are `granite` in GGUF.

use super::{mamba, mamba2};
use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn, Mamba2, Moe},
    hf::{FULL, Fix, Hf, INTERLEAVED_QK, LLAMA_LIKE, Name, fixed, mamba2_names, same},
};
use allod_plan::{Act, RopeStyle, Scope, Score, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "granitehybrid",
    model_type: "granitemoehybrid",
    classes: &["GraniteMoeHybridForCausalLM", "GraniteMoeHybridModel"],
    defaults: "hidden_size=4096 intermediate_size=11008 num_hidden_layers=32 num_attention_heads=32 \
               max_position_embeddings=2048 rms_norm_eps=1e-06 embedding_multiplier=1.0 logits_scaling=1.0 \
               residual_multiplier=1.0 attention_multiplier=1.0 num_local_experts=8 num_experts_per_tok=2 \
               shared_intermediate_size=1024 mamba_n_heads=128 mamba_n_groups=1 mamba_d_state=256 mamba_d_conv=4 \
               attention_bias=false mamba_conv_bias=true mamba_proj_bias=false",
    keys,
    names: &[LLAMA_LIKE, INTERLEAVED_QK, mamba2_names!("mamba"), NAMES],
    forward,
};

const GATE: Fix = Fix::Part { index: 0, of: 2 };
const UP: Fix = Fix::Part { index: 1, of: 2 };

const NAMES: &[Name] = &[
    same("blk.{}.ffn_gate_inp", "layers.{}.block_sparse_moe.router.layer"),
    fixed("blk.{}.ffn_gate_exps", "layers.{}.block_sparse_moe.input_linear", GATE),
    fixed("blk.{}.ffn_up_exps", "layers.{}.block_sparse_moe.input_linear", UP),
    same("blk.{}.ffn_down_exps", "layers.{}.block_sparse_moe.output_linear"),
    // As Transformers' class holds them.
    fixed("blk.{}.ffn_gate_exps.weight", "layers.{}.block_sparse_moe.experts.gate_up_proj", GATE),
    fixed("blk.{}.ffn_up_exps.weight", "layers.{}.block_sparse_moe.experts.gate_up_proj", UP),
    same("blk.{}.ffn_down_exps.weight", "layers.{}.block_sparse_moe.experts.down_proj"),
    same("blk.{}.ffn_gate_inp", "layers.{}.block_sparse_moe.router"),
    fixed("blk.{}.ffn_gate_shexp", "layers.{}.shared_mlp.input_linear", GATE),
    fixed("blk.{}.ffn_up_shexp", "layers.{}.shared_mlp.input_linear", UP),
    same("blk.{}.ffn_down_shexp", "layers.{}.shared_mlp.output_linear"),
];

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    h.copy_float("attention_multiplier", "attention.scale");
    h.copy_float("embedding_multiplier", "embedding_scale");
    h.copy_float("residual_multiplier", "residual_scale");
    h.copy_float("logits_scaling", "logit_scale");
    h.set("rope.scaling.finetuned", h.str("position_embedding_type") == Some("rope"));
    keys_back(h);
    let experts = h.uint("num_local_experts").unwrap_or(0) > 0;
    let shared = h.uint("shared_intermediate_size").unwrap_or(0);
    if !h.back && h.uint("mamba_d_head").is_none() {
        let inner = h.uint("mamba_expand").unwrap_or(2).saturating_mul(h.uint("hidden_size").unwrap_or(0));
        h.config["mamba_d_head"] = inner.checked_div(h.uint("mamba_n_heads").unwrap_or(0)).unwrap_or(0).into();
    }
    if !h.back && h.get(&["layer_types", "layers_block_type"]).is_none() {
        h.config["layer_types"] = vec!["linear_attention"; h.known("block_count").unwrap_or(0).min(1 << 12)].into();
    }
    let known = ["linear_attention", "mamba", FULL, "attention"];
    let types = h.kinds("layer_types", &known).or_else(|| h.kinds("layers_block_type", &known)).unwrap_or_default();
    let attends: Vec<bool> = types.iter().map(|t| t == FULL || t == "attention").collect();
    let heads = h.uint("num_key_value_heads").unwrap_or(0);
    if experts {
        h.set("expert_shared_feed_forward_length", shared);
    } else {
        // What all rows use is all there is.
        h.rename_tensors("_shexp", "");
        h.set("feed_forward_length", shared);
        h.unset("expert_count");
        h.unset("expert_used_count");
    }
    if !experts && !attends.is_empty() && attends.iter().all(|&a| a) {
        return h.rename_architecture("granite");
    }
    mamba2::mixer(h, ["mamba_n_heads", "mamba_d_head", "mamba_d_state", "mamba_n_groups", "mamba_d_conv"]);
    if !attends.is_empty() {
        h.set_each("attention.head_count_kv", attends.iter().map(|&a| if a { heads } else { 0 }));
    }
}

fn keys_back(h: &mut Hf) {
    let rotated = h.meta.bool(&h.key("rope.scaling.finetuned")) == Some(true);
    h.field("position_embedding_type", if rotated { "rope" } else { "nope" });
    let experts = h.known("expert_count").is_some();
    let shared = if experts { "expert_shared_feed_forward_length" } else { "feed_forward_length" };
    h.copy_back("shared_intermediate_size", shared);
    h.field_if_absent("num_local_experts", 0);
    h.field_if_absent("num_experts_per_tok", 0);
    let kind = |&n: &usize| if n > 0 { "full_attention" } else { "linear_attention" };
    let heads = h.known_each("attention.head_count_kv").unwrap_or_default();
    h.field("layer_types", heads.iter().map(kind).collect::<Vec<_>>());
    mamba::expand_back(h, "mamba_expand");
    mamba::biases_back(h, ["mamba_proj_bias", "mamba_conv_bias"]);
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let factor = |key| c.float(key).unwrap_or(1.0);
    let rotated = c.flag("rope.scaling.finetuned").unwrap_or(false);
    let x = m.tokens(c);
    let mut x = m.scale(x, factor("embedding_scale"));
    for i in 0..c.layers {
        let plain = Attn::gqa(c, i);
        let scale = c.float("attention.scale").unwrap_or(plain.scale);
        let attn = Attn { rope: rotated.then(|| c.rope(RopeStyle::Interleaved)), scale, ..plain };
        let mut l = m.layer(i);
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            let h = if c.kv_heads(i) == 0 { l.mamba2(h, Mamba2::of(c)) } else { l.attention(h, attn) };
            l.scale(h, factor("residual_scale"))
        });
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("ffn_norm", x, c.eps);
            let h = match l.has("ffn_gate_inp.weight") {
                true => l.moe(h, Moe { score: Score::SoftmaxOfChosen, ..Moe::of(c, i) }),
                false => l.ffn(h, Ffn::glu(c.ff(i), Act::Silu)),
            };
            l.scale(h, factor("residual_scale"))
        });
    }
    let norm = |m: &mut Scope<'_, '_>, x| m.rms_norm("output_norm", x, c.eps);
    m.output(x, c, norm, |m, x| {
        let logits = m.head(x, c);
        m.scale(logits, 1.0 / factor("logit_scale"))
    })
}
