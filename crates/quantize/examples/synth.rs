//! `cargo run --release -p allod-quantize --example synth -- SHAPE TYPE OUT [SEED]`
use allod_kernels::pool::Pool;
use allod_quantize::synth;
use std::{path::Path, process::ExitCode, time::Instant};

#[expect(clippy::print_stderr, reason = "a command")]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [shape, kind, out, rest @ ..] = args.as_slice() else {
        let names: Vec<&str> = synth::SHAPES.iter().map(|s| s.name).collect();
        eprintln!("usage: synth SHAPE TYPE OUT [SEED]\nshapes: {}", names.join(", "));
        return ExitCode::FAILURE;
    };
    let seed = rest.first().and_then(|s| s.parse().ok()).unwrap_or(0);
    let pool = Pool::new(std::thread::available_parallelism().map_or(1, usize::from));
    let start = Instant::now();
    match synth::write(shape, kind, Path::new(out), seed, &pool) {
        Ok(bytes) => {
            let seconds = start.elapsed().as_secs_f64();
            eprintln!("{} MB in {seconds:.1} s, {:.0} MB/s", bytes / 1_000_000, bytes as f64 / 1e6 / seconds);
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
