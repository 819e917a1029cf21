//! The reference codec: bytes of any tensor type to `f32`, and `f32` to the plain types, bit for bit what gguf-py's
//! numpy code gives (`gguf.quants`). Kernels read blocks on their own; loaders, tests and tools come here.
//!
//! NaN stays NaN, but which NaN is not promised; what is encoded should be finite.
#![deny(missing_docs)]

mod float;
mod iq;
mod k;
mod legacy;
mod micro;
mod tables;
mod ternary;

pub use float::f16_to_f32;

/// What the codes of the IQ types stand for, for those who choose codes.
pub mod codebook {
    pub use super::iq::{DELTA, IQ1, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, IQ4};
}

use allod_tensor::{DType, Tensor};

/// What the codec refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Bytes and values disagree in number.
    #[error("{values} values of {dtype}: expected {}, found {found} bytes", expected.map_or("whole blocks".into(), |n| format!("{n} bytes")))]
    Size {
        /// The type.
        dtype: DType,
        /// Values on the one side.
        values: usize,
        /// Bytes that they take; `None` when they cut a block.
        expected: Option<usize>,
        /// Bytes on the other side.
        found: usize,
    },
    /// Values that cut a block.
    #[error("expected a multiple of {} values for {dtype}, found {found}", dtype.block())]
    CutBlock {
        /// The type.
        dtype: DType,
        /// Values given.
        found: usize,
    },
    /// The type cannot be encoded here.
    #[error("expected one of {ENCODED:?} to encode to, found {0}: quantize with a recipe instead")]
    NotEncoded(DType),
}

/// The types that [`encode`] writes.
pub const ENCODED: &[DType] = &[
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::TQ1_0,
    DType::TQ2_0,
    DType::MXFP4,
];

/// Decodes whole blocks, such as one or more rows. Integers become the nearest number.
///
/// # Errors
/// [`Error::Size`] unless `bytes` hold exactly as many values as `out` takes.
pub fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    let expected = dtype.bytes_for(out.len());
    if expected != Some(bytes.len()) {
        return Err(Error::Size { dtype, values: out.len(), expected, found: bytes.len() });
    }
    match dtype {
        DType::F32 => each(bytes, out, f32::from_le_bytes),
        DType::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
        DType::F16 => each(bytes, out, |b| f16_to_f32(u16::from_le_bytes(b))),
        DType::BF16 => each(bytes, out, |b| float::bf16_to_f32(u16::from_le_bytes(b))),
        DType::I8 => each(bytes, out, |b| i8::from_le_bytes(b) as f32),
        DType::I16 => each(bytes, out, |b| i16::from_le_bytes(b) as f32),
        DType::I32 => each(bytes, out, |b| i32::from_le_bytes(b) as f32),
        DType::I64 => each(bytes, out, |b| i64::from_le_bytes(b) as f32),
        DType::Q4_0 => blocks(bytes, out, legacy::q4_0),
        DType::Q4_1 => blocks(bytes, out, legacy::q4_1),
        DType::Q5_0 => blocks(bytes, out, legacy::q5_0),
        DType::Q5_1 => blocks(bytes, out, legacy::q5_1),
        DType::Q8_0 => blocks(bytes, out, legacy::q8_0),
        DType::Q8_1 => blocks(bytes, out, legacy::q8_1),
        DType::Q2_K => blocks(bytes, out, k::q2_k),
        DType::Q3_K => blocks(bytes, out, k::q3_k),
        DType::Q4_K => blocks(bytes, out, k::q4_k),
        DType::Q5_K => blocks(bytes, out, k::q5_k),
        DType::Q6_K => blocks(bytes, out, k::q6_k),
        DType::Q8_K => blocks(bytes, out, k::q8_k),
        DType::IQ1_S => blocks(bytes, out, iq::iq1_s),
        DType::IQ1_M => blocks(bytes, out, iq::iq1_m),
        DType::IQ2_XXS => blocks(bytes, out, iq::iq2_xxs),
        DType::IQ2_XS => blocks(bytes, out, iq::iq2_xs),
        DType::IQ2_S => blocks(bytes, out, iq::iq2_s),
        DType::IQ3_XXS => blocks(bytes, out, iq::iq3_xxs),
        DType::IQ3_S => blocks(bytes, out, iq::iq3_s),
        DType::IQ4_NL => blocks(bytes, out, iq::iq4_nl),
        DType::IQ4_XS => blocks(bytes, out, iq::iq4_xs),
        DType::TQ1_0 => blocks(bytes, out, ternary::tq1_0),
        DType::TQ2_0 => blocks(bytes, out, ternary::tq2_0),
        DType::Q1_0 => blocks(bytes, out, ternary::q1_0),
        DType::Q2_0 => blocks(bytes, out, ternary::q2_0),
        DType::MXFP4 => blocks(bytes, out, micro::mxfp4),
        DType::NVFP4 => blocks(bytes, out, micro::nvfp4),
    }
    Ok(())
}

/// All values of a tensor.
///
/// # Errors
/// [`Error::Size`] when the tensor's bytes do not fit its shape.
pub fn to_f32(t: &Tensor) -> Result<Vec<f32>, Error> {
    let mut out = vec![0.0; t.len()];
    decode(t.dtype, &t.data, &mut out)?;
    Ok(out)
}

/// Encodes whole blocks and appends the bytes.
///
/// # Errors
/// [`Error::CutBlock`], or [`Error::NotEncoded`] for a type that is not in [`ENCODED`].
pub fn encode(dtype: DType, values: &[f32], out: &mut Vec<u8>) -> Result<(), Error> {
    let Some(bytes) = dtype.bytes_for(values.len()) else {
        return Err(Error::CutBlock { dtype, found: values.len() });
    };
    out.reserve(bytes);
    match dtype {
        DType::F32 => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        DType::F16 => out.extend(values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes())),
        DType::BF16 => out.extend(values.iter().flat_map(|&v| float::f32_to_bf16(v).to_le_bytes())),
        DType::Q4_0 => pack(values, out, legacy::to_q4_0),
        DType::Q4_1 => pack(values, out, legacy::to_q4_1),
        DType::Q5_0 => pack(values, out, legacy::to_q5_0),
        DType::Q5_1 => pack(values, out, legacy::to_q5_1),
        DType::Q8_0 => pack(values, out, legacy::to_q8_0),
        DType::TQ1_0 => pack(values, out, ternary::to_tq1_0),
        DType::TQ2_0 => pack(values, out, ternary::to_tq2_0),
        DType::MXFP4 => pack(values, out, micro::to_mxfp4),
        other => return Err(Error::NotEncoded(other)),
    }
    Ok(())
}

fn each<const B: usize>(bytes: &[u8], out: &mut [f32], number: impl Fn([u8; B]) -> f32) {
    for (b, o) in bytes.as_chunks().0.iter().zip(out) {
        *o = number(*b);
    }
}

fn blocks<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn(&[u8; B], &mut [f32; N])) {
    for (b, o) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(b, o);
    }
}

fn pack<const N: usize, const B: usize>(values: &[f32], out: &mut Vec<u8>, encode: impl Fn(&[f32; N]) -> [u8; B]) {
    for block in values.as_chunks().0 {
        out.extend(encode(block));
    }
}
