//! Products with quantized weights: the same bytes on every instruction set, and as near to the product in f32 as the
//! rounding of the input to eight bits allows.

use super::linear::{bits, noise, product};
use allod_codec as codec;
use allod_kernels::{
    act::{Act, Glu},
    isa::Isa,
    linear::{Gated, Input, Scratch, Weights, gated},
    pool::Pool,
};
use allod_tensor::{DType, Tensor};
use half::f16;
use proptest::prelude::*;

/// Every quantized type of weights, and where in a block its half-precision numbers lie.
const TYPES: &[(DType, &[usize])] = &[
    (DType::Q4_0, &[0]),
    (DType::Q4_1, &[0, 2]),
    (DType::Q5_0, &[0]),
    (DType::Q5_1, &[0, 2]),
    (DType::Q8_0, &[0]),
    (DType::Q2_K, &[80, 82]),
    (DType::Q3_K, &[108]),
    (DType::Q4_K, &[0, 2]),
    (DType::Q5_K, &[0, 2]),
    (DType::Q6_K, &[208]),
    (DType::IQ1_S, &[0]),
    (DType::IQ1_M, &[]),
    (DType::IQ2_XXS, &[0]),
    (DType::IQ2_XS, &[0]),
    (DType::IQ2_S, &[0]),
    (DType::IQ3_XXS, &[0]),
    (DType::IQ3_S, &[0]),
    (DType::IQ4_NL, &[0]),
    (DType::IQ4_XS, &[0]),
    (DType::TQ1_0, &[52]),
    (DType::TQ2_0, &[64]),
    (DType::MXFP4, &[]),
    (DType::NVFP4, &[]),
    (DType::Q1_0, &[0]),
    (DType::Q2_0, &[0]),
];

/// A matrix of random bits under scales of ordinary size, positive and negative.
pub(crate) fn random(dtype: DType, halves: &[usize], shape: &[usize], seed: u64) -> Tensor {
    let size = Tensor::bytes_of(dtype, shape).unwrap();
    let mut data: Vec<u8> = noise(seed, size).iter().map(|v| (v * 12345.6).to_bits() as u8).collect();
    let scales = noise(seed ^ 77, size);
    for (block, scale) in data.chunks_exact_mut(dtype.block_bytes()).zip(scales.chunks(2)) {
        for (&at, &v) in halves.iter().zip(scale) {
            block[at..at + 2].copy_from_slice(&f16::from_f32(v * 0.01).to_le_bytes());
        }
        match dtype {
            DType::MXFP4 => block[0] = 115 + block[0] % 8,
            DType::NVFP4 => block[..4].iter_mut().for_each(|s| *s = 16 + *s % 32),
            // The scale's exponent is spread over the upper bits of the last two words.
            DType::IQ1_M => (block[53], block[55]) = (block[53] & 15, block[55] & 15 | 0x10),
            _ => {}
        }
    }
    Tensor::new(dtype, shape, data.into()).unwrap()
}

/// Rows with a few large numbers, as activations have.
fn activations(seed: u64, n: usize) -> Vec<f32> {
    noise(seed, n).iter().enumerate().map(|(i, v)| if i % 97 == 13 { v * 8.0 } else { *v }).collect()
}

/// Rows of which each 16 numbers hold some that are as large as any, all of one sign.
fn heaped(seed: u64, n: usize) -> Vec<f32> {
    let noise = noise(seed, n);
    let of = |i: usize| {
        let first = noise[i / 16 * 16];
        match i % 16 {
            at if at < (first.abs() * 1000.0) as usize % 14 => 127.0 * first.signum(),
            at if at < 14 => (noise[i] * 9.0).round(),
            _ => 0.0,
        }
    };
    (0..n).map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_instruction_set_and_thread_count_gives_the_same_bytes(
        kind in 0..TYPES.len(), rows in 1..70usize, blocks in 1..5usize, t in 1..41usize, threads in 1..5usize, seed: u64,
    ) {
        let (dtype, halves) = TYPES[kind];
        let cols = dtype.block() * if dtype.block() == 32 { blocks * 5 } else { blocks };
        let tensor = random(dtype, halves, &[rows, cols], seed);
        let w = Weights::pack(&tensor, &Pool::new(2)).unwrap();
        let x = activations(seed ^ 9, t * cols);
        let expected = product(&Pool::new(1), Isa::Scalar, &w, &x, t, None);
        let pool = Pool::new(threads);
        for isa in Isa::available().skip(1) {
            prop_assert_eq!(bits(&product(&pool, isa, &w, &x, t, None)), bits(&expected), "{} {}", dtype, isa);
        }
        let last = product(&pool, Isa::best(), &w, &x[(t - 1) * cols..], 1, None);
        prop_assert_eq!(bits(&last), bits(&expected[(t - 1) * rows..]), "alone or in a batch");
    }

    #[test]
    fn gated_products_are_two_products_and_their_join(
        kinds in [0..TYPES.len(), 0..TYPES.len()], alike: bool, rows in 1..70usize, t in 1..100usize, threads in 1..4usize,
        seed: u64,
    ) {
        let pool = Pool::new(threads);
        let matrix = |kind: usize, seed| {
            let (dtype, halves) = TYPES[kind];
            Weights::pack(&random(dtype, halves, &[rows, 512], seed), &pool).unwrap()
        };
        let (gate, up) = (matrix(kinds[0], seed), matrix(kinds[usize::from(!alike)], seed ^ 1));
        let (x, bias) = (activations(seed ^ 9, t * 512), noise(seed ^ 2, rows));
        for isa in Isa::available() {
            let mut expected = product(&pool, isa, &gate, &x, t, Some(&bias));
            Glu::Act(Act::Silu).apply(isa, &mut expected, &product(&pool, isa, &up, &x, t, None));
            let (mut y, mut scratch) = (vec![f32::NAN; t * rows], Scratch::new());
            let mut input = Input::new(&mut scratch, &x, t, 512);
            let glu = Glu::Act(Act::Silu);
            gated(&pool, isa, &mut input, &mut Gated { gate: (&gate, Some(&bias)), up: (&up, None), glu, y: &mut y, stride: rows });
            prop_assert_eq!(bits(&y), bits(&expected), "{} and {} on {}", gate.dtype(), up.dtype(), isa);
        }
    }
}

/// Kernels add in 16 bits where what the block says of its integers lets them: sums must be right up to that edge and
/// beyond it.
#[test]
fn sums_near_the_end_of_16_bits_are_exact() {
    let (pool, rows, t) = (Pool::new(1), 37, 200);
    for &(dtype, halves) in TYPES {
        let cols = 2 * dtype.block().max(256);
        let x = heaped(3, t * cols);
        for extreme in [0x00, 0xff] {
            let plain = random(dtype, halves, &[rows, cols], 1);
            let mut data = plain.data.to_vec();
            for (block, plain) in data.chunks_exact_mut(dtype.block_bytes()).zip(plain.data.chunks(dtype.block_bytes()))
            {
                // All but what is a scale, which is the first byte of the types without half-precision numbers.
                let scales = halves.iter().map(|&at| at..at + 2).chain(std::iter::once(0..1));
                block.fill(extreme);
                scales.for_each(|range| block[range.clone()].copy_from_slice(&plain[range]));
            }
            let w = Weights::pack(&Tensor::new(dtype, [rows, cols], data.into()).unwrap(), &pool).unwrap();
            let expected = product(&pool, Isa::Scalar, &w, &x, t, None);
            for isa in Isa::available().skip(1) {
                assert_eq!(
                    bits(&product(&pool, isa, &w, &x, t, None)),
                    bits(&expected),
                    "{dtype} of {extreme} on {isa}"
                );
            }
        }
    }
}

#[test]
fn packed_weights_are_the_files_numbers_in_as_many_bytes() {
    let pool = Pool::new(2);
    for &(dtype, halves) in TYPES {
        let (rows, cols) = (37, dtype.block() * 11);
        let tensor = random(dtype, halves, &[rows, cols], 5);
        let w = Weights::pack(&tensor, &pool).unwrap();
        assert_eq!(w.packed_bytes().len(), tensor.data.len());
        let again = Weights::from_packed(dtype, 1, rows, cols, w.packed_bytes().clone()).unwrap();
        let (mut expected, mut row) = (vec![0.0; cols], vec![0.0; cols]);
        for (r, bytes) in tensor.data.chunks_exact(tensor.row_bytes()).enumerate() {
            codec::decode(dtype, bytes, &mut expected).unwrap();
            again.decode_row(0, r, &mut row);
            assert_eq!(bits(&row), bits(&expected), "{dtype} row {r}");
        }
    }
}

/// An input `x` becomes `s q` with `|x - s q| <= s / 2`, `s` the block's greatest magnitude over 127, so a sum errs by at
/// most `Σ |w| s / 2`. The errors are as good as independent and even, of variance `s² / 12` each: none of some
/// thousands of sums should err by more than six of its standard deviations. On top comes the rounding of f32.
#[test]
fn errors_are_those_of_rounding_the_input_to_eight_bits() {
    let pool = Pool::new(2);
    for &(dtype, halves) in TYPES {
        let (rows, cols, t) = (48, 2048, 24);
        let tensor = random(dtype, halves, &[rows, cols], 11);
        let w = Weights::pack(&tensor, &pool).unwrap();
        let x = activations(12, t * cols);
        let y = product(&pool, Isa::best(), &w, &x, t, None);
        // Types of 32 columns a block see the input in blocks of 32, the others in blocks of 256.
        let block = if dtype.block() == 32 { 32 } else { 256 };
        let mut numbers = vec![0.0; cols];
        let mut worst = 0.0f64;
        for (r, bytes) in tensor.data.chunks_exact(tensor.row_bytes()).enumerate() {
            codec::decode(dtype, bytes, &mut numbers).unwrap();
            for (i, x) in x.chunks_exact(cols).enumerate() {
                let (mut exact, mut most, mut variance, mut size) = (0.0, 0.0, 0.0, 0.0);
                for (x, w) in x.chunks_exact(block).zip(numbers.chunks_exact(block)) {
                    let s = f64::from(x.iter().fold(0.0f32, |m, v| m.max(v.abs()))) / 127.0;
                    for (&x, &w) in x.iter().zip(w) {
                        let (x, w) = (f64::from(x), f64::from(w));
                        exact += x * w;
                        most += w.abs() * s / 2.0;
                        variance += w * w * s * s / 12.0;
                        size += (x * w).abs();
                    }
                }
                let error = (f64::from(y[i * rows + r]) - exact).abs();
                // f32: two roundings for each of 64 blocks, on sums that minima may make a few times as large.
                let float = size * 64.0 * 2.0 * 4.0 * 2f64.powi(-24);
                assert!(error <= most + float, "{dtype} [{i}, {r}]: error {error}, at most {most}");
                assert!(error <= 6.0 * variance.sqrt() + float, "{dtype} [{i}, {r}]: {error}, σ {}", variance.sqrt());
                worst = worst.max(error / variance.sqrt());
            }
        }
        // Types whose products run in f32 err far less; those in eight bits must show that they were measured.
        assert!(!(0.1..=2.0).contains(&worst), "{dtype}: {worst} standard deviations");
    }
}

#[test]
fn numbers_that_are_not_finite_stay_in_their_row() {
    let pool = Pool::new(2);
    for &(dtype, halves) in TYPES {
        let (rows, cols) = (20, dtype.block() * 8);
        let w = Weights::pack(&random(dtype, halves, &[rows, cols], 3), &pool).unwrap();
        let clean = noise(4, 4 * cols);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = clean.clone();
            x[cols + 7] = bad;
            for isa in Isa::available() {
                let (y, expected) = (product(&pool, isa, &w, &x, 4, None), product(&pool, isa, &w, &clean, 4, None));
                for t in [0, 2, 3] {
                    assert_eq!(bits(&y[t * rows..][..rows]), bits(&expected[t * rows..][..rows]), "{dtype} {isa}");
                }
                assert!(y[rows..2 * rows].iter().any(|v| !v.is_finite()), "{dtype} {isa}: {bad} is gone");
            }
        }
    }
}

#[test]
fn extreme_inputs_give_numbers() {
    let pool = Pool::new(1);
    for &(dtype, halves) in TYPES {
        let (rows, cols) = (16, dtype.block() * 2);
        let w = Weights::pack(&random(dtype, halves, &[rows, cols], 3), &pool).unwrap();
        for size in [0.0, f32::MIN_POSITIVE, 1e-42, 1e-30, 1e30] {
            let x: Vec<f32> = noise(4, cols).iter().map(|v| v * size).collect();
            let expected = product(&pool, Isa::Scalar, &w, &x, 1, None);
            assert!(expected.iter().all(|v| v.is_finite()), "{dtype} {size}");
            for isa in Isa::available() {
                assert_eq!(bits(&product(&pool, isa, &w, &x, 1, None)), bits(&expected), "{dtype} {isa} {size}");
            }
        }
    }
}
