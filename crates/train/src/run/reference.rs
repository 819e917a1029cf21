//! What the model gave before it was trained, kept for objectives that compare with it.

use super::batch::Micro;
use super::batch::Rows;
use crate::{
    Error,
    data::{Item, Store},
    objective::Objective,
};
use allod_formats::{
    Safetensors,
    safetensors::{Dtype, Writer},
};
use allod_plan::{Pass, Trainable};
use indexmap::IndexMap;
use std::{collections::BTreeMap, ops::ControlFlow, path::Path};

/// Log-probabilities of learned tokens by number of sequence.
#[derive(Debug, Default)]
pub struct Reference {
    by_sequence: BTreeMap<u32, Vec<f32>>,
}

const IDENTITY: &str = "identity";

impl Reference {
    /// Those of a sequence; none where it was not scored.
    pub fn get(&self, number: u32) -> &[f32] {
        self.by_sequence.get(&number).map_or(&[], Vec::as_slice)
    }

    /// Scores every sequence of `items` once.
    pub(crate) fn compute(
        model: &mut dyn Trainable,
        objective: &Objective,
        store: &Store,
        items: &[Item],
        batch: usize,
        tell: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Reference, Error> {
        let mut out = Reference::default();
        for (i, chunk) in items.chunks(batch).enumerate() {
            let micro = Micro::new(objective, store, chunk.to_vec());
            let answers = |item: &Item| match *item {
                Item::One(s) | Item::Judged(s, ..) => vec![s],
                Item::Pair(a, b, _) => vec![a, b],
            };
            let companions = |item: &Item| match *item {
                Item::Judged(s, kl, _) if kl != s => vec![kl],
                _ => vec![],
            };
            out.take(model, &micro.rows, chunk.iter().flat_map(answers).collect())?;
            out.take(model, &micro.companions, chunk.iter().flat_map(companions).collect())?;
            if tell((i * batch + chunk.len()).min(items.len()), items.len()).is_break() {
                return Err(Error::Stopped);
            }
        }
        Ok(out)
    }

    fn take(&mut self, model: &mut dyn Trainable, rows: &Rows, numbers: Vec<u32>) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let scores = model.forward(&rows.batch(0, 0.0), Pass::Evaluate).map_err(|e| Error::Compute(e.to_string()))?;
        self.by_sequence.extend(numbers.into_iter().zip(rows.split(scores.values)));
        Ok(())
    }

    pub(crate) fn write(&self, path: &Path, identity: &str) -> Result<(), Error> {
        let announced = self.by_sequence.iter().map(|(n, v)| (n.to_string(), Dtype::F32, vec![v.len()]));
        let metadata = IndexMap::from([(IDENTITY.to_owned(), identity.to_owned())]);
        let mut writer = Writer::create(path, announced, &metadata, None)?;
        for (number, values) in &self.by_sequence {
            writer.append(&number.to_string(), bytemuck::cast_slice(values))?;
        }
        writer.finish()?;
        Ok(())
    }

    /// What an earlier part of this run wrote; `None` where there is nothing, or another run's.
    pub(crate) fn read(path: &Path, identity: &str) -> Result<Option<Reference>, Error> {
        if !path.is_file() {
            return Ok(None);
        }
        let file = Safetensors::open(path)?;
        if file.metadata().get(IDENTITY).map(String::as_str) != Some(identity) {
            return Ok(None);
        }
        let mut out = Reference::default();
        for (name, _) in file.entries() {
            let bytes = file.bytes(name)?;
            let values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            if let Ok(number) = name.parse() {
                out.by_sequence.insert(number, values);
            }
        }
        Ok(Some(out))
    }
}
