//! Input rows in BF16.
//!
//! Each number is rounded to the nearest, ties to even; one that is not finite stays so, and one below 2⁻⁵² becomes zero.
//! No number is then so small that processors which flush subnormal numbers could give other sums (see [`LEAST_WEIGHT`]).

use crate::isa::{Isa, Job};
use half::bf16;

/// Least magnitude of a number that is kept, 2⁻⁵².
const LEAST: u32 = (127 - 52) << 23;

/// Least magnitude of weights, as the bits of a BF16, that meet these rows without a subnormal number anywhere: 2⁻⁶⁰. Numbers
/// from 2⁻⁵² on are multiples of 2⁻⁵⁹ in BF16, such weights of 2⁻⁶⁷, so products and all of their sums are multiples of
/// 2⁻¹²⁶, the least normal number.
pub(super) const LEAST_WEIGHT: u16 = (127 - 60) << 7;

/// Writes `x` rounded.
pub(super) fn round16(isa: Isa, x: &[f32], out: &mut [bf16]) {
    isa.run(Round { x, out });
}

struct Round<'a> {
    x: &'a [f32],
    out: &'a mut [bf16],
}

impl Job for Round<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        for (x, out) in self.x.iter().zip(self.out) {
            let bits = x.to_bits();
            let magnitude = bits & !(1 << 31);
            let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16;
            // Of what is not a number the upper half might be an infinity.
            let kept = if magnitude > f32::INFINITY.to_bits() { bits >> 16 | 0x40 } else { rounded };
            *out = bf16::from_bits(if magnitude < LEAST { 0 } else { kept as u16 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_as_the_half_crate_rounds_them() {
        let bits = (0..=u32::MAX).step_by(9973).chain([0, 1, 0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001, 0xff80_0000]);
        let x: Vec<f32> = bits.map(f32::from_bits).collect();
        let want: Vec<u16> =
            x.iter().map(|&v| if v.abs() < 2f32.powi(-52) { 0 } else { bf16::from_f32(v).to_bits() }).collect();
        for isa in Isa::available() {
            let mut out = vec![bf16::ZERO; x.len()];
            round16(isa, &x, &mut out);
            assert!(out.iter().map(|v| v.to_bits()).eq(want.iter().copied()), "{isa}");
        }
    }
}
