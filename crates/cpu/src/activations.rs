//! What BF16 weights are multiplied with.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What BF16 weights are multiplied with. Weights of other types do not care.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// Rows as they are: what the reference computes.
    #[default]
    F32,
    /// Rows rounded to BF16, as llama.cpp has it: other bytes, and processors with AVX-512 BF16 multiply nearly twice as
    /// fast.
    BF16,
}

impl Activations {
    /// Both, the more exact first.
    pub const ALL: [Activations; 2] = [Activations::F32, Activations::BF16];

    /// Its name, as in GGUF.
    pub const fn name(self) -> &'static str {
        match self {
            Activations::F32 => "f32",
            Activations::BF16 => "bf16",
        }
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Activations are of no such type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("activations are not of type {0:?}: f32 and bf16 are known")]
pub struct UnknownActivations(String);

impl FromStr for Activations {
    type Err = UnknownActivations;
    fn from_str(name: &str) -> Result<Activations, UnknownActivations> {
        let named = Activations::ALL.into_iter().find(|a| a.name().eq_ignore_ascii_case(name));
        named.ok_or_else(|| UnknownActivations(name.into()))
    }
}
