//! OLMo 3. Runs as `olmo2` from GGUF.

use super::olmo2;
use crate::{
    Arch,
    hf::{Hf, LLAMA_LIKE},
};

pub(super) static ARCH: Arch = Arch {
    gguf: "olmo2",
    model_type: "olmo3",
    classes: &["Olmo3ForCausalLM", "Olmo3Model"],
    defaults: "hidden_size=4096 intermediate_size=11008 num_hidden_layers=32 num_attention_heads=32 \
               max_position_embeddings=2048 rms_norm_eps=1e-05 sliding_window=4096 rope_theta=500000.0 \
               attention_bias=false",
    keys,
    names: &[LLAMA_LIKE, olmo2::NAMES],
    forward: olmo2::forward,
};

fn keys(h: &mut Hf) {
    olmo2::keys(h);
    h.sliding_window();
}
