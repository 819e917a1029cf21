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
    keys,
    names: &[LLAMA_LIKE, INTERLEAVED_QK],
    forward: llama::forward,
};

fn keys(h: &mut Hf) {
    h.expect_str("hidden_act", &["silu"]);
    h.sliding_window();
}
