use crate::{Bytes, DType};
use std::fmt;

/// Sizes of the axes, outermost first: a matrix is `[rows, columns]` and a row is contiguous.
pub type Shape = Vec<usize>;

/// A typed, shaped view of bytes, row-major.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Element type.
    pub dtype: DType,
    /// Axes, outermost first.
    pub shape: Shape,
    /// Exactly the bytes that type and shape ask for.
    pub data: Bytes,
}

/// A tensor whose bytes do not fit its type and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SizeError {
    /// Bytes asked for; `None` when the shape overflows or cuts a block.
    pub expected: Option<usize>,
    /// Bytes given.
    pub found: usize,
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.expected {
            Some(n) => write!(f, "expected {n} bytes, found {}", self.found),
            None => write!(f, "the shape overflows or cuts a block ({} bytes given)", self.found),
        }
    }
}
impl std::error::Error for SizeError {}

impl Tensor {
    /// Puts type, shape and bytes together.
    ///
    /// # Errors
    /// [`SizeError`] unless `data` is exactly as long as type and shape ask for.
    pub fn new(dtype: DType, shape: impl Into<Shape>, data: Bytes) -> Result<Tensor, SizeError> {
        let shape = shape.into();
        let expected = Self::bytes_of(dtype, &shape);
        if expected != Some(data.len()) {
            return Err(SizeError { expected, found: data.len() });
        }
        Ok(Tensor { dtype, shape, data })
    }

    /// A tensor of `f32`.
    ///
    /// # Panics
    /// When `values` are not as many as the shape says.
    pub fn from_f32(shape: impl Into<Shape>, values: &[f32]) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), values.len(), "values and shape disagree");
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        Tensor { dtype: DType::F32, shape, data: data.into() }
    }

    /// Bytes that a type and shape take; `None` when the shape overflows or its rows cut a block.
    pub fn bytes_of(dtype: DType, shape: &[usize]) -> Option<usize> {
        let (columns, outer) = match shape.split_last() {
            Some((c, outer)) => (*c, outer),
            None => (1, shape),
        };
        let rows = outer.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        dtype.bytes_for(columns)?.checked_mul(rows)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of one row: the last axis.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows: all axes but the last.
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.data.len().checked_div(self.rows()).unwrap_or(0)
    }
}
