//! Where keys and values lie: pages of 16 positions, which have a key plane and a value plane for each key-value head. The
//! key planes of all pages come first, those of a page's heads side by side, then the value planes likewise: a thread
//! that decodes reads long stretches of memory, which comes twice as fast as pieces of some kilobytes.
//!
//! Both planes are rows of 16 numbers, the unit that products read. A key row is one element of the head over the 16
//! positions, so that scores of 16 keys need no sum across lanes; a value row is 16 elements of one position, two of
//! which stand side by side:
//!
//! | type | key plane | value plane |
//! |---|---|---|
//! | F32, F16, BF16 | `[k_dim][16 positions]` | `[v_dim/32][16 positions][32]` |
//! | I16 | 16 scales of keys, 16 of values, `[k_dim/2][16 positions][2]` | `[v_dim/16][8 pairs of positions][16][2]` |
//! | Q8_0 | per 32 elements: 16 scales, `[8][16 positions][4]` i8 | per 32: 16 scales, `[16 positions][32]` i8 |
//! | Q4_0 | per 32 elements: 16 scales, `[4][16 positions][4]`, low nibbles elements 0–15, high 16–31 | per 32: 16 scales, `[16 positions][16]`, likewise |
//!
//! I16 has one scale for each key and each value, in f32 (see [`integer`]); all are wanted before any value, so they stand where
//! they are read in passing. The scales of quantized types are f16; their bits per number are GGUF's. Values and quantized keys
//! are padded to whole blocks of 32. Integers stand in fours or twos, as the instructions that multiply them take them. Heads
//! of Q4_0 are rotated on their way in (see [`hadamard`]), queries and results likewise, so that an outlier does not cost its
//! neighbours their few bits.

#![expect(unsafe_code, reason = "tasks write disjoint heads")]

use std::{ops::Range, str::FromStr};

use allod_tensor::Memory;
use half::f16;

use super::SeqRows;
use super::integer;
use crate::hadamard;
use crate::isa::Isa;
use crate::pool::{Parts, Pool};
use crate::rope::{self, Pairing};
use crate::twin::twin;

/// Positions in a page.
pub const PAGE: usize = 16;

/// Grows with every change to what the bytes of a page mean, by which pages kept on disk are told apart.
pub const PAGE_LAYOUT: u32 = 2;

/// Elements that share a scale in the quantized types.
pub(super) const BLOCK: usize = 32;

/// How a cached number is stored; [`I16`](Self::I16) where nobody says otherwise.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum KvType {
    F32,
    #[default]
    I16,
    F16,
    BF16,
    Q8_0,
    Q4_0,
}

impl KvType {
    /// Every type, the most exact first.
    pub const ALL: [KvType; 6] = [KvType::F32, KvType::I16, KvType::F16, KvType::BF16, KvType::Q8_0, KvType::Q4_0];

    /// Whether numbers have scales, and keys are multiplied as integers.
    pub(super) fn is_coded(self) -> bool {
        matches!(self, KvType::I16 | KvType::Q8_0 | KvType::Q4_0)
    }

    /// `elements` and what fills the last block, or pair.
    pub(super) fn whole(self, elements: usize) -> usize {
        match self {
            KvType::F32 | KvType::F16 | KvType::BF16 => elements,
            KvType::I16 => elements.next_multiple_of(2),
            KvType::Q8_0 | KvType::Q4_0 => elements.next_multiple_of(BLOCK),
        }
    }

    /// Its name, as in GGUF.
    pub const fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::I16 => "i16",
            KvType::BF16 => "bf16",
            KvType::Q8_0 => "q8_0",
            KvType::Q4_0 => "q4_0",
        }
    }
}

impl FromStr for KvType {
    type Err = KvError;
    fn from_str(name: &str) -> Result<KvType, KvError> {
        let named = KvType::ALL.into_iter().find(|t| t.name().eq_ignore_ascii_case(name));
        named.ok_or_else(|| KvError::Type(name.into()))
    }
}

/// The shape of one layer's cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvLayout {
    /// Key-value heads.
    pub kv_heads: usize,
    /// Elements of a key.
    pub k_dim: usize,
    /// Elements of a value; 0 where values are a prefix of the keys.
    pub v_dim: usize,
    /// How they are stored.
    pub dtype: KvType,
}

/// Why there is no cache of a layout.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// No type has this name.
    #[error("keys and values cannot be cached as {0:?}: f32, i16, f16, bf16, q8_0 and q4_0 are known")]
    Type(String),
    /// No heads, empty keys, or more bytes than can be addressed.
    #[error("no cache of {pages} pages for {layout:?}")]
    Size {
        /// The layout asked for.
        layout: KvLayout,
        /// The pages asked for.
        pages: usize,
    },
    /// The system has not that much memory.
    #[error("no memory for a cache of {bytes} bytes")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// What the system says.
        source: std::io::Error,
    },
}

impl KvLayout {
    /// Bytes of `elements` numbers at each of a page's positions, scales of I16 aside.
    fn plane(&self, elements: usize) -> Option<usize> {
        let numbers = self.dtype.whole(elements).checked_mul(PAGE)?;
        match self.dtype {
            KvType::F32 => numbers.checked_mul(4),
            KvType::I16 | KvType::F16 | KvType::BF16 => numbers.checked_mul(2),
            KvType::Q8_0 => (numbers / BLOCK).checked_mul(34),
            KvType::Q4_0 => (numbers / BLOCK).checked_mul(18),
        }
    }

    /// Bytes of a key plane.
    fn key_plane(&self) -> Option<usize> {
        self.plane(self.k_dim)?.checked_add(if self.dtype == KvType::I16 { integer::SCALES } else { 0 })
    }

    /// Bytes of a page, of all heads; `None` on overflow.
    pub fn page_bytes(&self) -> Option<usize> {
        let head = self.key_plane()?.checked_add(self.plane(self.v_dim.next_multiple_of(BLOCK))?)?;
        head.checked_mul(self.kv_heads)
    }
}

/// The rotary positions of keys on their way into the cache.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// Elements of a head that turn.
    pub dims: usize,
    /// Which of them form a pair.
    pub pairing: Pairing,
    /// What [`rope::angles`] made for the step's rows, `[rows × dims]`.
    pub table: &'a [f32],
}

impl Turn<'_> {
    fn apply(&self, isa: Isa, row: usize, head: &mut [f32]) {
        let n = head.len();
        rope::apply(isa, head, 1, n, self.dims, self.pairing, &self.table[row * self.dims..][..self.dims]);
    }
}

/// The keys and values of one layer.
pub struct KvCache {
    layout: KvLayout,
    pages: usize,
    key_bytes: usize,
    value_bytes: usize,
    rotation: Rotation,
    memory: Memory,
}

/// Lengths of the blocks in which heads are rotated on their way in, where they are.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Rotation {
    pub(super) keys: Option<usize>,
    pub(super) values: Option<usize>,
}

impl Rotation {
    fn of(layout: KvLayout) -> Rotation {
        match layout {
            KvLayout { dtype: KvType::F32 | KvType::I16 | KvType::F16 | KvType::BF16 | KvType::Q8_0, .. } => {
                Rotation::default()
            }
            // Where values are the first elements of the keys, no block may reach beyond them.
            KvLayout { v_dim: 0, .. } => Rotation { keys: Some(BLOCK), values: Some(BLOCK) },
            KvLayout { k_dim, v_dim, .. } => {
                let block = |dim| hadamard::block(KvType::Q4_0.whole(dim));
                Rotation { keys: block(k_dim), values: block(v_dim) }
            }
        }
    }
}

impl KvCache {
    /// A cache of `pages` zeroed pages.
    ///
    /// # Errors
    /// [`KvError`] when there are no heads or the size overflows.
    pub fn new(layout: KvLayout, pages: usize) -> Result<KvCache, KvError> {
        let KvLayout { kv_heads, k_dim, .. } = layout;
        let size = || KvError::Size { layout, pages };
        let page_bytes = layout.page_bytes().filter(|_| kv_heads > 0 && k_dim > 0).ok_or_else(size)?;
        let bytes = page_bytes.checked_mul(pages).filter(|&b| b <= isize::MAX as usize).ok_or_else(size)?;
        let key_bytes = layout.key_plane().ok_or_else(size)?;
        Ok(KvCache {
            layout,
            pages,
            key_bytes,
            value_bytes: page_bytes / kv_heads - key_bytes,
            rotation: Rotation::of(layout),
            memory: Memory::zeroed(bytes).map_err(|source| KvError::Memory { bytes, source })?,
        })
    }

    /// Its shape.
    pub fn layout(&self) -> KvLayout {
        self.layout
    }

    pub(super) fn rotation(&self) -> Rotation {
        self.rotation
    }

    /// How many pages it has.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Where the key plane and the value plane of a head in a page lie.
    fn planes(&self, page: u32, head: usize) -> [Range<usize>; 2] {
        assert!((page as usize) < self.pages, "page {page} of {}", self.pages);
        let plane = page as usize * self.layout.kv_heads + head;
        let keys = plane * self.key_bytes;
        let values = self.pages * self.layout.kv_heads * self.key_bytes + plane * self.value_bytes;
        [keys..keys + self.key_bytes, values..values + self.value_bytes]
    }

    /// The key plane of a head in a page.
    pub(super) fn keys(&self, page: u32, head: usize) -> &[u8] {
        let [keys, _] = self.planes(page, head);
        &self.memory[keys]
    }

    /// The value plane of a head in a page.
    pub(super) fn values(&self, page: u32, head: usize) -> &[u8] {
        let [_, values] = self.planes(page, head);
        &self.memory[values]
    }

    /// Bytes that [`Self::read_page`] appends.
    pub fn page_bytes(&self) -> usize {
        self.layout.kv_heads * (self.key_bytes + self.value_bytes)
    }

    /// Appends all that a page holds, head by head.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn read_page(&self, page: u32, out: &mut Vec<u8>) {
        for head in 0..self.layout.kv_heads {
            out.extend_from_slice(self.keys(page, head));
            out.extend_from_slice(self.values(page, head));
        }
    }

    /// Makes a page hold what [`Self::read_page`] gave.
    ///
    /// # Panics
    /// When there is no such page, or `bytes` is not of its size.
    pub fn write_page(&mut self, page: u32, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.page_bytes(), "not what a page holds");
        for (head, bytes) in bytes.chunks_exact(self.key_bytes + self.value_bytes).enumerate() {
            let [keys, values] = self.planes(page, head);
            let (new_keys, new_values) = bytes.split_at(self.key_bytes);
            self.memory[keys].copy_from_slice(new_keys);
            self.memory[values].copy_from_slice(new_values);
        }
    }

    /// Copies a page (copy on write).
    ///
    /// # Panics
    /// When there is no such page.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        for head in 0..self.layout.kv_heads {
            for (from, to) in self.planes(from, head).into_iter().zip(self.planes(to, head)) {
                self.memory.copy_within(from, to.start);
            }
        }
    }

    /// Stores the keys `k` (`[rows × kv_heads · k_dim]`) and values `v` (`[rows × kv_heads · v_dim]`, empty where
    /// values are a prefix of the keys) of the steps' rows. Numbers beyond an f16's range are stored as its largest. In I16 a
    /// vector whose squares come to less than 2^-126 is stored as zeros, and one whose squares overflow as NaN.
    ///
    /// # Panics
    /// When a page table or a slice is too short, or a page does not exist.
    pub fn write(&mut self, pool: &Pool, isa: Isa, k: &[f32], v: &[f32], seqs: &[SeqRows<'_>]) {
        self.write_turned(pool, isa, k, v, None, seqs);
    }

    /// [`write`](KvCache::write), where `turn` first gives the keys their rotary positions.
    ///
    /// # Panics
    /// As [`write`](KvCache::write), and when `turn` has too few angles.
    pub fn write_turned(
        &mut self,
        pool: &Pool,
        isa: Isa,
        k: &[f32],
        v: &[f32],
        turn: Option<Turn<'_>>,
        seqs: &[SeqRows<'_>],
    ) {
        let KvLayout { kv_heads, k_dim, v_dim, dtype } = self.layout;
        let rotation = self.rotation;
        let (pages, key_bytes, value_bytes) = (self.pages, self.key_bytes, self.value_bytes);
        let (keys, values) = self.memory.split_at_mut(pages * kv_heads * key_bytes);
        let (all_keys, all_values) = (Parts::new(keys), Parts::new(values));
        let write_head = |head: usize| {
            // Keys of 16 bits are stored a page at a time where there are so many, and values that are integers.
            let of_16_bits = matches!(dtype, KvType::I16 | KvType::F16 | KvType::BF16);
            let by_page = of_16_bits && seqs.iter().any(|s| s.rows.len() >= PAGE);
            let change_keys = turn.is_some() || dtype.is_coded() || by_page;
            let kept = if by_page { PAGE } else { 1 };
            let (width, v_width) = (dtype.whole(k_dim), dtype.whole(v_dim));
            let mut new_keys = vec![0.0; if change_keys { kept * width } else { 0 }];
            let mut new_values = vec![0.0; if dtype.is_coded() { kept * v_width } else { 0 }];
            for seq in seqs {
                for (i, row) in seq.rows.clone().enumerate() {
                    let position = seq.start as usize + i;
                    let (page, slot) = (seq.pages[position / PAGE] as usize, position % PAGE);
                    assert!(page < pages, "page {page} of {pages}");
                    let plane = page * kv_heads + head;
                    // SAFETY: a head's planes in any page are touched by that head's task only.
                    let keys = unsafe { all_keys.part(plane * key_bytes, key_bytes) };
                    // SAFETY: likewise.
                    let values = unsafe { all_values.part(plane * value_bytes, value_bytes) };
                    if slot == 0 {
                        keys.fill(0);
                        values.fill(0);
                    }
                    let (scales, keys) = keys.split_at_mut(if dtype == KvType::I16 { integer::SCALES } else { 0 });
                    let at = (row * kv_heads + head) * k_dim;
                    let mut key = &k[at..at + k_dim];
                    if change_keys {
                        let new_key = &mut new_keys[slot % kept * width..][..width];
                        let (head, filling) = new_key.split_at_mut(k_dim);
                        head.copy_from_slice(key);
                        filling.fill(0.0);
                        if let Some(turn) = &turn {
                            turn.apply(isa, row, head);
                        }
                        rotate(isa, new_key, rotation.keys);
                        key = new_key;
                    }
                    // The page that this row belongs to is given whole, or its rows are stored one by one.
                    let whole = by_page && i >= slot && i - slot + PAGE <= seq.rows.len();
                    let at = (row * kv_heads + head) * v_dim;
                    let mut value = &v[at..at + v_dim];
                    if dtype.is_coded() {
                        let new_value = &mut new_values[slot % kept * v_width..][..v_width];
                        let (head, filling) = new_value.split_at_mut(v_dim);
                        head.copy_from_slice(value);
                        filling.fill(0.0);
                        rotate(isa, new_value, rotation.values);
                        value = new_value;
                    }
                    let (of_keys, of_values) = scales.split_at_mut(scales.len() / 2);
                    match (dtype, whole) {
                        (KvType::I16, false) => {
                            integer::store(isa, key, of_keys, keys, slot, true);
                            integer::store(isa, value, of_values, values, slot, false);
                        }
                        (KvType::I16, true) if slot + 1 == PAGE => {
                            integer::store_keys(isa, &new_keys, of_keys, keys);
                            integer::store_values(isa, &new_values, of_values, values);
                        }
                        (KvType::I16, true) => {}
                        _ => {
                            if !whole {
                                store(isa, dtype, key, keys, slot, true);
                            } else if slot + 1 == PAGE {
                                store_page(isa, dtype, &new_keys, k_dim, keys);
                            }
                            store(isa, dtype, value, values, slot, false);
                        }
                    }
                }
            }
        };
        // A parallel region does not pay for a few tokens.
        let rows: usize = seqs.iter().map(|s| s.rows.len()).sum();
        if rows * kv_heads * (k_dim + v_dim) < 1 << 15 {
            (0..kv_heads).for_each(write_head);
        } else {
            pool.run(kv_heads, write_head);
        }
    }
}

/// Index in a plane's numbers of element `d` at position `slot`.
#[inline(always)]
pub(super) fn index(d: usize, slot: usize, is_key: bool) -> usize {
    if is_key { d * PAGE + slot } else { (d / BLOCK * PAGE + slot) * BLOCK + d % BLOCK }
}

/// Likewise in I16.
#[inline(always)]
pub(super) fn pair_index(d: usize, slot: usize, is_key: bool) -> usize {
    if is_key {
        (d / 2 * PAGE + slot) * 2 + d % 2
    } else {
        ((d / PAGE * PAGE / 2 + slot / 2) * PAGE + d % PAGE) * 2 + slot % 2
    }
}

/// Where byte `i` of the quantized numbers at position `slot` stands within a block, which has `row` of them a position.
#[inline(always)]
pub(super) fn code_index(i: usize, slot: usize, row: usize, is_key: bool) -> usize {
    if is_key { (i / 4 * PAGE + slot) * 4 + i % 4 } else { slot * row + i }
}

/// Rotates heads where the cache holds them so.
pub(super) fn rotate(isa: Isa, heads: &mut [f32], block: Option<usize>) {
    if let Some(block) = block {
        hadamard::rotate(isa, heads, block);
    }
}

twin! {
    /// Stores one vector at `slot` of a plane, not of I16.
    fn store(dtype: KvType, x: &[f32], plane: &mut [u8], slot: usize, is_key: bool) {
        match dtype {
            KvType::I16 => unreachable!("integers have a store of their own"),
            KvType::F32 => {
                let rows = plane.as_chunks_mut::<4>().0;
                for (d, v) in x.iter().enumerate() {
                    rows[index(d, slot, is_key)] = v.to_le_bytes();
                }
            }
            KvType::F16 | KvType::BF16 => {
                let rows = plane.as_chunks_mut::<2>().0;
                let mut bits = [0; PAGE];
                for (c, x) in x.chunks(PAGE).enumerate() {
                    halves(dtype, x, &mut bits);
                    let rows = &mut rows[index(c * PAGE, slot, is_key)..];
                    if is_key {
                        for (to, b) in rows.iter_mut().step_by(PAGE).zip(&bits[..x.len()]) {
                            *to = b.to_le_bytes();
                        }
                    } else {
                        for (to, b) in rows.iter_mut().zip(&bits[..x.len()]) {
                            *to = b.to_le_bytes();
                        }
                    }
                }
            }
            KvType::Q8_0 => {
                for (x, block) in x.as_chunks::<BLOCK>().0.iter().zip(plane.chunks_exact_mut(34 * PAGE)) {
                    let (scale, quants) = quantize8(x);
                    let (scales, rows) = block.split_at_mut(2 * PAGE);
                    scales[2 * slot..2 * slot + 2].copy_from_slice(&scale.to_le_bytes());
                    for (d, q) in quants.iter().enumerate() {
                        rows[code_index(d, slot, BLOCK, is_key)] = *q as u8;
                    }
                }
            }
            KvType::Q4_0 => {
                for (x, block) in x.as_chunks::<BLOCK>().0.iter().zip(plane.chunks_exact_mut(18 * PAGE)) {
                    let (scale, quants) = quantize4(x);
                    let (scales, rows) = block.split_at_mut(2 * PAGE);
                    scales[2 * slot..2 * slot + 2].copy_from_slice(&scale.to_le_bytes());
                    for d in 0..PAGE {
                        rows[code_index(d, slot, PAGE, is_key)] = quants[d] | quants[d + PAGE] << 4;
                    }
                }
            }
        }
    }
}

twin! {
    /// Stores the keys of a page's 16 positions, which follow each other in `x`, in 16 bits. Four positions make a word of
    /// 64 bits and four words a row, so that the compiler turns the matrix with shuffles.
    fn store_page(dtype: KvType, x: &[f32], k_dim: usize, plane: &mut [u8]) {
        const WORDS: usize = PAGE / 4;
        let mut bits = [[0; PAGE]; PAGE];
        for (c, rows) in plane[..2 * PAGE * k_dim].chunks_mut(2 * PAGE * PAGE).enumerate() {
            for (bits, x) in bits.iter_mut().zip(x.chunks_exact(k_dim)) {
                halves(dtype, &x[c * PAGE..k_dim.min((c + 1) * PAGE)], bits);
            }
            let mut words = [[0u64; PAGE]; WORDS];
            for (words, four) in words.iter_mut().zip(bits.as_chunks::<4>().0) {
                for (d, word) in words.iter_mut().enumerate() {
                    let [a, b, c, e] = four.each_ref().map(|bits| u64::from(bits[d]));
                    *word = a | b << 16 | c << 32 | e << 48;
                }
            }
            for (d, row) in rows.as_chunks_mut::<8>().0.as_chunks_mut::<WORDS>().0.iter_mut().enumerate() {
                for (to, words) in row.iter_mut().zip(&words) {
                    *to = words[d].to_le_bytes();
                }
            }
        }
    }
}

/// Up to 16 numbers in 16 bits.
#[inline(always)]
fn halves(dtype: KvType, x: &[f32], bits: &mut [u16; PAGE]) {
    for (b, v) in bits.iter_mut().zip(x) {
        *b = if dtype == KvType::F16 { f16_bits(*v) } else { bf16_bits(*v) };
    }
}

/// The nearest f16 (ties to even), saturated, without branches. Below 2⁻¹⁴ the addition of a power of two rounds to
/// multiples of 2⁻²⁴ in the low bits of the sum.
#[inline(always)]
fn f16_bits(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16) & 0x8000;
    let a = x.abs();
    let a = if a > 65504.0 { 65504.0 } else { a };
    let bits = a.to_bits();
    let normal = (bits.wrapping_add(0xfff + ((bits >> 13) & 1)) >> 13).wrapping_sub(112 << 10);
    let small = (a + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let magnitude = if a < 6.103_515_6e-5 { small } else { normal };
    let magnitude = if x.is_nan() { 0x7e00 } else { magnitude };
    (sign | magnitude) as u16
}

/// The nearest bf16, ties to even.
#[inline(always)]
fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    (if x.is_nan() { (bits >> 16) | 0x40 } else { rounded }) as u16
}

/// The nearest integer, for |x| < 2²².
#[inline(always)]
pub(super) fn round(x: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32
}

/// A scale, and integers in ±127.
#[inline(always)]
fn quantize8(x: &[f32; BLOCK]) -> (f16, [i8; BLOCK]) {
    let scale = f16::from_bits(f16_bits(largest(x) / 127.0));
    (scale, bytes(x, half_to_f32(scale)))
}

/// Magnitude of the largest element.
#[inline(always)]
pub(super) fn largest(x: &[f32; BLOCK]) -> f32 {
    let mut largest = 0f32;
    for v in x {
        largest = if v.abs() > largest { v.abs() } else { largest };
    }
    largest
}

/// The multiples of `scale` nearest to the elements, as integers in ±127.
#[inline(always)]
pub(super) fn bytes(x: &[f32; BLOCK], scale: f32) -> [i8; BLOCK] {
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut quants = [0; BLOCK];
    for (q, v) in quants.iter_mut().zip(x) {
        *q = round((v * inverse).clamp(-127.0, 127.0)) as i8;
    }
    quants
}

/// A signed scale, which makes the element of largest magnitude -8, and integers in 0..16 that stand for -8..8.
#[inline(always)]
fn quantize4(x: &[f32; BLOCK]) -> (f16, [u8; BLOCK]) {
    let mut extreme = 0f32;
    for v in x {
        extreme = if v.abs() > extreme.abs() { *v } else { extreme };
    }
    let scale = f16::from_bits(f16_bits(extreme / -8.0));
    let d = half_to_f32(scale);
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut quants = [0; BLOCK];
    for (q, v) in quants.iter_mut().zip(x) {
        *q = round((v * inverse).clamp(-8.0, 7.0) + 8.0) as u8;
    }
    (scale, quants)
}

/// The value of an f16, exactly.
#[inline(always)]
pub(super) fn half_to_f32(x: f16) -> f32 {
    let bits = u32::from(x.to_bits());
    let magnitude = (bits & 0x7fff) << 13;
    // The exponent's bias differs by 112, which a product mends for subnormal numbers too.
    let scaled = f32::from_bits(magnitude) * f32::from_bits((254 - 15) << 23);
    let special = f32::from_bits(magnitude | 0x7f80_0000);
    let value = if magnitude >= 0x7c00 << 13 { special } else { scaled };
    f32::from_bits(value.to_bits() | (bits & 0x8000) << 16)
}
