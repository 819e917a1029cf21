//! A model of any kind as the GGUF file that it would become.

use super::gguf::{metadata, order, target};
use allod_formats::{Error, Metadata, TensorInfo, WeightSource, codec};
use allod_tensor::Tensor;
use std::collections::BTreeMap;

/// What [`to_gguf`](super::to_gguf) would write, to be read without being written: vectors in F32, matrices as they are,
/// and the metadata of a file.
pub struct AsGguf {
    source: Box<dyn WeightSource>,
    metadata: Metadata,
    infos: BTreeMap<String, TensorInfo>,
}

impl AsGguf {
    /// `extra` (the tokenizer's keys, the chat template) is added to the source's metadata and wins over it.
    pub fn new(source: Box<dyn WeightSource>, extra: &Metadata) -> AsGguf {
        let names = source.names().into_iter();
        let infos: BTreeMap<_, _> = names
            .filter_map(|n| {
                let info = source.info(&n)?;
                let dtype = target(&n, &info, None);
                Some((n, TensorInfo { dtype, ..info }))
            })
            .collect();
        let list: Vec<_> = infos.iter().map(|(n, i)| (n.clone(), i.clone())).collect();
        let mut metadata = metadata(source.metadata(), &list);
        for (key, value) in extra.iter() {
            metadata.set(key, value.clone());
        }
        AsGguf { source, metadata, infos }
    }
}

impl WeightSource for AsGguf {
    fn origin(&self) -> String {
        self.source.origin()
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.infos.keys().cloned().collect();
        names.sort_by_cached_key(|n| order(n));
        names
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.infos.get(name).cloned()
    }

    fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let t = self.source.tensor(name)?;
        match self.infos.get(name) {
            Some(info) if info.dtype != t.dtype => {
                let read = codec::to_f32(&t);
                let values = read.map_err(|e| Error::Malformed {
                    path: self.origin().into(),
                    field: format!("tensor {name:?}"),
                    expected: info.dtype.to_string(),
                    found: e.to_string(),
                    hint: "the file may be damaged: get it again",
                })?;
                Ok(Tensor::from_f32(t.shape, &values))
            }
            _ => Ok(t),
        }
    }
}
