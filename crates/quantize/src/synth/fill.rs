//! Random blocks of every type, made as bytes: random codes under scales that give the values a wanted spread.

use allod_formats::codec;
use allod_tensor::DType;

/// SplitMix64 (Steele, Lea, Flood 2014): fast, and any number is a good seed.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from [-1, 1).
    pub(super) fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

/// How a type stores the scales of a block.
#[derive(Clone, Copy)]
enum Scales {
    /// In half precision at this byte.
    Half(usize),
    /// As above, followed by a minimum that is this many times the scale.
    HalfAndMin(usize, f32),
    /// IQ1_M: a half-precision number in the upper quarters of four words.
    Quarters(usize),
    /// A power of two.
    E8M0,
    /// Four numbers of eight bits.
    E4M3,
    /// None: the values are numbers themselves.
    None,
}

fn scales(dtype: DType) -> Scales {
    use DType::*;
    match dtype {
        F32 | F16 | BF16 | F64 | I8 | I16 | I32 | I64 => Scales::None,
        Q4_1 => Scales::HalfAndMin(0, -7.5),
        Q5_1 => Scales::HalfAndMin(0, -15.5),
        Q2_K => Scales::HalfAndMin(80, 1.5),
        Q4_K => Scales::HalfAndMin(0, 7.5),
        Q5_K => Scales::HalfAndMin(0, 15.5),
        Q3_K => Scales::Half(108),
        Q6_K => Scales::Half(208),
        TQ1_0 => Scales::Half(52),
        TQ2_0 => Scales::Half(64),
        IQ1_M => Scales::Quarters(48),
        MXFP4 => Scales::E8M0,
        NVFP4 => Scales::E4M3,
        _ => Scales::Half(0),
    }
}

/// Different scales in one tensor: blocks take turns at random.
const VARIANTS: usize = 16;

/// Makes blocks of one type whose values have a root mean square near `sigma`.
pub(super) struct Filler {
    dtype: DType,
    scales: Scales,
    /// The bytes of each variant's scales.
    bytes: [[u8; 4]; VARIANTS],
    sigma: f32,
}

impl Filler {
    pub(super) fn new(dtype: DType, sigma: f32) -> Filler {
        let mut filler = Filler { dtype, scales: scales(dtype), bytes: Default::default(), sigma };
        // What the codes are worth under scales of 1/16 (which every kind of scale can say) tells the scales to use.
        filler.set_scales(1.0 / 16.0);
        let mut sample = vec![0; 64 * dtype.block_bytes()];
        filler.fill(&mut Rng(1), &mut sample);
        let mut values = vec![0.0; 64 * dtype.block()];
        if codec::decode(dtype, &sample, &mut values).is_ok() {
            let square = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64;
            filler.set_scales(sigma / 16.0 / square.sqrt() as f32);
        }
        filler
    }

    fn set_scales(&mut self, d: f32) {
        for (i, bytes) in self.bytes.iter_mut().enumerate() {
            // From 0.7 to 1.3 of it.
            let d = d * (0.7 + 0.04 * i as f32);
            let half = |v: f32| half::f16::from_f32(v).to_le_bytes();
            *bytes = match self.scales {
                Scales::Half(_) | Scales::Quarters(_) => [half(d)[0], half(d)[1], 0, 0],
                Scales::HalfAndMin(_, ratio) => [half(d)[0], half(d)[1], half(d * ratio)[0], half(d * ratio)[1]],
                Scales::E8M0 => [(d.log2().round() + 128.0).clamp(1.0, 254.0) as u8; 4],
                Scales::E4M3 => [e4m3(2.0 * d); 4],
                Scales::None => [0; 4],
            };
        }
    }

    /// Fills whole blocks.
    pub(super) fn fill(&self, rng: &mut Rng, out: &mut [u8]) {
        match self.dtype {
            DType::F32 => self.numbers(rng, out, f32::to_le_bytes),
            DType::BF16 => self.numbers(rng, out, |v| ((v.to_bits() >> 16) as u16).to_le_bytes()),
            DType::F16 => self.numbers(rng, out, |v| half::f16::from_f32(v).to_le_bytes()),
            _ => {
                for bytes in out.chunks_mut(8) {
                    bytes.copy_from_slice(&rng.next().to_le_bytes()[..bytes.len()]);
                }
                let mut draw = Rng(rng.next());
                for block in out.chunks_exact_mut(self.dtype.block_bytes()) {
                    self.finish(block, (draw.next() >> 60) as usize);
                }
            }
        }
    }

    fn numbers<const B: usize>(&self, rng: &mut Rng, out: &mut [u8], bytes: impl Fn(f32) -> [u8; B]) {
        let range = self.sigma * 3f32.sqrt();
        for out in out.as_chunks_mut::<B>().0 {
            *out = bytes(rng.signed() * range);
        }
    }

    /// Puts scales into a block of random bytes, and balances codes that lean to one side.
    fn finish(&self, b: &mut [u8], variant: usize) {
        let scale = &self.bytes[variant];
        match self.scales {
            Scales::Half(at) => b[at..at + 2].copy_from_slice(&scale[..2]),
            Scales::HalfAndMin(at, _) => b[at..at + 4].copy_from_slice(scale),
            Scales::Quarters(at) => {
                let d = u16::from_le_bytes([scale[0], scale[1]]);
                for (i, word) in b[at..at + 8].chunks_exact_mut(2).enumerate() {
                    word[1] = word[1] & 15 | (d >> (4 * i) << 4) as u8;
                }
            }
            Scales::E8M0 => b[0] = scale[0],
            Scales::E4M3 => b[..4].copy_from_slice(scale),
            Scales::None => {}
        }
        match self.dtype {
            // A minimum for each scale, equal to it, centres the values.
            DType::Q2_K => b[..16].iter_mut().for_each(|v| *v = (*v & 15) * 17),
            DType::Q4_K | DType::Q5_K => {
                b.copy_within(4..8, 8);
                b[12..16].iter_mut().for_each(|v| *v = (*v & 15) * 17);
            }
            // Codes are -1, 0, 1, 2: the last becomes 0.
            DType::Q2_0 => b[2..].iter_mut().for_each(|v| *v ^= (*v & (*v >> 1) & 0x55) * 2),
            _ => {}
        }
    }
}

/// The bits of the E4M3 number nearest to `v`, which is positive; at least the smallest, at most the greatest.
fn e4m3(v: f32) -> u8 {
    let value = |x: u8| match x >> 3 {
        0 => f32::from(x) / 512.0,
        e => (1.0 + f32::from(x & 7) / 8.0) * 2f32.powi(i32::from(e) - 7),
    };
    let distance = |x: &u8| (value(*x) - v).abs();
    (1..0x7f).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(1)
}
