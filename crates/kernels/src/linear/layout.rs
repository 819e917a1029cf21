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
