//! The lowest room: what an element is, how many bytes a block of elements takes, and bytes that are either mapped
//! from a file or owned. Data enters as [`Bytes`] and leaves as a [`Tensor`]: a type, a shape and the bytes. What is
//! computed goes to [`Memory`].
#![deny(missing_docs)]

mod bytes;
mod dtype;
mod memory;
mod tensor;

pub use bytes::Bytes;
pub use dtype::DType;
pub use memory::Memory;
pub use tensor::{Shape, SizeError, Tensor};
