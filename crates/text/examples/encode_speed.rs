//! Times encoding a text: `encode_speed TEXT VOCABULARY...`, where a vocabulary is a GGUF file or a folder. Prints one
//! line each: name, seconds to load, best seconds of five to encode, tokens, and whether the text that they decode to
//! gives them again.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use allod_formats::{Gguf, WeightSource};
use allod_text::{Special, Tokenizer};
use std::error::Error;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let text = std::fs::read_to_string(arguments.next().ok_or("usage: encode_speed TEXT VOCABULARY...")?)?;
    for path in arguments {
        let start = Instant::now();
        let tokenizer = load(Path::new(&path))?;
        let loaded = start.elapsed().as_secs_f64();
        let mut best = f64::INFINITY;
        let mut tokens = 0;
        for _ in 0..5 {
            let start = Instant::now();
            tokens = tokenizer.encode(&text, Special::NONE)?.len();
            best = best.min(start.elapsed().as_secs_f64());
        }
        let ids = tokenizer.encode(&text, Special::NONE)?;
        let again = tokenizer.encode(&tokenizer.decode(&ids, false), Special::NONE)?;
        let stable = if again == ids { "stable" } else { "not stable" };
        println!("{path} {loaded:.3} {best:.4} {tokens} {stable}");
    }
    Ok(())
}

fn load(path: &Path) -> Result<Tokenizer, Box<dyn Error>> {
    if path.is_dir() {
        return Ok(Tokenizer::from_folder(path)?);
    }
    Ok(Tokenizer::from_gguf(Gguf::open(path)?.metadata())?)
}
