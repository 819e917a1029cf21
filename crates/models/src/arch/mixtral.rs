//! Mixtral: Llama whose feed-forward parts are mixtures of experts. Runs as `llama` from GGUF.

use super::llama;
use crate::{
    Arch,
    hf::{Fix, Hf, INTERLEAVED_QK, LLAMA_LIKE, Name, fixed, same},
};

pub(super) static ARCH: Arch = Arch {
    gguf: "llama",
    model_type: "mixtral",
    classes: &["MixtralForCausalLM", "MixtralModel"],
    defaults: "hidden_size=4096 intermediate_size=14336 num_hidden_layers=32 num_attention_heads=32 \
               num_key_value_heads=8 max_position_embeddings=131072 rms_norm_eps=1e-05 num_experts_per_tok=2 \
               num_local_experts=8 rope_theta=1000000.0",
    keys,
    names: &[LLAMA_LIKE, INTERLEAVED_QK, NAMES],
    forward: llama::forward,
};

/// Published files hold each expert by itself; newer ones stack them and fuse gate and up.
const NAMES: &[Name] = &[
    same("blk.{}.ffn_gate_inp", "layers.{}.block_sparse_moe.gate"),
    same("blk.{}.ffn_gate_exps", "layers.{}.block_sparse_moe.experts.{e}.w1"),
    same("blk.{}.ffn_up_exps", "layers.{}.block_sparse_moe.experts.{e}.w3"),
    same("blk.{}.ffn_down_exps", "layers.{}.block_sparse_moe.experts.{e}.w2"),
    same("blk.{}.ffn_gate_inp", "layers.{}.mlp.gate"),
    fixed("blk.{}.ffn_gate_exps.weight", "layers.{}.mlp.experts.gate_up_proj", Fix::Part { index: 0, of: 2 }),
    fixed("blk.{}.ffn_up_exps.weight", "layers.{}.mlp.experts.gate_up_proj", Fix::Part { index: 1, of: 2 }),
    same("blk.{}.ffn_down_exps.weight", "layers.{}.mlp.experts.down_proj"),
];

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    h.sliding_window();
}
