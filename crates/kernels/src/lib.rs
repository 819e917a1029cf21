//! Arithmetic on slices: the thread pool, instruction-set choice, matrix products, attention, norms, scans.
//! Slices of numbers enter and leave; every kernel has a scalar twin that defines its bytes, and gives the same bytes
//! for any number of rows, any number of threads and any instruction set.
#![deny(missing_docs)]

pub mod isa;
pub mod limits;
pub mod linear;
pub mod pool;
