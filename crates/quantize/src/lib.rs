//! Quantization: weights of any source enter, a smaller GGUF file leaves.
//!
//! [`recipe`] decides by name which type each tensor gets, [`mix`] by measuring; [`encode`] turns numbers into blocks,
//! weighted by the statistics of [`imatrix`]; [`run`] takes a whole model through it. [`synth`] writes models of random
//! weights to measure with.
#![deny(missing_docs)]

pub mod encode;
pub mod imatrix;
pub mod mix;
pub mod recipe;
pub mod run;
pub mod synth;
