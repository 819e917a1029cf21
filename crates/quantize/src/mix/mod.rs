//! Mixes: the types that lose least for a size, and files that hold such a choice.
//!
//! Every matrix is tried in every type on a sample of its rows; what it loses is the part of its output's power that
//! turns into noise, weighted by importance where there are statistics. [`sensitivity()`] measures what such noise does
//! to the logits. The noise of a network's matrices adds up, so the best mix for a size is a knapsack: Lagrange's
//! multiplier finds the types at which one more byte is worth the same everywhere, and what is then left of the size goes
//! to the greatest gains that fit.

mod sensitivity;
mod solve;

pub use sensitivity::{Sensitivity, SensitivityError, sensitivity};
pub use solve::{Wishes, solve};

use crate::recipe::{self, Choice};
use allod_formats::WeightSource;
use allod_tensor::DType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The types that a mix is made of, smallest first.
pub const TYPES: &[DType] = &[
    DType::IQ2_XXS,
    DType::IQ2_S,
    DType::Q2_K,
    DType::IQ3_XXS,
    DType::Q3_K,
    DType::IQ3_S,
    DType::IQ4_XS,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::Q8_0,
];

/// A choice for every tensor, to be kept in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mix {
    /// What it is called; goes into the files made with it.
    pub name: String,
    /// Types of tensors by name. Tensors that are not here keep their type.
    pub tensors: BTreeMap<String, String>,
}

/// A mix that names types that do not exist.
#[derive(Debug, thiserror::Error)]
pub enum MixError {
    /// No JSON, or not of this form.
    #[error("not a mix: {0}")]
    Json(#[from] serde_json::Error),
    /// No such type.
    #[error("tensor {tensor:?}: there is no type {found:?}")]
    Type {
        /// The tensor.
        tensor: String,
        /// What stands there.
        found: String,
    },
    /// A tensor that the model lacks.
    #[error("{origin} has no tensor {tensor:?}: the mix was made for another model")]
    Tensor {
        /// The model.
        origin: String,
        /// The tensor.
        tensor: String,
    },
}

impl Mix {
    /// The mix that choices amount to.
    pub fn of(name: &str, choices: &[Choice]) -> Mix {
        let changed = choices.iter().filter(|c| c.from != c.to);
        Mix { name: name.into(), tensors: changed.map(|c| (c.name.clone(), c.to.name().to_owned())).collect() }
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// [`MixError::Json`].
    pub fn from_json(text: &str) -> Result<Mix, MixError> {
        Ok(serde_json::from_str(text)?)
    }

    /// JSON to be read and edited.
    ///
    /// # Errors
    /// [`MixError::Json`].
    pub fn to_json(&self) -> Result<String, MixError> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The choices for a model.
    ///
    /// # Errors
    /// [`MixError`] for types and tensors that do not exist.
    pub fn choices(&self, source: &dyn WeightSource) -> Result<Vec<Choice>, MixError> {
        if let Some(tensor) = self.tensors.keys().find(|n| source.info(n).is_none()) {
            return Err(MixError::Tensor { origin: source.origin(), tensor: tensor.clone() });
        }
        let mut choices = kept(source);
        for c in &mut choices {
            let Some(found) = self.tensors.get(&c.name) else { continue };
            let unknown = || MixError::Type { tensor: c.name.clone(), found: found.clone() };
            c.to = DType::from_name(found).filter(|t| crate::encode::is_writable(*t)).ok_or_else(unknown)?;
        }
        Ok(choices)
    }
}

/// Every tensor as it is, in the order of files.
pub fn kept(source: &dyn WeightSource) -> Vec<Choice> {
    let tensors = recipe::in_order(recipe::tensors_of(source)).into_iter();
    tensors.map(|(name, i)| Choice { name, from: i.dtype, to: i.dtype, instead_of: None }).collect()
}
