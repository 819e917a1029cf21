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
    defaults: "hidden_size=7168 intermediate_size=18432 moe_intermediate_size=2048 num_hidden_layers=61 \
               num_attention_heads=128 num_key_value_heads=128 n_shared_experts=1 n_routed_experts=256 \
               routed_scaling_factor=2.5 kv_lora_rank=512 q_lora_rank=1536 qk_rope_head_dim=64 v_head_dim=128 \
               qk_nope_head_dim=128 n_group=8 topk_group=4 num_experts_per_tok=8 first_k_dense_replace=3 \
               max_position_embeddings=4096 rms_norm_eps=1e-06 num_nextn_predict_layers=1 attention_bias=false",
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
