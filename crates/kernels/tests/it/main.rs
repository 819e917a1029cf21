//! Kernels against their scalar twins (bytes), against themselves cut differently (bytes), and against f64 arithmetic
//! written from the formula (within a tolerance derived from the number of roundings).

mod attention;
mod math;
mod rng;
mod rows;
