use crate::Metadata;
use allod_tensor::{DType, Shape, Tensor};

/// What a file says about a tensor before its bytes are touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: DType,
    /// Axes, outermost first.
    pub shape: Shape,
}

/// Anything that holds a model: a GGUF file, a safetensors folder seen through an architecture's name map, an adapter.
/// Names are GGUF's (`blk.0.attn_q.weight`), metadata are GGUF's keys (`llama.block_count`).
pub trait WeightSource: Send + Sync {
    /// Where it comes from, for messages.
    fn origin(&self) -> String;
    /// The key-value part.
    fn metadata(&self) -> &Metadata;
    /// All tensor names, in file order.
    fn names(&self) -> Vec<String>;
    /// Type and shape, or `None` when there is no such tensor.
    fn info(&self, name: &str) -> Option<TensorInfo>;
    /// The tensor itself.
    ///
    /// # Errors
    /// [`crate::Error`] when there is no such tensor or its bytes cannot be had.
    fn tensor(&self, name: &str) -> Result<Tensor, crate::Error>;
}
