//! What a plan returns: logits or hidden states of the wanted rows, or one vector for each sequence.

use crate::{Error, config::Keys};
use allod_plan::Pool;

/// What is asked of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// What the architecture is for: logits of the wanted rows, or their hidden states where it is an encoder.
    #[default]
    Own,
    /// Hidden states of the wanted rows after the last norm.
    Hidden,
    /// One vector for each sequence, as the model's files say: see [`Pooling`].
    Embedding,
    /// One vector for each sequence, as the caller says.
    Pooled(Pooling),
}

/// How the hidden states of a sequence become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pooling {
    /// From rows to one.
    pub how: Pool,
    /// Divide the vector by its length.
    pub normalize: bool,
}

impl Pooling {
    /// From `pooling_type` (llama.cpp's numbers) and our `pooling_normalize`; `None` where the model does not say.
    /// GGUF files that only have the first are normalized, as llama.cpp serves them.
    pub(crate) fn read(keys: &Keys<'_>) -> Result<Option<Pooling>, Error> {
        let how = match keys.uint("pooling_type")? {
            None | Some(0) => return Ok(None),
            Some(MEAN) => Pool::Mean,
            Some(FIRST) => Pool::First,
            Some(LAST) => Pool::Last,
            Some(n) => return Err(keys.bad("pooling_type", "0 (none), 1 (mean), 2 (cls) or 3 (last)".into(), n)),
        };
        let normalize = keys.meta.bool(&format!("{}.pooling_normalize", keys.arch)).unwrap_or(true);
        Ok(Some(Pooling { how, normalize }))
    }
}

/// llama.cpp's numbers for [`Pool`].
pub(crate) const MEAN: usize = 1;
pub(crate) const FIRST: usize = 2;
pub(crate) const LAST: usize = 3;
