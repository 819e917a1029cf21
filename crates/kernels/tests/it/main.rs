//! Kernels against their scalar twins (bytes), against themselves cut differently (bytes), and against arithmetic done
//! another way (within a tolerance derived from the number of roundings).
#![expect(clippy::unwrap_used, reason = "a test may")]

mod attention;
mod gradient;
mod linear;
mod math;
mod moe;
mod pool;
mod quantized;
mod recurrent;
mod rng;
mod rows;
