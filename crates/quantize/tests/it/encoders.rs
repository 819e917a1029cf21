use crate::numbers;
use allod_formats::codec;
use allod_kernels::isa::Isa;
use allod_quantize::encode::{self, Error, encode};
use allod_tensor::DType;

fn writable() -> impl Iterator<Item = DType> {
    DType::ALL.iter().copied().filter(|&t| encode::is_writable(t))
}

fn bytes(t: DType, columns: usize, x: &[f32], w: Option<&[f32]>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(t, columns, x, w, &mut out).unwrap();
    out
}

/// Squared error over squared values, both weighted.
fn loss(t: DType, x: &[f32], w: &[f32], encoded: &[u8]) -> f64 {
    let mut y = vec![0.0; x.len()];
    codec::decode(t, encoded, &mut y).unwrap();
    let sum = |f: &dyn Fn(usize) -> f64| (0..x.len()).map(|i| f64::from(w[i % w.len()]) * f(i)).sum::<f64>();
    sum(&|i| f64::from(x[i] - y[i]).powi(2)) / sum(&|i| f64::from(x[i]).powi(2))
}

/// What b bits a value can lose at best for a Gaussian source is 2^-2b of its power (Shannon). Scalar quantizers and
/// small codebooks stay above it by a few decibels; an encoder that chooses badly does not.
#[test]
fn losses_stay_near_what_the_bits_allow() {
    let x = numbers(3, 64 * 512, false);
    for t in writable().filter(|t| t.is_quantized()) {
        let found = loss(t, &x, &[1.0], &bytes(t, 512, &x, None));
        let bits = t.bits_per_weight().min(8.0);
        let bound = 2f64.powf(-2.0 * bits);
        // The plain types of gguf-py do not search.
        let factor = if codec::ENCODED.contains(&t) { 12.0 } else { 5.0 };
        assert!(found > bound && found < factor * bound, "{t}: {found:.6} of the power, bound {bound:.6}");
    }
}

#[test]
fn importance_lowers_the_weighted_error_and_costs_only_the_unimportant() {
    let (x, columns) = (numbers(5, 32 * 512, true), 512);
    let w: Vec<f32> = numbers(9, columns, true).iter().map(|v| 0.01 + (v * 60.0).powi(2)).collect();
    for t in writable().filter(|t| t.is_quantized() && !matches!(t, DType::Q8_0 | DType::MXFP4)) {
        if matches!(t, DType::TQ1_0 | DType::TQ2_0) {
            continue;
        }
        let (plain, weighted) = (bytes(t, columns, &x, None), bytes(t, columns, &x, Some(&w)));
        let (a, b) = (loss(t, &x, &w, &plain), loss(t, &x, &w, &weighted));
        assert!(b < a, "{t}: {b} with importance, {a} without");
    }
}

#[test]
fn weights_of_one_are_the_plain_error() {
    let x = numbers(6, 8 * 512, true);
    for t in writable().filter(|t| !codec::ENCODED.contains(t)) {
        assert_eq!(bytes(t, 512, &x, None), bytes(t, 512, &x, Some(&[3.0; 512])), "{t}");
    }
}

#[test]
fn zeros_constants_and_extremes_encode_to_something_finite() {
    let cases: [Vec<f32>; 6] = [
        vec![0.0; 512],
        vec![0.25; 512],
        vec![-3.0; 512],
        (0..512).map(|i| if i == 300 { 1e4 } else { 0.0 }).collect(),
        vec![1e-30; 512],
        (0..512).map(|i| if i % 2 == 0 { 1e30 } else { -1e30 }).collect(),
    ];
    for t in writable().filter(|t| t.is_quantized() && !codec::ENCODED.contains(t)) {
        for (i, x) in cases.iter().enumerate() {
            for w in [None, Some(vec![0.0; 512]), Some((0..512).map(|i| (i % 3) as f32).collect::<Vec<_>>())] {
                let mut y = vec![f32::NAN; 512];
                codec::decode(t, &bytes(t, 512, x, w.as_deref()), &mut y).unwrap();
                assert!(y.iter().all(|v| v.is_finite()), "{t}, case {i}");
                if i == 0 {
                    assert!(y.iter().all(|v| *v == 0.0), "{t}: zeros stay zeros");
                }
            }
        }
    }
}

#[test]
fn whole_multiples_of_a_scale_come_back_exactly() {
    // Codes that use the whole range, under scales that half precision holds.
    for (t, levels) in [(DType::Q4_K, 16), (DType::Q5_K, 32)] {
        let x: Vec<f32> = (0..256).map(|i| 0.125 * (i * 7 % levels - levels / 2) as f32).collect();
        assert!(loss(t, &x, &[1.0], &bytes(t, 256, &x, None)) < 1e-5, "{t}");
    }
}

#[test]
fn bad_rows_are_refused() {
    let mut out = Vec::new();
    let cut = encode(DType::Q4_K, 96, &[0.0; 96], None, &mut out);
    assert_eq!(cut, Err(Error::CutBlock { dtype: DType::Q4_K, columns: 96 }));
    let mut x = [0.0; 256];
    x[7] = f32::INFINITY;
    assert!(matches!(encode(DType::Q4_K, 256, &x, None, &mut out), Err(Error::NotFinite { at: 7, .. })));
    assert!(matches!(encode(DType::Q8_0, 256, &x, None, &mut out), Err(Error::NotFinite { at: 7, .. })));
    let importance = encode(DType::Q4_K, 256, &[0.0; 256], Some(&[1.0; 3]), &mut out);
    assert_eq!(importance, Err(Error::Importance { columns: 256, found: 3 }));
    assert_eq!(encode(DType::Q8_K, 256, &[0.0; 256], None, &mut out), Err(Error::NotEncoded(DType::Q8_K)));
    assert!(out.is_empty());
}

#[test]
fn every_instruction_set_gives_the_same_bytes() {
    let x = numbers(11, 3 * 512, true);
    let w: Vec<f32> = numbers(12, 512, true).iter().map(|v| 0.01 + (v * 60.0).powi(2)).collect();
    for t in writable().filter(|t| t.is_quantized()) {
        for w in [None, Some(&w[..])] {
            let on = |isa| {
                let mut out = Vec::new();
                encode::encode_on(isa, t, 512, &x, w, &mut out).unwrap();
                out
            };
            let plain = on(Isa::Scalar);
            for isa in Isa::available() {
                assert_eq!(on(isa), plain, "{t} on {isa}, weighted: {}", w.is_some());
            }
        }
    }
}

/// Blocks are encoded many at a time, over the ends of rows.
#[test]
fn a_row_has_the_bytes_that_it_has_alone() {
    let x = numbers(13, 5 * 256, true);
    let w: Vec<f32> = numbers(14, 256, true).iter().map(|v| 0.01 + (v * 60.0).powi(2)).collect();
    for t in writable().filter(|t| t.is_quantized()) {
        for w in [None, Some(&w[..])] {
            let alone: Vec<u8> = x.chunks(256).flat_map(|row| bytes(t, 256, row, w)).collect();
            assert_eq!(bytes(t, 256, &x, w), alone, "{t}, weighted: {}", w.is_some());
        }
    }
}
