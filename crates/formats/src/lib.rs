//! Model files: GGUF and safetensors, their metadata, and the reference codec of every tensor type.
//! A file enters by path and leaves as a [`WeightSource`]: metadata and tensors by name.

pub mod meta;
mod source;

pub use meta::{Array, Metadata, Value};
pub use source::{TensorInfo, WeightSource};

/// What can go wrong with a file. (The reader of each format adds its kinds here.)
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it says it is.
    #[error("{path}: {field}: expected {expected}, found {found}")]
    Malformed {
        /// The file.
        path: std::path::PathBuf,
        /// The field, key or tensor.
        field: String,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// There is no such tensor.
    #[error("{origin}: there is no tensor {name}")]
    NoTensor {
        /// The source asked.
        origin: String,
        /// The tensor asked for.
        name: String,
    },
}
