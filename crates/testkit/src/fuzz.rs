//! Fuzzing without a fuzzer: bodies that take any bytes and must neither panic nor break a promise, and a driver that
//! feeds them mutations of valid inputs. The bodies suit libFuzzer as they are.

use allod_formats::{Gguf, Llama2c, Safetensors, WeightSource, codec, json};
use allod_tensor::DType;
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    time::{Duration, Instant},
};

/// A GGUF file: what opens has tensors as long as their types say, and they decode.
pub fn gguf(data: &[u8]) {
    if let Ok(model) = Gguf::from_bytes(data.to_vec().into(), "fuzz.gguf") {
        read_all(&model, data.len());
    }
}

/// A llama2.c checkpoint, as [`gguf`].
pub fn llama2c(data: &[u8]) {
    if let Ok(model) = Llama2c::from_bytes(data.to_vec().into(), "fuzz.bin") {
        read_all(&model, data.len());
    }
}

fn read_all(model: &dyn WeightSource, file: usize) {
    let mut total = 0;
    for name in model.names() {
        let tensor = model.tensor(&name).expect("a tensor that is listed is there");
        total += tensor.data.len();
        assert_eq!(model.info(&name).expect("and described").shape, tensor.shape);
        let mut values = vec![0.0; tensor.len()];
        codec::decode(tensor.dtype, &tensor.data, &mut values).expect("and as long as its type says");
    }
    assert!(total <= file, "tensors of {total} bytes in a file of {file}");
}

/// A safetensors file: tensors cover the data without sharing a byte.
pub fn safetensors(data: &[u8]) {
    let Ok(model) = Safetensors::from_bytes(data.to_vec().into(), "fuzz.safetensors") else { return };
    let mut total = 0;
    for (name, entry) in model.entries() {
        let bytes = model.bytes(name).expect("a tensor that is listed is there");
        assert_eq!(entry.dtype.bytes_of(&entry.shape), Some(bytes.len()));
        assert_eq!(model.tensor(name).is_ok(), entry.dtype.tensor_type().is_some());
        total += bytes.len();
    }
    assert!(total <= data.len(), "tensors of {total} bytes in a file of {}", data.len());
}

/// A configuration file: what is strictly valid means the same when it is read as Python reads.
pub fn json_config(data: &[u8]) {
    let path = Path::new("fuzz.json");
    let lenient = json::config(path, data);
    if let Ok(strict) = json::strict(path, data) {
        assert_eq!(lenient.ok(), Some(strict));
    }
}

/// Blocks of the type that the first byte chooses: they decode, and what can be encoded decodes again.
pub fn codec(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let dtype = DType::ALL[usize::from(choice) % DType::ALL.len()];
    let blocks = bytes.len() / dtype.block_bytes();
    let mut values = vec![0.0; blocks * dtype.block()];
    codec::decode(dtype, &bytes[..blocks * dtype.block_bytes()], &mut values).expect("whole blocks decode");
    for &to in codec::ENCODED {
        let whole = values.len() / to.block() * to.block();
        let mut encoded = Vec::new();
        codec::encode(to, &values[..whole], &mut encoded).expect("whole blocks encode");
        codec::decode(to, &encoded, &mut values[..whole]).expect("and decode again");
    }
}

/// Feeds `body` mutations of `seeds`, for `$ALLOD_FUZZ_SECONDS` or else `seconds`, and returns how many.
///
/// # Panics
/// As `body` does, after the input was written to the temporary folder.
#[expect(clippy::print_stderr, reason = "the number of executions, and where the input lies")]
pub fn drive(name: &str, seeds: &[Vec<u8>], seconds: u64, body: impl Fn(&[u8])) -> u64 {
    let seconds = std::env::var("ALLOD_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(seconds);
    let end = Instant::now() + Duration::from_secs(seconds);
    // A long run takes another way each time; a short one the same, so that it fails for everybody or nobody.
    let mut random = Random(if seconds > 60 { u64::from(std::process::id()) } else { 1 });
    let mut executions = 0;
    while Instant::now() < end {
        for _ in 0..100 {
            let input = mutate(seeds, &mut random);
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(&input))) {
                let path = std::env::temp_dir().join(format!("allod-fuzz-{name}-{executions}.bin"));
                let written = std::fs::write(&path, &input);
                eprintln!("fuzz {name}: the input of execution {executions} is at {} ({written:?})", path.display());
                resume_unwind(panic);
            }
            executions += 1;
        }
    }
    eprintln!("fuzz {name}: {executions} executions in {seconds} s");
    executions
}

/// A seed with one to eight changes.
fn mutate(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut data = seeds.get(random.below(seeds.len())).cloned().unwrap_or_default();
    for _ in 0..=random.below(8) {
        let at = random.below(data.len() + 1);
        match random.below(9) {
            0 => data.truncate(at),
            1 => data.insert(at, random.next() as u8),
            2 => drop(data.drain(at..at + random.below((data.len() - at).min(16) + 1))),
            3 => {
                let length = random.below((data.len() - at).min(64) + 1);
                let piece = data[at..at + length].to_vec();
                let to = random.below(data.len() + 1);
                data.splice(to..to, piece);
            }
            4 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                data.truncate(at);
                data.extend(&other[from..]);
            }
            5 => overwrite(&mut data, at, &random.number().to_le_bytes()),
            6 => overwrite(&mut data, at, &(random.number() as u32).to_le_bytes()),
            7 => overwrite(&mut data, at, random.word()),
            _ => overwrite(&mut data, at, &[random.next() as u8]),
        }
    }
    data
}

fn overwrite(data: &mut [u8], at: usize, bytes: &[u8]) {
    data[at..].iter_mut().zip(bytes).for_each(|(d, b)| *d = *b);
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// A number that bounds checks tend to get wrong: near a power of two, or small.
    fn number(&mut self) -> u64 {
        let power = 1u64.checked_shl(self.below(65) as u32).unwrap_or(0);
        power.wrapping_add(self.below(5) as u64).wrapping_sub(2)
    }

    /// A piece of JSON.
    fn word(&mut self) -> &'static [u8] {
        const WORDS: [&str; 12] =
            ["{", "}", "[", "]", "\"", ",", ":", "\\u0000", "-1", "1e999", "NaN", "18446744073709551615"];
        WORDS[self.below(WORDS.len())].as_bytes()
    }
}
