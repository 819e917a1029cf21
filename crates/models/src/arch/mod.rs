//! The registry. An architecture is one file here and one line in [`ALL`].

mod afmoe;
mod arcee;
mod bert;
mod bloom;
mod deepseek_v2;
mod deepseek_v3;
mod gemma;
mod gemma2;
mod gemma3;
mod gemma4;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod gptj;
mod granite;
mod granite_hybrid;
mod jamba;
mod llama;
mod llama4;
mod mamba;
mod mamba2;
mod mistral;
mod mixtral;
mod modernbert;
mod nemotron;
mod nemotron_h;
mod olmo;
mod olmo2;
mod olmo3;
mod olmoe;
mod openai_gpt;
mod opt;
mod phi;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_5;
mod qwen3_moe;
mod qwen3_next;
mod roberta;
mod smollm3;

use crate::{
    Config,
    hf::{Hf, Name},
};
use allod_plan::{Scope, Value};

/// Everything that is particular to an architecture.
#[derive(Debug)]
pub struct Arch {
    /// GGUF's name. Where several entries share one, the first of them runs GGUF files.
    pub gguf: &'static str,
    /// Transformers' `model_type`.
    pub model_type: &'static str,
    /// Class names found in `config.json`.
    pub classes: &'static [&'static str],
    /// Fields that `config.json` may leave out, with what Transformers then takes: the defaults of its class.
    /// `name=number`, apart by spaces.
    pub defaults: &'static str,
    /// Brings the fields of `config.json` that only this architecture has into metadata.
    pub keys: fn(&mut Hf),
    /// Tensor names and layouts. Later tables override earlier ones.
    pub names: &'static [&'static [Name]],
    /// Records the network.
    pub forward: fn(&mut Scope<'_, '_>, &Config) -> Value,
}

/// All of them.
pub static ALL: &[&Arch] = &[
    &openai_gpt::ARCH,
    &gpt2::ARCH,
    &gptj::ARCH,
    &gpt_neox::ARCH,
    &opt::ARCH,
    &bloom::ARCH,
    &llama::ARCH,
    &mistral::ARCH,
    &qwen2::ARCH,
    &qwen3::ARCH,
    &smollm3::ARCH,
    &phi::ARCH,
    &phi3::ARCH,
    &gemma::ARCH,
    &gemma2::ARCH,
    &gemma3::ARCH,
    &olmo::ARCH,
    &olmo2::ARCH,
    &olmo3::ARCH,
    &granite::ARCH,
    &arcee::ARCH,
    &nemotron::ARCH,
    &mixtral::ARCH,
    &qwen2_moe::ARCH,
    &qwen3_moe::ARCH,
    &olmoe::ARCH,
    &gpt_oss::ARCH,
    &deepseek_v2::ARCH,
    &deepseek_v3::ARCH,
    &llama4::ARCH,
    &afmoe::ARCH,
    &gemma4::ARCH,
    &qwen3_next::ARCH,
    &qwen3_5::ARCH,
    &mamba::ARCH,
    &mamba2::ARCH,
    &jamba::ARCH,
    &nemotron_h::ARCH,
    &nemotron_h::MOE,
    &granite_hybrid::ARCH,
    &bert::ARCH,
    &roberta::ARCH,
    &modernbert::ARCH,
];

impl Arch {
    /// True when it has no head and returns hidden states.
    pub fn is_encoder(&self) -> bool {
        self.names().all(|n| n.gguf != "output")
    }

    /// True when a tensor of the folder called `bare` has a place in the network.
    pub(crate) fn has_name(&self, bare: &str) -> bool {
        self.names().any(|n| crate::hf::is_match(n.hf, bare))
    }

    /// The tensor names, without those that a later table overrides.
    pub fn names(&self) -> impl Iterator<Item = &'static Name> + '_ {
        let later = |t: usize, hf: &str| self.names[t + 1..].iter().any(|table| table.iter().any(|n| n.hf == hf));
        self.names.iter().enumerate().flat_map(move |(t, table)| table.iter().filter(move |n| !later(t, n.hf)))
    }
}

/// The architecture that runs GGUF files of this name.
pub fn by_gguf(name: &str) -> Option<&'static Arch> {
    ALL.iter().copied().find(|a| a.gguf == name)
}

/// The architecture of a Transformers class.
pub fn by_class(class: &str) -> Option<&'static Arch> {
    ALL.iter().copied().find(|a| a.classes.contains(&class))
}

/// The architecture of a Transformers `model_type`.
pub fn by_model_type(kind: &str) -> Option<&'static Arch> {
    ALL.iter().copied().find(|a| a.model_type == kind)
}

/// The known name most like `name`, for a hint.
pub fn nearest(name: &str) -> &'static str {
    let name = name.to_lowercase();
    let name = name.split("for").next().unwrap_or(&name);
    let candidates = ALL.iter().map(|a| a.model_type);
    candidates.min_by_key(|c| distance(&c.replace('_', ""), &name.replace(['_', '-'], ""))).unwrap_or_default()
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
