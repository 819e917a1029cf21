//! Quantization: weights of any source enter, smaller weights leave. [`recipe`] decides which type each tensor gets,
//! [`synth`] writes models of random weights.
#![deny(missing_docs)]

pub mod encode;
pub mod recipe;
pub mod synth;
