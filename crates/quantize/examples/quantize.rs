//! `cargo run --release -p allod-quantize --example quantize -- SRC RECIPE OUT [IMATRIX]`: quantizes a model.
use allod_formats::gguf::Split;
use allod_kernels::pool::Pool;
use allod_quantize::{imatrix::Imatrix, recipe, run};
use std::{error::Error, ops::ControlFlow, path::Path, time::Instant};

#[expect(clippy::print_stderr, reason = "a command")]
fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [source, kind, out, rest @ ..] = args.as_slice() else {
        return Err("usage: quantize SRC RECIPE OUT [IMATRIX]".into());
    };
    let source = allod_models::open_source(Path::new(source))?;
    let recipe = recipe::by_name(kind).ok_or("no such recipe")?;
    let statistics = rest.first().map(Imatrix::open).transpose()?;
    let imatrix = statistics.as_ref().zip(rest.first().map(Path::new));
    let choices = recipe.choose_for(&*source, imatrix.is_some(), &recipe::Options::default());
    for warning in run::warnings(&choices, Some(recipe), statistics.as_ref()) {
        eprintln!("warning: {warning:?}");
    }
    let request = run::Request {
        source: &*source,
        choices,
        recipe: recipe.name.into(),
        file_type: recipe.file_type,
        imatrix,
        out: Path::new(out),
        split: Split::Never,
        measure: false,
    };
    let (pool, start) = (Pool::new(std::thread::available_parallelism().map_or(1, usize::from)), Instant::now());
    let report = run::run(&request, &pool, &mut |_| ControlFlow::Continue(()))?;
    let (seconds, bits) = (start.elapsed().as_secs_f64(), report.bits_per_weight());
    eprintln!("{} MB, {bits:.4} bits per weight, {seconds:.1} s", report.bytes_out / 1_000_000);
    Ok(())
}
