//! A matrix of any type, read as numbers.

use super::product::COLUMNS;
use allod_tensor::DType;
use std::ops::Range;

/// A matrix `[rows, cols]`, row-major: numbers, or bytes as a file holds them.
#[derive(Clone, Copy, Debug)]
pub enum Matrix<'a> {
    /// Numbers.
    Numbers {
        /// Row after row.
        data: &'a [f32],
        /// Elements of a row.
        cols: usize,
    },
    /// Whole blocks of a tensor type.
    Encoded {
        /// The type.
        dtype: DType,
        /// Row after row.
        data: &'a [u8],
        /// Elements of a row.
        cols: usize,
    },
}

impl Matrix<'_> {
    /// Elements of a row.
    pub fn cols(&self) -> usize {
        let (Matrix::Numbers { cols, .. } | Matrix::Encoded { cols, .. }) = *self;
        cols
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        match *self {
            Matrix::Numbers { data, cols } => data.len() / cols.max(1),
            Matrix::Encoded { dtype, data, cols } => data.len() / dtype.bytes_for(cols).unwrap_or(1).max(1),
        }
    }

    /// Elements `cols` of row `row`. The range begins at a multiple of 256 and ends at one or at the row's end, so
    /// that it cuts no block.
    ///
    /// # Panics
    /// When there are no such elements.
    pub fn read(&self, row: usize, cols: Range<usize>, out: &mut [f32]) {
        debug_assert!(cols.start.is_multiple_of(COLUMNS), "a block would be cut");
        match *self {
            Matrix::Numbers { data, cols: width } => out.copy_from_slice(&data[row * width..][cols]),
            Matrix::Encoded { dtype, data, cols: width } => {
                let row_bytes = data.len() / self.rows().max(1);
                let (block, bytes) = (dtype.block(), dtype.block_bytes());
                debug_assert_eq!(width.div_ceil(block) * bytes, row_bytes);
                let start = row * row_bytes + cols.start / block * bytes;
                let read = allod_codec::decode(dtype, &data[start..start + cols.len().div_ceil(block) * bytes], out);
                debug_assert!(read.is_ok(), "whole blocks were asked for");
            }
        }
    }
}
