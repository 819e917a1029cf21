//! GPT-1: learned positions, layer norms after each part, none at the end. llama.cpp does not know it; names and keys
//! are GPT-2's, those of the norms BERT's.

use super::{bert, gpt2};
use crate::{
    Arch, Config,
    blocks::{Attn, Bias, Blocks, Ffn},
    hf::{Hf, Name, same},
};
use allod_plan::{Act, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "openai-gpt",
    model_type: "openai-gpt",
    classes: &["OpenAIGPTLMHeadModel", "OpenAIGPTModel"],
    defaults: "n_positions=512 n_embd=768 n_layer=12 n_head=12 layer_norm_epsilon=1e-05",
    keys,
    names: &[gpt2::CONV1D, NAMES],
    forward,
};

const NAMES: &[Name] = &[
    same("token_embd", "tokens_embed"),
    same("position_embd", "positions_embed"),
    same("blk.{}.attn_output_norm", "h.{}.ln_1"),
    same("blk.{}.layer_output_norm", "h.{}.ln_2"),
];

/// What GPT-1 calls `gelu` is the tanh form, which is what we take where nothing else is said.
fn keys(h: &mut Hf) {
    h.prefix("transformer.");
    h.gpt_names();
    h.tied_by_default();
    h.four_times_wide();
    h.field("afn", "gelu");
    if h.back || h.str("afn").is_some_and(|f| f != "gelu") {
        h.copy_str("afn", "hidden_activation");
    }
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let (x, p) = (m.tokens(c), m.positions(c));
    let mut x = m.add(x, p);
    for i in 0..c.layers {
        let attn = Attn { bias: Bias::Required, ..Attn::gqa(c, i) };
        let ffn = Ffn::plain(c.ff(i), c.act.unwrap_or(Act::GeluTanh));
        x = bert::layer(&mut m.layer(i), x, c.eps, bert::NORMS, (attn, ffn));
    }
    m.output(x, c, |_, x| x, |m, x| m.head(x, c))
}
