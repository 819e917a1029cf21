//! The codec against gguf-py's (goldens made by scripts/goldens/codecs.py) and, where gguf-py has none, against blocks
//! worked out by hand.

use allod_formats::{
    Safetensors,
    codec::{self, ENCODED, decode, encode, f16_to_f32},
};
use allod_tensor::DType;

fn goldens() -> Safetensors {
    Safetensors::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/codecs.safetensors")).unwrap()
}

fn floats(goldens: &Safetensors, name: &str) -> Vec<f32> {
    goldens.bytes(name).unwrap().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The pseudo-random numbers of the script.
fn stream() -> impl Iterator<Item = u64> {
    (1u64..).map(|i| {
        let z = i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

fn checksum(words: impl Iterator<Item = u32>) -> String {
    let sum = words.zip(0u64..).fold(0u64, |sum, (w, i)| sum.wrapping_add((u64::from(w) + 1).wrapping_mul(2 * i + 1)));
    format!("{sum:016x}")
}

fn bits(v: f32) -> u32 {
    if v.is_nan() { 0x7fc0_0000 } else { v.to_bits() }
}

fn decoded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block()];
    decode(dtype, bytes, &mut out).unwrap();
    out
}

/// Types that gguf-py does not decode: tested by hand below.
const BY_HAND: [DType; 4] = [DType::Q8_1, DType::Q8_K, DType::Q1_0, DType::Q2_0];

#[test]
fn decoding_gives_gguf_pys_values() {
    let goldens = goldens();
    let data: Vec<u8> = stream().take(8192).flat_map(u64::to_le_bytes).collect();
    for &dtype in DType::ALL.iter().filter(|d| !BY_HAND.contains(d)) {
        let (ours, theirs) = (
            decoded(dtype, &goldens.bytes(&format!("{dtype}.bytes")).unwrap()),
            floats(&goldens, &format!("{dtype}.values")),
        );
        assert_eq!(ours.len(), theirs.len(), "{dtype}");
        for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(bits(*a), bits(*b), "{dtype}: value {i}: {a} instead of {b}");
        }
        let whole = data.len() / dtype.block_bytes() * dtype.block_bytes();
        let sum = checksum(decoded(dtype, &data[..whole]).into_iter().map(bits));
        assert_eq!(sum, goldens.metadata()[&format!("{dtype}.decode")], "{dtype}: 64 KiB of random blocks");
    }
}

/// The pseudo-random floats of the script.
fn random_floats() -> Vec<f32> {
    let float = |(i, z): (usize, u64)| match i / 256 % 3 {
        0 => f32::from_bits(((z >> 63) << 31 | (107 + (z >> 58 & 31)) << 23 | z & 0x7f_ffff) as u32),
        1 => (z >> 40) as f32 / 16_777_216.0 - 0.5,
        _ => ((z >> 40) % 3) as f32 * (3.0 / 64.0) - 3.0 / 64.0,
    };
    stream().take(3 * 256 * 64).enumerate().map(float).collect()
}

#[test]
fn encoding_gives_gguf_pys_bytes() {
    let goldens = goldens();
    let (special, random) = (floats(&goldens, "special"), random_floats());
    for &dtype in ENCODED.iter().filter(|&&d| d != DType::F32) {
        let mut ours = Vec::new();
        encode(dtype, &special, &mut ours).unwrap();
        let theirs = goldens.bytes(&format!("{dtype}.encoded")).unwrap();
        for (i, (a, b)) in ours.chunks(dtype.block_bytes()).zip(theirs.chunks(dtype.block_bytes())).enumerate() {
            let block = &special[i * dtype.block()..(i + 1) * dtype.block()];
            assert_eq!(a, b, "{dtype}: block {i}, the floats {block:?}");
        }
        assert_eq!(ours.len(), theirs.len());
        ours.clear();
        encode(dtype, &random, &mut ours).unwrap();
        let sum = checksum(ours.iter().map(|&b| b.into()));
        assert_eq!(sum, goldens.metadata()[&format!("{dtype}.encode")], "{dtype}: random floats");
    }
}

/// Half-precision 0.5 and -1.5.
const HALF: [u8; 2] = [0x00, 0x38];
const MINUS_3_2: [u8; 2] = [0x00, 0xbe];

#[test]
fn q1_0_by_hand() {
    let mut block = [0u8; 18];
    block[..2].copy_from_slice(&HALF);
    block[2] = 0b0000_0101;
    block[17] = 0b1000_0000;
    let mut expected = [-0.5; 128];
    for positive in [0, 2, 127] {
        expected[positive] = 0.5;
    }
    assert_eq!(decoded(DType::Q1_0, &block), expected);
    block[..2].copy_from_slice(&MINUS_3_2);
    assert_eq!(decoded(DType::Q1_0, &block), expected.map(|v| -3.0 * v));
}

#[test]
fn q2_0_by_hand() {
    let mut block = [0b01_01_01_01; 18];
    block[..2].copy_from_slice(&HALF);
    block[2] = 0b11_10_01_00;
    block[17] = 0b00_01_10_11;
    let mut expected = [0.0; 64];
    expected[..4].copy_from_slice(&[-0.5, 0.0, 0.5, 1.0]);
    expected[60..].copy_from_slice(&[1.0, 0.5, 0.0, -0.5]);
    assert_eq!(decoded(DType::Q2_0, &block), expected);
}

#[test]
fn q8_1_and_q8_k_by_hand() {
    let mut block = vec![0u8; 36];
    block[..2].copy_from_slice(&HALF);
    block[2..4].copy_from_slice(&MINUS_3_2);
    block[4] = 127;
    block[35] = 0x80;
    let mut expected = [0.0; 32];
    (expected[0], expected[31]) = (63.5, -64.0);
    assert_eq!(decoded(DType::Q8_1, &block), expected);

    let mut block = vec![0u8; 292];
    block[..4].copy_from_slice(&(-0.25f32).to_le_bytes());
    block[4] = 0x80;
    block[259] = 3;
    block[260..].fill(0xff);
    let mut expected = vec![-0.0; 256];
    (expected[0], expected[255]) = (32.0, -0.75);
    assert_eq!(decoded(DType::Q8_K, &block), expected);
}

#[test]
fn sizes_that_disagree_are_refused() {
    let error = decode(DType::Q4_0, &[0; 17], &mut [0.0; 32]).unwrap_err();
    assert_eq!(error.to_string(), "32 values of Q4_0: expected 18 bytes, found 17 bytes");
    let error = decode(DType::Q6_K, &[0; 210], &mut [0.0; 255]).unwrap_err();
    assert_eq!(error.to_string(), "255 values of Q6_K: expected whole blocks, found 210 bytes");
    let error = encode(DType::Q8_0, &[0.0; 33], &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "expected a multiple of 32 values for Q8_0, found 33");
    let error = encode(DType::Q4_K, &[0.0; 256], &mut Vec::new()).unwrap_err();
    assert_eq!(error, codec::Error::NotEncoded(DType::Q4_K));
}

#[test]
fn what_is_not_finite_encodes_to_something_and_never_panics() {
    for v in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, f32::from_bits(1)] {
        for &dtype in ENCODED {
            let mut values = [0.0; 256];
            values[100] = v;
            let mut out = Vec::new();
            encode(dtype, &values, &mut out).unwrap();
            assert_eq!(out.len(), dtype.bytes_for(256).unwrap());
        }
    }
}

#[test]
fn half_precision_is_exact() {
    assert_eq!(f16_to_f32(0x3c00), 1.0);
    assert_eq!(f16_to_f32(0x0001), 2f32.powi(-24));
    assert_eq!(f16_to_f32(0xfbff), -65504.0);
}
