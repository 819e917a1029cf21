//! BERT: an encoder with learned positions and token types, layer norms after each part.

use crate::{
    Arch, Config,
    blocks::{Attn, Bias, Blocks, Ffn},
    hf::{Fix, Hf, Name, fixed, ignored, same},
};
use allod_plan::{Act, Mask, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "bert",
    model_type: "bert",
    classes: &["BertModel", "BertForMaskedLM", "BertForPreTraining"],
    defaults: "hidden_size=768 num_hidden_layers=12 num_attention_heads=12 intermediate_size=3072 \
               max_position_embeddings=512 type_vocab_size=2 layer_norm_eps=1e-12",
    keys,
    names: &[NAMES],
    forward,
};

pub(super) const NAMES: &[Name] = &[
    same("token_embd", "embeddings.word_embeddings"),
    same("token_types", "embeddings.token_type_embeddings"),
    fixed("position_embd", "embeddings.position_embeddings", Fix::SkipRows),
    same("token_embd_norm", "embeddings.LayerNorm"),
    same("blk.{}.attn_q", "encoder.layer.{}.attention.self.query"),
    same("blk.{}.attn_k", "encoder.layer.{}.attention.self.key"),
    same("blk.{}.attn_v", "encoder.layer.{}.attention.self.value"),
    same("blk.{}.attn_output", "encoder.layer.{}.attention.output.dense"),
    same("blk.{}.attn_output_norm", "encoder.layer.{}.attention.output.LayerNorm"),
    same("blk.{}.ffn_up", "encoder.layer.{}.intermediate.dense"),
    same("blk.{}.ffn_down", "encoder.layer.{}.output.dense"),
    same("blk.{}.layer_output_norm", "encoder.layer.{}.output.LayerNorm"),
    ignored("pooler.dense"),
    ignored("cls.predictions.bias"),
    ignored("cls.predictions.decoder"),
    ignored("cls.predictions.transform.dense"),
    ignored("cls.predictions.transform.LayerNorm"),
    ignored("cls.seq_relationship"),
];

pub(super) fn keys(h: &mut Hf) {
    h.prefix("");
    h.expect_str("position_embedding_type", &["absolute"]);
    h.expect_unset("is_decoder");
    h.expect_unset("add_cross_attention");
    h.copy_str("hidden_act", "hidden_activation");
    h.copy_uint("type_vocab_size", "tokenizer.ggml.token_type_count");
    h.set("attention.causal", false);
}

pub(super) fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let (mut x, p) = (m.tokens(c), m.positions(c));
    if let Some(&types) = m.shape("token_types.weight").as_deref().and_then(<[usize]>::first) {
        x = m.add_row("token_types", x, types, 0);
    }
    x = m.add(x, p);
    x = m.layer_norm("token_embd_norm", x, c.eps);
    for i in 0..c.layers {
        let attn = Attn { mask: Mask::Full, bias: Bias::Required, ..Attn::gqa(c, i) };
        let ffn = Ffn::plain(c.ff(i), c.act.unwrap_or(Act::Gelu));
        x = layer(&mut m.layer(i), x, c.eps, NORMS, (attn, ffn));
    }
    m.hidden(x, c)
}

/// Names of the norms after the two parts.
pub(super) const NORMS: [&str; 2] = ["attn_output_norm", "layer_output_norm"];

/// A block with a layer norm after each of its parts.
pub(super) fn layer(l: &mut Scope<'_, '_>, x: Value, eps: f32, norms: [&str; 2], (attn, ffn): (Attn, Ffn)) -> Value {
    let x = l.residual(x, |l, x| l.attention(x, attn));
    let x = l.layer_norm(norms[0], x, eps);
    let x = l.residual(x, |l, x| l.ffn(x, ffn));
    l.layer_norm(norms[1], x, eps)
}
