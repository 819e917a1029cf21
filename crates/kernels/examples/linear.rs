//! Each type's matrix products against what the machine can do: `linear [types] [threads] [isas]`, lists with commas.
//!
//! One input row shows the share of the memory's read bandwidth, 512 rows the share of the multiply-adds.

use allod_kernels::{
    isa::Isa,
    limits,
    linear::{Input, Product, Scratch, Weights, linear},
    pool::Pool,
};
use allod_tensor::{DType, Tensor};
use std::{
    error::Error,
    io::{self, Write},
    time::{Duration, Instant},
};

/// Rows × columns found in Qwen3-0.6B and Llama-3.2-1B.
const SHAPES: [(usize, usize); 4] = [(1024, 3072), (3072, 1024), (2048, 8192), (151_936, 1024)];
/// Bytes of weights that are read in turn, so that one row's product finds none of them in a cache.
const COLD: usize = 160 << 20;
const TYPES: &str =
    "F32,F16,BF16,Q8_0,Q4_K,Q6_K,Q4_0,Q5_K,Q3_K,Q2_K,IQ4_NL,IQ4_XS,MXFP4,Q4_1,Q5_0,Q5_1,IQ2_XXS,IQ3_S,TQ2_0";

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let types = args.next().filter(|a| a != "all").unwrap_or_else(|| TYPES.into());
    let threads = args.next().unwrap_or_else(|| "1,2".into());
    let isas: Vec<Isa> = match args.next() {
        Some(names) => names.split(',').map(str::parse).collect::<Result<_, _>>()?,
        None => Isa::available().filter(|&isa| isa != Isa::Scalar).collect(),
    };
    let rows: Vec<usize> =
        args.next().unwrap_or_else(|| "1,512".into()).split(',').map(str::parse).collect::<Result<_, _>>()?;
    let mut out = io::stdout().lock();
    for threads in threads.split(',') {
        let pool = Pool::new(threads.parse()?);
        for &isa in &isas {
            let (read, int8, f32) = (
                limits::read_bandwidth(&pool, isa),
                limits::int8_products(&pool, isa),
                limits::f32_products(&pool, isa),
            );
            let mark = if isa == Isa::best() { " (dispatch picks this)" } else { "" };
            writeln!(
                out,
                "\n{threads} threads, {isa}{mark}: read {read:.1} GB/s, int8 {int8:.0} GMAC/s, f32 {f32:.0} GMAC/s"
            )?;
            for name in types.split(',') {
                let dtype = DType::from_name(name).ok_or_else(|| format!("there is no type {name}"))?;
                write!(out, "{name:8}")?;
                for shape in SHAPES {
                    for &t in &rows {
                        let (seconds, bytes) = measure(&pool, isa, dtype, shape, t)?;
                        if t == 1 {
                            let rate = bytes as f64 / seconds / 1e9;
                            write!(out, " | {rate:5.1} GB/s {:3.0} %", 100.0 * rate / read)?;
                        } else if shape.0 < 10_000 || t < 100 {
                            let rate = (shape.0 * shape.1 * t) as f64 / seconds / 1e9;
                            let limit = if dtype.is_quantized() { int8 } else { f32 };
                            write!(out, " {rate:4.0} GMAC/s {:3.0} %", 100.0 * rate / limit)?;
                        }
                    }
                    out.flush()?;
                }
                writeln!(out)?;
            }
        }
    }
    Ok(())
}

/// Seconds of the best product (as the limits are those of the best repetition), and bytes of its weights.
fn measure(
    pool: &Pool,
    isa: Isa,
    dtype: DType,
    (rows, cols): (usize, usize),
    t: usize,
) -> Result<(f64, usize), Box<dyn Error>> {
    let bytes = Tensor::bytes_of(dtype, &[rows, cols]).ok_or("a shape that cuts a block")?;
    let copies = if t < 64 { COLD.div_ceil(bytes).max(2) } else { 1 };
    let data: Vec<u8> = (0..bytes).map(|i| (i * 37 % 60) as u8).collect();
    let tensor = Tensor::new(dtype, [rows, cols], data.into())?;
    let copies: Vec<Weights> = (0..copies).map(|_| Weights::pack(&tensor, pool)).collect::<Result<_, _>>()?;
    let x: Vec<f32> = (0..t * cols).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
    let (mut y, mut scratch, mut times) = (vec![0.0; t * rows], Scratch::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(250) || times.len() < 5 {
        for w in &copies {
            let begin = Instant::now();
            let mut input = Input::new(&mut scratch, &x, t, cols);
            linear(pool, isa, &mut input, &mut [Product { w, bias: None, y: &mut y, stride: rows }]);
            times.push(begin.elapsed().as_secs_f64());
        }
    }
    Ok((times.into_iter().fold(f64::INFINITY, f64::min), bytes))
}
