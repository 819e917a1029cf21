//! What training needs beside the forward kernels: float products in every direction over weights of any type, and the
//! adjoint of each operation. An adjoint *adds* to the gradients it is given.
//!
//! As everywhere in this crate each number is one sum in one order, for any number of threads and any instruction set:
//! a derivative by a row is summed as its forward kernel sums, a derivative by a weight goes through the rows in order.

mod act;
mod attention;
mod head;
mod matrix;
mod norm;
mod product;
mod scan;

pub use act::{act, clamp, glu, soft_cap, swiglu_clamped};
pub use attention::{Attended, Attention, attend, attend_adjoint};
pub use head::{Head, Score, log_probs, log_probs_weight};
pub use matrix::Matrix;
pub use norm::{gated_norm, gated_norm_weight, l2_norm, layer_norm, layer_norm_weight, rms_norm, rms_norm_weight};
pub use product::{ByColumns, ByRows, Panels, Start, Term, product, transpose};
pub use scan::{Scan, ScanGradients, delta, scan};
