//! GPT-J: attention and feed-forward side by side on one layer norm, rotary positions on neighbouring elements of a
//! part of each head, a head with bias. llama.cpp has names for it but no network.

use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn},
    hf::{Hf, Name, same},
};
use allod_plan::{Act, RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "gptj",
    model_type: "gptj",
    classes: &["GPTJForCausalLM", "GPTJModel"],
    defaults: "n_positions=2048 n_embd=4096 n_layer=28 n_head=16 rotary_dim=64 layer_norm_epsilon=1e-05",
    keys,
    names: &[NAMES],
    forward,
};

const NAMES: &[Name] = &[
    same("token_embd", "wte"),
    same("output_norm", "ln_f"),
    same("output", "lm_head"),
    same("blk.{}.attn_norm", "h.{}.ln_1"),
    same("blk.{}.attn_q", "h.{}.attn.q_proj"),
    same("blk.{}.attn_k", "h.{}.attn.k_proj"),
    same("blk.{}.attn_v", "h.{}.attn.v_proj"),
    same("blk.{}.attn_output", "h.{}.attn.out_proj"),
    same("blk.{}.ffn_up", "h.{}.mlp.fc_in"),
    same("blk.{}.ffn_down", "h.{}.mlp.fc_out"),
];

fn keys(h: &mut Hf) {
    h.prefix("transformer.");
    h.gpt_names();
    h.four_times_wide();
    h.copy_uint("rotary_dim", "rope.dimension_count");
    h.copy_str("activation_function", "hidden_activation");
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let attn = Attn { rope: Some(c.rope(RopeStyle::Interleaved)), ..Attn::gqa(c, i) };
        let ffn = Ffn::plain(c.ff(i), c.act.unwrap_or(Act::GeluTanh));
        x = layer(&mut m.layer(i), x, c, attn, ffn);
    }
    m.layer_norm_logits(x, c)
}

/// A block whose parts read the same normed row and are added together.
pub(super) fn layer(l: &mut Scope<'_, '_>, x: Value, c: &Config, attn: Attn, ffn: Ffn) -> Value {
    l.residual(x, |l, x| {
        let h = l.layer_norm("attn_norm", x, c.eps);
        let (a, f) = (l.attention(h, attn), l.ffn(h, ffn));
        l.add(a, f)
    })
}
