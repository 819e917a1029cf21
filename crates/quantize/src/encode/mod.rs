//! Encoders: rows of numbers, with or without importance, into the blocks of any type.
//!
//! Every encoder minimizes the weighted squared error of what the stored bytes decode to; without importance the
//! weights are one, so it is the plain error. The types that gguf-py encodes keep its bytes when no importance is
//! given ([`allod_formats::codec`]). The same values give the same bytes on every machine.

mod affine;
mod codebook;
mod iq;
mod k;
mod levels;
mod single;
mod sums;
mod symmetric;

use allod_formats::codec;
use allod_tensor::DType;

/// What encoding refuses.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Values that cut a block.
    #[error("rows of {columns} values cut the blocks of {dtype}, which have {}", dtype.block())]
    CutBlock {
        /// The type.
        dtype: DType,
        /// Values of a row.
        columns: usize,
    },
    /// Importance for another number of columns.
    #[error("rows have {columns} values, but the importance has {found}")]
    Importance {
        /// Values of a row.
        columns: usize,
        /// Numbers of importance.
        found: usize,
    },
    /// A value that no block can hold.
    #[error("value {at} is {value}")]
    NotFinite {
        /// Which value of those given.
        at: usize,
        /// The value.
        value: f32,
    },
    /// The type cannot be written.
    #[error("{0} cannot be encoded")]
    NotEncoded(DType),
}

/// True for the types that [`encode`] writes.
pub fn is_writable(dtype: DType) -> bool {
    use DType::*;
    !matches!(dtype, Q8_1 | Q8_K | I8 | I16 | I32 | I64 | F64)
}

/// Encodes whole rows and appends the bytes. `importance` has one weight per column.
///
/// # Errors
/// [`Error`].
pub fn encode(
    dtype: DType,
    columns: usize,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    if columns == 0 || !columns.is_multiple_of(dtype.block()) || !values.len().is_multiple_of(columns) {
        return Err(Error::CutBlock { dtype, columns });
    }
    if let Some(w) = importance.filter(|w| w.len() != columns) {
        return Err(Error::Importance { columns, found: w.len() });
    }
    if let Some((at, &value)) = values.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        return Err(Error::NotFinite { at, value });
    }
    out.reserve(values.len() / dtype.block() * dtype.block_bytes());
    use DType::*;
    let rows = Rows { columns, values, importance: importance.map(usable) };
    match dtype {
        Q4_0 if importance.is_some() => rows.pack(out, single::q4_0),
        Q4_1 if importance.is_some() => rows.pack(out, single::q4_1),
        Q5_0 if importance.is_some() => rows.pack(out, single::q5_0),
        Q5_1 if importance.is_some() => rows.pack(out, single::q5_1),
        F32 | F16 | BF16 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | TQ1_0 | TQ2_0 | MXFP4 => {
            codec::encode(dtype, values, out).map_err(|_| Error::CutBlock { dtype, columns })?;
        }
        Q1_0 => rows.pack(out, single::q1_0),
        Q2_0 => rows.pack(out, single::q2_0),
        NVFP4 => rows.pack(out, single::nvfp4),
        IQ4_NL => rows.pack(out, single::iq4_nl),
        IQ4_XS => rows.pack(out, single::iq4_xs),
        Q2_K => rows.pack(out, k::q2_k),
        Q3_K => rows.pack(out, k::q3_k),
        Q4_K => rows.pack(out, k::q4_k),
        Q5_K => rows.pack(out, k::q5_k),
        Q6_K => rows.pack(out, k::q6_k),
        IQ1_S => rows.pack(out, iq::iq1_s),
        IQ1_M => rows.pack(out, iq::iq1_m),
        IQ2_XXS => rows.pack(out, iq::iq2_xxs),
        IQ2_XS => rows.pack(out, iq::iq2_xs),
        IQ2_S => rows.pack(out, iq::iq2_s),
        IQ3_XXS => rows.pack(out, iq::iq3_xxs),
        IQ3_S => rows.pack(out, iq::iq3_s),
        Q8_1 | Q8_K | I8 | I16 | I32 | I64 | F64 => return Err(Error::NotEncoded(dtype)),
    }
    Ok(())
}

/// Weights in a range that sums survive: mean one, none below a millionth of it (a column that the statistics never
/// saw must still decode to something near its values).
fn usable(importance: &[f32]) -> Vec<f32> {
    let good = |w: &f32| if w.is_finite() && *w > 0.0 { *w } else { 0.0 };
    let mean = importance.iter().map(|w| f64::from(good(w))).sum::<f64>() / importance.len() as f64;
    if mean <= 0.0 {
        return vec![1.0; importance.len()];
    }
    importance.iter().map(|w| ((f64::from(good(w)) / mean) as f32).max(1e-6)).collect()
}

struct Rows<'a> {
    columns: usize,
    values: &'a [f32],
    importance: Option<Vec<f32>>,
}

impl Rows<'_> {
    fn pack<const N: usize, const B: usize>(&self, out: &mut Vec<u8>, block: impl Fn(&[f32; N], &[f32; N]) -> [u8; B]) {
        let even = [1.0; N];
        for row in self.values.chunks_exact(self.columns) {
            for (i, x) in row.as_chunks::<N>().0.iter().enumerate() {
                let w = self.importance.as_ref().and_then(|w| w.as_chunks::<N>().0.get(i)).unwrap_or(&even);
                out.extend(block(x, w));
            }
        }
    }
}
