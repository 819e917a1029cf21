//! Models of real shapes with random weights, for measuring speed without downloading anything. The name of a shape and
//! a type or recipe enter; a GGUF file leaves that any engine loads. The weights' spread keeps activations and logits
//! finite, and distinct enough to sample from. The same arguments give the same bytes.

mod fill;
mod shapes;
mod vocabulary;

pub use shapes::{SHAPES, Shape};

use crate::recipe::{self, Choice, Facts, Options, Recipe};
use allod_formats::{Metadata, TensorInfo, gguf};
use allod_kernels::pool::Pool;
use allod_tensor::{DType, Tensor};
use fill::{Filler, Rng};
use shapes::{Blueprint, Builder};
use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

/// What [`write()`] refuses.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such shape.
    #[error("there is no shape {0:?}; there are: {names}", names = SHAPES.iter().map(|s| s.name).collect::<Vec<_>>().join(", "))]
    Shape(String),
    /// Neither a type nor a recipe.
    #[error("{0:?} is neither a recipe nor a tensor type")]
    Type(String),
    /// The file could not be written.
    #[error(transparent)]
    Format(#[from] allod_formats::Error),
}

/// Tensors are made in pieces of about this many bytes, each from a seed of its own.
const PIECE: usize = 1 << 20;

/// Writes a model. `kind` is a recipe such as `Q4_K_M`, or a type such as `Q4_K` that all matrices get. Returns the
/// size of the tensors in bytes.
///
/// # Errors
/// [`Error`].
pub fn write(shape: &str, kind: &str, out: &Path, seed: u64, pool: &Pool) -> Result<u64, Error> {
    let found = SHAPES.iter().find(|s| s.name.eq_ignore_ascii_case(shape));
    let blueprint = Builder::build(found.ok_or_else(|| Error::Shape(shape.into()))?);
    let (recipe, options) = recipe_of(kind)?;
    let metadata = metadata(&blueprint, shape, kind, recipe);
    let choices = choices(&blueprint, recipe, &options);
    let infos = blueprint.tensors.iter().zip(&choices);
    let infos = infos.map(|((name, shape), to)| (name.clone(), TensorInfo { dtype: *to, shape: shape.clone() }));
    let mut writer = gguf::Writer::create(out, &metadata, infos, &gguf::Layout::default())?;
    let mut total = 0;
    let tied = blueprint.tensors.iter().all(|(n, _)| n != "output.weight");
    for ((name, shape), dtype) in blueprint.tensors.iter().zip(choices) {
        let bytes = Tensor::bytes_of(dtype, shape).unwrap_or(0);
        let source = Source::new(name, shape, dtype, tied, seed);
        let mut buffer = Vec::new();
        for first in (0..bytes).step_by(PIECES_AT_ONCE * source.piece()) {
            buffer.resize((bytes - first).min(PIECES_AT_ONCE * source.piece()), 0);
            source.fill(first / source.piece(), &mut buffer, pool);
            writer.append(name, &buffer)?;
        }
        total += bytes as u64;
    }
    writer.finish()?;
    Ok(total)
}

/// Pieces made in one parallel region.
const PIECES_AT_ONCE: usize = 32;

fn recipe_of(kind: &str) -> Result<(&'static Recipe, Options), Error> {
    if let Some(recipe) = recipe::by_name(kind) {
        return Ok((recipe, Options::default()));
    }
    let dtype = DType::from_name(kind);
    let recipe = dtype.and_then(|t| recipe::RECIPES.iter().find(|r| r.default == t));
    recipe.map(|r| (r, Options { pure: true, ..Options::default() })).ok_or_else(|| Error::Type(kind.into()))
}

/// The type of every tensor, in the blueprint's order.
fn choices(blueprint: &Blueprint, recipe: &Recipe, options: &Options) -> Vec<DType> {
    // The importance of random weights is the same everywhere, so the recipes' choices without it are as good as those
    // with it.
    let facts = Facts::read(&blueprint.metadata, false);
    let info = |shape: &[usize]| TensorInfo { dtype: DType::F32, shape: shape.to_vec() };
    let tensors = blueprint.tensors.iter().map(|(n, s)| (n.clone(), info(s))).collect();
    let chosen: Vec<Choice> = recipe.choose(&facts, tensors, options);
    let by_name: std::collections::HashMap<&str, DType> = chosen.iter().map(|c| (c.name.as_str(), c.to)).collect();
    blueprint.tensors.iter().map(|(n, _)| by_name.get(n.as_str()).copied().unwrap_or(DType::F32)).collect()
}

fn metadata(blueprint: &Blueprint, shape: &str, kind: &str, recipe: &Recipe) -> Metadata {
    let mut m = blueprint.metadata.clone();
    m.set("general.name", format!("{shape} of random weights"));
    m.set("general.type", "model");
    m.set("general.file_type", recipe.file_type);
    m.set("general.quantization_version", 2u32);
    m.set("general.description", format!("random weights in {kind}, for measuring speed"));
    let arch = m.str("general.architecture").unwrap_or_default().to_owned();
    let size = m.uint(&format!("{arch}.vocab_size")).unwrap_or(0);
    vocabulary::add(&mut m, size as usize);
    m
}

/// Makes one tensor.
enum Source {
    /// Random numbers or blocks.
    Random { filler: Filler, seed: u64, piece: usize },
    /// Numbers around a centre, of small tensors in F32.
    Around { centre: f32, spread: f32, seed: u64 },
    /// RoPE's frequency factors.
    RopeFactors { half: usize },
}

impl Source {
    fn new(name: &str, shape: &[usize], dtype: DType, tied: bool, seed: u64) -> Source {
        let hash = blake3::Hasher::new().update(&seed.to_le_bytes()).update(name.as_bytes()).finalize();
        let seed = hash.as_bytes().first_chunk().map_or(seed, |b| u64::from_le_bytes(*b));
        let around = |centre, spread| Source::Around { centre, spread, seed };
        let part = name.rsplit_once("blk.").map_or(name, |(_, rest)| rest);
        if name == "rope_freqs.weight" {
            return Source::RopeFactors { half: shape[0] };
        }
        match part.split_once('.').map_or(part, |(_, rest)| rest) {
            "ssm_a" => around(-4.5, 3.5),
            "ssm_d" => around(1.0, 0.2),
            "ssm_dt.bias" => around(-3.0, 1.5),
            "attn_sinks.weight" => around(0.0, 1.0),
            rest if rest.ends_with(".bias") => around(0.0, 0.05),
            _ if name.ends_with("_norm.weight") => around(1.0, 0.2),
            _ => {
                let columns = shape.last().copied().unwrap_or(1).max(1);
                let logits = name == "output.weight" || tied && name == "token_embd.weight";
                // Unit variance through every matrix; logits spread like those of a trained model.
                let sigma = if logits { 3.0 } else { 1.0 } / (columns as f32).sqrt();
                let piece = PIECE / dtype.block_bytes() * dtype.block_bytes();
                Source::Random { filler: Filler::new(dtype, sigma), seed, piece }
            }
        }
    }

    fn piece(&self) -> usize {
        match self {
            Source::Random { piece, .. } => *piece,
            _ => PIECE,
        }
    }

    /// Fills `out`, which starts with piece `first` and holds whole pieces, except for the tensor's last.
    fn fill(&self, first: usize, out: &mut [u8], pool: &Pool) {
        match self {
            Source::Random { filler, seed, piece } => {
                let pieces: Vec<Mutex<&mut [u8]>> = out.chunks_mut(*piece).map(Mutex::new).collect();
                pool.run(pieces.len(), |i| {
                    let mut piece = pieces[i].lock().unwrap_or_else(PoisonError::into_inner);
                    let mut rng = Rng(seed ^ Rng((first + i) as u64).next());
                    filler.fill(&mut rng, &mut piece);
                });
            }
            Source::Around { centre, spread, seed } => {
                let mut rng = Rng(seed ^ Rng(first as u64).next());
                for v in out.as_chunks_mut::<4>().0 {
                    *v = (centre + spread * rng.signed()).to_le_bytes();
                }
            }
            Source::RopeFactors { half } => {
                for (i, v) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    *v = llama3_factor(i, *half).to_le_bytes();
                }
            }
        }
    }
}

/// Llama 3.2's divisor of rotary frequency `i`: long waves are stretched 32 times, short ones kept, those between blended.
fn llama3_factor(i: usize, half: usize) -> f32 {
    let (factor, original, base) = (32f32, 8192f32, 5e5f32);
    let wave = std::f32::consts::TAU * base.powf(i as f32 / half as f32);
    let blend = ((original / wave - 1.0) / 3.0).clamp(0.0, 1.0);
    1.0 / ((1.0 - blend) / factor + blend)
}
