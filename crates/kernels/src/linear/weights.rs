//! A weight matrix in the layout the kernels want.

use super::{
    layout::{Layout, ROWS},
    quant::Form,
};
use crate::pool::{Parts, Pool};
use allod_tensor::{Bytes, DType, Tensor};
use std::cell::RefCell;

/// Why a tensor cannot become the weights of a Linear.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The axes are not `[rows, columns]` or `[experts, rows, columns]`.
    #[error("a matrix or a stack of matrices is needed, the shape is {0:?}")]
    Shape(Vec<usize>),
    /// The elements are of a type that matrices are not made of.
    #[error("{0} is not a type of weights")]
    DType(DType),
    /// The bytes are not as many as type and shape ask for.
    #[error("expected {expected:?} bytes, found {found}")]
    Size {
        /// Bytes asked for; `None` when the shape overflows or cuts a block.
        expected: Option<usize>,
        /// Bytes given.
        found: usize,
    },
}

/// A matrix `[rows, cols]`, or a stack of them (one for each expert), of any type a model file has.
///
/// Rows stand in panels of 16, interleaved (see `layout.rs`); what is left of an expert's rows follows its panels as in
/// the file. The bytes are as many as the file's.
#[derive(Clone, Debug)]
pub struct Weights {
    dtype: DType,
    experts: usize,
    rows: usize,
    cols: usize,
    layout: Layout,
    rounding: bool,
    data: Bytes,
}

thread_local! {
    static TAIL: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Weights {
    /// Packs a tensor `[rows, cols]` or `[experts, rows, cols]`. F64 becomes F32.
    ///
    /// # Errors
    /// [`PackError`] for other shapes, for types that are no weights, and for bytes that do not fit the shape.
    pub fn pack(t: &Tensor, pool: &Pool) -> Result<Weights, PackError> {
        let narrowed;
        let t = match t.dtype {
            DType::F64 => {
                narrowed = narrow(t);
                &narrowed
            }
            _ => t,
        };
        let (experts, rows, cols) = axes(&t.shape)?;
        let shell = Weights::from_packed(t.dtype, experts, rows, cols, t.data.clone())?;
        let (mut data, start) = aligned(t.data.len());
        let row_bytes = shell.row_bytes();
        let out = Parts::new(&mut data[start..start + t.data.len()]);
        let panels = rows.div_ceil(ROWS);
        pool.run(experts * panels, |i| {
            let first = i / panels * rows + i % panels * ROWS;
            let n = ROWS.min(rows - i % panels * ROWS);
            let from = &t.data[first * row_bytes..(first + n) * row_bytes];
            #[expect(unsafe_code, reason = "tasks write disjoint panels")]
            // SAFETY: each task writes the rows of its own panel.
            let to = unsafe { out.part(first * row_bytes, n * row_bytes) };
            if n < ROWS || row_bytes == 0 {
                to.copy_from_slice(from);
            } else {
                shell.layout.pack(&from.chunks_exact(row_bytes).collect::<Vec<_>>(), to);
            }
        });
        let len = t.data.len();
        let data = Bytes::from(data).slice(start..start + len);
        Ok(Weights { data: data.unwrap_or_else(|| Bytes::from(Vec::new())), ..shell })
    }

    /// Weights whose bytes were packed before (see [`Weights::packed_bytes`]).
    ///
    /// # Errors
    /// [`PackError`] for types that are no weights, and for bytes that do not fit the shape.
    pub fn from_packed(
        dtype: DType,
        experts: usize,
        rows: usize,
        cols: usize,
        data: Bytes,
    ) -> Result<Weights, PackError> {
        let layout = Layout::of(dtype).ok_or(PackError::DType(dtype))?;
        let expected = Tensor::bytes_of(dtype, &[experts, rows, cols]);
        if expected != Some(data.len()) {
            return Err(PackError::Size { expected, found: data.len() });
        }
        Ok(Weights { dtype, experts, rows, cols, layout, rounding: false, data })
    }

    /// Of BF16: input rows are rounded to BF16 as well before they are multiplied, which processors that multiply BF16
    /// themselves do at twice the speed. Other types stay as they are.
    #[must_use]
    pub fn rounding_input(self) -> Weights {
        Weights { rounding: self.dtype == DType::BF16, ..self }
    }

    /// The form of input rows that they are multiplied with.
    pub(super) fn form(&self) -> Form {
        if self.rounding { Form::Half } else { Form::of(self.dtype) }
    }

    /// The bytes to store and to give to [`Weights::from_packed`] later: as many as the tensor had.
    pub fn packed_bytes(&self) -> &Bytes {
        &self.data
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Matrices in the stack; 1 for a plain matrix.
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// Rows of one matrix: the width of a Linear's output.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of one matrix: the width of a Linear's input.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// One matrix of the stack, sharing its bytes.
    ///
    /// # Panics
    /// When there is no such expert.
    pub fn expert(&self, expert: usize) -> Weights {
        assert!(expert < self.experts, "no such expert");
        let len = self.rows * self.row_bytes();
        let data = self.data.slice(expert * len..(expert + 1) * len);
        Weights { experts: 1, data: data.unwrap_or_else(|| self.data.clone()), ..*self }
    }

    pub(crate) fn row_bytes(&self) -> usize {
        self.layout.row_bytes(self.cols)
    }

    /// Panels of one matrix, the short one included.
    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Rows in a panel: 16, but for the short one at the end.
    pub(super) fn panel_rows(&self, panel: usize) -> usize {
        ROWS.min(self.rows - panel * ROWS)
    }

    /// Hands the bytes of a whole panel to `f`; the short panel at the end is filled up with zero rows.
    pub(crate) fn with_panel<R>(&self, expert: usize, panel: usize, f: impl FnOnce(&[u8]) -> R) -> R {
        let row_bytes = self.row_bytes();
        let n = self.panel_rows(panel);
        let start = (expert * self.rows + panel * ROWS) * row_bytes;
        let bytes = &self.data[start..start + n * row_bytes];
        if n == ROWS || row_bytes == 0 {
            return f(bytes);
        }
        TAIL.with_borrow_mut(|tail| {
            let mut rows = [&bytes[..0]; ROWS];
            for (row, bytes) in rows.iter_mut().zip(bytes.chunks_exact(row_bytes)) {
                *row = bytes;
            }
            tail.resize(ROWS * row_bytes, 0);
            self.layout.pack(&rows[..n], tail);
            f(tail)
        })
    }

    /// Row `row` of matrix `expert` as numbers, into `out` of `cols` elements: what an embedding that shares its
    /// matrix with the head looks up.
    ///
    /// # Panics
    /// When there is no such row or `out` is not `cols` long.
    pub fn decode_row(&self, expert: usize, row: usize, out: &mut [f32]) {
        assert!(expert < self.experts && row < self.rows && out.len() == self.cols, "no such row");
        let row_bytes = self.row_bytes();
        let (first, in_panel) = (row / ROWS * ROWS, row % ROWS);
        let start = (expert * self.rows + first) * row_bytes;
        let decode = |bytes: &[u8], out: &mut [f32]| super::decode(self.dtype, bytes, out);
        if first + ROWS > self.rows {
            return decode(&self.data[start + in_panel * row_bytes..][..row_bytes], out);
        }
        TAIL.with_borrow_mut(|bytes| {
            bytes.resize(row_bytes, 0);
            self.layout.unpack_row(&self.data[start..start + ROWS * row_bytes], in_panel, bytes);
            decode(bytes, out);
        });
    }
}

fn axes(shape: &[usize]) -> Result<(usize, usize, usize), PackError> {
    match *shape {
        [rows, cols] => Ok((1, rows, cols)),
        [experts, rows, cols] => Ok((experts, rows, cols)),
        _ => Err(PackError::Shape(shape.to_vec())),
    }
}

fn narrow(t: &Tensor) -> Tensor {
    let values = t.data.chunks_exact(8).map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]));
    let data = values.flat_map(|v| (v as f32).to_le_bytes()).collect::<Vec<u8>>();
    Tensor { dtype: DType::F32, shape: t.shape.clone(), data: data.into() }
}

/// A buffer and where in it `len` bytes start at a cache line.
fn aligned(len: usize) -> (Vec<u8>, usize) {
    let data = vec![0u8; len + 63];
    let start = data.as_ptr().align_offset(64).min(63);
    (data, start)
}
