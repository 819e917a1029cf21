//! A model that exists in memory only.

use allod_formats::{Error, Metadata, TensorInfo, WeightSource, codec};
use allod_tensor::{DType, Tensor};
use std::collections::BTreeMap;

/// Weights and metadata without a file.
#[derive(Default)]
pub struct Memory {
    /// The key-value part.
    pub meta: Metadata,
    tensors: BTreeMap<String, Tensor>,
}

impl Memory {
    /// Adds a tensor.
    #[must_use]
    pub fn with(mut self, name: &str, tensor: Tensor) -> Memory {
        self.tensors.insert(name.into(), tensor);
        self
    }

    /// Stores the tensor of this name as another type.
    ///
    /// # Panics
    /// When there is no such tensor, or nothing encodes that type simply.
    #[must_use]
    pub fn stored_as(mut self, name: &str, dtype: DType) -> Memory {
        let tensor = self.tensors.get_mut(name).unwrap_or_else(|| panic!("there is no {name}"));
        let (mut bytes, values) = (Vec::new(), codec::to_f32(tensor));
        let encoded = values.and_then(|values| codec::encode(dtype, &values, &mut bytes));
        encoded.unwrap_or_else(|e| panic!("{name}: {e}"));
        *tensor = Tensor { dtype, shape: tensor.shape.clone(), data: bytes.into() };
        self
    }

    /// Adds a tensor of random numbers in `low .. high` that depend on its name only.
    #[must_use]
    pub fn random(self, name: &str, shape: &[usize], low: f32, high: f32) -> Memory {
        let mut state =
            name.bytes().fold(0x9E37_79B9_7F4A_7C15_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| low + (high - low) * next()).collect();
        self.with(name, Tensor::from_f32(shape, &values))
    }
}

impl WeightSource for Memory {
    fn origin(&self) -> String {
        "memory".into()
    }
    fn metadata(&self) -> &Metadata {
        &self.meta
    }
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }
    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).map(|t| TensorInfo { dtype: t.dtype, shape: t.shape.clone() })
    }
    fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let missing = || Error::NoTensor { origin: self.origin(), name: name.into() };
        self.tensors.get(name).cloned().ok_or_else(missing)
    }
}
