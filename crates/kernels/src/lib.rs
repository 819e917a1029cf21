//! Arithmetic on slices: the thread pool, instruction-set choice, matrix products, attention, norms, scans.
//! Slices of numbers enter and leave; every kernel has a scalar twin that defines its bytes, and gives the same bytes
//! for any number of rows, any number of threads and any instruction set.
#![deny(missing_docs)]

pub mod act;
pub mod attention;
pub mod conv;
pub mod delta;
pub mod elementwise;
pub mod gradient;
pub mod hadamard;
pub mod isa;
mod lanes;
pub mod limits;
pub mod linear;
pub mod math;
pub mod moe;
pub mod norm;
pub mod pool;
pub mod rope;
pub mod rows;
pub mod softmax;
pub mod ssm;
pub mod state;
mod twin;
