//! Arithmetic on slices: the thread pool, instruction-set choice, matrix products, attention, norms, scans.
#![deny(missing_docs)]
#![expect(unsafe_code, reason = "vector instructions and disjoint writes from several threads")]

pub mod act;
pub mod attention;
pub mod elementwise;
pub mod hadamard;
pub mod isa;
mod lanes;
pub mod math;
pub mod norm;
pub mod pool;
pub mod rope;
mod shared;
pub mod softmax;
mod twin;
