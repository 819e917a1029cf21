//! BLOOM: linear position bias on the scores, a layer norm on the embedding, fused projections.

use super::gpt2;
use crate::{
    Arch, Config,
    blocks::{Attn, Bias, Blocks, Ffn, alibi_slopes},
    hf::{Fix, Hf, Name, fixed, same},
};
use allod_plan::{Act, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "bloom",
    model_type: "bloom",
    classes: &["BloomForCausalLM", "BloomModel"],
    defaults: "hidden_size=64 n_layer=2 n_head=8 layer_norm_epsilon=1e-05",
    keys,
    names: &[NAMES],
    forward,
};

const NAMES: &[Name] = &[
    same("token_embd", "word_embeddings"),
    same("token_embd_norm", "word_embeddings_layernorm"),
    same("output_norm", "ln_f"),
    same("output", "lm_head"),
    same("blk.{}.attn_norm", "h.{}.input_layernorm"),
    fixed("blk.{}.attn_qkv", "h.{}.self_attention.query_key_value", Fix::QkvByHead),
    same("blk.{}.attn_output", "h.{}.self_attention.dense"),
    same("blk.{}.ffn_norm", "h.{}.post_attention_layernorm"),
    same("blk.{}.ffn_up", "h.{}.mlp.dense_h_to_4h"),
    same("blk.{}.ffn_down", "h.{}.mlp.dense_4h_to_h"),
];

fn keys(h: &mut Hf) {
    h.prefix("transformer.");
    h.rename("num_hidden_layers", "n_layer");
    h.rename("num_attention_heads", "n_head");
    h.rename("layer_norm_eps", "layer_norm_epsilon");
    h.tied_by_default();
    h.four_times_wide();
    if h.known("context_length").is_none() {
        h.set("context_length", 2048_u32); // what it was trained for; its positions have no end
    }
    h.copy_flag("apply_residual_connection_post_layernorm", "residual_after_norm");
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = m.tokens(c);
    x = m.layer_norm("token_embd_norm", x, c.eps);
    for i in 0..c.layers {
        let plain = Attn { bias: Bias::Required, ..Attn::gqa(c, i) };
        let attn = Attn { alibi: Some(alibi_slopes(plain.heads).into()), ..plain };
        let (mut l, ffn) = (m.layer(i), Ffn::plain(c.ff(i), Act::GeluTanh));
        if !c.flag("residual_after_norm").unwrap_or(false) {
            x = gpt2::layer(&mut l, x, c, attn, ffn);
            continue;
        }
        // What has been normed goes on, not what came.
        let h = l.layer_norm("attn_norm", x, c.eps);
        x = l.residual(h, |l, h| l.attention(h, attn));
        let h = l.layer_norm("ffn_norm", x, c.eps);
        x = l.residual(h, |l, h| l.ffn(h, ffn));
    }
    m.layer_norm_logits(x, c)
}
