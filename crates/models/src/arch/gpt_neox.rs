//! GPT-NeoX, Pythia, Dolly: partial rotation, fused projections, and either two parts side by side, each with a layer
//! norm of the same row, or one after the other.

use super::gpt2;
use crate::{
    Arch, Config,
    blocks::{Attn, Blocks, Ffn},
    hf::{Fix, Hf, Name, fixed, same},
};
use allod_plan::{Act, RopeStyle, Scope, Value};

pub(super) static ARCH: Arch = Arch {
    gguf: "gptneox",
    model_type: "gpt_neox",
    classes: &["GPTNeoXForCausalLM", "GPTNeoXModel"],
    defaults: "hidden_size=6144 num_hidden_layers=44 num_attention_heads=64 intermediate_size=24576 \
               max_position_embeddings=2048 layer_norm_eps=1e-05 rotary_pct=0.25 attention_bias=true",
    keys,
    names: &[NAMES],
    forward,
};

const NAMES: &[Name] = &[
    same("token_embd", "embed_in"),
    same("output_norm", "final_layer_norm"),
    same("output", "embed_out"),
    same("blk.{}.attn_norm", "layers.{}.input_layernorm"),
    fixed("blk.{}.attn_qkv", "layers.{}.attention.query_key_value", Fix::QkvByHead),
    same("blk.{}.attn_output", "layers.{}.attention.dense"),
    same("blk.{}.ffn_norm", "layers.{}.post_attention_layernorm"),
    same("blk.{}.ffn_up", "layers.{}.mlp.dense_h_to_4h"),
    same("blk.{}.ffn_down", "layers.{}.mlp.dense_4h_to_h"),
];

fn keys(h: &mut Hf) {
    h.prefix("gpt_neox.");
    h.copy_str("hidden_act", "hidden_activation");
    h.copy_flag("use_parallel_residual", "use_parallel_residual");
}

fn forward(m: &mut Scope<'_, '_>, c: &Config) -> Value {
    let side_by_side = c.flag("use_parallel_residual") != Some(false);
    let mut x = m.tokens(c);
    for i in 0..c.layers {
        let attn = Attn { rope: Some(c.rope(RopeStyle::Half)), ..Attn::gqa(c, i) };
        let ffn = Ffn::plain(c.ff(i), c.act.unwrap_or(Act::Gelu));
        let mut l = m.layer(i);
        x = if side_by_side { parallel(&mut l, x, c, attn, ffn) } else { gpt2::layer(&mut l, x, c, attn, ffn) };
    }
    m.layer_norm_logits(x, c)
}

fn parallel(l: &mut Scope<'_, '_>, x: Value, c: &Config, attn: Attn, ffn: Ffn) -> Value {
    l.residual(x, |l, x| {
        let h = l.layer_norm("attn_norm", x, c.eps);
        let a = l.attention(h, attn);
        let h = l.layer_norm("ffn_norm", x, c.eps);
        let f = l.ffn(h, ffn);
        l.add(a, f)
    })
}
