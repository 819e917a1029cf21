//! Which tokens begin, end and structure a text, and how that is found out where a file does not say.

use super::vocab::{Kind, Role, Vocab};
use std::collections::{BTreeSet, HashSet};

/// The key of each role in GGUF metadata (`tokenizer.ggml.<key>`), older names after.
pub(super) const KEYS: &[(Role, &[&str])] = &[
    (Role::Bos, &["bos_token_id"]),
    (Role::Eos, &["eos_token_id"]),
    (Role::Eot, &["eot_token_id"]),
    (Role::Eom, &["eom_token_id"]),
    (Role::Unk, &["unknown_token_id"]),
    (Role::Sep, &["seperator_token_id"]),
    (Role::Pad, &["padding_token_id"]),
    (Role::Cls, &["cls_token_id"]),
    (Role::Mask, &["mask_token_id"]),
    (Role::FimPre, &["fim_pre_token_id", "prefix_token_id"]),
    (Role::FimSuf, &["fim_suf_token_id", "suffix_token_id"]),
    (Role::FimMid, &["fim_mid_token_id", "middle_token_id"]),
    (Role::FimPad, &["fim_pad_token_id"]),
    (Role::FimRep, &["fim_rep_token_id"]),
    (Role::FimSep, &["fim_sep_token_id"]),
];

/// Texts that tell a role, in order of preference.
const TELLING: &[(Role, &[&str])] = &[
    (
        Role::Eot,
        &[
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<end_of_turn>",
            "<turn|>",
            "<|endoftext|>",
            "<|end_of_text|>",
            "<EOT>",
            "_<EOT>",
            "[EOT]",
            "<｜end▁of▁sentence｜>",
            "<end_of_utterance>",
        ],
    ),
    (Role::Eom, &["<|eom_id|>"]),
    (
        Role::FimPre,
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
    ),
    (
        Role::FimSuf,
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
    ),
    (
        Role::FimMid,
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
    ),
    (Role::FimPad, &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>"]),
    (Role::FimRep, &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    (Role::FimSep, &["<|file_sep|>"]),
];

/// As above, for control tokens only: elsewhere these are words.
const TELLING_CONTROL: &[(Role, &[&str])] = &[
    (Role::Cls, &["[CLS]"]),
    (Role::Sep, &["[SEP]"]),
    (Role::Mask, &["[MASK]", "<mask>"]),
    (Role::Pad, &["[PAD]", "<pad>"]),
];

/// Texts of tokens that end a generation in every vocabulary that has them.
const ENDING: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Fills in the roles that no metadata gave, by text, and gathers the ids that end a generation: those of the roles,
/// those whose text says so, and `more` (a `generation_config.json` lists some).
pub(super) fn complete(vocab: &mut Vocab, more: &[u32]) {
    let known: HashSet<&str> = TELLING.iter().flat_map(|(_, texts)| *texts).chain(ENDING).copied().collect();
    let control: HashSet<&str> = TELLING_CONTROL.iter().flat_map(|(_, texts)| *texts).copied().collect();
    let mut found: Vec<(&str, u32)> = Vec::new();
    for (id, token) in (0u32..).zip(&vocab.tokens) {
        let text = match token.kind {
            Kind::Byte | Kind::Unused => None,
            Kind::Control => known.get(&*token.text).or(control.get(&*token.text)),
            Kind::Normal | Kind::Unknown | Kind::UserDefined => known.get(&*token.text),
        };
        found.extend(text.map(|&text| (text, id)));
    }
    let find = |text: &str| found.iter().find(|(t, _)| *t == text).map(|&(_, id)| id);
    let mut stops: BTreeSet<u32> = ENDING.iter().filter_map(|text| find(text)).chain(more.iter().copied()).collect();
    let roles: Vec<(Role, Option<u32>)> = TELLING
        .iter()
        .chain(TELLING_CONTROL)
        .map(|(role, texts)| (*role, texts.iter().find_map(|text| find(text))))
        .collect();
    // In harmony's and Solar's formats `<|end|>` ends a message, not the answer; Gemma 4 has `</s>` as an HTML tag.
    let all = |texts: &[&str]| texts.iter().all(|text| find(text).is_some());
    if all(&["<|return|>", "<|call|>"]) || all(&["<|calls|>", "<|flush|>"]) {
        stops.retain(|&id| Some(id) != find("<|end|>"));
    }
    if all(&["<|tool_response>"]) {
        stops.retain(|&id| Some(id) != find("</s>"));
    }
    for (role, id) in roles {
        if vocab.role(role).is_none() && !(role == Role::Eot && id.is_some_and(|id| !stops.contains(&id))) {
            vocab.set_role(role, id);
        }
    }
    for role in [Role::Eos, Role::Eot, Role::Eom, Role::FimPad, Role::FimRep, Role::FimSep] {
        stops.extend(vocab.role(role));
    }
    stops.retain(|&id| (id as usize) < vocab.tokens.len());
    for &id in &stops {
        let kind = &mut vocab.tokens[id as usize].kind;
        if *kind == Kind::Normal || *kind == Kind::UserDefined {
            *kind = Kind::Control;
        }
    }
    vocab.stops = stops.into_iter().collect();
}
