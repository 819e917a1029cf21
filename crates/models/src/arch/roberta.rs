//! RoBERTa, CamemBERT, XLM-R: BERT whose table of positions starts after that of the padding token. Runs as `bert`
//! from GGUF, where the table starts at position 0.

use super::bert;
use crate::{
    Arch,
    hf::{Hf, Name, ignored},
};

pub(super) static ARCH: Arch = Arch {
    gguf: "bert",
    model_type: "roberta",
    classes: &[
        "RobertaModel",
        "RobertaForMaskedLM",
        "XLMRobertaModel",
        "XLMRobertaForMaskedLM",
        "CamembertModel",
        "CamembertForMaskedLM",
    ],
    defaults: "hidden_size=768 num_hidden_layers=12 num_attention_heads=12 intermediate_size=3072 \
               max_position_embeddings=512 type_vocab_size=2 layer_norm_eps=1e-12",
    keys,
    names: &[bert::NAMES, HEAD],
    forward: bert::forward,
};

const HEAD: &[Name] =
    &[ignored("lm_head"), ignored("lm_head.dense"), ignored("lm_head.layer_norm"), ignored("lm_head.decoder")];

fn keys(h: &mut Hf) {
    bert::keys(h);
    let before = h.uint("pad_token_id").unwrap_or(1).saturating_add(1);
    let rows = h.uint("max_position_embeddings").unwrap_or(514);
    h.set("context_length", rows.saturating_sub(before));
    h.skip_rows(before as usize);
}
