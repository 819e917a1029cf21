//! Adapters added to the weights they change.

use super::numbers;
use crate::Error;
use allod_formats::{Metadata, TensorInfo, WeightSource, codec};
use allod_plan::{AdapterError, Delta, Lora};
use allod_tensor::{DType, Tensor};
use std::{collections::BTreeMap, sync::Arc};

/// The table that is also the head where there is no head of its own.
pub(super) const TABLE: &str = "token_embd.weight";
pub(super) const HEAD: &str = "output.weight";

/// A source whose weights have adapters added, one after the other.
pub struct Merged {
    base: Box<dyn WeightSource>,
    /// By weight, in the order of the adapters.
    deltas: BTreeMap<String, Vec<Delta>>,
    /// What stands in the place of the base's weights.
    whole: BTreeMap<String, Arc<[f32]>>,
}

/// `base` with all of `adapters` added. Changed weights of a quantized type become F16, since a change smaller than
/// the steps of that type would be lost.
///
/// # Errors
/// [`AdapterError`] when an adapter was made for another base model.
pub fn merged(base: Box<dyn WeightSource>, adapters: Vec<Lora>) -> Result<Merged, Error> {
    let mut merged = Merged { base, deltas: BTreeMap::new(), whole: BTreeMap::new() };
    let (deltas, whole): (Vec<_>, Vec<_>) = adapters.into_iter().map(|a| (a.deltas, a.whole)).unzip();
    for (name, weight) in whole.into_iter().flatten() {
        let info = merged.stored(&name).and_then(|stored| merged.base.info(stored));
        let Some(info) = info else { return Err(AdapterError::UnknownWeight { name }.into()) };
        let (expected, found) = (info.shape.iter().product(), weight.len());
        if expected != found {
            return Err(AdapterError::Shape { name, what: "weight", expected, found }.into());
        }
        merged.whole.insert(name, weight);
    }
    for (name, delta) in deltas.into_iter().flatten() {
        let info = merged.stored(&name).and_then(|stored| merged.base.info(stored));
        match info.as_ref().map(|info| &info.shape[..]) {
            Some(&[rows, columns]) if name == TABLE => delta.check(&name, columns, rows)?,
            Some(&[rows, columns]) => delta.check(&name, rows, columns)?,
            Some(&[experts, rows, columns]) => delta.check_stack(&name, experts, rows, columns)?,
            _ => return Err(AdapterError::UnknownWeight { name }.into()),
        }
        merged.deltas.entry(name).or_default().push(delta);
    }
    Ok(merged)
}

impl Merged {
    /// The tensor of the base that `name` is made from.
    fn stored<'n>(&self, name: &'n str) -> Option<&'n str> {
        let has = |name: &str| self.base.info(name).is_some();
        match name {
            HEAD if !has(HEAD) && has(TABLE) => Some(TABLE),
            _ => has(name).then_some(name),
        }
    }

    fn changes(&self, name: &str) -> bool {
        self.deltas.contains_key(name) || self.whole.contains_key(name)
    }

    fn dtype(stored: DType) -> DType {
        if stored.is_quantized() { DType::F16 } else { stored }
    }

    fn add(&self, name: &str, t: &Tensor, deltas: &[Delta]) -> Result<Tensor, Error> {
        let columns = t.columns();
        let mut values = match self.whole.get(name) {
            Some(whole) => whole.to_vec(),
            None => numbers(name, t)?,
        };
        for delta in deltas {
            if name == TABLE {
                delta.merge_table(columns, &mut values);
            } else if let [experts, rows, _] = t.shape[..] {
                for (e, weight) in values.chunks_exact_mut((rows * columns).max(1)).enumerate() {
                    delta.expert(e, experts).merge(columns, weight);
                }
            } else {
                delta.merge(columns, &mut values);
            }
        }
        let mut data = Vec::new();
        let dtype = Merged::dtype(t.dtype);
        codec::encode(dtype, &values, &mut data).map_err(|source| Error::Codec { name: name.to_owned(), source })?;
        crate::hf::rebuild(dtype, t.shape.clone(), data)
    }
}

impl WeightSource for Merged {
    fn origin(&self) -> String {
        self.base.origin()
    }

    fn metadata(&self) -> &Metadata {
        self.base.metadata()
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.base.names();
        if self.changes(HEAD) && !names.iter().any(|name| name == HEAD) {
            names.push(HEAD.to_owned());
        }
        names
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        if !self.changes(name) {
            return self.base.info(name);
        }
        let info = self.base.info(self.stored(name)?)?;
        Some(TensorInfo { dtype: Merged::dtype(info.dtype), ..info })
    }

    fn tensor(&self, name: &str) -> Result<Tensor, allod_formats::Error> {
        if !self.changes(name) {
            return self.base.tensor(name);
        }
        let t = self.base.tensor(self.stored(name).unwrap_or(name))?;
        self.add(name, &t, self.deltas.get(name).map_or(&[], Vec::as_slice)).map_err(|e| {
            allod_formats::Error::Malformed {
                path: self.origin().into(),
                field: name.into(),
                expected: "a matrix of numbers that an adapter can be added to".into(),
                found: e.to_string(),
                hint: "convert the base model to F16 first",
            }
        })
    }
}
