//! A model from nothing: a vocabulary trained on text, and weights drawn at random.

use crate::{Error, data::read, run::order::Random};
use allod_formats::{
    Metadata, TensorInfo,
    gguf::{Layout, Writer},
};
use allod_tensor::DType;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tokenizers::{
    AddedToken, TokenizerImpl,
    decoders::byte_level::ByteLevel as Decoder,
    models::bpe::{BPE, BpeTrainer},
    normalizers::NormalizerWrapper,
    pre_tokenizers::byte_level::ByteLevel,
    processors::{PostProcessorWrapper, template::TemplateProcessing},
};

/// The token that ends a document.
pub const EOS: &str = "<|endoftext|>";

/// The size of a Llama.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Size {
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Elements of a hidden state.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements between the two halves of a feed-forward.
    pub ff: usize,
    /// Positions that the model is made for.
    pub context: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
}

impl Default for Size {
    fn default() -> Size {
        Size { vocabulary: 2048, width: 192, layers: 5, heads: 6, kv_heads: 2, ff: 512, context: 512, rope_theta: 1e4 }
    }
}

/// How weights begin. Norms begin as 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Init {
    /// Normal of deviation 0.02; matrices that write into the residual stream of 0.02 / √(2 · layers) (Radford et al.
    /// 2019).
    #[default]
    Gpt2,
    /// Normal of deviation 1 / √columns; matrices that write into the residual stream zero, so that every layer begins
    /// as the identity.
    FanIn,
}

impl Init {
    /// The deviation of a matrix.
    fn deviation(self, name: &str, columns: usize, layers: usize) -> f64 {
        let into_stream = name.contains("attn_output") || name.contains("ffn_down");
        match (self, into_stream) {
            (Init::Gpt2, false) => 0.02,
            (Init::Gpt2, true) => 0.02 / (2.0 * layers as f64).sqrt(),
            (Init::FanIn, false) => 1.0 / (columns as f64).sqrt(),
            (Init::FanIn, true) => 0.0,
        }
    }
}

impl Size {
    /// Whether such a model can be made.
    ///
    /// # Errors
    /// [`Error::Setting`] that names the first number that does not fit.
    pub fn check(&self) -> Result<(), Error> {
        let head = self.width / self.heads.max(1);
        let all = [
            (self.vocabulary > 256, "vocabulary", "give more than 256: every byte is a token"),
            (self.layers > 0, "layers", "give at least 1"),
            (self.context >= 2, "context", "give at least 2"),
            (self.ff > 0, "ff", "give at least 1, usually 8/3 of the width"),
            (self.heads > 0 && self.width.is_multiple_of(self.heads.max(1)), "width", "give a multiple of the heads"),
            (head.is_multiple_of(2) && head > 0, "heads", "give heads of an even number of elements"),
            (
                self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads.max(1)),
                "kv_heads",
                "give a divisor of the heads",
            ),
        ];
        match all.iter().find(|(good, ..)| !good) {
            Some((_, what, hint)) => Err(Error::setting(*what, "no model has this", *hint)),
            None => Ok(()),
        }
    }

    /// Names and shapes of its tensors, outermost axis first. The head is the embedding table.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (w, head) = (self.width, self.width / self.heads);
        let kv = self.kv_heads * head;
        let mut all = vec![("token_embd.weight".to_owned(), vec![self.vocabulary, w])];
        for i in 0..self.layers {
            let mut layer = |name: &str, shape: Vec<usize>| all.push((format!("blk.{i}.{name}.weight"), shape));
            layer("attn_norm", vec![w]);
            layer("attn_q", vec![w, w]);
            layer("attn_k", vec![kv, w]);
            layer("attn_v", vec![kv, w]);
            layer("attn_output", vec![w, w]);
            layer("ffn_norm", vec![w]);
            layer("ffn_gate", vec![self.ff, w]);
            layer("ffn_up", vec![self.ff, w]);
            layer("ffn_down", vec![w, self.ff]);
        }
        all.push(("output_norm.weight".into(), vec![w]));
        all
    }

    fn metadata(&self, name: &str) -> Metadata {
        let mut meta = Metadata::default();
        meta.set("general.architecture", "llama");
        meta.set("general.type", "model");
        meta.set("general.name", name);
        let mut set = |key: &str, value: usize| meta.set(format!("llama.{key}"), value as u32);
        set("vocab_size", self.vocabulary);
        set("context_length", self.context);
        set("embedding_length", self.width);
        set("block_count", self.layers);
        set("feed_forward_length", self.ff);
        set("attention.head_count", self.heads);
        set("attention.head_count_kv", self.kv_heads);
        set("rope.dimension_count", self.width / self.heads);
        meta.set("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
        meta.set("llama.rope.freq_base", self.rope_theta);
        meta
    }
}

/// Trains a byte-level BPE vocabulary on the texts of `files` and writes it as `tokenizer.json` into `folder`. `marks` are
/// tokens of their own besides the one that ends a document, which with `begins` begins every document too. The vocabulary
/// has exactly `size` tokens if the texts hold enough pairs.
///
/// # Errors
/// [`Error::Data`] for records without text, [`Error::Io`], [`Error::Setting`] when nothing can be trained on.
pub fn train_tokenizer(
    files: &[PathBuf],
    size: usize,
    marks: &[String],
    begins: bool,
    folder: &Path,
) -> Result<usize, Error> {
    let mut texts: Vec<String> = Vec::new();
    for file in files {
        read::records(file, &mut |record| {
            let record = record.map_err(Error::Data)?;
            match record.fields.get("text").and_then(|t| t.as_str()) {
                Some(text) => texts.push(text.to_owned()),
                None => {
                    let problem = record.problem("no text", "pre-training reads text files, or records with text");
                    return Err(Error::Data(problem));
                }
            }
            Ok(())
        })?;
    }
    let special: Vec<AddedToken> =
        std::iter::once(EOS.to_owned()).chain(marks.iter().cloned()).map(|t| AddedToken::from(t, true)).collect();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(size)
        .show_progress(false)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut tokenizer: TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, Decoder> =
        TokenizerImpl::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(Decoder::default()));
    let failed =
        |e: tokenizers::Error| Error::setting("vocabulary", e.to_string(), "give more text, or a smaller vocabulary");
    tokenizer.train(&mut trainer, texts.iter()).map_err(failed)?;
    if begins {
        let id = tokenizer.token_to_id(EOS).unwrap_or_default();
        let template = TemplateProcessing::builder()
            .try_single(format!("{EOS} $A"))
            .and_then(|b| b.special_tokens(vec![(EOS, id)]).build().map_err(|e| e.to_string()))
            .map_err(|e| failed(e.into()))?;
        tokenizer.with_post_processor(Some(template));
    }
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    tokenizer.save(folder.join("tokenizer.json"), false).map_err(failed)?;
    let mut config =
        serde_json::json!({ "eos_token": EOS, "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": begins });
    if begins {
        config["bos_token"] = EOS.into();
    }
    let path = folder.join("tokenizer_config.json");
    std::fs::write(&path, format!("{config:#}\n")).map_err(Error::io(&path))?;
    Ok(tokenizer.get_vocab_size(true))
}

/// Writes a model of random weights with the vocabulary in `folder`. `extra` goes into the metadata.
///
/// # Errors
/// [`Error::Setting`] for sizes that do not fit, [`Error::Tokenizer`], [`Error::Formats`].
pub fn initialize(
    size: &Size,
    folder: &Path,
    name: &str,
    extra: &[(String, allod_formats::Value)],
    (init, seed): (Init, u64),
    path: &Path,
) -> Result<(), Error> {
    size.check()?;
    let mut meta = size.metadata(name);
    for (key, value) in allod_text::tokenizer::to_gguf(folder)?.iter() {
        meta.set(key, value.clone());
    }
    for (key, value) in extra {
        meta.set(key.clone(), value.clone());
    }
    let tensors = size.tensors();
    let announced =
        tensors.iter().map(|(name, shape)| (name.clone(), TensorInfo { dtype: DType::F32, shape: shape.clone() }));
    let mut writer = Writer::create(path, &meta, announced, &Layout::default())?;
    for (i, (name, shape)) in tensors.iter().enumerate() {
        let n: usize = shape.iter().product();
        let mut random = Random::new(seed, i as u64 + 1);
        let values: Vec<f32> = match shape[..] {
            [_, columns] => {
                let deviation = init.deviation(name, columns, size.layers);
                (0..n).map(|_| (normal(&mut random) * deviation) as f32).collect()
            }
            _ => vec![1.0; n],
        };
        writer.append(name, bytemuck::cast_slice(&values))?;
    }
    writer.finish()?;
    Ok(())
}

/// A draw from the standard normal distribution, by the central limit of twelve uniform ones: no function that differs
/// between machines is used.
fn normal(random: &mut Random) -> f64 {
    (0..12).map(|_| (random.next() >> 11) as f64 / (1u64 << 53) as f64).sum::<f64>() - 6.0
}
