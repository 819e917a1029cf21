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
    keys,
    names: &[LLAMA_LIKE, olmo2::NAMES],
    forward: olmo2::forward,
};

fn keys(h: &mut Hf) {
    olmo2::keys(h);
    h.sliding_window();
}
