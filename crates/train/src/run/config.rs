//! The settings of a run: one TOML file, or flags that fill the same fields.

use crate::{
    Error,
    data::{Mask, Source, Truncation},
    objective::{DpoLoss, Objective, Term},
    optim::{Kind, Shape},
};
use allod_tensor::DType;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The base model.
    pub model: PathBuf,
    /// The folder that everything is written to.
    pub output: PathBuf,
    /// What is learned from.
    pub data: DataConfig,
    /// What is minimized.
    #[serde(default = "sft")]
    pub objective: Objective,
    /// What is trained.
    #[serde(default)]
    pub train: TrainConfig,
    /// How weights move.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// How long, in which order, what is kept.
    #[serde(default)]
    pub run: RunConfig,
}

fn sft() -> Objective {
    Objective::Sft(crate::objective::Sft::default())
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Files to learn from, with weights.
    pub train: Vec<Source>,
    /// Files to evaluate on.
    pub eval: Vec<Source>,
    /// The share of the training examples that is kept for evaluation.
    pub held_out: f64,
    /// What is learned of an example.
    pub mask: Mask,
    /// Longest sequence in tokens.
    pub max_length: usize,
    /// What happens to longer ones.
    pub truncation: Truncation,
    /// A file with a chat template, or `chatml`, in place of the model's.
    pub template: Option<String>,
    /// `{{key}}` in texts becomes its value.
    pub set: BTreeMap<String, String>,
    /// At most so many examples.
    pub limit: Option<usize>,
    /// Leave out records with problems instead of stopping at the first.
    pub skip_problems: bool,
    /// Seconds since 1970 that templates take for the present; the date is part of what is learned.
    pub now: u64,
}

impl Default for DataConfig {
    fn default() -> DataConfig {
        DataConfig {
            train: vec![],
            eval: vec![],
            held_out: 0.0,
            mask: Mask::Auto,
            max_length: 1024,
            truncation: Truncation::KeepStart,
            template: None,
            set: BTreeMap::new(),
            limit: None,
            skip_problems: false,
            // 2026-01-01: a run is to be the same tomorrow.
            now: 1_767_225_600,
        }
    }
}

/// How an adapter begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// A uniform, B zero.
    #[default]
    Kaiming,
    /// A normal, B zero.
    Gaussian,
    /// The leading singular vectors of the weight.
    Pissa,
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// All weights instead of adapters.
    pub full: bool,
    /// Rank of the adapters.
    pub rank: usize,
    /// The adapters' output is times `alpha / rank` (`alpha / √rank` with rslora).
    pub alpha: f64,
    /// Probability with which an element of an adapter's input is dropped.
    pub dropout: f64,
    /// Matrices with adapters: `all-linear`, or endings of names, ours (`attn_q`) or Transformers' (`q_proj`).
    pub targets: Vec<String>,
    /// Rank-stabilized scaling.
    pub rslora: bool,
    /// Magnitude and direction apart.
    pub dora: bool,
    /// How adapters begin.
    pub init: Init,
    /// An adapter to go on from: a PEFT folder or a GGUF adapter.
    pub adapter: Option<PathBuf>,
    /// Weights trained whole beside the adapters, such as `token_embd` or `output`, by endings of names.
    pub whole: Vec<String>,
    /// Type of the matrices in `model.gguf`; where none is given, F32 for those that were trained, others as they are.
    pub matrices: Option<Matrices>,
}

/// What a model's matrices are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Matrices {
    /// 32 bits.
    F32,
    /// IEEE's 16 bits.
    F16,
    /// The upper 16 bits of F32.
    BF16,
}

impl From<Matrices> for DType {
    fn from(matrices: Matrices) -> DType {
        match matrices {
            Matrices::F32 => DType::F32,
            Matrices::F16 => DType::F16,
            Matrices::BF16 => DType::BF16,
        }
    }
}

impl Default for TrainConfig {
    fn default() -> TrainConfig {
        TrainConfig {
            full: false,
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            targets: vec!["all-linear".into()],
            rslora: false,
            dora: false,
            init: Init::Kaiming,
            adapter: None,
            whole: vec![],
            matrices: None,
        }
    }
}

/// `[optimizer]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Which, and its constants.
    pub kind: Kind,
    /// The highest learning rate; `None` takes the objective's.
    pub learning_rate: Option<f64>,
    /// Taken off matrices, times the learning rate; not off norms, biases and other vectors.
    pub weight_decay: f64,
    /// Greatest norm of all gradients together; 0: no limit.
    pub max_grad_norm: f64,
    /// Times the learning rate of every adapter's B (LoRA+).
    pub lora_plus: f64,
    /// Course of the learning rate.
    pub schedule: Shape,
    /// Steps in which it rises from 0.
    pub warmup_steps: Option<usize>,
    /// The same as a share of all steps.
    pub warmup_ratio: f64,
}

impl Default for OptimizerConfig {
    fn default() -> OptimizerConfig {
        OptimizerConfig {
            kind: Kind::Adamw(crate::optim::Adam::default()),
            learning_rate: None,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            lora_plus: 1.0,
            schedule: Shape::Linear,
            warmup_steps: None,
            warmup_ratio: 0.0,
        }
    }
}

/// `[run]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Passes over the data, where no steps are given.
    pub epochs: f64,
    /// Optimizer steps.
    pub steps: Option<usize>,
    /// Examples (packed: bins) computed at once.
    pub batch: usize,
    /// Micro-batches in a step.
    pub accumulate: usize,
    /// Put sequences together up to `max_length` tokens.
    pub packing: bool,
    /// Take examples in another order in every pass. Off for KTO, whose companions are neighbours.
    pub shuffle: Option<bool>,
    /// Decides order, splits, initial values, dropout and noise.
    pub seed: u64,
    /// Noise on embeddings (NEFTune's α).
    pub neftune: f64,
    /// Steps between evaluations; 0: at the end only.
    pub eval_every: usize,
    /// Steps between checkpoints; 0: at the end only.
    pub save_every: usize,
    /// Checkpoints kept, the newest; the one with the best evaluation is kept besides.
    pub keep: usize,
    /// Evaluations without improvement after which the run ends; 0: never.
    pub patience: usize,
    /// What counts as an improvement of the evaluation loss.
    pub threshold: f64,
    /// Multiply forwards with the kernels that serve, where the base is quantized, instead of with the numbers its
    /// weights stand for: faster, with rows rounded to eight bits.
    pub served: bool,
    /// Compute each layer again in the backward pass instead of keeping what it needs: less memory, a third more time.
    pub recompute: bool,
}

impl Default for RunConfig {
    fn default() -> RunConfig {
        RunConfig {
            epochs: 3.0,
            steps: None,
            batch: 8,
            accumulate: 1,
            packing: false,
            shuffle: None,
            seed: 42,
            neftune: 0.0,
            eval_every: 0,
            save_every: 0,
            keep: 2,
            patience: 0,
            threshold: 0.0,
            served: false,
            recompute: false,
        }
    }
}

impl Config {
    /// Reads a TOML file. Paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Run`] with the line and the field.
    pub fn read(path: &Path) -> Result<Config, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let hint = "see docs/training.md for the fields";
        let mut config: Config =
            toml::from_str(&text).map_err(|e| Error::run(path, e.to_string().trim_end().to_owned(), hint))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut paths: Vec<&mut PathBuf> = vec![&mut config.output];
        paths.extend(config.data.train.iter_mut().chain(&mut config.data.eval).map(|s| &mut s.path));
        paths.extend(&mut config.train.adapter);
        // `default` names the built-in model.
        if config.model != Path::new("default") {
            paths.push(&mut config.model);
        }
        for p in paths {
            *p = folder.join(&p);
        }
        config.check()?;
        Ok(config)
    }

    /// The settings as TOML.
    ///
    /// # Errors
    /// [`Error::Run`] for what TOML cannot hold.
    pub fn to_toml(&self) -> Result<String, Error> {
        toml::to_string(self).map_err(|e| Error::run(&self.output, e.to_string(), "report this"))
    }

    /// Whether the settings make sense by themselves.
    ///
    /// # Errors
    /// [`Error::Setting`] that names the first that does not.
    pub fn check(&self) -> Result<(), Error> {
        let (run, train, optimizer) = (&self.run, &self.train, &self.optimizer);
        let rate = optimizer.learning_rate.unwrap_or(self.objective.learning_rate());
        let sorts = |t: &Term| matches!(t.loss, DpoLoss::Aot | DpoLoss::AotUnpaired);
        let paired = !matches!(&self.objective, Objective::Dpo(d) if d.use_weighting && d.losses.iter().any(sorts));
        let all: [(bool, &str, &str); 15] = [
            (paired, "objective.use_weighting", "leave it out: aot sorts answers, so that no pair is left to weigh"),
            (!self.data.train.is_empty(), "data.train", "name at least one file of examples"),
            ((0.0..1.0).contains(&self.data.held_out), "data.held_out", "give a share from 0 to below 1"),
            (self.data.max_length >= 2, "data.max_length", "give at least 2 tokens"),
            (run.batch > 0, "run.batch", "give at least 1"),
            (run.accumulate > 0, "run.accumulate", "give at least 1"),
            (run.steps != Some(0), "run.steps", "give at least 1"),
            (run.steps.is_some() || run.epochs > 0.0, "run.epochs", "give a number above 0"),
            (rate > 0.0 && rate.is_finite(), "optimizer.learning_rate", "give a number above 0, such as 1e-4"),
            (optimizer.weight_decay >= 0.0, "optimizer.weight_decay", "give 0 or more"),
            (optimizer.max_grad_norm >= 0.0, "optimizer.max_grad_norm", "give 0 (no limit) or more"),
            ((0.0..1.0).contains(&optimizer.warmup_ratio), "optimizer.warmup_ratio", "give a share from 0 to below 1"),
            (train.full || train.rank > 0, "train.rank", "give at least 1"),
            (train.full || train.alpha > 0.0, "train.alpha", "give a number above 0, such as twice the rank"),
            ((0.0..1.0).contains(&train.dropout), "train.dropout", "give a probability from 0 to below 1"),
        ];
        match all.iter().find(|(good, ..)| !good) {
            Some((_, what, hint)) => Err(Error::setting(*what, "this value makes no sense", *hint)),
            None => Ok(()),
        }
    }

    /// The highest learning rate.
    pub fn learning_rate(&self) -> f64 {
        self.optimizer.learning_rate.unwrap_or(self.objective.learning_rate())
    }

    /// Whether examples come in another order in every pass.
    pub fn shuffles(&self) -> bool {
        self.run.shuffle.unwrap_or(!matches!(self.objective, Objective::Kto(_)))
    }
}
