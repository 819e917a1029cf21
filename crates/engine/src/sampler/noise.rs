//! Randomness without a stream: the noise of a token at a position is a function of seed, position and token id alone.
//! So an answer depends neither on its neighbours in a batch nor on what was drawn before, and a draft model that
//! shares the seed shares the noise.

/// Independent families of draws under one seed.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Purpose {
    Token = 0,
    Xtc = 1,
}

/// The noise of one seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noise {
    seed: u64,
}

/// 52 random bits read as the midpoint of one of 2^52 equal cells of (0, 1): exact in `f64`, never 0 or 1.
const CELL: f64 = 1.0 / (1u64 << 52) as f64;

impl Noise {
    pub(crate) fn new(seed: u64) -> Noise {
        Noise { seed }
    }

    fn bits(self, purpose: Purpose, position: u32, id: u32) -> u64 {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        let words = philox4x32([id, position, purpose as u32, 0], key);
        (u64::from(words[1]) << 32 | u64::from(words[0])) >> 12
    }

    /// A uniform draw from (0, 1) for the position as a whole (XTC tosses one coin a token).
    pub(crate) fn coin(self, position: u32) -> f64 {
        (self.bits(Purpose::Xtc, position, 0) as f64 + 0.5) * CELL
    }

    /// `value` plus standard Gumbel noise, or `None` where that certainly stays below `best`. The largest such sum over
    /// all tokens is a draw from the softmax of the values (Gumbel-max).
    pub(crate) fn perturb(self, position: u32, id: u32, value: f64, best: f64) -> Option<f64> {
        let bits = self.bits(Purpose::Token, position, id);
        // -ln(-ln u) <= -ln(1 - u), and the bit length of 1 - u bounds that: most tokens need no logarithm.
        let bit_length = 64 - ((1u64 << 52) - 1 - bits).leading_zeros();
        if value + f64::from(53 - bit_length) * std::f64::consts::LN_2 < best {
            return None;
        }
        let uniform = (bits as f64 + 0.5) * CELL;
        Some(value - libm::log(-libm::log(uniform)))
    }
}

/// Philox 4×32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_answers() {
        // The known-answer file of Random123.
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let answer = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(philox4x32(counter, [0xa409_3822, 0x299f_31d0]), answer);
    }

    #[test]
    fn a_skipped_token_could_not_have_won() {
        let noise = Noise::new(7);
        let mut skipped = 0;
        for position in 0..200 {
            for id in 0..200 {
                let all = noise.perturb(position, id, 0.0, f64::NEG_INFINITY).unwrap();
                for best in [0.5, 2.0, 5.0] {
                    if noise.perturb(position, id, 0.0, best).is_none() {
                        skipped += 1;
                        assert!(all < best);
                    }
                }
            }
        }
        assert!(skipped > 60_000, "the bound hardly ever helps: {skipped}");
    }

    #[test]
    fn gumbel_noise_has_its_mean_and_variance() {
        let noise = Noise::new(42);
        let draws: Vec<f64> = (0..100_000).map(|id| noise.perturb(3, id, 0.0, f64::NEG_INFINITY).unwrap()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / draws.len() as f64;
        assert!((mean - 0.577_215_664_9).abs() < 0.02, "{mean}");
        assert!((variance - std::f64::consts::PI.powi(2) / 6.0).abs() < 0.04, "{variance}");
    }
}
