/// Why a model cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file itself.
    #[error(transparent)]
    File(#[from] allod_formats::Error),
    /// The plan over its weights.
    #[error(transparent)]
    Record(#[from] Box<allod_plan::RecordError>),
    /// A key of its configuration.
    #[error("{origin}: {key}: expected {expected}, found {found}")]
    Key {
        /// The file.
        origin: String,
        /// The key.
        key: String,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// An architecture that is not among those known.
    #[error("{origin}: architecture {found:?} is not supported; the nearest that is: {nearest}")]
    UnknownArchitecture {
        /// The file.
        origin: String,
        /// What it calls itself.
        found: String,
        /// The supported name most like it.
        nearest: &'static str,
    },
    /// A tensor that the architecture does not name.
    #[error("{origin}: tensor {name} is not part of architecture {arch}")]
    UnknownTensor {
        /// The file.
        origin: String,
        /// The tensor.
        name: String,
        /// The architecture.
        arch: &'static str,
    },
    /// Metadata that a Hugging Face configuration of the architecture has no fields for.
    #[error("{origin}: no config.json of {arch} describes the same network; what it cannot say: {}", keys.join(", "))]
    NoWayBack {
        /// The file.
        origin: String,
        /// Transformers' name of the architecture.
        arch: &'static str,
        /// The keys whose values are lost.
        keys: Vec<String>,
    },
    /// A tensor that cannot be written in another type.
    #[error("tensor {name}: {source}")]
    Codec {
        /// The tensor.
        name: String,
        /// What is wrong.
        source: allod_formats::codec::Error,
    },
    /// An adapter that does not fit the model.
    #[error(transparent)]
    Adapter(#[from] allod_plan::AdapterError),
    /// A tensor whose shape does not fit the change of layout it needs.
    #[error("{0}")]
    Layout(String),
}

impl From<allod_plan::RecordError> for Error {
    fn from(e: allod_plan::RecordError) -> Error {
        Box::new(e).into()
    }
}
