//! GPT-2 and Megatron-style GPT: learned positions, layer norms before each part, fused projections stored transposed.

use crate::{
    Arch, Config,
    blocks::{Attn, Bias, Blocks, Ffn},
    hf::{Fix, Hf, Name, fixed, same},
};
use allod_plan::{Act, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "gpt2",
    model_type: "gpt2",
    classes: &["GPT2LMHeadModel", "GPT2Model"],
    defaults: "n_positions=1024 n_embd=768 n_layer=12 n_head=12 layer_norm_epsilon=1e-05",
    keys,
    names: &[CONV1D, NAMES],
    forward,
};

/// The parts that GPT-1 and GPT-2 store as `[in, out]`.
pub(super) const CONV1D: &[Name] = &[
    same("output", "lm_head"),
    fixed("blk.{}.attn_qkv", "h.{}.attn.c_attn", Fix::Transpose),
    fixed("blk.{}.attn_output", "h.{}.attn.c_proj", Fix::Transpose),
    fixed("blk.{}.ffn_up", "h.{}.mlp.c_fc", Fix::Transpose),
    fixed("blk.{}.ffn_down", "h.{}.mlp.c_proj", Fix::Transpose),
];

const NAMES: &[Name] = &[
    same("token_embd", "wte"),
    same("position_embd", "wpe"),
    same("output_norm", "ln_f"),
    same("blk.{}.attn_norm", "h.{}.ln_1"),
    same("blk.{}.ffn_norm", "h.{}.ln_2"),
];

fn keys(h: &mut Hf) {
    h.prefix("transformer.");
    h.gpt_names();
    h.tied_by_default();
    h.four_times_wide();
    h.copy_str("activation_function", "hidden_activation");
    h.expect_unset("add_cross_attention");
    h.copy_flag("scale_attn_weights", "attention.scale_by_head");
    h.copy_flag("scale_attn_by_inverse_layer_idx", "attention.scale_by_layer");
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let (x, p) = (m.tokens(c), m.positions(c));
    let mut x = m.add(x, p);
    for i in 0..c.layers {
        let plain = Attn { bias: Bias::Required, ..Attn::gqa(c, i) };
        let by_head = if c.flag("attention.scale_by_head") == Some(false) { 1.0 } else { plain.scale };
        let by_layer = if c.flag("attention.scale_by_layer") == Some(true) { i + 1 } else { 1 };
        let attn = Attn { scale: by_head / by_layer as f32, ..plain };
        x = layer(&mut m.layer(i), x, c, attn, Ffn::plain(c.ff(i), c.act.unwrap_or(Act::GeluTanh)));
    }
    m.layer_norm_logits(x, c)
}

/// A block with a layer norm before each of its parts.
pub(super) fn layer(l: &mut Scope<'_, '_>, x: Value, c: &Config, attn: Attn, ffn: Ffn) -> Value {
    let x = l.residual(x, |l, x| {
        let h = l.layer_norm("attn_norm", x, c.eps);
        l.attention(h, attn)
    });
    l.residual(x, |l, x| {
        let h = l.layer_norm("ffn_norm", x, c.eps);
        l.ffn(h, ffn)
    })
}
