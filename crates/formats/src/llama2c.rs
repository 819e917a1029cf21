//! The checkpoints of llama2.c (legacy header, version 0), seen as a GGUF model of architecture `llama`.
//!
//! The file: seven `i32` (width, feed-forward width, layers, heads, KV heads, vocabulary, context; a negative vocabulary
//! says that the output matrix is its own), then all weights in `f32`, kind after kind. RoPE turns neighbouring pairs,
//! as GGUF's `llama` does, so no row changes place. The tokenizer is a second file: the longest token's length, then
//! score, length and bytes of every token.

use crate::{
    Array, Error, Metadata, TensorInfo, WeightSource,
    cursor::Cursor,
    error::{DAMAGED, TRUNCATED},
};
use allod_tensor::{Bytes, DType, Tensor};
use indexmap::IndexMap;
use std::{
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

/// A llama2.c checkpoint. The weights stay in the mapped file.
#[derive(Debug)]
pub struct Llama2c {
    path: PathBuf,
    bytes: Bytes,
    metadata: Metadata,
    tensors: IndexMap<String, (TensorInfo, Range<usize>)>,
}

/// llama2.c's constants, which its files do not hold.
const RMS_EPSILON: f32 = 1e-5;
const ROPE_BASE: f32 = 10000.0;
/// `tokenizer.ggml.token_type` of GGUF.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const NORMAL: i32 = 1;
const BYTE: i32 = 6;

/// Opens a checkpoint, and the tokenizer beside it when there is one: `tok512.bin` for a vocabulary of 512, or
/// `tokenizer.bin`.
///
/// # Errors
/// [`Error`] when a file cannot be read or is malformed.
pub fn open(path: impl AsRef<Path>) -> Result<Llama2c, Error> {
    let path = path.as_ref();
    let mut model = open_weights(path)?;
    let vocabulary = model.metadata.uint("llama.vocab_size").unwrap_or(0);
    let names = [format!("tok{vocabulary}.bin"), "tokenizer.bin".to_owned()];
    if let Some(tokenizer) = names.iter().map(|n| path.with_file_name(n)).find(|p| p.exists()) {
        model.add_tokenizer(&tokenizer)?;
    }
    Ok(model)
}

/// Opens a checkpoint with the tokenizer file given.
///
/// # Errors
/// [`Error`] when a file cannot be read or is malformed.
pub fn open_with(path: impl AsRef<Path>, tokenizer: impl AsRef<Path>) -> Result<Llama2c, Error> {
    let mut model = open_weights(path.as_ref())?;
    model.add_tokenizer(tokenizer.as_ref())?;
    Ok(model)
}

fn open_weights(path: &Path) -> Result<Llama2c, Error> {
    let bytes = File::open(path).and_then(|f| Bytes::map(&f)).map_err(Error::io(path))?;
    Llama2c::from_bytes(bytes, path)
}

/// The header's numbers.
struct Sizes {
    width: usize,
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocabulary: usize,
    context: usize,
    tied: bool,
}

fn read_sizes(c: &mut Cursor) -> Result<Sizes, Error> {
    let mut next = |field: &str, signed: bool| -> Result<i32, Error> {
        let n: i32 = c.scalar(field)?;
        // A file that is none of llama2.c's shows here: the sizes of such models are small.
        let sound = n != i32::MIN && (n > 0 || (signed && n < 0)) && n.unsigned_abs() < 1 << 24;
        if sound {
            return Ok(n);
        }
        let hint = "this is not a llama2.c checkpoint with the legacy header";
        Err(Error::malformed(c.path, field, "a size from 1 to 2^24", n, hint))
    };
    let mut size = |field: &str| next(field, false).map(|n| n as usize);
    let (width, hidden, layers) = (size("dim")?, size("hidden_dim")?, size("n_layers")?);
    let (heads, kv_heads) = (size("n_heads")?, size("n_kv_heads")?);
    let vocabulary = next("vocab_size", true)?;
    let context = next("seq_len", false)? as usize;
    let refuse = |field, expected: String, found| Err(Error::malformed(c.path, field, expected, found, DAMAGED));
    if !width.is_multiple_of(heads) || !(width / heads).is_multiple_of(2) {
        return refuse("dim", format!("an even number of dimensions for each of {heads} heads"), width);
    }
    if !heads.is_multiple_of(kv_heads) {
        return refuse("n_kv_heads", format!("a divisor of {heads} heads"), kv_heads);
    }
    let tied = vocabulary > 0;
    Ok(Sizes { width, hidden, layers, heads, kv_heads, vocabulary: vocabulary.unsigned_abs() as usize, context, tied })
}

impl Sizes {
    fn head(&self) -> usize {
        self.width / self.heads
    }

    /// What lies in the file, in order: GGUF's name (`{}` for the layer, which then repeats for all layers), shape of
    /// one. Without a name: bytes that nobody needs.
    fn weights(&self) -> Vec<(Option<&'static str>, Vec<usize>)> {
        let (d, kv) = (self.width, self.head() * self.kv_heads);
        let mut list = vec![
            (Some("token_embd.weight"), vec![self.vocabulary, d]),
            (Some("blk.{}.attn_norm.weight"), vec![d]),
            (Some("blk.{}.attn_q.weight"), vec![d, d]),
            (Some("blk.{}.attn_k.weight"), vec![kv, d]),
            (Some("blk.{}.attn_v.weight"), vec![kv, d]),
            (Some("blk.{}.attn_output.weight"), vec![d, d]),
            (Some("blk.{}.ffn_norm.weight"), vec![d]),
            (Some("blk.{}.ffn_gate.weight"), vec![self.hidden, d]),
            (Some("blk.{}.ffn_down.weight"), vec![d, self.hidden]),
            (Some("blk.{}.ffn_up.weight"), vec![self.hidden, d]),
            (Some("output_norm.weight"), vec![d]),
            // Tables of cosines and sines, which old versions read.
            (None, vec![self.context, self.head()]),
        ];
        if !self.tied {
            list.push((Some("output.weight"), vec![self.vocabulary, d]));
        }
        list
    }

    fn metadata(&self) -> Metadata {
        let mut m = Metadata::default();
        m.set("general.architecture", "llama");
        for (key, n) in [
            ("llama.vocab_size", self.vocabulary),
            ("llama.context_length", self.context),
            ("llama.embedding_length", self.width),
            ("llama.feed_forward_length", self.hidden),
            ("llama.block_count", self.layers),
            ("llama.attention.head_count", self.heads),
            ("llama.attention.head_count_kv", self.kv_heads),
            ("llama.rope.dimension_count", self.head()),
        ] {
            m.set(key, n as u32);
        }
        m.set("llama.rope.freq_base", ROPE_BASE);
        m.set("llama.attention.layer_norm_rms_epsilon", RMS_EPSILON);
        m
    }
}

impl Llama2c {
    /// Reads a checkpoint that lies in memory. `label` stands for its path in messages.
    ///
    /// # Errors
    /// [`Error`] when the bytes are malformed.
    pub fn from_bytes(bytes: Bytes, label: impl AsRef<Path>) -> Result<Llama2c, Error> {
        let path = label.as_ref();
        let mut c = Cursor::new(path, &bytes);
        let sizes = read_sizes(&mut c)?;
        let mut tensors = IndexMap::new();
        for (name, shape) in sizes.weights() {
            let repeats = if name.is_some_and(|n| n.contains("{}")) { sizes.layers } else { 1 };
            let length = Tensor::bytes_of(DType::F32, &shape).unwrap_or(usize::MAX);
            for layer in 0..repeats {
                let field = name.map_or("RoPE tables".into(), |n| n.replace("{}", &layer.to_string()));
                let begin = c.at();
                c.take(length, format_args!("tensor {field:?} of shape {shape:?}"))?;
                if name.is_some() {
                    let info = TensorInfo { dtype: DType::F32, shape: shape.clone() };
                    tensors.insert(field, (info, begin..c.at()));
                }
            }
        }
        if c.left() > 0 {
            let (expected, found) = (format!("the file to end at {}", c.at()), format!("{} bytes", bytes.len()));
            let hint = "this is not a llama2.c checkpoint with the legacy header";
            return Err(Error::malformed(path, "end of the file", expected, found, hint));
        }
        let path = path.to_owned();
        Ok(Llama2c { path, metadata: sizes.metadata(), bytes, tensors })
    }

    fn add_tokenizer(&mut self, path: &Path) -> Result<(), Error> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let vocabulary = self.metadata.uint("llama.vocab_size").unwrap_or(0) as usize;
        let (tokens, scores) = read_tokens(path, &bytes, vocabulary)?;
        let types = tokens.iter().enumerate().map(|(id, token)| token_type(id, token)).collect();
        let m = &mut self.metadata;
        m.set("tokenizer.ggml.model", "llama");
        m.set("tokenizer.ggml.tokens", tokens);
        m.set("tokenizer.ggml.scores", Array::F32(scores));
        m.set("tokenizer.ggml.token_type", Array::I32(types));
        for (key, id) in [("unknown", 0u32), ("bos", 1), ("eos", 2)] {
            m.set(format!("tokenizer.ggml.{key}_token_id"), id);
        }
        Ok(())
    }
}

fn token_type(id: usize, token: &str) -> i32 {
    match id {
        0 => UNKNOWN,
        1 | 2 => CONTROL,
        _ if token.len() == 6 && token.starts_with("<0x") && token.ends_with('>') => BYTE,
        _ => NORMAL,
    }
}

/// Tokens and scores, brought back to SentencePiece's form: llama2.c writes spaces for `▁` and decorates `<s>`, `</s>`.
fn read_tokens(path: &Path, bytes: &[u8], vocabulary: usize) -> Result<(Vec<String>, Vec<f32>), Error> {
    let mut c = Cursor::new(path, bytes);
    let longest: u32 = c.scalar("length of the longest token")?;
    // A token takes a score and a length at least.
    if vocabulary > c.left() / 8 {
        let (expected, found) = (format!("{vocabulary} tokens"), format!("{} bytes, too few for them", bytes.len()));
        return Err(Error::malformed(path, "tokens", expected, found, TRUNCATED));
    }
    let (mut tokens, mut scores) = (Vec::with_capacity(vocabulary), Vec::with_capacity(vocabulary));
    for id in 0..vocabulary {
        scores.push(c.scalar(format_args!("score of token {id}"))?);
        let length: u32 = c.scalar(format_args!("length of token {id}"))?;
        if length > longest {
            let field = format!("length of token {id}");
            return Err(Error::malformed(path, field, format!("at most {longest}"), length, DAMAGED));
        }
        let token = c.take(length as usize, format_args!("token {id}"))?;
        let Ok(token) = std::str::from_utf8(token) else {
            let found = token.escape_ascii();
            return Err(Error::malformed(path, format!("token {id}"), "UTF-8", found, DAMAGED));
        };
        tokens.push(match id {
            0..=2 => token.trim().to_owned(),
            _ => token.replace(' ', "▁"),
        });
    }
    if c.left() > 0 {
        let found = format!("{} bytes behind them", c.left());
        return Err(Error::malformed(
            path,
            "tokens",
            format!("{vocabulary}, as the weights have"),
            found,
            "it belongs to another model",
        ));
    }
    Ok((tokens, scores))
}

impl WeightSource for Llama2c {
    fn origin(&self) -> String {
        self.path.display().to_string()
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.tensors.get(name).map(|(info, _)| info.clone())
    }

    fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let found = self.tensors.get(name).and_then(|(info, range)| Some((info, self.bytes.slice(range.clone())?)));
        let Some((info, data)) = found else {
            return Err(Error::NoTensor { origin: self.origin(), name: name.into() });
        };
        Ok(Tensor { dtype: info.dtype, shape: info.shape.clone(), data })
    }
}
