//! Low-rank changes of weights, applied while a plan runs.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A change of one weight `W`, `[out × in]`: `W + scale · B A` (LoRA, Hu et al. 2021). With a magnitude `m`, each row of
/// that is brought to the length `m` (DoRA, Liu et al. 2024).
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// Rows of `A`, columns of `B`.
    pub rank: usize,
    /// `A`, `[rank × in]`; of a stack of experts, one after the other.
    pub a: Arc<[f32]>,
    /// `B`, `[out × rank]`; of a stack of experts likewise.
    pub b: Arc<[f32]>,
    /// Factor on `B A`: alpha / rank, or alpha / √rank (rsLoRA, Kalajdzievski 2023).
    pub scale: f32,
    /// `m`, `[out]`
    pub magnitude: Option<Arc<[f32]>>,
}

impl Delta {
    /// Holds the matrices against a weight `[rows × columns]`, or a table `[columns × rows]`.
    ///
    /// # Errors
    /// [`AdapterError::Shape`] names the first that does not fit.
    pub fn check(&self, name: &str, rows: usize, columns: usize) -> Result<(), AdapterError> {
        let magnitude = self.magnitude.as_ref().map_or(rows, |m| m.len());
        let parts = [
            ("A", self.a.len(), self.rank.saturating_mul(columns)),
            ("B", self.b.len(), self.rank.saturating_mul(rows)),
            ("magnitude", magnitude, rows),
        ];
        match parts.into_iter().find(|(_, found, expected)| found != expected) {
            Some((what, found, expected)) => Err(AdapterError::Shape { name: name.to_owned(), what, expected, found }),
            None => Ok(()),
        }
    }

    /// As [`Delta::check`], for each expert of a stack `[experts × rows × columns]`.
    ///
    /// # Errors
    /// [`AdapterError::Shape`].
    pub fn check_stack(&self, name: &str, experts: usize, rows: usize, columns: usize) -> Result<(), AdapterError> {
        let parts = [
            ("A", self.a.len(), self.rank.saturating_mul(columns).saturating_mul(experts)),
            ("B", self.b.len(), self.rank.saturating_mul(rows).saturating_mul(experts)),
            ("magnitude", self.magnitude.as_ref().map_or(0, |m| m.len()), 0),
        ];
        match parts.into_iter().find(|(_, found, expected)| found != expected) {
            Some((what, found, expected)) => Err(AdapterError::Shape { name: name.to_owned(), what, expected, found }),
            None => Ok(()),
        }
    }

    /// The change of one of `experts`.
    pub fn expert(&self, e: usize, experts: usize) -> Delta {
        let part = |all: &[f32]| -> Arc<[f32]> {
            let each = all.len() / experts.max(1);
            all[e * each..(e + 1) * each].into()
        };
        Delta { rank: self.rank, a: part(&self.a), b: part(&self.b), scale: self.scale, magnitude: None }
    }

    /// Row `row` of `scale · B A` added to that of the weight.
    pub fn add_to_row(&self, row: usize, weight: &mut [f32]) {
        for (b, a) in self.b[row * self.rank..][..self.rank].iter().zip(self.a.chunks_exact(weight.len().max(1))) {
            let factor = self.scale * b;
            weight.iter_mut().zip(a).for_each(|(w, a)| *w += factor * a);
        }
    }

    /// What brings a changed row to its magnitude; 1 without one.
    pub fn gain(&self, row: usize, weight: &[f32]) -> f32 {
        let Some(magnitude) = &self.magnitude else { return 1.0 };
        let square: f64 = weight.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        if square > 0.0 { (f64::from(magnitude[row]) / square.sqrt()) as f32 } else { 0.0 }
    }

    /// The changed weight, `[rows × columns]`, in place of the weight.
    pub fn merge(&self, columns: usize, weight: &mut [f32]) {
        for (row, weight) in weight.chunks_exact_mut(columns.max(1)).enumerate() {
            self.add_to_row(row, weight);
            let gain = self.gain(row, weight);
            weight.iter_mut().for_each(|w| *w *= gain);
        }
    }

    /// Likewise of a table that is read row by row, `[tokens × width]`.
    pub fn merge_table(&self, width: usize, table: &mut [f32]) {
        let tokens = table.len() / width.max(1);
        for (token, row) in table.chunks_exact_mut(width.max(1)).enumerate() {
            self.add_to_table_row(token, tokens, row);
        }
    }

    /// The change of the row of `token`, of so many, added to that of the table.
    pub fn add_to_table_row(&self, token: usize, tokens: usize, row: &mut [f32]) {
        for (value, b) in row.iter_mut().zip(self.b.chunks_exact(self.rank.max(1))) {
            let sum: f32 = b.iter().enumerate().map(|(k, b)| b * self.a[k * tokens + token]).sum();
            *value += self.scale * sum;
        }
    }
}

/// Changes of some weights of a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lora {
    /// By the names of [`crate::ParamInfo`]. The head is `output.weight`, also where it shares the embedding table;
    /// `token_embd.weight` is the table as it is read row by row, `A` then `[rank × vocabulary]`, `B` `[width × rank]`.
    pub deltas: BTreeMap<String, Delta>,
    /// Weights in the place of the base's, by the same names: those that were trained whole. They can be merged, not
    /// applied while a plan runs.
    pub whole: BTreeMap<String, Arc<[f32]>>,
}

impl Lora {
    /// Identifies the changes: BLAKE3 over names, shapes and numbers.
    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for (name, delta) in &self.deltas {
            hasher.update(name.as_bytes());
            let magnitude = delta.magnitude.as_deref().unwrap_or_default();
            for count in [0, delta.rank, delta.a.len(), delta.b.len(), magnitude.len()] {
                hasher.update(&(count as u64).to_le_bytes());
            }
            let numbers = delta.a.iter().chain(delta.b.iter()).chain(magnitude).chain([&delta.scale]);
            for number in numbers {
                hasher.update(&number.to_le_bytes());
            }
        }
        for (name, weight) in &self.whole {
            hasher.update(name.as_bytes()).update(&(weight.len() as u64).to_le_bytes());
            for number in weight.iter() {
                hasher.update(&number.to_le_bytes());
            }
        }
        hasher.finalize()
    }
}

/// Why an adapter does not fit what a backend runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdapterError {
    /// The backend cannot run with adapters.
    #[error("this backend runs no adapters")]
    Unsupported,
    /// The adapter changes a weight that the plan does not use in this way: it belongs to another base model.
    #[error(
        "the adapter changes {name}, which is no matrix or table of this model; it was made for another base model"
    )]
    UnknownWeight {
        /// The weight.
        name: String,
    },
    /// The adapter holds a weight that was trained whole, which no running model takes over.
    #[error(
        "the adapter holds the whole of {name}, which must be merged: `allod convert BASE --adapter ADAPTER -o OUT`"
    )]
    Whole {
        /// The weight.
        name: String,
    },
    /// The adapter changes a stack of experts, which runs as it is.
    #[error(
        "the adapter changes the experts {name}, which must be merged: `allod convert BASE --adapter ADAPTER -o OUT`"
    )]
    Experts {
        /// The stack.
        name: String,
    },
    /// The adapter's matrices do not fit the weight: it belongs to another base model.
    #[error(
        "the adapter's {what} for {name} has {found} elements, this model needs {expected}; it was made for another base model"
    )]
    Shape {
        /// The weight.
        name: String,
        /// Which of its matrices.
        what: &'static str,
        /// Elements that are needed.
        expected: usize,
        /// Elements that are there.
        found: usize,
    },
}
