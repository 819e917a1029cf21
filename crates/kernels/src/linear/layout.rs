//! Where the bytes of 16 rows go in a panel.
//!
//! A panel holds the blocks of 16 rows, cut into chunks of 256 columns (the last may be shorter). Within a chunk the
//! fields of a block stand one after the other; a field is cut into granules, and granule by granule the 16 rows follow
//! each other, so that one vector load gives the same columns of 16 rows:
//!
//! ```text
//! chunk: field: block: granule: row: bytes
//! ```
//!
//! It is a permutation of the file's bytes: a panel takes as many bits per weight as the file.

use allod_tensor::DType;

/// Rows of a panel.
pub(crate) const ROWS: usize = 16;
/// Columns of a chunk.
pub(crate) const CHUNK: usize = 256;

/// A run of bytes within a block that is interleaved with one granule size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) granule: usize,
}

/// Bytes of a block, in the order in which a panel holds them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) block: usize,
    pub(crate) block_bytes: usize,
    pub(crate) fields: &'static [Field],
}

const fn f(start: usize, len: usize, granule: usize) -> Field {
    Field { start, len, granule }
}

impl Layout {
    /// The layout of a type, `None` for types that no Linear takes.
    pub(crate) fn of(dtype: DType) -> Option<Layout> {
        let fields: &'static [Field] = match dtype {
            DType::F32 => const { &[f(0, 4, 4)] },
            DType::F16 | DType::BF16 => const { &[f(0, 2, 2)] },
            DType::Q4_0 | DType::IQ4_NL => const { &[f(0, 2, 2), f(2, 16, 4)] },
            DType::Q4_1 => const { &[f(0, 2, 2), f(2, 2, 2), f(4, 16, 4)] },
            DType::Q5_0 => const { &[f(0, 2, 2), f(2, 4, 4), f(6, 16, 4)] },
            DType::Q5_1 => const { &[f(0, 2, 2), f(2, 2, 2), f(4, 4, 4), f(8, 16, 4)] },
            DType::Q8_0 => const { &[f(0, 2, 2), f(2, 32, 4)] },
            DType::MXFP4 => const { &[f(0, 1, 1), f(1, 16, 4)] },
            DType::Q2_K => const { &[f(0, 16, 4), f(16, 64, 4), f(80, 2, 2), f(82, 2, 2)] },
            DType::Q3_K => const { &[f(0, 32, 4), f(32, 64, 4), f(96, 12, 4), f(108, 2, 2)] },
            DType::Q4_K => const { &[f(0, 2, 2), f(2, 2, 2), f(4, 12, 4), f(16, 128, 4)] },
            DType::Q5_K => const { &[f(0, 2, 2), f(2, 2, 2), f(4, 12, 4), f(16, 32, 4), f(48, 128, 4)] },
            DType::Q6_K => const { &[f(0, 128, 4), f(128, 64, 4), f(192, 16, 4), f(208, 2, 2)] },
            DType::IQ4_XS => const { &[f(0, 2, 2), f(2, 2, 2), f(4, 4, 4), f(8, 128, 4)] },
            DType::IQ1_S => const { &[f(0, 50, 50)] },
            DType::IQ1_M => const { &[f(0, 56, 56)] },
            DType::IQ2_XXS => const { &[f(0, 66, 66)] },
            DType::IQ2_XS => const { &[f(0, 74, 74)] },
            DType::IQ2_S => const { &[f(0, 82, 82)] },
            DType::IQ3_XXS => const { &[f(0, 98, 98)] },
            DType::IQ3_S => const { &[f(0, 110, 110)] },
            DType::TQ1_0 => const { &[f(0, 54, 54)] },
            DType::TQ2_0 => const { &[f(0, 66, 66)] },
            DType::NVFP4 => const { &[f(0, 36, 36)] },
            DType::Q1_0 | DType::Q2_0 => const { &[f(0, 18, 18)] },
            // Integers are no weights; Q8_1 and Q8_K are forms of activations.
            _ => return None,
        };
        Some(Layout { block: dtype.block(), block_bytes: dtype.block_bytes(), fields })
    }

    /// Blocks in a whole chunk.
    pub(crate) const fn chunk_blocks(&self) -> usize {
        CHUNK / self.block
    }

    /// Bytes of a row of `cols` columns.
    pub(crate) const fn row_bytes(&self, cols: usize) -> usize {
        cols / self.block * self.block_bytes
    }

    /// Interleaves up to 16 rows into one panel; rows that are missing become zeros.
    pub(crate) fn pack(&self, rows: &[&[u8]], panel: &mut [u8]) {
        let chunk_bytes = self.chunk_blocks() * self.block_bytes;
        for (i, chunk) in panel.chunks_mut(chunk_bytes * ROWS).enumerate() {
            let mut at = 0;
            for field in self.fields {
                for block in 0..chunk.len() / (ROWS * self.block_bytes) {
                    let from = i * chunk_bytes + block * self.block_bytes + field.start;
                    let to = &mut chunk[at..at + field.len * ROWS];
                    match field.granule {
                        1 => interleave::<1>(rows, from, to),
                        2 => interleave::<2>(rows, from, to),
                        4 => interleave::<4>(rows, from, to),
                        _ => interleave_any(rows, from, field.granule, to),
                    }
                    at += field.len * ROWS;
                }
            }
        }
    }

    /// Takes row `row` out of a panel: the inverse of [`Layout::pack`] for one row.
    pub(crate) fn unpack_row(&self, panel: &[u8], row: usize, out: &mut [u8]) {
        let chunk_bytes = self.chunk_blocks() * self.block_bytes;
        for (out, chunk) in out.chunks_mut(chunk_bytes).zip(panel.chunks(chunk_bytes * ROWS)) {
            let mut at = row;
            for field in self.fields {
                at = at - row + row * field.granule;
                for block in 0..out.len() / self.block_bytes {
                    let to = block * self.block_bytes + field.start;
                    for granule in out[to..to + field.len].chunks_exact_mut(field.granule) {
                        granule.copy_from_slice(&chunk[at..at + field.granule]);
                        at += field.granule * ROWS;
                    }
                }
                at = at - row * field.granule + row;
            }
        }
    }
}

fn interleave<const G: usize>(rows: &[&[u8]], from: usize, to: &mut [u8]) {
    let len = to.len() / ROWS;
    for r in 0..ROWS {
        let granules = to.chunks_exact_mut(G * ROWS).map(|g| &mut g[r * G..(r + 1) * G]);
        match rows.get(r) {
            Some(row) => granules.zip(row[from..from + len].chunks_exact(G)).for_each(|(g, v)| g.copy_from_slice(v)),
            None => granules.for_each(|g| g.fill(0)),
        }
    }
}

fn interleave_any(rows: &[&[u8]], from: usize, granule: usize, to: &mut [u8]) {
    let len = to.len() / ROWS;
    for r in 0..ROWS {
        for (i, g) in to.chunks_exact_mut(granule * ROWS).enumerate() {
            let g = &mut g[r * granule..(r + 1) * granule];
            match rows.get(r) {
                Some(row) => g.copy_from_slice(&row[from..from + len][i * granule..(i + 1) * granule]),
                None => g.fill(0),
            }
        }
    }
}
