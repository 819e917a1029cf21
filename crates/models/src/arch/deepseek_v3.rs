//! DeepSeek V3 and R1, Kimi K2: DeepSeek V2 with sigmoid routing, a learned correction of the choice, and groups ranked
//! by their best two experts. Runs as `deepseek2` from GGUF.

use super::deepseek_v2;
use crate::{
    Arch,
    hf::{EXPERTS, Hf, LLAMA_LIKE},
};

pub(super) static ARCH: Arch = Arch {
    gguf: "deepseek2",
    model_type: "deepseek_v3",
    classes: &["DeepseekV3ForCausalLM", "DeepseekV3Model"],
    keys,
    names: &[LLAMA_LIKE, EXPERTS, deepseek_v2::NAMES],
    forward: deepseek_v2::forward,
};

/// llama.cpp's number for sigmoid routing.
const SIGMOID: u32 = 2;

fn keys(h: &mut Hf) {
    deepseek_v2::keys(h, true);
    h.set("expert_gating_func", SIGMOID);
    h.default_flag("norm_topk_prob", true);
    h.copy_flag("norm_topk_prob", "expert_weights_norm");
    h.field_if_absent("norm_topk_prob", false);
    if h.get(&["rope_interleave"]).is_some_and(|v| v == false) {
        h.reject("rope_interleave", "true", false);
    }
}
