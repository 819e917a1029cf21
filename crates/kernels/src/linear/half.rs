//! Half precision to single, in a form the compiler turns into vectors.

/// The value of an IEEE half; exact.
#[inline(always)]
pub(super) fn f16_to_f32(h: u16) -> f32 {
    const UP: f32 = f32::from_bits((127 + 112) << 23); // 2^112: what the exponents' biases differ by
    let magnitude = u32::from(h & 0x7fff) << 13;
    let finite = (f32::from_bits(magnitude) * UP).to_bits();
    let bits = if h & 0x7c00 == 0x7c00 { magnitude | 0x7f80_0000 } else { finite };
    f32::from_bits(bits | u32::from(h & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_half_is_what_the_half_crate_says() {
        for h in 0..=u16::MAX {
            let (ours, theirs) = (super::f16_to_f32(h), half::f16::from_bits(h).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{h:#06x}");
        }
    }
}
