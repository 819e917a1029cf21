//! Times masks: `mask_speed VOCABULARY.gguf...` walks at random through the two hundred schemas of the tests with each
//! vocabulary. Prints one line each: name, tokens, seconds to prepare, then of compiling and of masks the median, 99th
//! percentile and maximum in microseconds.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use allod_formats::{Gguf, WeightSource};
use allod_text::grammar::{Spec, Vocabulary};
use allod_text::{Grammar, Tokenizer};
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

#[path = "../tests/it/grammar/schemas.rs"]
mod schemas;

/// Tokens of a walk; an answer that long is measured whole.
const TOKENS: usize = 200;

fn main() -> Result<(), Box<dyn Error>> {
    for path in std::env::args().skip(1) {
        let tokenizer = Tokenizer::from_gguf(Gguf::open(Path::new(&path))?.metadata())?;
        let start = Instant::now();
        let vocabulary = Vocabulary::new(&tokenizer)?;
        let prepared = start.elapsed();
        let (mut compiles, mut masks) = (Vec::new(), Vec::new());
        for (n, schema) in schemas::all().into_iter().enumerate() {
            let start = Instant::now();
            let Ok(grammar) = Grammar::compile(&Spec::JsonSchema(schema), &vocabulary) else {
                println!("schema {n}: refused");
                continue;
            };
            compiles.push(start.elapsed());
            walk(&grammar, &tokenizer, n as u64, &mut masks)?;
        }
        let count = masks.len();
        println!(
            "{path} {} {:.3} compile {} mask {} of {count}",
            tokenizer.vocab_size(),
            prepared.as_secs_f64(),
            summary(compiles),
            summary(masks)
        );
    }
    Ok(())
}

fn walk(grammar: &Grammar, tokenizer: &Tokenizer, seed: u64, masks: &mut Vec<Duration>) -> Result<(), Box<dyn Error>> {
    let mut matcher = grammar.matcher();
    let mut bits = vec![0u32; tokenizer.vocab_size().div_ceil(32)];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for _ in 0..TOKENS {
        let start = Instant::now();
        matcher.mask(&mut bits)?;
        masks.push(start.elapsed());
        let is_open = |id: &u32| bits[*id as usize / 32] >> (id % 32) & 1 == 1 && !tokenizer.stop_tokens().contains(id);
        let open: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(is_open).collect();
        if open.is_empty() {
            break;
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        matcher.accept(open[(state >> 33) as usize % open.len()])?;
    }
    Ok(())
}

fn summary(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| times.get(((times.len() - 1) as f64 * share) as usize).map_or(0, Duration::as_micros);
    if times.is_empty() { "none".into() } else { format!("{} {} {}", at(0.5), at(0.99), at(1.0)) }
}
