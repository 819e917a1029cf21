//! Tests of the kernels: every kernel against its scalar twin, and against arithmetic done another way.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod attention;
mod linear;
mod math;
mod moe;
mod pool;
mod recurrent;
mod rng;
mod rows;
