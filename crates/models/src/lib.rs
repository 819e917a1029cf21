//! Architectures over shared blocks. A file or folder enters through [`open`] and leaves as a [`Model`]: a source of
//! weights under GGUF's names, a configuration, and the recorded plan.
#![deny(missing_docs)]

pub mod adapter;
pub mod arch;
pub mod blocks;
mod config;
pub mod convert;
mod error;
pub mod hf;
mod legacy;
mod output;
mod rope;
mod sample;
mod sampling;

pub use arch::Arch;
pub use config::{Config, Keys};
pub use error::Error;
pub use output::{Output, Pooling};
pub use rope::{Scaling, Yarn};
pub use sample::{Abilities, sample};
pub use sampling::recommended_sampling;

use allod_formats::{Gguf, WeightSource, llama2c};
use allod_plan::{Plan, record};
use std::{collections::HashSet, path::Path};

/// A model ready to be prepared by a backend.
pub struct Model {
    /// Its weights and metadata.
    pub source: Box<dyn WeightSource>,
    /// Its architecture.
    pub arch: &'static Arch,
    /// Its configuration.
    pub config: Config,
    /// What it computes.
    pub plan: Plan,
}

impl Model {
    /// True when a row sees only rows before it, so that a sequence may be fed in pieces.
    pub fn is_causal(&self) -> bool {
        self.plan.is_causal()
    }
}

/// Opens a GGUF file, a safetensors file or folder, or a llama2.c checkpoint, by what it is, not by its name.
/// `context` is the number of positions to plan for; `None` takes what the model was trained for.
///
/// # Errors
/// [`Error`] names the file and what is wrong with it.
pub fn open(path: &Path, context: Option<usize>) -> Result<Model, Error> {
    model(open_source(path)?, context)
}

/// The weights and metadata at `path`, without recording a plan (a vocabulary file has none).
///
/// # Errors
/// [`Error`] names the file and what is wrong with it.
pub fn open_source(path: &Path) -> Result<Box<dyn WeightSource>, Error> {
    if path.is_dir() || path.extension().is_some_and(|e| e == "safetensors") {
        return Ok(Box::new(hf::Folder::open(path)?));
    }
    if path.extension().is_some_and(|e| e == "bin") {
        return Ok(Box::new(llama2c::open(path)?));
    }
    Ok(legacy::renamed(Box::new(Gguf::open(path)?)))
}

/// Records the plan of an opened source.
///
/// # Errors
/// Unknown architectures, configurations and tensors that contradict each other, tensors that nothing uses.
pub fn model(source: Box<dyn WeightSource>, context: Option<usize>) -> Result<Model, Error> {
    model_for(source, context, Output::Own)
}

/// Records a plan that returns `output`.
///
/// # Errors
/// Those of [`model`].
pub fn model_for(source: Box<dyn WeightSource>, context: Option<usize>, output: Output) -> Result<Model, Error> {
    let (arch, config, plan) = recorded(&*source, context, output)?;
    if output == Output::Own {
        check_unused(&*source, &plan, arch)?;
        check_layers(&*source, &plan)?;
    } else {
        // The head is part of the model even where it is not asked for.
        check(&*source)?;
    }
    Ok(Model { source, arch, config, plan })
}

/// Everything that [`model`] checks, of a source that stays the caller's.
pub(crate) fn check(source: &dyn WeightSource) -> Result<(), Error> {
    let (arch, _, plan) = model_plan(source)?;
    check_unused(source, &plan, arch)?;
    check_layers(source, &plan)
}

/// What a source computes, without the checks on what it holds beyond that.
pub(crate) fn model_plan(source: &dyn WeightSource) -> Result<(&'static Arch, Config, Plan), Error> {
    recorded(source, None, Output::Own)
}

fn recorded(
    source: &dyn WeightSource,
    context: Option<usize>,
    output: Output,
) -> Result<(&'static Arch, Config, Plan), Error> {
    let name = source.metadata().str("general.architecture").unwrap_or_default().to_owned();
    let arch = arch::by_gguf(&name).ok_or_else(|| Error::UnknownArchitecture {
        origin: source.origin(),
        nearest: arch::nearest(&name),
        found: name,
    })?;
    let mut config = Config::read(source, context)?;
    config.output = output;
    if let (Output::Embedding, Some(found)) = (output, config.string("pooling_unsupported")) {
        let expected = "mean, cls or last pooling, then at most normalization".into();
        let (key, found) = ("modules.json".into(), found.to_owned());
        return Err(Error::Key { origin: source.origin(), key, expected, found });
    }
    let plan = record(source, |m| (arch.forward)(m, &config))?;
    Ok((arch, config, plan))
}

/// A tensor that nothing uses means that the model is not what we take it for.
fn check_unused(source: &dyn WeightSource, plan: &Plan, arch: &Arch) -> Result<(), Error> {
    let used: HashSet<&str> =
        plan.params().iter().map(|p| p.name.as_str()).chain(plan.ignored().iter().map(String::as_str)).collect();
    let table = |n: &str| n.starts_with("rope_f") || n.ends_with(".rope_freqs.weight") || n.contains("rope_factors");
    match source.names().into_iter().find(|n| !used.contains(n.as_str()) && !table(n)) {
        Some(name) => Err(Error::UnknownTensor { origin: source.origin(), name, arch: arch.gguf }),
        None => Ok(()),
    }
}

/// A bias that some layers have and others lack was lost on the way.
fn check_layers(source: &dyn WeightSource, plan: &Plan) -> Result<(), Error> {
    let used: HashSet<&str> = plan.params().iter().map(|p| p.name.as_str()).collect();
    let with_bias: HashSet<&str> = used.iter().filter_map(|n| suffix(n)?.strip_suffix(".bias")).collect();
    for weight in used.iter().filter(|n| n.ends_with(".weight")) {
        let Some(stem) = suffix(weight).and_then(|s| s.strip_suffix(".weight")) else { continue };
        let bias = weight.replace(".weight", ".bias");
        if with_bias.contains(stem) && !used.contains(bias.as_str()) {
            let expected = plan.params().iter().find(|p| p.name == **weight).map(|p| p.shape[..1].to_vec());
            return Err(allod_plan::RecordError::Missing {
                origin: source.origin(),
                name: bias,
                expected: expected.unwrap_or_default(),
            }
            .into());
        }
    }
    Ok(())
}

/// A layer tensor's name without `blk.N.`.
fn suffix(name: &str) -> Option<&str> {
    Some(name.strip_prefix("blk.")?.split_once('.')?.1)
}
