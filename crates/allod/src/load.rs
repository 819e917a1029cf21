//! From a path to a model that runs.

use crate::failure::Failure;
use crate::printer::Progress;
use allod_cpu::{Activations, Cpu, Isa, KvType, Options, Pool, Store, UnknownIsa};
use allod_engine::{Engine, EngineOptions};
use allod_formats::{Gguf, Value, WeightSource};
use allod_models::Model;
use allod_tensor::Bytes;
use allod_text::Tokenizer;
use anyhow::{Context, Result};
use clap::Args;
use std::io::{Read, stdin};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;

/// The key of a model's chat template.
pub(crate) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// The name that stands for the built-in model.
pub(crate) const DEFAULT: &str = "default";
pub(crate) static STORIES: &[u8] = include_bytes!("../assets/allod-stories.gguf");
/// The manifests of the runs that made it.
pub(crate) static STORIES_RUNS: [&str; 2] =
    [include_str!("../assets/allod-stories.pretrain.json"), include_str!("../assets/allod-stories.tune.json")];

/// The name, in place of a model, for drafts from the text itself.
const LOOKUP: &str = "lookup";

/// What a GGUF file says in place of a kind of tokenizer when it has none: llama.cpp refuses files that say nothing.
pub(crate) const NO_TOKENIZER: &str = "none";

/// Positions of the context where nobody says otherwise: the model's own, up to this many.
const CONTEXT: usize = 8192;
/// Rows of a prompt that run at once.
pub(crate) const ROWS: usize = 512;
/// States kept for recurrent models: the conversation's and three checkpoints.
const STATES: usize = 4;

/// How a model is run on this machine.
#[derive(Args, Clone)]
pub(crate) struct MachineArgs {
    /// Tokens of prompt and answer together [default: what the model was trained for, up to 8192]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) ctx: Option<usize>,
    /// Threads to compute with [default: all cores]; the answer does not depend on it
    #[arg(long, short, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// A LoRA adapter to add to the weights: a PEFT folder or a GGUF adapter. May be given several times
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    pub(crate) adapter: Vec<PathBuf>,
    /// A smaller model of the same vocabulary that drafts for this one, or `lookup`: what stood in the text before. The
    /// answer does not change
    #[arg(long, value_name = "MODEL", value_hint = clap::ValueHint::AnyPath)]
    pub(crate) draft: Option<PathBuf>,
    /// Most tokens drafted at a time
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) draft_max: usize,
    #[command(flatten)]
    pub(crate) kernels: KernelArgs,
}

/// What the kernels work with.
#[derive(Args, Clone)]
pub(crate) struct KernelArgs {
    /// Type of cached keys and values: f32, i16 (as many bits as f16, multiplied as integers), f16, bf16, q8_0 or q4_0
    /// [default: i16; f32 where all weights are]
    #[arg(long, value_name = "TYPE")]
    cache_type: Option<KvType>,
    /// What BF16 weights are multiplied with: activations as they are (f32), or rounded to BF16 (bf16), which processors
    /// with AVX-512 BF16 multiply nearly twice as fast; other weights do not care
    #[arg(long, value_name = "TYPE", default_value_t)]
    activations: Activations,
    /// Instruction set: scalar, avx2 or avx512 [default: the best here]; the answer does not depend on it
    #[arg(long, value_name = "ISA", value_parser = isa)]
    isa: Option<Isa>,
    /// Keep no prepared weights on disk (they lie in $ALLOD_CACHE, else $XDG_CACHE_HOME/allod or ~/.cache/allod)
    #[arg(long)]
    no_cache: bool,
}

impl KernelArgs {
    /// Options with these choices, else the defaults.
    pub(crate) fn options(&self) -> Options {
        let store = if self.no_cache { None } else { Store::of_user() };
        Options {
            cache_type: self.cache_type,
            activations: self.activations,
            isa: self.isa.unwrap_or_else(Isa::best),
            store,
            ..Options::default()
        }
    }
}

/// An instruction set that this machine has.
fn isa(name: &str) -> Result<Isa, String> {
    let isa: Isa = name.parse().map_err(|e: UnknownIsa| e.to_string())?;
    if isa.is_available() { Ok(isa) } else { Err(format!("this machine has no {isa}")) }
}

/// Identifies the built-in model.
pub(crate) fn default_digest() -> String {
    allod_train::run::manifest::digest_bytes(STORIES)
}

/// The weights and metadata that a path names, not yet read as a network.
pub(crate) fn source(path: &Path) -> Result<Box<dyn WeightSource>> {
    if path == Path::new(DEFAULT) {
        return Ok(Box::new(Gguf::from_bytes(Bytes::from(STORIES), "allod-stories.gguf")?));
    }
    if !path.exists() {
        let hint = "give a .gguf file, a folder of safetensors or a llama2.c .bin; `allod run default 'PROMPT'` asks \
                    the model that is built in";
        return Err(Failure::new(format!("there is no {}", path.display()), hint).into());
    }
    Ok(allod_models::open_source(path)?)
}

/// The weights with adapters added.
pub(crate) fn adapted(source: Box<dyn WeightSource>, adapters: &[PathBuf]) -> Result<Box<dyn WeightSource>> {
    if adapters.is_empty() {
        return Ok(source);
    }
    let open = |path: &PathBuf| allod_models::adapter::open(path, &*source);
    let opened = adapters.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    Ok(Box::new(allod_models::adapter::merged(source, opened)?))
}

/// The chat template that the last of the adapters with one was trained with.
pub(crate) fn template_of(adapters: &[PathBuf]) -> Result<Option<String>> {
    for path in adapters.iter().rev() {
        if let Some(template) = allod_models::adapter::template(path)? {
            return Ok(Some(template));
        }
    }
    Ok(None)
}

/// Entries of metadata from KEY=VALUE: texts, but for lists of texts, counts and the numbers of recommended sampling.
pub(crate) fn metadata(pairs: &[String]) -> Result<Vec<(String, Value)>> {
    let value = |key: &str, text: &str| {
        let value = match key {
            _ if text.starts_with('[') => serde_json::from_str::<Vec<String>>(text).ok().map(Value::from),
            _ if key.ends_with(".count") => text.parse::<u32>().ok().map(Value::from),
            _ if key.ends_with("top_k") || key.ends_with("last_n") => text.parse::<i32>().ok().map(Value::from),
            _ if key.starts_with("general.sampling.") => text.parse::<f32>().ok().map(Value::from),
            _ => None,
        };
        value.unwrap_or_else(|| Value::from(text))
    };
    let entry = |pair: &String| {
        let (key, text) = pair.split_once('=').ok_or_else(|| {
            Failure::new(format!("--meta {pair} has no value"), "write KEY=VALUE, such as --meta general.license=MIT")
        })?;
        Ok((key.to_owned(), value(key, text)))
    };
    pairs.iter().map(entry).collect()
}

/// The folder that holds a safetensors model and what belongs to it; `None` for models of other kinds.
pub(crate) fn folder(path: &Path) -> Option<&Path> {
    let single = path.extension().is_some_and(|e| e == "safetensors");
    if single { path.parent() } else { Some(path).filter(|p| p.is_dir()) }
}

/// A file, or stdin where there is none, as text.
pub(crate) fn text(file: Option<&Path>) -> Result<String> {
    let Some(path) = file else {
        let mut bytes = Vec::new();
        stdin().lock().read_to_end(&mut bytes)?;
        return utf8(bytes, "stdin");
    };
    let from = path.display().to_string();
    utf8(std::fs::read(path).with_context(|| from.clone())?, &from)
}

/// The bytes as text, or an error that says where they stop being text.
fn utf8(bytes: Vec<u8>, from: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Failure::new(format!("{from}: byte {at} is not UTF-8"), "convert it, for example with iconv -t utf-8").into()
    })
}

/// The tokenizer that belongs to a model, if it has one.
pub(crate) fn tokenizer(path: &Path, source: &dyn WeightSource) -> Result<Option<Tokenizer>> {
    if source.metadata().str("tokenizer.ggml.model").is_some_and(|kind| kind != NO_TOKENIZER) {
        return Ok(Some(Tokenizer::from_gguf(source.metadata()).context("the model's tokenizer")?));
    }
    let Some(folder) = folder(path) else { return Ok(None) };
    match Tokenizer::from_folder(folder) {
        Ok(tokenizer) => Ok(Some(tokenizer)),
        Err(allod_text::tokenizer::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error).context("the model's tokenizer"),
    }
}

/// The model's tokenizer, or an error that says that it has none.
pub(crate) fn needed(tokenizer: Option<Tokenizer>, path: &Path) -> Result<Tokenizer> {
    tokenizer.ok_or_else(|| {
        let hint = "use a model that brings its tokenizer: a GGUF file, or a folder with tokenizer.json; \
                    `allod logits` works on token ids alone";
        Failure::new(format!("{} has no tokenizer", path.display()), hint).into()
    })
}

/// Records the plan of a source for a context.
pub(crate) fn model(source: Box<dyn WeightSource>, ctx: Option<usize>) -> Result<(Model, usize)> {
    let meta = source.metadata();
    let arch = meta.str("general.architecture").unwrap_or_default();
    let trained = meta.uint(&format!("{arch}.context_length")).and_then(|n| usize::try_from(n).ok());
    let context = ctx.unwrap_or_else(|| trained.unwrap_or(CONTEXT).min(CONTEXT));
    if context == 0 || context > u32::MAX as usize {
        return Err(
            Failure::new(format!("--ctx {context} is no context"), "give a number of tokens, such as 4096").into()
        );
    }
    Ok((allod_models::model(source, Some(context))?, context))
}

/// The threads asked for, or one for each core.
pub(crate) fn threads(asked: Option<usize>) -> usize {
    asked.filter(|&n| n > 0).unwrap_or_else(|| available_parallelism().map_or(1, Into::into))
}

/// Prepares a model for this machine's CPU.
pub(crate) fn prepare(model: &Model, threads: usize, options: &Options) -> Result<Cpu> {
    prepare_on(model, Arc::new(Pool::new(threads)), options)
}

/// Likewise, on threads that it shares with other models.
fn prepare_on(model: &Model, pool: Arc<Pool>, options: &Options) -> Result<Cpu> {
    let mut progress = Progress::default();
    progress.show("preparing the model …");
    Ok(Cpu::new(&model.plan, &*model.source, pool, options)?)
}

/// Whether the model carries state from token to token.
pub(crate) fn recurrent(model: &Model) -> bool {
    !model.plan.states().is_empty()
}

/// A conversation over a model, the type of its cached keys and values, and what BF16 weights are multiplied with.
pub(crate) fn session(
    model: &Model,
    tokenizer: &Tokenizer,
    context: usize,
    machine: &MachineArgs,
) -> Result<(allod_engine::Session, KvType, Activations)> {
    let sequences = if recurrent(model) { STATES } else { 1 };
    let drafted = machine.draft.as_ref().map_or(0, |_| machine.draft_max);
    let outputs = 1 + drafted;
    let pool = Arc::new(Pool::new(threads(machine.threads)));
    let options = Options { rows: ROWS.min(context), outputs, context, sequences, ..machine.kernels.options() };
    let cpu = prepare_on(model, pool.clone(), &options)?;
    let (cache_type, activations) = (cpu.cache_type(), cpu.activations());
    let limits = EngineOptions { sequences: Some(1), draft: drafted, ..EngineOptions::for_plan(&model.plan, outputs) };
    let mut engine = Engine::new(Box::new(cpu), limits);
    if let Some(path) = machine.draft.as_deref().filter(|path| *path != Path::new(LOOKUP)) {
        let draft = drafting(path, model, tokenizer, context)?;
        let cpu = prepare_on(&draft, pool, &Options { outputs: 1, sequences: 1, ..options })?;
        engine = engine.with_draft(Box::new(cpu), 1);
    }
    Ok((allod_engine::Session::over(engine), cache_type, activations))
}

/// The model at `path`, if it can draft for another.
fn drafting(path: &Path, target: &Model, tokenizer: &Tokenizer, context: usize) -> Result<Model> {
    let refuse = |what: &str| {
        let message = format!("{} cannot draft for this model: {what}", path.display());
        Failure::new(message, "give a smaller model of the same family, or --draft lookup")
    };
    let source = source(path)?;
    let own = self::tokenizer(path, &*source)?;
    let (draft, _) = model(source, Some(context))?;
    if recurrent(&draft) || recurrent(target) || !draft.is_causal() {
        return Err(refuse("a state that has moved on cannot go back").into());
    }
    let same_tokens = own.is_none_or(|own| {
        let count = own.vocab_size().min(tokenizer.vocab_size()) as u32;
        (0..count).all(|id| own.token_text(id) == tokenizer.token_text(id))
    });
    if !same_tokens {
        return Err(refuse("its vocabulary is another").into());
    }
    Ok(draft)
}
