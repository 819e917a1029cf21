//! Input rows in eight bits.
//!
//! A block of 32 or 256 numbers becomes integers from -127 to 127 and one scale, `max |x| / 127`; each integer is
//! `x · (127 / max |x|)` rounded to the nearest, ties to even. Sums of the integers stand beside them, for weights whose
//! codes have an offset or a minimum. A block with a number that is not finite becomes not-a-number as a whole; one
//! whose numbers are all below 2⁻¹⁰⁰ becomes zero.
//!
//! One source serves every instruction set: the compiler turns these loops into vectors, but for the sums of integers,
//! which it does not find. No result depends on how.

use crate::isa::Isa;

/// 32 numbers.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Block32 {
    pub(super) scale: f32,
    /// -16 times the sum of the integers whose place is 0 or 1 modulo 4, and of the others.
    pub(super) lanes16: [i16; 2],
    /// -16 and -128 times the sum of the integers.
    pub(super) offset16: i32,
    pub(super) offset128: i32,
    pub(super) q: [i8; 32],
}

/// 256 numbers.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Block256 {
    pub(super) scale: f32,
    /// Sums of 32 integers each.
    pub(super) sums32: [i16; 8],
    /// Sums of 16 integers each.
    pub(super) sums16: [i16; 16],
    /// For each 16 integers: -32 times the sum of those whose place is 0 or 1 modulo 4, and of the others.
    pub(super) lanes32: [[i16; 2]; 16],
    /// -32 times the sums of 16 integers each.
    pub(super) offset32: [i32; 16],
    /// -128 times the sums of 32 integers each.
    pub(super) offset128: [i32; 8],
    /// -127 times the sum of all integers.
    pub(super) offset127: i32,
    /// The greatest sum of magnitudes of 16 integers.
    pub(super) most16: i16,
    /// The greatest sum of magnitudes of those of 32 integers that have the same sign.
    pub(super) side32: i16,
    pub(super) q: [i8; 256],
}

/// The scale and the integers of a block in 16 bits, for codes of eight where bytes cannot be multiplied in pairs.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Wide<const N: usize> {
    pub(super) scale: f32,
    pub(super) q: [i16; N],
}

impl<const N: usize> Wide<N> {
    pub(super) const ZERO: Wide<N> = Wide { scale: 0.0, q: [0; N] };
}

impl Block32 {
    pub(super) const ZERO: Block32 = Block32 { scale: 0.0, lanes16: [0; 2], offset16: 0, offset128: 0, q: [0; 32] };
}

impl Block256 {
    pub(super) const ZERO: Block256 = Block256 {
        scale: 0.0,
        sums32: [0; 8],
        sums16: [0; 16],
        lanes32: [[0; 2]; 16],
        offset32: [0; 16],
        offset128: [0; 8],
        offset127: 0,
        most16: 0,
        side32: 0,
        q: [0; 256],
    };
}

/// Writes `x` as blocks: 32 numbers each. AVX2 and AVX-512 write them to `wide` as well, unless it is empty.
pub(super) fn quantize32(isa: Isa, x: &[f32], out: &mut [Block32], wide: &mut [Wide<32>]) {
    match isa {
        Isa::Scalar => blocks32(x, out, halves, |_, _| ()),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::avx2::blocks32(x, out, wide),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::avx512::blocks32(x, out, wide),
        #[cfg(not(target_arch = "x86_64"))]
        _ => blocks32(x, out, halves, |_, _| ()),
    }
}

/// Writes `x` as blocks: 256 numbers each. AVX2 and AVX-512 write them to `wide` and `paired` as well, unless these are empty: to
/// `paired` with the integers as types with a scale for 16 columns take them: of each 32, two of the first 16 and two of the
/// others by turns; the first eight of `lanes32` are then those of 32 integers.
pub(super) fn quantize256(isa: Isa, x: &[f32], out: &mut [Block256], paired: &mut [Block256], wide: &mut [Wide<256>]) {
    match isa {
        Isa::Scalar => blocks256(x, out, halves, |_, _| ()),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::avx2::blocks256(x, out, paired, wide),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::avx512::blocks256(x, out, paired, wide),
        #[cfg(not(target_arch = "x86_64"))]
        _ => blocks256(x, out, halves, |_, _| ()),
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions chosen at run time")]
mod x86 {
    use super::{Block32, Block256, Half, Wide};
    use std::arch::x86_64::*;

    macro_rules! tier {
        ($tier:ident, $features:literal) => {
            pub(super) mod $tier {
                use super::*;

                pub(in super::super) fn blocks32(x: &[f32], out: &mut [Block32], wide: &mut [Wide<32>]) {
                    #[target_feature(enable = $features)]
                    fn compiled(x: &[f32], out: &mut [Block32], wide: &mut [Wide<32>]) {
                        // A closure has this function's instructions, a function's name not.
                        super::super::blocks32(
                            x,
                            out,
                            |q| halves(q),
                            |i, block| widen(block.scale, &block.q, wide.get_mut(i)),
                        );
                    }
                    // SAFETY: called only where the machine has the tier.
                    unsafe { compiled(x, out, wide) }
                }

                pub(in super::super) fn blocks256(
                    x: &[f32],
                    out: &mut [Block256],
                    paired: &mut [Block256],
                    wide: &mut [Wide<256>],
                ) {
                    #[target_feature(enable = $features)]
                    fn compiled(x: &[f32], out: &mut [Block256], paired: &mut [Block256], wide: &mut [Wide<256>]) {
                        super::super::blocks256(
                            x,
                            out,
                            |q| halves(q),
                            |i, block| {
                                if let Some(to) = paired.get_mut(i) {
                                    *to = interleaved(block);
                                }
                                widen(block.scale, &block.q, wide.get_mut(i));
                            },
                        );
                    }
                    // SAFETY: as above.
                    unsafe { compiled(x, out, paired, wide) }
                }
            }
        };
    }
    tier!(avx2, "avx2,fma");
    tier!(avx512, "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl");

    #[inline(always)]
    fn widen<const N: usize>(scale: f32, q: &[i8; N], to: Option<&mut Wide<N>>) {
        if let Some(to) = to {
            *to = Wide { scale, q: q.map(i16::from) };
        }
    }

    /// See [`quantize256`](super::quantize256).
    #[inline(always)]
    fn interleaved(block: &Block256) -> Block256 {
        let mut pairs = *block;
        for (q, to) in block.q.as_chunks::<32>().0.iter().zip(pairs.q.as_chunks_mut::<32>().0) {
            // SAFETY: 32 bytes each; and inlined where AVX2 is.
            unsafe {
                let (first, second) = (_mm_loadu_si128(q.as_ptr().cast()), _mm_loadu_si128(q.as_ptr().add(16).cast()));
                _mm_storeu_si128(to.as_mut_ptr().cast(), _mm_unpacklo_epi16(first, second));
                _mm_storeu_si128(to.as_mut_ptr().add(16).cast(), _mm_unpackhi_epi16(first, second));
            }
        }
        for (lanes, sums) in pairs.lanes32.iter_mut().zip(block.sums16.as_chunks::<2>().0) {
            *lanes = sums.map(|sum| sum.wrapping_mul(-32));
        }
        pairs
    }

    /// [`halves`](super::halves), inlined where AVX2 is.
    #[inline(always)]
    fn halves(q: &[i8; 32]) -> [Half; 2] {
        // SAFETY: 32 bytes; and see above.
        let (sums, magnitudes) = unsafe {
            let q = _mm256_loadu_si256(q.as_ptr().cast());
            let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
            let pairs = _mm256_add_epi16(pairs, _mm256_srli_si256::<8>(pairs));
            let pairs = _mm256_add_epi16(pairs, _mm256_srli_si256::<4>(pairs));
            let eights = _mm256_sad_epu8(_mm256_abs_epi8(q), _mm256_setzero_si256());
            let sixteens = _mm256_add_epi16(eights, _mm256_srli_si256::<8>(eights));
            (
                [_mm256_extract_epi32::<0>(pairs), _mm256_extract_epi32::<4>(pairs)],
                [_mm256_extract_epi16::<0>(sixteens), _mm256_extract_epi16::<8>(sixteens)],
            )
        };
        [0, 1].map(|i| Half { lanes: [sums[i] as i16, (sums[i] >> 16) as i16], magnitude: magnitudes[i] as i16 })
    }
}

#[inline(always)]
fn blocks32(
    x: &[f32],
    out: &mut [Block32],
    halves: impl Fn(&[i8; 32]) -> [Half; 2],
    mut each: impl FnMut(usize, &Block32),
) {
    for (i, (x, out)) in x.as_chunks::<32>().0.iter().zip(out).enumerate() {
        out.scale = quantize(x, &mut out.q);
        let [a, b] = halves(&out.q).map(|half| half.lanes);
        let lanes = [a[0] + b[0], a[1] + b[1]];
        let sum = i32::from(lanes[0]) + i32::from(lanes[1]);
        out.lanes16 = lanes.map(|sum| -16 * sum);
        (out.offset16, out.offset128) = (-16 * sum, -128 * sum);
        each(i, out);
    }
}

#[inline(always)]
fn blocks256(
    x: &[f32],
    out: &mut [Block256],
    halves: impl Fn(&[i8; 32]) -> [Half; 2],
    mut each: impl FnMut(usize, &Block256),
) {
    // Filled on the stack: where another core has read the output, what is stored there can be read again only much later.
    let mut block = Block256::ZERO;
    for (i, (x, out)) in x.as_chunks::<256>().0.iter().zip(out).enumerate() {
        block.scale = quantize(x, &mut block.q);
        let mut lanes = [[0; 2]; 16];
        let mut magnitudes = [0; 16];
        for (i, q) in block.q.as_chunks::<32>().0.iter().enumerate() {
            for (i, half) in (2 * i..).zip(halves(q)) {
                (lanes[i], magnitudes[i]) = (half.lanes, half.magnitude);
            }
        }
        block.sums16 = lanes.map(|[a, b]| a + b);
        block.lanes32 = lanes.map(|lanes| lanes.map(|sum| -32 * sum));
        block.offset32 = block.sums16.map(|sum| -32 * i32::from(sum));
        let pairs = |of: [i16; 16]| std::array::from_fn(|i| of[2 * i] + of[2 * i + 1]);
        block.sums32 = pairs(block.sums16);
        block.offset128 = block.sums32.map(|sum| -128 * i32::from(sum));
        block.offset127 = -127 * block.sums32.iter().map(|&sum| i32::from(sum)).sum::<i32>();
        block.most16 = magnitudes.into_iter().fold(0, i16::max);
        let wide: [i16; 8] = pairs(magnitudes);
        block.side32 = wide.iter().zip(&block.sums32).fold(0, |most, (&all, sum)| most.max((all + sum.abs()) / 2));
        *out = block;
        each(i, &block);
    }
}

/// Numbers of one block to integers; gives the scale.
#[inline(always)]
fn quantize<const N: usize>(x: &[f32; N], q: &mut [i8; N]) -> f32 {
    const INFINITY: u32 = 0x7f80_0000;
    const SMALLEST: f32 = 7.888_609e-31; // 2^-100: far above where 127 / x overflows
    /// 1.5 · 2^23: added to a small number it leaves the nearest integer, ties to even, in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let greatest = x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff));
    let max = f32::from_bits(greatest);
    if greatest >= INFINITY || max < SMALLEST {
        *q = [0; N];
        return if greatest >= INFINITY { f32::NAN } else { 0.0 };
    }
    let inverse = 127.0 / max;
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * inverse + ROUND).to_bits() as i8;
    }
    max / 127.0
}

/// What is known of 16 integers.
#[derive(Clone, Copy, Default)]
struct Half {
    /// The sum of those at places 0 and 1 modulo 4, and of those at places 2 and 3.
    lanes: [i16; 2],
    /// The sum of magnitudes.
    magnitude: i16,
}

#[inline(always)]
fn halves(q: &[i8; 32]) -> [Half; 2] {
    let mut halves = [Half::default(); 2];
    for (half, q) in halves.iter_mut().zip(q.as_chunks::<16>().0) {
        for q in q.as_chunks::<4>().0 {
            half.lanes[0] += i16::from(q[0]) + i16::from(q[1]);
            half.lanes[1] += i16::from(q[2]) + i16::from(q[3]);
        }
        half.magnitude = q.iter().map(|q| i16::from(q.unsigned_abs())).sum();
    }
    halves
}
