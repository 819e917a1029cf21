//! Where a model comes from, and what is read of it before its weights are prepared.

use crate::receipt::{Digests, text_digest};
use allod_cpu::{Activations, Cpu, KvType, Options, PAGE_LAYOUT, Pool, Store};
use allod_engine::engine::{AdapterId, Handle, SpillOptions, pages_in};
use allod_engine::{Engine, EngineOptions};
use allod_formats::{Gguf, WeightSource};
use allod_models::{Model, Output};
use allod_plan::{PAGE, RowLimits};
use allod_tensor::{Bytes, DType};
use allod_text::grammar::Vocabulary;
use allod_text::output::Format;
use allod_text::template::Templates;
use allod_text::{Guard, Template, Tokenizer};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

/// Rows of a prompt that run at once.
const ROWS: usize = 512;
/// Least wanted rows of a step: prompts whose tokens are scored want many.
const OUTPUTS: usize = 64;
/// Events of a request that may wait before it is held.
const BUFFER: usize = 256;

/// A file, a folder, or bytes of this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A GGUF file, a folder or file of safetensors, or a llama2.c checkpoint.
    Path(PathBuf),
    /// A GGUF file inside this program.
    Embedded(&'static str, &'static [u8]),
}

impl Origin {
    pub(crate) fn describe(&self) -> String {
        match self {
            Origin::Path(path) => path.display().to_string(),
            Origin::Embedded(name, _) => format!("{name} (built in)"),
        }
    }

    pub(crate) fn open(&self) -> Result<Box<dyn WeightSource>, LoadError> {
        match self {
            Origin::Path(path) if !path.exists() => Err(LoadError::Missing(path.clone())),
            Origin::Path(path) => Ok(allod_models::open_source(path)?),
            Origin::Embedded(name, bytes) => Ok(Box::new(Gguf::from_bytes(Bytes::from(*bytes), name)?)),
        }
    }

    /// Tells the bytes that it has now from those that it may have later.
    pub(super) fn version(&self) -> String {
        match self {
            Origin::Embedded(name, bytes) => format!("{name} {}", blake3::hash(bytes).to_hex()),
            Origin::Path(path) => {
                let stamp = |path: &Path| std::fs::metadata(path).map(|m| (m.len(), m.modified().ok()));
                let files = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
                let mut files: Vec<PathBuf> = files.chain([path.clone()]).collect();
                files.sort();
                files.iter().map(|file| format!("{} {:?};", file.display(), stamp(file).ok())).collect()
            }
        }
    }

    /// The folder that holds a safetensors model and what belongs to it.
    pub(crate) fn folder(&self) -> Option<&Path> {
        let Origin::Path(path) = self else { return None };
        let single = path.extension().is_some_and(|e| e == "safetensors");
        if single { path.parent() } else { Some(path.as_path()).filter(|p| p.is_dir()) }
    }
}

/// Why a model could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is nothing at the path.
    #[error("there is no {0}")]
    Missing(PathBuf),
    /// The file or folder.
    #[error(transparent)]
    Model(#[from] allod_models::Error),
    /// The bytes inside the program.
    #[error(transparent)]
    Format(#[from] allod_formats::Error),
    /// The tokenizer.
    #[error("the tokenizer: {0}")]
    Tokenizer(#[from] allod_text::tokenizer::Error),
    /// The model has no tokenizer.
    #[error("the model has no tokenizer: use a GGUF file, or a folder with tokenizer.json")]
    NoTokenizer,
    /// The chat template.
    #[error("the chat template: {0}")]
    Template(#[from] allod_text::template::Error),
    /// The weights.
    #[error(transparent)]
    Prepare(#[from] allod_cpu::PrepareError),
    /// The engine's thread.
    #[error("no thread for the engine, or no folder for its prefixes: {0}")]
    Thread(#[from] std::io::Error),
    /// The sampling parameters that the file recommends, or that the configuration gives.
    #[error("sampling defaults: {0}")]
    Defaults(String),
    /// An adapter that is broken, or was made for another model.
    #[error("the adapter {}: {message}", .path.display())]
    Adapter {
        /// Its file or folder.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// It does not fit into the memory that models may take.
    #[error(
        "{name} needs {needed} bytes; models may take {budget}, and {taken} are held by models that are pinned or at work ({by})"
    )]
    Memory {
        /// The model.
        name: String,
        /// What it needs.
        needed: u64,
        /// What all models may take.
        budget: u64,
        /// What cannot be given up.
        taken: u64,
        /// Who holds it.
        by: String,
    },
}

/// How a model is to be run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sizing {
    /// Positions of prompt and answer together; by default what the model was trained for.
    pub context: Option<usize>,
    /// Answers computed side by side.
    pub parallel: Option<usize>,
    /// Bytes of keys and values.
    pub cache_bytes: Option<u64>,
    /// Type of cached keys and values.
    pub cache_type: Option<KvType>,
    /// What BF16 weights are multiplied with.
    pub activations: Activations,
    /// Most tokens drafted by looking them up in the text so far.
    pub draft: Option<usize>,
}

/// A model that was read and found sound, whose weights are not prepared yet.
pub(crate) struct Opened {
    pub(crate) model: Model,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) templates: Compiled,
    pub(crate) options: Options,
    pub(crate) engine: EngineOptions,
    /// Positions that the model is planned for.
    pub(crate) planned: usize,
    /// What preparing it will take, by its plan.
    pub(crate) estimate: u64,
    pub(crate) info: Info,
}

/// The compiled templates of a model.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    plain: Option<Learned>,
    tools: Option<Learned>,
}

/// A template and how it has models write.
#[derive(Debug)]
pub(crate) struct Learned {
    pub(crate) template: Template,
    tokens: serde_json::Map<String, serde_json::Value>,
    format: OnceLock<Arc<Format>>,
}

impl Learned {
    fn new(template: Template, tokenizer: &Tokenizer) -> Learned {
        Learned { template, tokens: crate::prompt::tokens(tokenizer), format: OnceLock::new() }
    }

    /// How it has models write; learned when first asked for.
    pub(crate) fn format(&self) -> Arc<Format> {
        Arc::clone(self.format.get_or_init(|| Arc::new(Format::learn(&self.template, &self.tokens))))
    }
}

impl Compiled {
    pub(crate) fn new(templates: &Templates, tokenizer: &Tokenizer) -> Result<Compiled, LoadError> {
        let compile = |tools| -> Result<_, LoadError> {
            Ok(templates.compile(tools)?.map(|template| Learned::new(template, tokenizer)))
        };
        let tools = templates.choose(true) != templates.choose(false);
        Ok(Compiled { plain: compile(false)?, tools: if tools { compile(true)? } else { None } })
    }

    /// Digests of the templates that there are.
    pub(crate) fn digests(&self) -> Vec<String> {
        self.plain.iter().chain(&self.tools).map(|learned| text_digest(learned.template.source())).collect()
    }

    pub(crate) fn choose(&self, with_tools: bool) -> Option<&Learned> {
        self.tools.as_ref().filter(|_| with_tools).or(self.plain.as_ref())
    }
}

/// What clients ask about a model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Info {
    pub(crate) architecture: String,
    pub(crate) title: Option<String>,
    pub(crate) parameters: u64,
    pub(crate) weight_bytes: u64,
    /// The type that most weights are stored in.
    pub(crate) quantization: String,
    pub(crate) trained_context: usize,
    pub(crate) embedding_length: usize,
    pub(crate) license: Option<String>,
}

/// Reads everything of a model that can be wrong, except the weights themselves.
pub(crate) fn open(origin: &Origin, sizing: &Sizing, purpose: Purpose) -> Result<Opened, LoadError> {
    let source = origin.open()?;
    let tokenizer = tokenizer(origin, &*source)?;
    let templates = Compiled::new(&templates(origin, &*source)?, &tokenizer)?;
    let arch = source.metadata().str("general.architecture").unwrap_or_default().to_owned();
    let trained = source.metadata().uint(&format!("{arch}.context_length")).and_then(|n| usize::try_from(n).ok());
    let asked = sizing.context.or(trained);
    let output = match purpose {
        Purpose::Text => Output::Own,
        Purpose::Vectors => Output::Embedding,
    };
    let model = allod_models::model_for(source, asked, output)?;
    let context = asked.unwrap_or(model.config.trained_context);
    let (options, engine, estimate) = size(&model, sizing, context, purpose);
    let info = info(&model, arch);
    Ok(Opened { model, tokenizer, templates, options, engine, planned: context, estimate, info })
}

fn tokenizer(origin: &Origin, source: &dyn WeightSource) -> Result<Tokenizer, LoadError> {
    if source.metadata().str("tokenizer.ggml.model").is_some() {
        return Ok(Tokenizer::from_gguf(source.metadata())?);
    }
    match origin.folder().map(Tokenizer::from_folder) {
        None | Some(Err(allod_text::tokenizer::Error::NotFound { .. })) => Err(LoadError::NoTokenizer),
        Some(read) => Ok(read?),
    }
}

fn templates(origin: &Origin, source: &dyn WeightSource) -> Result<Templates, LoadError> {
    match origin.folder() {
        Some(folder) => Ok(Templates::from_folder(folder)?),
        None => Ok(Templates::from_gguf(source.metadata())),
    }
}

/// What a model is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Answers and scores.
    Text,
    /// One vector for each text.
    Vectors,
}

/// Texts that become vectors side by side, and the most tokens of one.
const VECTORS: usize = 8;
const LONGEST: usize = 2048;

/// How large everything is made, and what it takes together.
fn size(model: &Model, sizing: &Sizing, context: usize, purpose: Purpose) -> (Options, EngineOptions, u64) {
    let plan = &model.plan;
    let weight = |name: &str| model.source.info(name);
    let exact = plan.params().iter().all(|p| weight(&p.name).is_none_or(|i| i.dtype == DType::F32));
    let cache_type = sizing.cache_type.unwrap_or(if exact { KvType::F32 } else { KvType::default() });
    let dtype = match cache_type {
        KvType::F32 => DType::F32,
        KvType::I16 => DType::I16,
        KvType::F16 => DType::F16,
        KvType::BF16 => DType::BF16,
        KvType::Q8_0 => DType::Q8_0,
        KvType::Q4_0 => DType::Q4_0,
    };
    let parallel = match purpose {
        Purpose::Text => sizing.parallel.unwrap_or(DEFAULT_PARALLEL).max(1),
        Purpose::Vectors => VECTORS,
    };
    // A text that becomes one vector runs in one step.
    let context = if purpose == Purpose::Vectors { context.min(LONGEST) } else { context };
    let wanted = parallel.saturating_mul(context.div_ceil(PAGE));
    let budget = usize::try_from(sizing.cache_bytes.unwrap_or(DEFAULT_CACHE)).unwrap_or(usize::MAX);
    let pages = pages_in(plan, dtype, budget).map_or(wanted, |fit| fit.min(wanted)).max(1);
    // A sequence that is alone may take all pages.
    let context = context.min(pages * PAGE).max(1);
    let states = plan.states().iter().sum::<usize>();
    // Of a recurrent model half the slots keep checkpoints.
    let sequences = if states > 0 { parallel * 2 } else { parallel };
    let rows = if purpose == Purpose::Vectors { context } else { ROWS.min(context.max(1)) };
    let outputs = OUTPUTS.max(parallel).min(rows.max(parallel));
    let options = Options {
        rows,
        outputs,
        sequences,
        context,
        pages: Some(pages),
        cache_type: Some(cache_type),
        activations: sizing.activations,
        store: Store::of_user(),
        ..Options::default()
    };
    let limits = RowLimits { tokens: rows, outputs, sequences };
    let bytes = |name: &str| weight(name).and_then(|i| i.dtype.bytes_for(i.shape.iter().product())).unwrap_or(0);
    let estimate = plan.estimate(bytes, pages * PAGE, dtype, limits);
    let estimate = estimate.total() + estimate.state * (sequences - 1);
    let engine = EngineOptions { draft: sizing.draft.unwrap_or(0), ..EngineOptions::for_plan(plan, outputs) };
    (options, engine, estimate as u64)
}

/// Answers computed side by side where nobody says otherwise.
const DEFAULT_PARALLEL: usize = 32;
/// Bytes of keys and values of a model where nobody says otherwise.
const DEFAULT_CACHE: u64 = 1 << 30;

fn info(model: &Model, architecture: String) -> Info {
    let meta = model.source.metadata();
    let mut info = Info {
        architecture,
        title: meta.str("general.name").map(str::to_owned),
        trained_context: model.config.trained_context,
        embedding_length: model.config.dim,
        license: meta.str("general.license").map(str::to_owned),
        ..Info::default()
    };
    let mut by_type: Vec<(DType, u64)> = Vec::new();
    for name in model.source.names() {
        let Some(tensor) = model.source.info(&name) else { continue };
        let elements = tensor.shape.iter().product::<usize>();
        info.parameters += elements as u64;
        info.weight_bytes += tensor.dtype.bytes_for(elements).unwrap_or(0) as u64;
        match by_type.iter_mut().find(|(dtype, _)| *dtype == tensor.dtype) {
            Some((_, count)) => *count += elements as u64,
            None => by_type.push((tensor.dtype, elements as u64)),
        }
    }
    let most = by_type.iter().max_by_key(|(_, count)| *count);
    info.quantization = most.map_or_else(String::new, |(dtype, _)| dtype.to_string());
    info
}

/// A model at work.
pub(crate) struct Loaded {
    pub(crate) tokenizer: Tokenizer,
    /// Keeps special tokens out of what people write.
    pub(crate) guard: Guard,
    pub(crate) templates: Compiled,
    pub(crate) engine: Handle,
    /// What its file recommends.
    pub(crate) recommended: serde_json::Map<String, serde_json::Value>,
    pub(crate) context: usize,
    pub(crate) vocabulary: usize,
    /// Bytes of weights, of caches and states, and of buffers, as they were made.
    pub(crate) bytes: [u64; 3],
    pub(crate) info: Info,
    pub(crate) plan_digest: String,
    /// Positions that the plan is made for; some rotary embeddings depend on it.
    pub(crate) planned_context: usize,
    pub(crate) cache_type: KvType,
    pub(crate) activations: Activations,
    pub(crate) load_time: Duration,
    /// Digests of its files, once somebody has asked for a receipt.
    pub(crate) digests: OnceCell<Digests>,
    /// Adapters that are ready, by their place.
    pub(super) adapters: Mutex<HashMap<PathBuf, AdapterId>>,
    grammar_vocabulary: OnceLock<Result<Vocabulary, String>>,
}

impl Loaded {
    /// The vocabulary as grammars need it; made when first asked for.
    ///
    /// # Errors
    /// It cannot follow a grammar.
    pub(crate) fn grammar_vocabulary(&self) -> Result<&Vocabulary, &str> {
        let made = self.grammar_vocabulary.get_or_init(|| Vocabulary::new(&self.tokenizer).map_err(|e| e.to_string()));
        made.as_ref().map_err(String::as_str)
    }

    /// Names what computes the answers, as OpenAI's `system_fingerprint`.
    pub(crate) fn fingerprint(&self) -> String {
        format!("fp_{}", &self.plan_digest[..12])
    }
}

impl Opened {
    /// Prepares the weights and starts the engine.
    ///
    /// # Errors
    /// Weights that cannot be prepared; no thread.
    pub(crate) fn prepare(self, pool: &Arc<Pool>, spill: Option<SpillOptions>) -> Result<Loaded, LoadError> {
        let started = Instant::now();
        let cpu = Cpu::new(&self.model.plan, &*self.model.source, Arc::clone(pool), &self.options)?;
        let bytes = cpu.bytes().map(|n| n as u64);
        let cache_type = cpu.cache_type();
        let mut engine = Engine::new(Box::new(cpu), self.engine);
        if let Some(mut spill) = spill {
            spill.identity.extend(self.model.plan.digest().as_bytes());
            spill.identity.extend(PAGE_LAYOUT.to_le_bytes());
            spill.identity.extend(cache_type.name().as_bytes());
            engine = engine.with_spill(&spill)?;
        }
        let engine = engine.spawn(BUFFER)?;
        Ok(Loaded {
            recommended: allod_models::recommended_sampling(self.model.source.metadata())?,
            guard: Guard::new(&self.tokenizer),
            tokenizer: self.tokenizer,
            templates: self.templates,
            engine,
            context: self.options.context,
            vocabulary: self.model.config.vocab,
            bytes,
            info: self.info,
            plan_digest: self.model.plan.digest().to_hex().to_string(),
            planned_context: self.planned,
            cache_type,
            activations: self.options.activations,
            load_time: started.elapsed(),
            digests: OnceCell::new(),
            adapters: Mutex::default(),
            grammar_vocabulary: OnceLock::new(),
        })
    }
}
