//! A run with everything it works on: model, data, what is trained.

use crate::failure::Failure;
use crate::load;
use crate::printer::Progress;
use allod_cpu::{LearnOptions, Learner, Pool, Products};
use allod_formats::WeightSource;
use allod_models::{Model, Output};
use allod_plan::{RowLimits, Trainable};
use allod_text::Templates;
use allod_train::data::encode::{CHATML, Encoder};
use allod_train::data::source::{self, Dataset, Options};
use allod_train::data::{Item, Source};
use allod_train::objective::Objective;
use allod_train::run::{Config, manifest, targets};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What a run works on.
pub(crate) struct Job {
    pub(crate) config: Config,
    pub(crate) model: Model,
    pub(crate) encoder: Encoder,
    pub(crate) data: Dataset,
    /// What is evaluated on: held out, then of files of its own.
    pub(crate) held_out: Vec<Item>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) base: BTreeMap<String, String>,
    pub(crate) files: BTreeMap<String, String>,
    /// Identifies settings, data and base.
    pub(crate) identity: String,
    /// Ids and masks.
    pub(crate) tokens: String,
}

/// The model's way of writing examples.
pub(crate) fn encoder(config: &Config, source: &dyn WeightSource) -> Result<Encoder> {
    let tokenizer = load::needed(load::tokenizer(&config.model, source)?, &config.model)?;
    let templates = match config.data.template.as_deref() {
        Some("chatml") => Templates { default: Some(CHATML.into()), ..Templates::default() },
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("the template {file}"))?;
            Templates { default: Some(text), ..Templates::default() }
        }
        None => match load::folder(&config.model) {
            Some(folder) => Templates::from_folder(folder)?,
            None => Templates::from_gguf(source.metadata()),
        },
    };
    let d = &config.data;
    Ok(Encoder::new(tokenizer, &templates, d.mask, d.max_length, d.truncation, d.now)?)
}

/// Reads training and evaluation data into one store.
pub(crate) fn data(config: &Config, encoder: &Encoder, folder: &Path) -> Result<(Dataset, Vec<Item>)> {
    let replace: Vec<(String, String)> = config.data.set.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let companions = if matches!(config.objective, Objective::Kto(_)) { config.run.batch } else { 0 };
    let options = Options {
        encoder,
        replace: &replace,
        held_out: config.data.held_out,
        seed: config.run.seed,
        skip_problems: config.data.skip_problems,
        limit: config.data.limit,
        companions,
        folder,
    };
    let data = source::load(&config.data.train, &config.data.eval, &options)?;
    let held_out = data.held_out.clone();
    fits(&config.objective, &data.train)?;
    fits(&config.objective, &held_out)?;
    Ok((data, held_out))
}

/// Whether the examples are of the kind that the objective learns from.
fn fits(objective: &Objective, items: &[Item]) -> Result<()> {
    let wanted = match objective {
        Objective::Sft(_) => "texts, chats or completions",
        Objective::Kto(_) => "answers with a label",
        _ => "pairs of answers (chosen and rejected)",
    };
    let fits = |item: &Item| match (objective, item) {
        (Objective::Sft(_), Item::One(_)) | (Objective::Kto(_), Item::Judged(..)) => true,
        (Objective::Sft(_) | Objective::Kto(_), _) => false,
        (_, item) => matches!(item, Item::Pair(..)),
    };
    let Some(other) = items.iter().find(|i| !fits(i)) else { return Ok(()) };
    let (found, hint) = match other {
        Item::One(_) => ("texts, chats or completions", "use --objective sft"),
        Item::Pair(..) => ("pairs of answers", "use --objective dpo, orpo, simpo or reward"),
        Item::Judged(..) => ("answers with a label", "use --objective kto"),
    };
    let message = format!("{} learns from {wanted}; the data hold {found}", objective.name());
    Err(Failure::new(message, hint).into())
}

/// Digests of the files that sources name.
fn digests<'s>(sources: impl Iterator<Item = &'s Source>) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for source in sources {
        out.extend(manifest::digests(&source.path)?);
    }
    Ok(out)
}

impl Job {
    pub(crate) fn new(config: &Config, threads: Option<usize>) -> Result<Job> {
        let source = load::source(&config.model)?;
        let mut progress = Progress::default();
        progress.show("reading the data …");
        std::fs::create_dir_all(&config.output).with_context(|| config.output.display().to_string())?;
        let encoder = encoder(config, &*source)?;
        let (data, held_out) = data(config, &encoder, &config.output)?;
        let output = match config.objective {
            Objective::Reward(_) => Output::Hidden,
            _ => Output::Own,
        };
        let longest = config.data.max_length;
        let model = allod_models::model_for(source, Some(longest), output)?;
        progress.show("reading the base model …");
        let base = match config.model == Path::new(load::DEFAULT) {
            true => BTreeMap::from([(load::DEFAULT.to_owned(), load::default_digest())]),
            false => manifest::digests(&config.model)?,
        };
        let files = digests(config.data.train.iter().chain(&config.data.eval))?;
        let tokens = data.store.digest().to_hex().to_string();
        let mut named = Config { output: "".into(), model: "".into(), ..config.clone() };
        (named.run.save_every, named.run.keep) = (0, 0);
        named.data.train.iter_mut().chain(&mut named.data.eval).for_each(|s| s.path = "".into());
        let identity = format!("{}\n{base:?}\n{tokens}\n{}", named.to_toml()?, model.plan.digest());
        let identity = manifest::digest_bytes(identity.as_bytes());
        let pool = Arc::new(Pool::new(load::threads(threads)));
        Ok(Job { config: config.clone(), model, encoder, data, held_out, pool, base, files, identity, tokens })
    }

    /// The most that a micro-batch asks.
    pub(crate) fn limits(&self) -> RowLimits {
        allod_train::run::limits(&self.config, &self.data.store, &self.data.train, &self.held_out)
    }

    /// The model ready to learn.
    pub(crate) fn learner(&self) -> Result<Learner> {
        let config = &self.config;
        let tune = targets::tune(&self.model.plan, &config.train, &config.objective, config.run.seed)?;
        let products = if config.run.served { Products::Served } else { Products::Exact };
        let recompute = config.run.recompute;
        let options = LearnOptions { limits: self.limits(), products, recompute, ..LearnOptions::default() };
        let mut progress = Progress::default();
        progress.show("preparing the model …");
        let plan = &self.model.plan;
        let mut learner = Learner::new(plan, &*self.model.source, Arc::clone(&self.pool), &tune, &options)?;
        if let Some(path) = &config.train.adapter {
            let adapter = allod_models::adapter::open(path, &*self.model.source)?;
            let scale = allod_train::out::scale(&config.train);
            targets::begin_from(&adapter, learner.tensors_mut(), scale, path)?;
        }
        Ok(learner)
    }
}
