//! Encoders: rows of numbers, with or without importance, into the blocks of any type.
//!
//! Every encoder minimizes the weighted squared error of what the stored bytes decode to; without importance the
//! weights are one, so it is the plain error. The types that gguf-py encodes keep its bytes when no importance is
//! given ([`allod_formats::codec`]). The same values give the same bytes on every machine.

mod affine;
mod candidates;
mod codebook;
mod iq;
mod k;
mod lanes;
mod levels;
mod single;
mod sums;
mod symmetric;

use allod_formats::codec;
use allod_kernels::isa::{Isa, Job};
use allod_tensor::DType;
use std::marker::PhantomData;

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
    encode_on(Isa::best(), dtype, columns, values, importance, out)
}

/// As [`encode`], with the instructions asked for. The bytes are the same.
///
/// # Errors
/// [`Error`].
pub fn encode_on(
    isa: Isa,
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
    let rows = Rows { isa, values, importance: importance.map(usable) };
    match dtype {
        Q4_0 if importance.is_some() => rows.pack::<blocks::Q40, _, _>(out),
        Q4_1 if importance.is_some() => rows.pack::<blocks::Q41, _, _>(out),
        Q5_0 if importance.is_some() => rows.pack::<blocks::Q50, _, _>(out),
        Q5_1 if importance.is_some() => rows.pack::<blocks::Q51, _, _>(out),
        F32 | F16 | BF16 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | TQ1_0 | TQ2_0 | MXFP4 => {
            codec::encode(dtype, values, out).map_err(|_| Error::CutBlock { dtype, columns })?;
        }
        Q1_0 => rows.pack::<blocks::Q10, _, _>(out),
        Q2_0 => rows.pack::<blocks::Q20, _, _>(out),
        NVFP4 => rows.pack::<blocks::NVFP4, _, _>(out),
        IQ4_NL => rows.pack::<blocks::IQ4NL, _, _>(out),
        IQ4_XS => rows.pack::<blocks::IQ4XS, _, _>(out),
        Q2_K => rows.pack::<blocks::Q2K, _, _>(out),
        Q3_K => rows.pack::<blocks::Q3K, _, _>(out),
        Q4_K => rows.pack::<blocks::Q4K, _, _>(out),
        Q5_K => rows.pack::<blocks::Q5K, _, _>(out),
        Q6_K => rows.pack::<blocks::Q6K, _, _>(out),
        IQ1_S => rows.pack::<blocks::IQ1S, _, _>(out),
        IQ1_M => rows.pack::<blocks::IQ1M, _, _>(out),
        IQ2_XXS => rows.pack::<blocks::IQ2XXS, _, _>(out),
        IQ2_XS => rows.pack::<blocks::IQ2XS, _, _>(out),
        IQ2_S => rows.pack::<blocks::IQ2S, _, _>(out),
        IQ3_XXS => rows.pack::<blocks::IQ3XXS, _, _>(out),
        IQ3_S => rows.pack::<blocks::IQ3S, _, _>(out),
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
    isa: Isa,
    values: &'a [f32],
    importance: Option<Vec<f32>>,
}

/// The encoder of a type: as many blocks at a time as it likes, together `N` values in `B` bytes. A type of its own
/// for each, since a function that is passed on is not inlined into its caller, and would keep the plainest
/// instructions.
trait Encoder<const N: usize, const B: usize> {
    fn blocks(x: &[f32; N], w: &[f32; N]) -> [u8; B];
}

macro_rules! encoders {
    ($($name:ident $function:path, $n:literal $b:literal;)*) => {
        mod blocks {
            $(pub(super) struct $name;)*
        }
        $(impl Encoder<$n, $b> for blocks::$name {
            #[inline(always)]
            fn blocks(x: &[f32; $n], w: &[f32; $n]) -> [u8; $b] {
                $function(x, w)
            }
        })*
    };
}

encoders! {
    Q40 single::q4_0, 512 288;
    Q41 single::q4_1, 512 320;
    Q50 single::q5_0, 512 352;
    Q51 single::q5_1, 512 384;
    Q10 single::q1_0, 128 18;
    Q20 single::q2_0, 1024 288;
    NVFP4 single::nvfp4, 64 36;
    IQ4NL single::iq4_nl, 512 288;
    IQ4XS single::iq4_xs, 512 272;
    Q2K k::q2_k, 256 84;
    Q3K k::q3_k, 256 110;
    Q4K k::q4_k, 512 288;
    Q5K k::q5_k, 512 352;
    Q6K k::q6_k, 256 210;
    IQ1S iq::iq1_s, 256 50;
    IQ1M iq::iq1_m, 256 56;
    IQ2XXS iq::iq2_xxs, 256 66;
    IQ2XS iq::iq2_xs, 256 74;
    IQ2S iq::iq2_s, 256 82;
    IQ3XXS iq::iq3_xxs, 256 98;
    IQ3S iq::iq3_s, 256 110;
}

impl Rows<'_> {
    fn pack<E: Encoder<N, B>, const N: usize, const B: usize>(&self, out: &mut Vec<u8>) {
        self.isa.run(Pack::<E, N, B> { rows: self, out, encoder: PhantomData });
    }
}

/// Encoding as a job that is compiled for each instruction set, with everything it calls inlined into it.
struct Pack<'a, E, const N: usize, const B: usize> {
    rows: &'a Rows<'a>,
    out: &'a mut Vec<u8>,
    encoder: PhantomData<E>,
}

impl<E: Encoder<N, B>, const N: usize, const B: usize> Job for Pack<'_, E, N, B> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let mut w = [1.0; N];
        let mut from = 0;
        for values in self.rows.values.chunks(N) {
            if let Some(importance) = &self.rows.importance {
                copy_around(&mut w, importance, from);
                from = (from + N) % importance.len();
            }
            if let Ok(x) = values.try_into() {
                self.out.extend(E::blocks(x, &w));
            } else {
                let mut x = [0.0; N];
                x[..values.len()].copy_from_slice(values);
                self.out.extend(&E::blocks(&x, &w)[..B * values.len() / N]);
            }
        }
    }
}

/// Fills `to` with what stands in `ring` from `from` on.
#[inline(always)]
fn copy_around(to: &mut [f32], ring: &[f32], mut from: usize) {
    let mut rest = to;
    while !rest.is_empty() {
        let n = rest.len().min(ring.len() - from);
        let (now, later) = rest.split_at_mut(n);
        now.copy_from_slice(&ring[from..from + n]);
        (rest, from) = (later, (from + n) % ring.len());
    }
}
