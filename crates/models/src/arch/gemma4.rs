//! Gemma 4 text: layers that slide and layers that see all differ in head size and rotation; the last layers attend to
//! the keys and values of earlier ones; each layer may have inputs of its own for every token, and experts beside its
//! dense part. Norms are plain.

use super::{gemma, gemma2};
use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn, Kv, Moe, QkNorm, RopeSpec},
    hf::{FULL, Fix, Hf, LLAMA_LIKE, Name, SLIDING, fixed, number, same},
};
use allod_plan::{NormKind, RopeStyle, Scope, Value};
use serde_json::json;

pub(super) static ARCH: Arch = Arch {
    gguf: "gemma4",
    model_type: "gemma4_text",
    classes: &["Gemma4ForCausalLM", "Gemma4ForConditionalGeneration", "Gemma4TextModel"],
    defaults: "hidden_size=2304 intermediate_size=9216 num_hidden_layers=30 num_attention_heads=8 \
               num_key_value_heads=4 head_dim=256 max_position_embeddings=131072 rms_norm_eps=1e-06 sliding_window=512 \
               hidden_size_per_layer_input=256 num_kv_shared_layers=0 rope_theta=1000000.0 attention_bias=false",
    keys,
    names: &[LLAMA_LIKE, NAMES],
    forward,
};

const NAMES: &[Name] = &[
    same("per_layer_token_embd", "embed_tokens_per_layer"),
    same("per_layer_model_proj", "per_layer_model_projection"),
    same("per_layer_proj_norm", "per_layer_projection_norm"),
    same("blk.{}.inp_gate", "layers.{}.per_layer_input_gate"),
    same("blk.{}.proj", "layers.{}.per_layer_projection"),
    same("blk.{}.post_norm", "layers.{}.post_per_layer_input_norm"),
    same("blk.{}.layer_output_scale.weight", "layers.{}.layer_scalar"),
    same("blk.{}.post_attention_norm", "layers.{}.post_attention_layernorm"),
    same("blk.{}.ffn_norm", "layers.{}.pre_feedforward_layernorm"),
    same("blk.{}.post_ffw_norm", "layers.{}.post_feedforward_layernorm"),
    same("blk.{}.post_ffw_norm_1", "layers.{}.post_feedforward_layernorm_1"),
    same("blk.{}.pre_ffw_norm_2", "layers.{}.pre_feedforward_layernorm_2"),
    same("blk.{}.post_ffw_norm_2", "layers.{}.post_feedforward_layernorm_2"),
    same("blk.{}.ffn_gate_inp", "layers.{}.router.proj"),
    same("blk.{}.ffn_gate_inp.scale", "layers.{}.router.scale"),
    same("blk.{}.ffn_down_exps.scale", "layers.{}.router.per_expert_scale"),
    fixed("blk.{}.ffn_gate_exps.weight", "layers.{}.experts.gate_up_proj", Fix::Part { index: 0, of: 2 }),
    fixed("blk.{}.ffn_up_exps.weight", "layers.{}.experts.gate_up_proj", Fix::Part { index: 1, of: 2 }),
    same("blk.{}.ffn_down_exps.weight", "layers.{}.experts.down_proj"),
];

/// Layers that see all, where no list says: every so many.
const PERIOD: usize = 6;
/// Elements of their heads, where no field says.
const GLOBAL_HEAD: u32 = 512;

fn keys(h: &mut Hf) {
    gemma::activation(h, "hidden_activation");
    h.sliding_layers(|_, i| !(i as usize + 1).is_multiple_of(PERIOD));
    // The last one sees all, whatever is said of it.
    if let Some(last) = h.config.get_mut("layer_types").and_then(|l| l.as_array_mut()?.last_mut()).filter(|_| !h.back) {
        *last = FULL.into();
    }
    h.sliding_window();
    h.copy_float("final_logit_softcapping", "final_logit_softcapping");
    h.copy_uint("num_kv_shared_layers", "attention.shared_kv_layers");
    h.copy_uint("hidden_size_per_layer_input", "embedding_length_per_layer_input");
    h.copy_uint("top_k_experts", "expert_used_count");
    if h.str("use_bidirectional_attention") == Some("all") {
        h.reject("use_bidirectional_attention", "null or vision", "all");
    }
    if h.back {
        return keys_back(h);
    }
    let types: Vec<bool> = h.strs("layer_types").unwrap_or_default().iter().map(|t| *t == FULL).collect();
    let Some(local) = h.uint("head_dim").filter(|_| !types.is_empty()) else { return };
    // What differs in layers that see all stands in fields of its own, or in newer files with each layer.
    let of_layer = |h: &Hf, i: usize, name: &str, global: &str| {
        let own = h.get(&["per_layer_config"]).and_then(|l| l.get(i.to_string())?.get(name)?.as_u64());
        own.and_then(|v| v.try_into().ok()).or_else(|| h.uint(global)).filter(|_| types[i])
    };
    let first = types.iter().position(|&full| full).unwrap_or(0);
    let unsaid = if h.get(&["per_layer_config"]).is_some() { local } else { GLOBAL_HEAD };
    let global = of_layer(h, first, "head_dim", "global_head_dim").unwrap_or(unsaid);
    for (suffix, width) in [("", global), ("_swa", local)] {
        h.set(&format!("attention.key_length{suffix}"), width);
        h.set(&format!("attention.value_length{suffix}"), width);
        h.set(&format!("rope.dimension_count{suffix}"), width);
    }
    let kv = h.uint("num_key_value_heads").unwrap_or(1);
    let shared = if h.flag("attention_k_eq_v") { "num_global_key_value_heads" } else { "" };
    let heads: Vec<u32> =
        (0..types.len()).map(|i| of_layer(h, i, "num_key_value_heads", shared).unwrap_or(kv)).collect();
    h.set_each("attention.head_count_kv", heads);
    let (wide, sharing) = (h.flag("use_double_wide_mlp"), h.uint("num_kv_shared_layers").unwrap_or(0) as usize);
    let ff = h.uint("intermediate_size").unwrap_or(0);
    let from = if wide { types.len().saturating_sub(sharing) } else { types.len() };
    h.set_each("feed_forward_length", (0..types.len()).map(|i| if i < from { ff } else { ff.saturating_mul(2) }));
    let unsaid = json!({ "rope_type": "proportional", "partial_rotary_factor": 0.25 });
    let rope = h.get(&["rope_parameters"]).map_or(unsaid, |p| p["full_attention"].clone());
    match rope["rope_type"].as_str().unwrap_or("default") {
        // All of it turns.
        "default" => h.proportional(&json!({})),
        "proportional" => h.proportional(&rope),
        other => h.reject("rope_parameters.full_attention.rope_type", "default or proportional", other),
    }
}

/// What differs by layer, in fields of its own, and the share that turns, counted in the table.
fn keys_back(h: &mut Hf) {
    h.copy_back("head_dim", "attention.key_length_swa");
    h.copy_back("global_head_dim", "attention.key_length");
    h.copy_rows("vocab_size_per_layer_input", "per_layer_token_embd.weight");
    h.rename("num_local_experts", "num_experts");
    h.field_if_absent("num_kv_shared_layers", 0);
    h.field_if_absent("hidden_size_per_layer_input", 0);
    let layers = h.known("block_count").unwrap_or(0);
    let kinds = (1..=layers).map(|i| if i % PERIOD == 0 { FULL } else { SLIDING });
    h.field_if_absent("layer_types", kinds.collect::<Vec<_>>());
    let heads = h.known_each("attention.head_count_kv").unwrap_or_default();
    let slides: Vec<bool> = h.strs("layer_types").unwrap_or_default().iter().map(|t| *t != FULL).collect();
    for (name, kind) in [("num_key_value_heads", true), ("num_global_key_value_heads", false)] {
        let first = heads.iter().zip(&slides).find(|l| *l.1 == kind).map(|l| *l.0);
        first.into_iter().for_each(|n| h.field(name, n));
    }
    // A layer without values takes its keys; the last ones take those of earlier layers.
    let owning = layers.saturating_sub(h.known("attention.shared_kv_layers").unwrap_or(0));
    h.field("attention_k_eq_v", h.layers_with("attn_v.weight").iter().take(owning).any(|&v| !v));
    h.field("enable_moe_block", h.layers_with("ffn_gate_inp.weight").contains(&true));
    let ff = h.known_each("feed_forward_length").unwrap_or_default();
    if let Some(narrow) = ff.iter().min().copied() {
        h.field("intermediate_size", narrow);
        h.field("use_double_wide_mlp", ff.iter().any(|&w| w != narrow));
    }
    let table = h.made.get("rope_freqs.weight").and_then(|t| allod_formats::codec::to_f32(t).ok()).unwrap_or_default();
    let factor = table.first().copied().unwrap_or(1.0);
    let turned = table.iter().filter(|&&d| d == factor).count() as f64 / table.len().max(1) as f64;
    let [global, local] =
        ["rope.freq_base", "rope.freq_base_swa"].map(|k| number(h.known_float(k).unwrap_or(10_000.0)));
    h.field(
        "rope_parameters",
        json!({
            "full_attention": { "rope_type": "proportional", "rope_theta": global,
                                "partial_rotary_factor": turned, "factor": factor },
            "sliding_attention": { "rope_type": "default", "rope_theta": local },
        }),
    );
}

/// Attention of layer `i`.
fn attention(c: &Config, i: usize, slides: bool) -> Attn {
    let local = |key: &str, global: usize| Some(c.count(key)).filter(|&n| slides && n > 0).unwrap_or(global);
    let head_dim = local("attention.key_length_swa", c.head_dim);
    let global = c.rope(RopeStyle::Half);
    let rope = match slides {
        false => global,
        true => RopeSpec {
            dims: local("rope.dimension_count_swa", head_dim),
            base: c.float("rope.freq_base_swa").unwrap_or(10_000.0),
            ..global.plain()
        },
    };
    Attn {
        head_dim,
        value_dim: local("attention.value_length_swa", c.value_dim),
        rope: Some(rope),
        mask: c.mask_if(slides),
        scale: c.float("attention.scale").unwrap_or(1.0),
        qk_norm: QkNorm::PerHead,
        v_norm: true,
        ..Attn::gqa(c, i)
    }
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = gemma::embed(m, c);
    let inputs = layer_inputs(m, c, x);
    let owning = c.layers.saturating_sub(c.count("attention.shared_kv_layers"));
    let mut caches = [None; 2];
    for i in 0..c.layers {
        let slides = c.slides(i, PERIOD);
        let mut attn = attention(c, i, slides);
        let last = &mut caches[usize::from(slides)];
        match *last {
            Some(cache) if i >= owning => attn.kv = Kv::Earlier(cache),
            _ => attn.kv = Kv::Declared(*last.insert(attn.declare(m))),
        }
        let mut l = m.layer(i);
        attn.v_is_k = !l.has("attn_v.weight");
        if i >= owning {
            ["attn_k.weight", "attn_v.weight", "attn_k_norm.weight"].iter().for_each(|name| l.ignore(name));
        }
        x = l.residual(x, |l, x| {
            let h = l.rms_norm("attn_norm", x, c.eps);
            let h = l.attention(h, attn);
            l.rms_norm("post_attention_norm", h, c.eps)
        });
        x = l.residual(x, |l, x| {
            let h = feed_forward(l, x, c, i);
            l.rms_norm("post_ffw_norm", h, c.eps)
        });
        if let Some(inputs) = inputs {
            x = l.residual(x, |l, x| {
                let (all, width) = (l.width(inputs), c.count("embedding_length_per_layer_input"));
                let own = l.columns(inputs, all, i * width, width);
                let gate = l.linear("inp_gate", x, width);
                let h = l.gated(gate, own, gemma::act(c));
                let h = l.linear("proj", h, c.dim);
                l.rms_norm("post_norm", h, c.eps)
            });
        }
        if l.has("layer_output_scale.weight") {
            x = l.scale_by("layer_output_scale", x, 1);
        }
    }
    gemma2::capped_logits(m, x, c)
}

/// For each token the inputs of all layers: a further embedding, and a projection of the first.
fn layer_inputs(m: &mut Scope<'_, '_>, c: &Config, x: Value) -> Option<Value> {
    let width = Some(c.count("embedding_length_per_layer_input")).filter(|&n| n > 0)?;
    let rows = m.shape("per_layer_token_embd.weight").and_then(|s| s.first().copied()).unwrap_or(c.vocab);
    let own = m.embed("per_layer_token_embd", rows, c.layers * width);
    let own = m.scale(own, (width as f32).sqrt());
    let made = m.linear("per_layer_model_proj", x, c.layers * width);
    let made = m.scale(made, 1.0 / (c.dim as f32).sqrt());
    let made = m.head_norm("per_layer_proj_norm", made, width, c.eps);
    let both = m.add(own, made);
    Some(m.scale(both, std::f32::consts::FRAC_1_SQRT_2))
}

/// The dense part, and where there are experts, they beside it.
fn feed_forward(l: &mut Scope<'_, '_>, x: Value, c: &Config, i: usize) -> Value {
    let h = l.rms_norm("ffn_norm", x, c.eps);
    let h = l.ffn(h, Ffn::glu(c.ff(i), gemma::act(c)));
    if !l.has("ffn_gate_inp.weight") {
        return h;
    }
    let h = l.rms_norm("post_ffw_norm_1", h, c.eps);
    let moe = Moe { normalize: true, act: gemma::act(c), ..Moe::of(c, i) };
    let t = l.bare_norm("ffn_gate_inp_norm", x, NormKind::Rms, c.dim, c.eps);
    let scale = l.param("ffn_gate_inp.scale", &[c.dim]);
    let t = l.scale_with(scale, t);
    let t = l.scale(t, 1.0 / (c.dim as f32).sqrt());
    let logits = l.linear("ffn_gate_inp", t, moe.experts);
    let y = l.rms_norm("pre_ffw_norm_2", x, c.eps);
    let y = l.routed(y, logits, moe);
    let y = l.rms_norm("post_ffw_norm_2", y, c.eps);
    l.add(h, y)
}
