//! Encodes texts for comparisons: `tokenizer VOCABULARY [--through-gguf] [--folder OUT]`, where VOCABULARY is a GGUF file
//! or a folder. Reads a JSON string a line and prints an object a line: `ids` with special tokens parsed and added,
//! `parsed` with none added, `plain` with special tokens as text, and the `text` of `parsed`. With `--through-gguf` the
//! folder's tokenizer is brought into GGUF's keys and back first. With `--folder` a GGUF file's tokenizer is written to
//! OUT as well.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use allod_formats::{Gguf, WeightSource};
use allod_text::tokenizer::{to_folder, to_gguf};
use allod_text::{Special, Tokenizer};
use serde_json::json;
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = Path::new(arguments.first().ok_or("usage: tokenizer VOCABULARY [--through-gguf] [--folder OUT]")?);
    let tokenizer = match (path.is_dir(), arguments.iter().any(|a| a == "--through-gguf")) {
        (true, true) => Tokenizer::from_gguf(&to_gguf(path)?)?,
        (true, false) => Tokenizer::from_folder(path)?,
        (false, _) => {
            let file = Gguf::open(path)?;
            if let Some(at) = arguments.iter().position(|a| a == "--folder") {
                let out = Path::new(arguments.get(at + 1).ok_or("--folder needs a place")?);
                std::fs::create_dir_all(out)?;
                to_folder(file.metadata(), out)?;
            }
            Tokenizer::from_gguf(file.metadata())?
        }
    };
    for line in std::io::stdin().lines() {
        let text: String = serde_json::from_str(&line?)?;
        let ids = tokenizer.encode(&text, Special { parse: true, add: true })?;
        let parsed = tokenizer.encode(&text, Special::PARSE)?;
        let plain = tokenizer.encode(&text, Special::NONE)?;
        let text = tokenizer.decode(&parsed, false);
        println!("{}", json!({"ids": ids, "parsed": parsed, "plain": plain, "text": text}));
    }
    Ok(())
}
