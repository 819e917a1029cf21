//! Products with quantized weights, in integers.
//!
//! A chunk of a panel (16 rows × 256 columns) is unpacked once into a [`Slab`] of bytes that stays in L1, and serves
//! all input rows of the task. Every type is one of two kinds:
//!
//! * [`Fine`] types have one scale `d` (and sometimes one minimum `m`) for each block of 32 columns; the input has one
//!   scale `s` for each 32 columns. Block after block: `y ← fma(s, d · Σ c q, y)`, with a minimum
//!   `y ← fma(s, fma(d, Σ c q, m · Σ q), y)`.
//! * [`Super`] types have a scale `d` (and a `dmin`) for 256 columns over integer scales `u` (and minima `v`) for each 16
//!   or 32; the input has one scale `s` for each 256. Super-block after super-block:
//!   `y ← fma(s, d · Σ u Σ c q, y)`, with minima `y ← fma(s, fma(d, Σ u Σ c q, -(dmin · Σ v Σ q)), y)`.
//!
//! `c` are the weights' integers, `q` the input's. The integer sums are exact, in whatever order and however they are
//! shared between instructions, so the bytes of `y` are the same everywhere.
#![expect(unsafe_code, reason = "reads chunks of panels, whose sizes were checked, without checking again")]

mod codebook;
mod fine;
mod scalar;
mod superblock;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::{
    Done, ROWS, Sums,
    layout::CHUNK,
    rows8::{Block32, Block256, Wide},
};
use crate::isa::Isa;
use allod_tensor::DType;
use vector::Vector;

/// 64 bytes of 16 rows.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Lanes([u8; 4 * ROWS]);

impl Lanes {
    /// The `i`-th of 32 integers.
    fn int(&self, i: usize) -> i32 {
        i32::from(i16::from_le_bytes([self.0[2 * i], self.0[2 * i + 1]]))
    }
}

/// A chunk of a panel in bytes.
#[repr(C, align(64))]
pub(super) struct Slab {
    /// For each 4 columns, 16 rows × 4 weights, as unsigned bytes: integer plus the type's offset.
    codes: [Lanes; CHUNK / 4],
    /// For each 16 or 32 columns: each row's integer scale, twice.
    scales: [Lanes; 16],
    /// For each two stretches of 16 or 32 columns: each row's two integer minima.
    min_pairs: [Lanes; 8],
    /// Scales of each block of 32 columns; of a super-block the first only.
    d: [[f32; ROWS]; 8],
    /// Minima of each block of 32 columns; of a super-block the first only: the scale of minima.
    m: [[f32; ROWS]; 8],
    /// For each 2 columns: 16 rows × 2 weights as integers of 16 bits, integer scales included. Only where a tier
    /// multiplies in 16 bits.
    wide: [Lanes; CHUNK / 2],
}

impl Slab {
    pub(super) fn new() -> Slab {
        let zeros = Lanes([0; 64]);
        Slab {
            codes: [zeros; 64],
            scales: [zeros; 16],
            min_pairs: [zeros; 8],
            d: [[0.0; 16]; 8],
            m: [[0.0; 16]; 8],
            wide: [zeros; 128],
        }
    }

    /// Fills the slab from a chunk of a panel.
    #[inline(always)]
    fn unpack<T: Type, V: Vector>(&mut self, chunk: &[u8]) {
        let blocks = T::blocks(chunk);
        // SAFETY: a chunk has whole blocks; rounds, granules and parts make up its columns.
        unsafe {
            T::numbers::<V>(chunk.as_ptr(), blocks, self);
            for round in 0..T::rounds(blocks) {
                for g in 0..T::GRANULES {
                    let codes = T::codes::<V>(chunk.as_ptr(), blocks, round, g);
                    for (part, codes) in codes.into_iter().enumerate().take(T::PARTS) {
                        let (stretch, first) = T::place(round, part);
                        codes.store(&mut self.codes.get_unchecked_mut(stretch * (T::STRETCH / 4) + first + g).0);
                    }
                }
            }
        }
    }
}

/// What differs between the types: where the codes are, and what the integers can be.
trait Type {
    /// The type in the file.
    const DTYPE: DType;
    /// What the codes in the slab are above the integers: 0, 16 (blocks of 32), 32 (super-blocks) or 128.
    const OFFSET: i32;
    /// True when there are minima.
    const MINIMA: bool;
    /// Columns that share an integer scale; 32 for the types without integer scales.
    const STRETCH: usize;
    /// Groups of 4 columns whose products with a row add up within 16 bits per pair of columns; 1 when even one pair
    /// needs care with signs.
    const CHAIN: usize;
    /// A block is unpacked in rounds; a round reads this many vectors one after the other, …
    const GRANULES: usize;
    /// … each of which gives this many vectors of codes, 4 columns each: parts.
    const PARTS: usize;

    /// Writes what is no code: scales and minima.
    ///
    /// # Safety
    /// `chunk` must have `blocks` blocks of 16 rows (one, for super-blocks).
    unsafe fn numbers<V: Vector>(chunk: *const u8, blocks: usize, slab: &mut Slab);

    /// The codes of granule `g` of a round; the first [`Type::PARTS`] count.
    ///
    /// # Safety
    /// As [`Type::numbers`].
    unsafe fn codes<V: Vector>(chunk: *const u8, blocks: usize, round: usize, g: usize) -> [V; 4];

    /// Where the codes of a part go: the stretch, and the first group of 4 columns in it.
    fn place(round: usize, part: usize) -> (usize, usize);

    /// Blocks in a chunk.
    #[inline(always)]
    fn blocks(chunk: &[u8]) -> usize {
        chunk.len() / (ROWS * Self::DTYPE.block_bytes())
    }

    /// Rounds that unpack so many blocks.
    #[inline(always)]
    fn rounds(blocks: usize) -> usize {
        blocks * Self::DTYPE.block() / (4 * Self::GRANULES * Self::PARTS)
    }
}

/// Types with a scale for each 32 columns.
trait Fine: Type {}
/// Types with integer scales under a scale for each 256 columns.
trait Super: Type {
    /// True when integers times their scales are from -127 to 128, so that a byte holds them.
    const FOLDS: bool = false;
    /// The greatest magnitude of an integer.
    const MOST: i32;

    /// Whether sums over a stretch of products with a block fit 16 bits.
    #[inline(always)]
    fn fits(x: &Block256) -> bool {
        let most = match (Self::OFFSET, Self::STRETCH) {
            (0, 32) => x.side32,
            (_, 16) => x.most16,
            _ => i16::MAX,
        };
        i32::from(most) * Self::MOST <= i32::from(i16::MAX)
    }
}

/// The chunks of a panel: first column, number of columns, bytes.
#[inline(always)]
fn chunks<T: Type>(panel: &[u8]) -> impl Iterator<Item = (usize, usize, &[u8])> {
    let column_bytes = |columns: usize| columns / T::DTYPE.block() * T::DTYPE.block_bytes() * ROWS;
    let columns = move |bytes: usize| bytes / (T::DTYPE.block_bytes() * ROWS) * T::DTYPE.block();
    panel.chunks(column_bytes(CHUNK)).enumerate().map(move |(i, chunk)| (i * CHUNK, columns(chunk.len()), chunk))
}

/// Which form of the input a type is multiplied with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// As it comes.
    Float,
    /// As it comes, for weights that are decoded to floats first.
    Decoded,
    /// Rounded to BF16.
    Half,
    /// Blocks of 32 integers.
    Fine,
    /// Blocks of 256 integers.
    Super,
}

impl Form {
    pub(super) fn of(dtype: DType) -> Form {
        match dtype {
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 | DType::IQ4_NL | DType::MXFP4 => {
                Form::Fine
            }
            DType::Q2_K | DType::Q3_K | DType::Q4_K | DType::Q5_K | DType::Q6_K | DType::IQ4_XS => Form::Super,
            DType::IQ1_S | DType::IQ1_M | DType::IQ2_XXS | DType::IQ2_XS | DType::IQ2_S => Form::Super,
            DType::IQ3_XXS | DType::IQ3_S | DType::TQ1_0 | DType::TQ2_0 => Form::Super,
            DType::F32 | DType::F16 | DType::BF16 => Form::Float,
            _ => Form::Decoded,
        }
    }
}

macro_rules! dispatch {
    ($run:ident, $isa:expr, $type:ty, ($($arg:expr),*)) => {
        match $isa {
            Isa::Scalar => scalar::$run::<$type>($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::avx2::$run::<$type>($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::avx512::$run::<$type>($($arg),*),
            #[cfg(not(target_arch = "x86_64"))]
            _ => scalar::$run::<$type>($($arg),*),
        }
    };
}

/// Adds to `sums[t]` the products of input row `x[t]` with the 16 rows of a panel.
pub(super) fn fine(
    isa: Isa,
    dtype: DType,
    slab: &mut Slab,
    panel: &[u8],
    x: &[&[Block32]],
    sums: &mut [Sums],
    done: &mut Done,
) {
    match dtype {
        DType::Q4_0 => dispatch!(fine, isa, fine::Q4_0, (slab, panel, x, sums, done)),
        DType::Q4_1 => dispatch!(fine, isa, fine::Q4_1, (slab, panel, x, sums, done)),
        DType::Q5_0 => dispatch!(fine, isa, fine::Q5_0, (slab, panel, x, sums, done)),
        DType::Q5_1 => dispatch!(fine, isa, fine::Q5_1, (slab, panel, x, sums, done)),
        DType::Q8_0 => dispatch!(fine, isa, fine::Q8_0, (slab, panel, x, sums, done)),
        DType::IQ4_NL => dispatch!(fine, isa, fine::IQ4_NL, (slab, panel, x, sums, done)),
        DType::MXFP4 => dispatch!(fine, isa, fine::MXFP4, (slab, panel, x, sums, done)),
        _ => debug_assert!(false, "{dtype} has no blocks of 32"),
    }
}

/// Input rows up to which codes are multiplied as they leave their registers, by AVX-512: unpacking them once more for
/// every few rows costs less than storing and loading them.
const FEW_ROWS: usize = 32;
/// The same by AVX2.
const FEW_ROWS_AVX2: usize = 6;
/// The same of codes of eight bits, which are widened as well.
const FEW_ROWS_8_BITS_AVX2: usize = 12;

/// Whether two panels go faster together than one after the other: where the input's broadcasts are what bounds a product,
/// and where few input rows leave a chain of sums waiting for itself.
pub(super) fn pairs(isa: Isa, form: Form, rows: usize) -> bool {
    match (isa, form) {
        (Isa::Avx512, Form::Float) => true,
        // One stretch of memory is read faster than two, and a step for two columns keeps up with it.
        (Isa::Avx512, Form::Half) => rows > 1,
        (Isa::Avx512, Form::Fine | Form::Super) => rows > FEW_ROWS,
        // More rows fill the registers.
        (Isa::Avx2, Form::Float | Form::Half) => rows <= 3,
        _ => false,
    }
}

/// Whether the input's integers are wanted in pairs: see [`quantize256`](super::rows8::quantize256).
pub(super) fn in_pairs(isa: Isa, dtype: DType, rows: usize) -> bool {
    isa == Isa::Avx2
        && match dtype {
            DType::Q2_K | DType::Q3_K | DType::Q6_K => rows > FEW_ROWS_AVX2,
            DType::IQ1_S | DType::IQ1_M | DType::TQ1_0 | DType::TQ2_0 => true,
            _ => false,
        }
}

/// Whether input rows are wanted in 16 bits: codes of eight bits with AVX2, where more than a few rows share what was unpacked.
pub(super) fn in_16_bits(isa: Isa, dtype: DType, rows: usize) -> bool {
    isa == Isa::Avx2
        && match dtype {
            DType::Q8_0 | DType::IQ4_NL | DType::IQ4_XS => rows > FEW_ROWS_8_BITS_AVX2,
            DType::IQ2_XXS | DType::IQ2_XS | DType::IQ2_S | DType::IQ3_XXS | DType::IQ3_S => true,
            _ => false,
        }
}

macro_rules! dispatch_wide {
    ($(#[$doc:meta])* $run:ident, $columns:literal, $($room:ident::$name:ident)*) => {
        $(#[$doc])*
        pub(super) fn $run(
            dtype: DType,
            slab: &mut Slab,
            panel: &[u8],
            x: &[&[Wide<$columns>]],
            sums: &mut [Sums],
            done: &mut Done,
        ) {
            match dtype {
                $(#[cfg(target_arch = "x86_64")]
                DType::$name => x86::avx2::wide::<$room::$name, $columns>(slab, panel, x, sums, done),)*
                _ => debug_assert!(false, "{dtype} has no codes of eight bits"),
            }
        }
    };
}
dispatch_wide!(
    /// [`fine`] with the input in 16 bits: see [`in_16_bits`].
    fine_wide, 32, fine::Q8_0 fine::IQ4_NL
);
dispatch_wide!(
    /// [`superblock`] with the input in 16 bits: see [`in_16_bits`].
    superblock_wide, 256,
    superblock::IQ4_XS codebook::IQ2_XXS codebook::IQ2_XS codebook::IQ2_S codebook::IQ3_XXS codebook::IQ3_S
);

macro_rules! dispatch_pair {
    ($run:ident, $single:ident, $type:ty, ($isa:expr, $slabs:expr, $panels:expr, $x:expr, $sums:expr, $done:expr)) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::avx512::$run::<$type>($slabs, $panels, $x, $sums, $done),
            _ => {
                let [a, b] = $sums;
                for ((slab, panel), sums) in $slabs.iter_mut().zip($panels).zip([&mut *a, &mut *b]) {
                    dispatch!($single, $isa, $type, (slab, panel, $x, sums, &mut |_, _, _| {}));
                }
                $done(0, a, b);
            }
        }
    };
}

/// [`fine`] for two panels of one type.
pub(super) fn fine_pair(
    isa: Isa,
    dtype: DType,
    slabs: &mut [Slab; 2],
    panels: [&[u8]; 2],
    x: &[&[Block32]],
    sums: [&mut [Sums]; 2],
    done: &mut Done,
) {
    macro_rules! types {
        ($($name:ident)*) => {
            match dtype {
                $(DType::$name => dispatch_pair!(fine_pair, fine, fine::$name, (isa, slabs, panels, x, sums, done)),)*
                _ => debug_assert!(false, "{dtype} has no blocks of 32"),
            }
        };
    }
    types!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 IQ4_NL MXFP4);
}

/// [`superblock`] for two panels of one type.
pub(super) fn superblock_pair(
    isa: Isa,
    dtype: DType,
    slabs: &mut [Slab; 2],
    panels: [&[u8]; 2],
    x: &[&[Block256]],
    sums: [&mut [Sums]; 2],
    done: &mut Done,
) {
    macro_rules! types {
        ($($room:ident: $($name:ident)*;)*) => {
            match dtype {
                $($(DType::$name => {
                    dispatch_pair!(superblock_pair, superblock, $room::$name, (isa, slabs, panels, x, sums, done))
                })*)*
                _ => debug_assert!(false, "{dtype} has no super-blocks"),
            }
        };
    }
    types!(
        superblock: Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS;
        codebook: IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S TQ1_0 TQ2_0;
    );
}

/// As [`fine`], for types with super-blocks.
pub(super) fn superblock(
    isa: Isa,
    dtype: DType,
    slab: &mut Slab,
    panel: &[u8],
    x: &[&[Block256]],
    sums: &mut [Sums],
    done: &mut Done,
) {
    match dtype {
        DType::Q2_K => dispatch!(superblock, isa, superblock::Q2_K, (slab, panel, x, sums, done)),
        DType::Q3_K => dispatch!(superblock, isa, superblock::Q3_K, (slab, panel, x, sums, done)),
        DType::Q4_K => dispatch!(superblock, isa, superblock::Q4_K, (slab, panel, x, sums, done)),
        DType::Q5_K => dispatch!(superblock, isa, superblock::Q5_K, (slab, panel, x, sums, done)),
        DType::Q6_K => dispatch!(superblock, isa, superblock::Q6_K, (slab, panel, x, sums, done)),
        DType::IQ4_XS => dispatch!(superblock, isa, superblock::IQ4_XS, (slab, panel, x, sums, done)),
        DType::IQ1_S => dispatch!(superblock, isa, codebook::IQ1_S, (slab, panel, x, sums, done)),
        DType::IQ1_M => dispatch!(superblock, isa, codebook::IQ1_M, (slab, panel, x, sums, done)),
        DType::IQ2_XXS => dispatch!(superblock, isa, codebook::IQ2_XXS, (slab, panel, x, sums, done)),
        DType::IQ2_XS => dispatch!(superblock, isa, codebook::IQ2_XS, (slab, panel, x, sums, done)),
        DType::IQ2_S => dispatch!(superblock, isa, codebook::IQ2_S, (slab, panel, x, sums, done)),
        DType::IQ3_XXS => dispatch!(superblock, isa, codebook::IQ3_XXS, (slab, panel, x, sums, done)),
        DType::IQ3_S => dispatch!(superblock, isa, codebook::IQ3_S, (slab, panel, x, sums, done)),
        DType::TQ1_0 => dispatch!(superblock, isa, codebook::TQ1_0, (slab, panel, x, sums, done)),
        DType::TQ2_0 => dispatch!(superblock, isa, codebook::TQ2_0, (slab, panel, x, sums, done)),
        _ => debug_assert!(false, "{dtype} has no super-blocks"),
    }
}
