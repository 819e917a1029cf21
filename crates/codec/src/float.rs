//! Half precision and the small helpers that every block type uses.

/// Half to single precision, exactly. Without branches, so that loops over it become vector instructions.
#[inline]
pub fn f16_to_f32(h: u16) -> f32 {
    let magnitude = u32::from(h & 0x7fff);
    // Exponent and mantissa in place; the product moves the bias from 15 to 127 and normalizes small numbers.
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits(0x7780_0000);
    let special = if magnitude >= 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | special | u32::from(h & 0x8000) << 16)
}

#[inline]
pub(crate) fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// Rounds to nearest, ties to even; a NaN becomes quiet.
pub(crate) fn f32_to_bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    if v.is_nan() {
        return (bits >> 16) as u16 | 64;
    }
    ((bits + (0x7fff + (bits >> 16 & 1))) >> 16) as u16
}

/// The half-precision number at byte `at` of a block.
#[inline]
pub(crate) fn f16_at<const B: usize>(block: &[u8; B], at: usize) -> f32 {
    f16_to_f32(u16_at(block, at))
}

#[inline]
pub(crate) fn u16_at<const B: usize>(block: &[u8; B], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

#[inline]
pub(crate) fn u32_at<const B: usize>(block: &[u8; B], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// The bytes of a scale in half precision.
pub(crate) fn f16_bytes(v: f32) -> [u8; 2] {
    half::f16::from_f32(v).to_le_bytes()
}

/// What to multiply by instead of dividing by a scale: 0 for 0, which only a block of zeros has.
pub(crate) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The greatest magnitude.
pub(crate) fn greatest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| if v.abs() > m { v.abs() } else { m })
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_half_agrees_with_the_half_crate() {
        for h in 0..=u16::MAX {
            let (ours, theirs) = (super::f16_to_f32(h), half::f16::from_bits(h).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{h:#06x}");
        }
    }
}
