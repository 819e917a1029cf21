//! Mistral: Llama with a sliding window over all layers. Runs as `llama` from GGUF.

use super::llama;
use crate::{
    Arch,
    hf::{Hf, INTERLEAVED_QK, LLAMA_LIKE},
};

pub(super) static ARCH: Arch = Arch {
    gguf: "llama",
    model_type: "mistral",
    classes: &["MistralForCausalLM"],
    defaults: "hidden_size=4096 intermediate_size=14336 num_hidden_layers=32 num_attention_heads=32 \
               num_key_value_heads=8 max_position_embeddings=131072 rms_norm_eps=1e-06 sliding_window=4096",
    keys,
    names: &[LLAMA_LIKE, INTERLEAVED_QK],
    forward: llama::forward,
};

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    h.sliding_window();
}
