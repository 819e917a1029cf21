//! Which type every tensor gets.

use super::QuantizeArgs;
use crate::commands::convert::bytes;
use crate::commands::eval::Judge;
use crate::failure::Failure;
use crate::load;
use crate::printer::Progress;
use allod_cpu::Pool;
use allod_eval::Windows;
use allod_formats::gguf::{self, Layout};
use allod_formats::{TensorInfo, WeightSource};
use allod_quantize::imatrix::Imatrix;
use allod_quantize::mix::{self, Mix, Sensitivity, Wishes};
use allod_quantize::recipe::{self, Choice, Options, Pattern, Recipe, Role};
use allod_quantize::run;
use allod_tensor::DType;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Types, and where they come from.
pub(super) struct Chosen {
    pub(super) choices: Vec<Choice>,
    pub(super) name: String,
    pub(super) recipe: Option<&'static Recipe>,
    pub(super) file_type: u32,
    /// Whether they were found here and are worth keeping.
    found: bool,
}

impl Chosen {
    fn mix(name: String, choices: Vec<Choice>, source: &dyn WeightSource, found: bool) -> Chosen {
        let file_type = file_type(&choices, source);
        Chosen { choices, name, recipe: None, file_type, found }
    }

    /// Writes types that were found here beside the output.
    pub(super) fn save(&self, output: &Path) -> Result<Option<PathBuf>> {
        if !self.found {
            return Ok(None);
        }
        let file = output.with_extension("recipe.json");
        let text = Mix::of(&self.name, &self.choices).to_json()?;
        allod_formats::write_file(&file, text.as_bytes())?;
        Ok(Some(file))
    }
}

/// Bytes that keys may take which are written on the way.
const STAMPS: u64 = 4096;
/// Memory for the predictions that calibration compares with.
const PREDICTIONS: usize = 64 << 20;

pub(super) fn choose(
    args: &QuantizeArgs,
    source: &dyn WeightSource,
    statistics: Option<&Imatrix>,
    pool: &Arc<Pool>,
) -> Result<Chosen> {
    let options = options(args)?;
    if let Some(file) = &args.recipe {
        let text = load::text(Some(file))?;
        let mix = Mix::from_json(&text).with_context(|| file.display().to_string())?;
        let mut choices = mix.choices(source).with_context(|| file.display().to_string())?;
        let wishes = fixed(&options, source)?;
        choices.iter_mut().for_each(|c| c.to = wishes.get(&c.name).copied().unwrap_or(c.to));
        return Ok(Chosen::mix(mix.name, choices, source, false));
    }
    let (room, name) = match (args.bpw, &args.fit) {
        (Some(bits), _) => (room_of_bits(bits, source)?, format!("mix of {bits} bits per weight")),
        (None, Some(size)) => (room_of_file(size, args, source)?, format!("mix for {size}")),
        (None, None) => return by_recipe(args, source, statistics.is_some(), &options),
    };
    let sensitivity = args.calibration.as_ref().map(|text| measured(args, text, source, statistics, pool));
    let wishes = Wishes { fixed: fixed(&options, source)?, sensitivity: sensitivity.transpose()? };
    let mut line = Progress::default();
    line.show("trying every type on every matrix …");
    let choices = mix::solve(source, statistics, room, &wishes, pool)?;
    drop(line);
    let least = run::size(source, &choices);
    if least > room {
        let message = format!("even the smallest types take {:.1} MB, and {:.1} MB are wanted", mb(least), mb(room));
        return Err(Failure::new(message, "give more room, or fewer tensors a type of their own").into());
    }
    Ok(Chosen::mix(name, choices, source, true))
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn by_recipe(args: &QuantizeArgs, source: &dyn WeightSource, imatrix: bool, options: &Options) -> Result<Chosen> {
    let wanted = args.to.as_deref().unwrap_or("Q4_K_M");
    let recipe = recipe::by_name(wanted).ok_or_else(|| {
        let names: Vec<&str> = recipe::RECIPES.iter().map(|r| r.name).collect();
        Failure::new(format!("there is no recipe {wanted}"), format!("one of {}", names.join(", ")))
    })?;
    let choices = recipe.choose_for(source, imatrix, options);
    let (name, file_type) = (recipe.name.into(), recipe.file_type);
    Ok(Chosen { choices, name, recipe: Some(recipe), file_type, found: false })
}

fn room_of_bits(bits: f64, source: &dyn WeightSource) -> Result<u64> {
    if !(0.5..=32.0).contains(&bits) {
        return Err(Failure::new(format!("--bpw {bits} is no number of bits"), "give one such as 4.5").into());
    }
    let weights: usize = recipe::tensors_of(source).iter().map(|(_, i)| i.shape.iter().product::<usize>()).sum();
    Ok((weights as f64 * bits / 8.0) as u64)
}

/// What a file of this size leaves for tensors.
fn room_of_file(size: &str, args: &QuantizeArgs, source: &dyn WeightSource) -> Result<u64> {
    let tensors = recipe::tensors_of(source);
    let stored = |i: &TensorInfo| allod_tensor::Tensor::bytes_of(i.dtype, &i.shape).unwrap_or(0) as u64;
    let held: u64 = tensors.iter().map(|(_, i)| stored(i)).sum();
    let whole = gguf::size(&args.output, source.metadata(), tensors, &Layout::default())?;
    Ok(bytes(size)?.saturating_sub(whole - held + STAMPS))
}

fn options(args: &QuantizeArgs) -> Result<Options> {
    let name = |t: &String| {
        DType::from_name(t).ok_or_else(|| Failure::new(format!("there is no type {t}"), "such as Q6_K, Q8_0 or F16"))
    };
    Ok(Options {
        overrides: args.tensor_type.iter().map(|o| parse(o)).collect::<Result<_>>()?,
        output: args.output_tensor_type.as_ref().map(name).transpose()?,
        embedding: args.token_embedding_type.as_ref().map(name).transpose()?,
        pure: args.pure,
        leave_output: args.leave_output_tensor,
    })
}

fn parse(text: &str) -> Result<(Pattern, DType)> {
    let hint = "write PATTERN=TYPE, such as 'ffn_down=Q6_K'";
    let wrong = || Failure::new(format!("{text} names no type"), hint);
    let (pattern, name) = text.rsplit_once('=').ok_or_else(wrong)?;
    let dtype = DType::from_name(name).ok_or_else(wrong)?;
    Ok((Pattern::new(pattern).context("--tensor-type")?, dtype))
}

/// The types that wishes give, where there is no recipe to give them.
fn fixed(o: &Options, source: &dyn WeightSource) -> Result<BTreeMap<String, DType>> {
    let mut fixed = BTreeMap::new();
    for (name, info) in recipe::tensors_of(source) {
        if !recipe::is_quantizable(&name, &info) {
            continue;
        }
        let by_role = match Role::of(&name) {
            Role::Output if o.leave_output => Some(info.dtype),
            Role::Output => o.output,
            Role::Embedding => o.embedding,
            _ => None,
        };
        let by_name = || o.overrides.iter().find(|(p, _)| p.matches(&name)).map(|&(_, t)| t);
        let Some(dtype) = by_role.or_else(by_name) else { continue };
        let columns = info.shape.last().copied().unwrap_or(1);
        if !columns.is_multiple_of(dtype.block()) {
            let message = format!("{name}: rows of {columns} values cut the blocks of {dtype}");
            return Err(Failure::new(message, "give it a type with blocks of 32, such as Q5_0 or Q8_0").into());
        }
        fixed.insert(name, dtype);
    }
    Ok(fixed)
}

/// The recipe number of the type that most weights have.
fn file_type(choices: &[Choice], source: &dyn WeightSource) -> u32 {
    let mut weights: BTreeMap<&'static str, (usize, DType)> = BTreeMap::new();
    for c in choices {
        let n: usize = source.info(&c.name).map_or(0, |i| i.shape.iter().product());
        weights.entry(c.to.name()).or_insert((0, c.to)).0 += n;
    }
    let most = weights.values().max_by_key(|w| w.0).map(|w| w.1);
    recipe::RECIPES.iter().rfind(|r| Some(r.default) == most).map_or(1, |r| r.file_type)
}

fn measured(
    args: &QuantizeArgs,
    text: &Path,
    source: &dyn WeightSource,
    statistics: Option<&Imatrix>,
    pool: &Arc<Pool>,
) -> Result<Sensitivity> {
    let mut judge = Judge::open(&args.source, args.ctx, pool).context("the model cannot be run for --calibration")?;
    let tokens = judge.encode(&args.source, &load::text(Some(text))?)?;
    let vocabulary = judge.cpu.plan().result_width().max(1);
    let most = (PREDICTIONS / (args.ctx / 2 * vocabulary).max(1)).clamp(1, 8);
    let windows = Windows::halves(args.ctx, tokens.len(), judge.bos)?.at_most(Some(most));
    let mut line = Progress::default();
    let shown = &mut |i, n| line.show(&format!("what noise does to the logits: matrix {} of {n}", i + 1));
    Ok(mix::sensitivity(&mut judge.cpu, source, statistics, (&tokens, &windows), pool, shown)?)
}
