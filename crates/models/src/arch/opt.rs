//! OPT: GPT-2 with ReLU; the 350M model has its layer norms after each part and embeddings narrower than the stream.
//! llama.cpp does not know it; names and keys are GPT-2's, whichever side the norms are on.

use super::{bert, gpt2};
use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn},
    hf::{Fix, Hf, Name, fixed, same},
};
use allod_plan::{Act, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "opt",
    model_type: "opt",
    classes: &["OPTForCausalLM", "OPTModel"],
    defaults: "hidden_size=768 num_hidden_layers=12 ffn_dim=3072 max_position_embeddings=2048 \
               num_attention_heads=12 enable_bias=true",
    keys,
    names: &[NAMES],
    forward,
};

const NAMES: &[Name] = &[
    same("token_embd", "embed_tokens"),
    fixed("position_embd", "embed_positions", Fix::SkipRows),
    same("token_embd_proj", "project_in"),
    same("output_proj", "project_out"),
    same("output_norm", "final_layer_norm"),
    same("output", "lm_head"),
    same("blk.{}.attn_norm", "layers.{}.self_attn_layer_norm"),
    same("blk.{}.attn_q", "layers.{}.self_attn.q_proj"),
    same("blk.{}.attn_k", "layers.{}.self_attn.k_proj"),
    same("blk.{}.attn_v", "layers.{}.self_attn.v_proj"),
    same("blk.{}.attn_output", "layers.{}.self_attn.out_proj"),
    same("blk.{}.ffn_norm", "layers.{}.final_layer_norm"),
    same("blk.{}.ffn_up", "layers.{}.fc1"),
    same("blk.{}.ffn_down", "layers.{}.fc2"),
];

/// Positions start at row 2 of the table; the epsilon is fixed.
fn keys(h: &mut Hf) {
    h.prefix("model.decoder.");
    h.rename("intermediate_size", "ffn_dim");
    h.tied_by_default();
    h.skip_rows(2);
    h.set("attention.layer_norm_epsilon", 1e-5_f32);
    h.copy_str("activation_function", "hidden_activation");
    h.copy_uint("word_embed_proj_dim", "embedding_length_in");
    h.copy_flag("do_layer_norm_before", "norm_before");
    h.field("enable_bias", h.layers_with("attn_q.bias").contains(&true));
    h.field("_remove_final_layer_norm", !h.stored.contains_key("output_norm.weight"));
    if h.get(&["layer_norm_elementwise_affine"]).is_some_and(|v| v == false) {
        h.reject("layer_norm_elementwise_affine", "true", false);
    }
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let narrow = c.uint("embedding_length_in").unwrap_or(c.dim);
    let norm_before = c.flag("norm_before") != Some(false);
    let mut x = m.embed("token_embd", c.vocab, narrow);
    if narrow != c.dim {
        x = m.linear("token_embd_proj", x, c.dim);
    }
    let p = m.positions(c);
    x = m.add(x, p);
    for i in 0..c.layers {
        let (attn, ffn) = (Attn::gqa(c, i), Ffn::plain(c.ff(i), c.act.unwrap_or(Act::Relu)));
        let mut l = m.layer(i);
        x = match norm_before {
            true => gpt2::layer(&mut l, x, c, attn, ffn),
            false => bert::layer(&mut l, x, c.eps, ["attn_norm", "ffn_norm"], (attn, ffn)),
        };
    }
    let norm = |m: &mut Scope<'_, '_>, x| match m.has("output_norm.weight") {
        true => m.layer_norm("output_norm", x, c.eps),
        false => x,
    };
    m.output(x, c, norm, |m, x| {
        let x = if narrow == c.dim { x } else { m.linear("output_proj", x, narrow) };
        m.head(x, c)
    })
}
