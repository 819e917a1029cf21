use allod_kernels::{
    isa::Isa,
    linear::{From, Input, Product, Routes, Scratch, Weights, experts, linear},
    pool::Pool,
};
use allod_tensor::{DType, Tensor};
use half::{bf16, f16};
use proptest::prelude::*;

/// Numbers between -1 and 1 that look random.
pub(crate) fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn tensor(dtype: DType, shape: &[usize], values: &[f32]) -> Tensor {
    let data: Vec<u8> = match dtype {
        DType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        DType::F64 => values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&v| v.to_le_bytes()).collect(),
    };
    Tensor::new(dtype, shape, data.into()).unwrap()
}

pub(crate) fn product(pool: &Pool, isa: Isa, w: &Weights, x: &[f32], rows: usize, bias: Option<&[f32]>) -> Vec<f32> {
    let mut y = vec![f32::NAN; rows * w.rows()];
    let (mut scratch, stride) = (Scratch::new(), w.rows());
    let mut input = Input::new(&mut scratch, x, rows, w.cols());
    linear(pool, isa, &mut input, &mut [Product { w, bias, y: &mut y, stride }]);
    y
}

pub(crate) fn bits(y: &[f32]) -> Vec<u32> {
    y.iter().map(|v| v.to_bits()).collect()
}

/// The sum that a product is.
fn chain(w: &[f32], x: &[f32]) -> f32 {
    w.iter().zip(x).fold(0.0, |s, (w, x)| w.mul_add(*x, s))
}

/// The sum that a product with rounded rows is: the second of each two columns comes first.
fn rounded_chain(w: &[f32], x: &[f32]) -> f32 {
    let rounded = |x: f32| if x.abs() < 2f32.powi(-52) { 0.0 } else { bf16::from_f32(x).to_f32() };
    let add = |s: f32, (w, x): (&f32, &f32)| w.mul_add(rounded(*x), s);
    w.chunks(2).zip(x.chunks(2)).fold(0.0, |s, (w, x)| w.iter().zip(x).rev().fold(s, add))
}

const FLOATS: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The definition, written down once more: a chain of fused multiply-adds over the columns, then the bias.
    #[test]
    fn float_products_are_one_chain(
        kind in 0..4usize, rounding: bool, rows in 1..70usize, cols in 1..600usize, t in 1..40usize, threads in 1..5usize, seed: u64,
    ) {
        let dtype = FLOATS[kind];
        let values = noise(seed, rows * cols);
        let mut w = Weights::pack(&tensor(dtype, &[rows, cols], &values), &Pool::new(2)).unwrap();
        if rounding {
            w = w.rounding_input();
        }
        let chain = if rounding && dtype == DType::BF16 { rounded_chain } else { chain };
        let (x, bias) = (noise(seed ^ 1, t * cols), noise(seed ^ 2, rows));
        let mut expected = vec![0.0f32; t * rows];
        let mut row = vec![0.0f32; cols];
        for r in 0..rows {
            w.decode_row(0, r, &mut row);
            for (row, v) in row.iter().zip(&values[r * cols..]) {
                prop_assert!((row - v).abs() <= 1.0 / 256.0);
            }
            for i in 0..t {
                expected[i * rows + r] = chain(&row, &x[i * cols..][..cols]) + bias[r];
            }
        }
        let pool = Pool::new(threads);
        for isa in Isa::available() {
            prop_assert_eq!(bits(&product(&pool, isa, &w, &x, t, Some(&bias))), bits(&expected), "{}", isa);
        }
    }

    /// Where rows are rounded each number of one is off by half a unit in the last of its 8 bits at most, 2⁻⁸ of itself, and
    /// each of the sums by 2⁻²⁴ of what the magnitudes come to.
    #[test]
    fn rounded_products_are_off_by_the_rounding_of_their_rows(
        rows in 1..40usize, cols in 1..600usize, t in 1..20usize, seed: u64,
    ) {
        let pool = Pool::new(1);
        let w = Weights::pack(&tensor(DType::BF16, &[rows, cols], &noise(seed, rows * cols)), &pool).unwrap().rounding_input();
        let x = noise(seed ^ 1, t * cols);
        let y = product(&pool, Isa::best(), &w, &x, t, None);
        let mut row = vec![0.0f32; cols];
        for r in 0..rows {
            w.decode_row(0, r, &mut row);
            for i in 0..t {
                let terms = row.iter().zip(&x[i * cols..]).map(|(w, x)| f64::from(*w) * f64::from(*x));
                let (exact, size) = terms.fold((0.0, 0.0), |(sum, size), v| (sum + v, size + v.abs()));
                let bound = size * (2f64.powi(-8) + (cols as f64 + 1.0) * 2f64.powi(-24));
                prop_assert!((f64::from(y[i * rows + r]) - exact).abs() <= bound);
            }
        }
    }

    #[test]
    fn rows_routed_to_experts_are_products_with_their_matrix(
        rows in 1..40usize, cols in 1..80usize, tokens in 1..30usize, per_token in 1..4usize, seed: u64,
    ) {
        let e = 5;
        let pool = Pool::new(3);
        let w = Weights::pack(&tensor(DType::F32, &[e, rows, cols], &noise(seed, e * rows * cols)), &pool).unwrap();
        let chosen: Vec<u32> =
            noise(seed ^ 3, tokens * per_token).iter().map(|v| ((v + 1.0) * 2.5) as u32 % e as u32).collect();
        let mut routes = Routes::new();
        routes.fill(&chosen, per_token, e);
        let bias = noise(seed ^ 4, e * rows);
        for from in [From::Token, From::Slot] {
            let n = if from == From::Token { tokens } else { tokens * per_token };
            let x = noise(seed ^ 5, n * cols);
            let stride = rows + 3;
            let mut y = vec![7.0; tokens * per_token * stride];
            let mut scratch = Scratch::new();
            let mut input = Input::new(&mut scratch, &x, n, cols);
            let products = &mut [Product { w: &w, bias: Some(&bias), y: &mut y, stride }];
            experts(&pool, Isa::best(), &mut input, from, &routes, products);
            for (slot, &c) in chosen.iter().enumerate() {
                let t = if from == From::Token { slot / per_token } else { slot };
                let part = w.expert(c as usize);
                let bias = &bias[c as usize * rows..][..rows];
                let alone = product(&pool, Isa::Scalar, &part, &x[t * cols..][..cols], 1, Some(bias));
                prop_assert_eq!(bits(&y[slot * stride..][..rows]), bits(&alone));
                prop_assert!(y[slot * stride + rows..][..3].iter().all(|&v| v == 7.0));
            }
        }
    }
}

/// Processors that multiply BF16 themselves take subnormal numbers for zero: where that could show, they are not asked.
#[test]
fn the_smallest_weights_of_bf16_count() {
    let pool = Pool::new(1);
    let (rows, cols, t) = (32, 301, 10);
    for scale in -134..=-55 {
        let values: Vec<f32> =
            noise(3, rows * cols).iter().map(|v| v * 2f32.powi(scale / 2) * 2f32.powi(scale - scale / 2)).collect();
        let w = Weights::pack(&tensor(DType::BF16, &[rows, cols], &values), &pool).unwrap().rounding_input();
        let x: Vec<f32> = noise(4, t * cols).iter().map(|x| x * 2f32.powi(scale % 40)).collect();
        let expected = product(&pool, Isa::Scalar, &w, &x, t, None);
        let mut row = vec![0.0; cols];
        w.decode_row(0, 9, &mut row);
        assert_eq!(expected[9].to_bits(), rounded_chain(&row, &x[..cols]).to_bits());
        for isa in Isa::available() {
            assert_eq!(bits(&product(&pool, isa, &w, &x, t, None)), bits(&expected), "2^{scale} on {isa}");
        }
    }
}

#[test]
fn several_products_share_one_input() {
    let pool = Pool::new(2);
    let (cols, t) = (96, 5);
    let x = noise(1, t * cols);
    let ws: Vec<Weights> = [(DType::F32, 40), (DType::F16, 16), (DType::BF16, 7)]
        .into_iter()
        .map(|(d, rows)| Weights::pack(&tensor(d, &[rows, cols], &noise(rows as u64, rows * cols)), &pool).unwrap())
        .collect();
    let mut ys: Vec<Vec<f32>> = ws.iter().map(|w| vec![0.0; t * w.rows()]).collect();
    let mut products: Vec<Product> =
        ws.iter().zip(&mut ys).map(|(w, y)| Product { w, bias: None, y, stride: w.rows() }).collect();
    let mut scratch = Scratch::new();
    linear(&pool, Isa::best(), &mut Input::new(&mut scratch, &x, t, cols), &mut products);
    for (w, y) in ws.iter().zip(&ys) {
        assert_eq!(bits(y), bits(&product(&pool, Isa::Scalar, w, &x, t, None)));
    }
}

#[test]
fn what_is_no_matrix_is_refused() {
    let pool = Pool::new(1);
    assert!(Weights::pack(&tensor(DType::F32, &[4], &[0.0; 4]), &pool).is_err());
    let ids = Tensor::new(DType::I32, [2, 2], vec![0u8; 16].into()).unwrap();
    assert!(Weights::pack(&ids, &pool).is_err());
    assert!(Weights::from_packed(DType::F16, 1, 2, 3, vec![0u8; 13].into()).is_err());
    assert!(Weights::from_packed(DType::F32, 1, usize::MAX, 3, vec![0u8; 12].into()).is_err());
}
