//! Encodes raw numbers, for comparisons with other encoders:
//! `encode TYPE COLUMNS VALUES.f32 OUT.bin [IMPORTANCE.f32]`; prints million values per second of one thread.
use allod_quantize::encode;
use allod_tensor::DType;
use std::{error::Error, fs, time::Instant};

#[expect(clippy::print_stdout, reason = "a command")]
fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kind, columns, values, to, rest @ ..] = args.as_slice() else {
        return Err("usage: encode TYPE COLUMNS VALUES.f32 OUT.bin [IMPORTANCE.f32]".into());
    };
    let read = |path: &String| -> Result<Vec<f32>, Box<dyn Error>> {
        Ok(fs::read(path)?.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    };
    let dtype = DType::from_name(kind).ok_or("no such type")?;
    let values = read(values)?;
    let importance = rest.first().map(read).transpose()?;
    let mut out = Vec::new();
    let start = Instant::now();
    encode::encode(dtype, columns.parse()?, &values, importance.as_deref(), &mut out)?;
    println!("{:.2}", values.len() as f64 / 1e6 / start.elapsed().as_secs_f64());
    fs::write(to, out)?;
    Ok(())
}
