//! Model files: GGUF, safetensors and llama2.c checkpoints, and their metadata.
//!
//! A file enters by path and leaves as a [`WeightSource`]: metadata and tensors by name, whose bytes stay in the mapped
//! file ([`Gguf`], [`Llama2c`]), or as [`Safetensors`], which keeps the names and configuration files of Hugging Face
//! until an architecture maps them. Tensors leave towards a file through [`gguf::Writer`] and [`safetensors::Writer`],
//! one after the other, so that converting takes the memory of one tensor. [`codec`], a room of its own below, turns the bytes of any type into
//! `f32` and back.
//!
//! Files come from anywhere: every count, length and offset is held against the bytes that are there before it is
//! believed, and what is wrong comes back as an [`Error`] that names it.

mod cursor;
mod error;
pub mod gguf;
pub mod json;
pub mod llama2c;
pub mod meta;
pub mod safetensors;
mod source;
mod staged;

pub use allod_codec as codec;
pub use error::Error;
pub use gguf::Gguf;
pub use llama2c::Llama2c;
pub use meta::{Array, Metadata, Value};
pub use safetensors::Safetensors;
pub use source::{TensorInfo, WeightSource};
pub use staged::write_file;
