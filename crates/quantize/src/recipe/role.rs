//! What part a tensor plays, told from its name as llama.cpp does it, and whether it may be quantized at all.

use allod_formats::TensorInfo;

/// The part a tensor plays in a network, as far as recipes tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// `output.weight`.
    Output,
    /// Token embeddings, also those of single layers.
    Embedding,
    /// What values are made from: `attn_v`, a fused `attn_qkv`, MLA's `attn_kv_b`. The most sensitive part.
    Value,
    /// `attn_k`.
    Key,
    /// `attn_q`.
    Query,
    /// `attn_output`.
    AttnOutput,
    /// `ffn_up`, of experts too.
    FfnUp,
    /// `ffn_gate`, of experts too.
    FfnGate,
    /// `ffn_down`, of experts too.
    FfnDown,
    /// Anything else.
    Other,
}

/// Parts of names and the roles that they stand for; the first that occurs in a name counts.
const PARTS: [(&str, Role); 9] = [
    ("attn_qkv.weight", Role::Value),
    ("attn_kv_b.weight", Role::Value),
    ("attn_v.weight", Role::Value),
    ("attn_k.weight", Role::Key),
    ("attn_q.weight", Role::Query),
    ("attn_output.weight", Role::AttnOutput),
    ("ffn_up", Role::FfnUp),
    ("ffn_gate", Role::FfnGate),
    ("ffn_down", Role::FfnDown),
];

impl Role {
    /// The role of the tensor called `name`.
    pub fn of(name: &str) -> Role {
        match name {
            "output.weight" => Role::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Role::Embedding,
            _ => PARTS.iter().find(|(part, _)| name.contains(part)).map_or(Role::Other, |&(_, role)| role),
        }
    }
}

/// The number in `blk.N.`; `None` for tensors outside the layers.
pub fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

/// Parts of the names of matrices that lose too much for what they save: norms, routers, positions, convolutions, the
/// small matrices of RWKV, and what belongs to encoders of images and sound.
const KEPT: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// Names that are kept as a whole.
const KEPT_NAMES: [&str; 2] = ["position_embd.weight", "token_types.weight"];

/// True for the matrices that recipes quantize.
pub fn is_quantizable(name: &str, info: &TensorInfo) -> bool {
    // GGML does not count outer axes of size 1.
    let axes = info.shape.len() - info.shape.iter().take_while(|&&n| n == 1).count();
    axes >= 2 && name.ends_with("weight") && !KEPT_NAMES.contains(&name) && !KEPT.iter().any(|part| name.contains(part))
}
