//! What a model says about itself, read from GGUF metadata. Hugging Face configurations arrive in the same form
//! (see [`crate::hf`]), so there is one way to read them.

use crate::{Error, Output, output::Pooling, rope::Scaling};
use allod_formats::{Metadata, WeightSource};
use allod_plan::{Act, Mask, RopeStyle};

/// The configuration of a model: what nearly all have, and any other key of its architecture by name.
#[derive(Clone, Debug)]
pub struct Config {
    /// GGUF's name of the architecture; the prefix of its keys.
    pub arch: String,
    /// Transformer blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Positions the model was made for.
    pub trained_context: usize,
    /// Positions that this plan is for. RoPE variants that depend on the length use it.
    pub context: usize,
    /// Added to variances.
    pub eps: f32,
    /// Elements of a query or key head.
    pub head_dim: usize,
    /// Elements of a value head.
    pub value_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// Elements of a head that are rotated.
    pub rope_dims: usize,
    /// Context extension.
    pub rope_scaling: Scaling,
    /// The activation function, where the file names one.
    pub act: Option<Act>,
    /// False where rows see what comes after them (`attention.causal`).
    pub causal: bool,
    /// What the plan returns.
    pub output: Output,
    /// How sequences become vectors, where the file says.
    pub pooling: Option<Pooling>,
    heads: Vec<usize>,
    kv_heads: Vec<usize>,
    ff: Vec<usize>,
    meta: Metadata,
}

impl Config {
    /// Reads the configuration of `source` for the architecture named there.
    ///
    /// # Errors
    /// [`Error::Key`] for keys that are missing, of another type, or absurd.
    pub fn read(source: &dyn WeightSource, context: Option<usize>) -> Result<Config, Error> {
        let meta = source.metadata().clone();
        let arch = meta.str("general.architecture").unwrap_or_default().to_owned();
        let keys = Keys { origin: source.origin(), arch: &arch, meta: &meta };
        let layers = keys.need("block_count")?;
        let dim = keys.need("embedding_length")?;
        if layers > MAX_LAYERS {
            return Err(keys.bad("block_count", format!("at most {MAX_LAYERS}"), layers));
        }
        let heads = keys.per_layer("attention.head_count", layers)?.unwrap_or_else(|| vec![0; layers]);
        let kv_heads = keys.per_layer("attention.head_count_kv", layers)?.unwrap_or_else(|| heads.clone());
        let ff = keys.per_layer("feed_forward_length", layers)?.unwrap_or_else(|| vec![0; layers]);
        let most = heads.iter().copied().max().unwrap_or(0);
        let derived = dim.checked_div(most).unwrap_or(0);
        let head_dim = keys.uint("attention.key_length")?.unwrap_or(derived);
        if most > 0 && head_dim == 0 {
            return Err(keys.bad("attention.key_length", "a head size above 0".into(), head_dim));
        }
        let vocab = match source.info("token_embd.weight") {
            Some(i) => i.shape.first().copied().unwrap_or(0),
            None => keys.need("vocab_size")?,
        };
        let trained_context = keys.uint("context_length")?.unwrap_or(DEFAULT_CONTEXT);
        let eps = keys
            .float("attention.layer_norm_rms_epsilon")?
            .or(keys.float("attention.layer_norm_epsilon")?)
            .unwrap_or(1e-5);
        let rope_dims = keys.uint("rope.dimension_count")?.unwrap_or(head_dim);
        if rope_dims > MAX_COUNT {
            return Err(keys.bad("rope.dimension_count", "an even number up to the head size".into(), rope_dims));
        }
        Ok(Config {
            layers,
            dim,
            vocab,
            trained_context,
            context: context.unwrap_or(trained_context),
            eps,
            head_dim,
            value_dim: keys.uint("attention.value_length")?.unwrap_or(head_dim),
            rope_base: keys.float("rope.freq_base")?.unwrap_or(10_000.0),
            rope_dims,
            rope_scaling: Scaling::read(&keys)?,
            act: activation(&keys)?,
            causal: meta.bool(&format!("{arch}.attention.causal")).unwrap_or(true),
            output: Output::default(),
            pooling: Pooling::read(&keys)?,
            heads,
            kv_heads,
            ff,
            arch,
            meta,
        })
    }

    /// Query heads of layer `i`.
    pub fn heads(&self, i: usize) -> usize {
        self.heads.get(i).copied().unwrap_or(0)
    }
    /// Key-value heads of layer `i`; 0 where it does not attend.
    pub fn kv_heads(&self, i: usize) -> usize {
        self.kv_heads.get(i).copied().unwrap_or(0)
    }
    /// Width of the feed-forward part of layer `i`; 0 where it has none.
    pub fn ff(&self, i: usize) -> usize {
        self.ff.get(i).copied().unwrap_or(0)
    }

    /// An unsigned integer among the architecture's keys.
    pub fn uint(&self, key: &str) -> Option<usize> {
        self.meta.uint(&self.key(key)).and_then(|v| v.try_into().ok())
    }
    /// A count among the architecture's keys; 0 where it is absent, and never more than any model has.
    pub fn count(&self, key: &str) -> usize {
        self.uint(key).unwrap_or(0).min(MAX_COUNT)
    }
    /// A number among the architecture's keys.
    pub fn float(&self, key: &str) -> Option<f32> {
        self.meta.float(&self.key(key))
    }
    /// A flag among the architecture's keys.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.meta.bool(&self.key(key))
    }
    /// Integers or flags, one per layer, or one for all.
    pub fn list(&self, key: &str) -> Option<Vec<i64>> {
        self.meta.ints(&self.key(key))
    }
    /// Numbers among the architecture's keys.
    pub fn floats(&self, key: &str) -> Option<Vec<f32>> {
        self.meta.floats(&self.key(key))
    }
    /// A string among the architecture's keys.
    pub fn string(&self, key: &str) -> Option<&str> {
        self.meta.str(&self.key(key))
    }

    /// True where layer `i` has a sliding window: as `attention.sliding_window_pattern` says (a flag per layer, or
    /// every n-th layer sees all), else every `default`-th layer sees all. 1 means that none slides, 0 that all do.
    pub fn slides(&self, i: usize, default: usize) -> bool {
        let key = "attention.sliding_window_pattern";
        let every = match self.list(key) {
            Some(flags) => return flags.get(i).is_some_and(|&f| f != 0),
            None => self.uint(key).unwrap_or(default),
        };
        self.uint("attention.sliding_window").is_some_and(|w| w > 0) && (every == 0 || i % every < every - 1)
    }

    /// The mask of layer `i`: see [`Config::slides`].
    pub fn mask(&self, i: usize, default: usize) -> Mask {
        self.mask_if(self.slides(i, default))
    }

    /// The mask of a layer that slides or does not. Where rows see both sides, half of the window lies on each.
    pub fn mask_if(&self, slides: bool) -> Mask {
        match (self.uint("attention.sliding_window"), self.causal) {
            (Some(w @ 1..), true) if slides => Mask::Window(w),
            (Some(w @ 1..), false) if slides => Mask::Local(w / 2),
            (_, true) => Mask::Causal,
            (_, false) => Mask::Full,
        }
    }

    /// The model's rotary positions.
    pub fn rope(&self, style: RopeStyle) -> crate::blocks::RopeSpec {
        crate::blocks::RopeSpec {
            dims: self.rope_dims,
            base: self.rope_base,
            scaling: self.rope_scaling.clone(),
            style,
            factors: true,
        }
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }
}

/// More blocks than any model has: a bound on what a header can make us record.
const MAX_LAYERS: usize = 4096;
/// More heads, experts or channels than any model has, and few enough that products of them fit.
const MAX_COUNT: usize = 1 << 20;
/// Positions assumed when a model does not say.
const DEFAULT_CONTEXT: usize = 2048;

/// The architecture's keys with errors that name them.
pub struct Keys<'a> {
    pub(crate) origin: String,
    pub(crate) arch: &'a str,
    pub(crate) meta: &'a Metadata,
}

impl Keys<'_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    pub(crate) fn bad(&self, key: &str, expected: String, found: impl std::fmt::Display) -> Error {
        Error::Key { origin: self.origin.clone(), key: self.full(key), expected, found: found.to_string() }
    }

    pub(crate) fn uint(&self, key: &str) -> Result<Option<usize>, Error> {
        let full = self.full(key);
        match self.meta.get(&full) {
            None => Ok(None),
            Some(v) => match self.meta.uint(&full).and_then(|v| usize::try_from(v).ok()) {
                Some(n) if n <= u32::MAX as usize => Ok(Some(n)),
                _ => Err(self.bad(key, "an unsigned integer".into(), describe(v))),
            },
        }
    }

    pub(crate) fn need(&self, key: &str) -> Result<usize, Error> {
        match self.uint(key)? {
            Some(n) if n > 0 => Ok(n),
            Some(n) => Err(self.bad(key, "a number above 0".into(), n)),
            None => Err(self.bad(key, "an unsigned integer".into(), "no such key")),
        }
    }

    pub(crate) fn float(&self, key: &str) -> Result<Option<f32>, Error> {
        let full = self.full(key);
        match self.meta.get(&full) {
            None => Ok(None),
            Some(v) => match self.meta.float(&full) {
                Some(x) if x.is_finite() => Ok(Some(x)),
                _ => Err(self.bad(key, "a finite number".into(), describe(v))),
            },
        }
    }

    /// One number for all layers or an array with one for each.
    fn per_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>, Error> {
        let full = self.full(key);
        let Some(list) = self.meta.ints(&full) else {
            return Ok(self.uint(key)?.map(|n| vec![n; layers]));
        };
        if list.len() < layers {
            return Err(self.bad(key, format!("{layers} numbers, one per layer"), format!("{} numbers", list.len())));
        }
        let numbers = list.iter().map(|&n| usize::try_from(n).ok().filter(|&n| n <= u32::MAX as usize));
        match numbers.collect::<Option<Vec<usize>>>() {
            Some(v) => Ok(Some(v)),
            None => Err(self.bad(key, "unsigned integers".into(), format!("{list:?}"))),
        }
    }
}

/// `hidden_activation`, by Transformers' names.
fn activation(keys: &Keys<'_>) -> Result<Option<Act>, Error> {
    let key = "hidden_activation";
    Ok(Some(match keys.meta.str(&keys.full(key)) {
        None => return Ok(None),
        Some("gelu") => Act::Gelu,
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Act::GeluTanh,
        Some("quick_gelu") => Act::GeluQuick,
        Some("relu") => Act::Relu,
        Some("relu2") => Act::Relu2,
        Some("silu" | "swish") => Act::Silu,
        Some("tanh") => Act::Tanh,
        Some(other) => {
            let known = "gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, quick_gelu, relu, relu2, silu, swish or tanh";
            return Err(keys.bad(key, known.into(), format!("{other:?}")));
        }
    }))
}

fn describe(v: &allod_formats::Value) -> String {
    let mut s = format!("{v:?}");
    if let Some((cut, _)) = s.char_indices().nth(60) {
        s.truncate(cut);
        s.push('…');
    }
    s
}
