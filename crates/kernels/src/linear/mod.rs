//! Matrix products `y = x Wᵀ + b` with weights of every type a model file has.
//!
//! [`Weights`] hold a matrix, or a stack of experts' matrices, in panels of 16 rows. An [`Input`] holds the rows of
//! `x`; several [`Product`]s of one input run in one parallel region. [`experts`] does the same for rows routed to
//! experts.
//!
//! **What each output is.** Float weights: one chain of fused multiply-adds over the columns in order, from 0, in f32;
//! the bias is added last. Where BF16 weights ask for it ([`Weights::rounding_input`]), rows are rounded to BF16 as well, and
//! of each two columns the second comes first: what the processors that multiply BF16 themselves do. The lanes of a vector
//! run over output rows, so neither the number of input rows, nor threads, nor the instruction set changes a byte.

mod float;
mod input;
mod layout;
mod quant;
mod routes;
mod rows16;
mod rows8;
mod tasks;
mod weights;

pub use input::{Input, Row, Scratch};
pub use routes::Routes;
pub use tasks::{From, Gated, Product, experts, gated, gated_experts, linear};
pub use weights::{PackError, Weights};

use crate::isa::Isa;
use allod_codec as codec;
use allod_tensor::DType;
use layout::ROWS;

/// The sums of one input row with the 16 rows of a panel.
type Sums = [f32; ROWS];

/// Is told of rows whose sums are complete, so that it can take them while the next are computed: the first of them, their
/// sums, and those with the other panel where two go together.
type Done<'a> = dyn FnMut(usize, &mut [Sums], &mut [Sums]) + 'a;

/// Adds to `sums[t]` the products of row `x[t]` with 16 columns of numbers, `[k][16]`: the float kernel by itself.
pub(crate) fn float_panel(isa: Isa, panel: &[f32], x: &[&[f32]], sums: &mut [[f32; ROWS]]) {
    float::panels(isa, DType::F32, [bytemuck::cast_slice(panel)], x, [sums], &mut |_, _, _| {});
}

/// Numbers from whole blocks of the file's bytes.
fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    let decoded = codec::decode(dtype, bytes, out);
    debug_assert!(decoded.is_ok(), "the callers give whole blocks");
}
