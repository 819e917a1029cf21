//! A model some of whose weights were trained whole.

use allod_formats::{Metadata, TensorInfo, WeightSource};
use allod_plan::{Role, TrainedTensor};
use allod_tensor::{DType, Tensor};
use std::collections::BTreeMap;

/// A base under which trained weights stand in the place of its own, in `f32`.
pub struct Replaced<'a> {
    base: &'a dyn WeightSource,
    by_name: BTreeMap<&'a str, &'a TrainedTensor>,
}

impl<'a> Replaced<'a> {
    /// `tensors`: what was trained; adapters among them are left out.
    pub fn new(base: &'a dyn WeightSource, tensors: &'a [TrainedTensor]) -> Replaced<'a> {
        let whole =
            |t: &&TrainedTensor| !matches!(t.role, Role::LoraA | Role::LoraB | Role::Magnitude | Role::ValueHead);
        Replaced { base, by_name: tensors.iter().filter(whole).map(|t| (t.name.as_str(), t)).collect() }
    }
}

impl WeightSource for Replaced<'_> {
    fn origin(&self) -> String {
        self.base.origin()
    }
    fn metadata(&self) -> &Metadata {
        self.base.metadata()
    }
    fn names(&self) -> Vec<String> {
        self.base.names()
    }
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let info = self.base.info(name)?;
        Some(if self.by_name.contains_key(name) { TensorInfo { dtype: DType::F32, ..info } } else { info })
    }
    fn tensor(&self, name: &str) -> Result<Tensor, allod_formats::Error> {
        match self.by_name.get(name) {
            Some(t) => {
                let shape = self.base.info(name).map_or_else(|| t.shape.clone(), |i| i.shape);
                Ok(Tensor::from_f32(shape, &t.data))
            }
            None => self.base.tensor(name),
        }
    }
}
