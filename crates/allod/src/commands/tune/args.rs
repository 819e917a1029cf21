//! Flags of a run, and the settings they fill.

use crate::failure::Failure;
use allod_train::data::{Mask, Source, Truncation};
use allod_train::objective::{Cpo, CpoLoss, Dpo, Kto, Objective, Orpo, Reward, Sft, Term};
use allod_train::optim::{Adam, Decay, Kind, Muon, Sgd, Shape};
use allod_train::run::Config;
use allod_train::run::config::{DataConfig, Init, Matrices, OptimizerConfig, RunConfig, TrainConfig};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;

/// Settings by flag; those that are given take the place of a file's.
#[derive(Args)]
pub(crate) struct Settings {
    /// The base model: a .gguf file of any type, a folder of safetensors, or `default`
    #[arg(value_hint = clap::ValueHint::AnyPath, required_unless_present = "config")]
    base: Option<PathBuf>,
    /// Examples to learn from; several times for several files, each perhaps with a weight: FILE or FILE=0.5
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::AnyPath)]
    data: Vec<String>,
    /// Examples to evaluate on
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::AnyPath)]
    eval: Vec<PathBuf>,
    /// Folder to write to
    #[arg(long, short, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    output: Option<PathBuf>,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// What is minimized: sft, dpo, orpo, cpo, simpo, kto or reward [default: sft]
    #[arg(long, value_name = "NAME")]
    objective: Option<String>,
    /// The loss of dpo, cpo or kto, such as ipo, hinge or apo_zero
    #[arg(long, value_name = "NAME")]
    loss: Option<String>,
    /// How far preferences may move the model from where it was [default: 0.1]
    #[arg(long, value_name = "X")]
    beta: Option<f64>,
    /// What is learned of an example: auto, all, completion, assistant or answers [default: auto]
    #[arg(long, value_name = "NAME")]
    mask: Option<String>,
    /// Longest sequence in tokens [default: 1024]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// What happens to longer ones: keep-start, keep-end or drop [default: keep-start]
    #[arg(long, value_name = "NAME")]
    truncation: Option<String>,
    /// A chat template in place of the model's: a file, or `chatml`
    #[arg(long, value_name = "FILE")]
    template: Option<String>,
    /// Put VALUE in the place of {{KEY}} in every text
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Share of the examples that is kept for evaluation [default: 0]
    #[arg(long, value_name = "SHARE")]
    held_out: Option<f64>,
    /// At most so many examples
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Leave out records with problems instead of stopping at the first
    #[arg(long)]
    skip_problems: bool,
    /// Train all weights instead of adapters
    #[arg(long)]
    full: bool,
    /// Rank of the adapters [default: 16]
    #[arg(long, value_name = "N")]
    rank: Option<usize>,
    /// Adapters are scaled by alpha / rank [default: twice the rank]
    #[arg(long, value_name = "X")]
    alpha: Option<f64>,
    /// Probability with which an element of an adapter's input is dropped [default: 0]
    #[arg(long, value_name = "P")]
    dropout: Option<f64>,
    /// Matrices with adapters: all-linear, all-experts, or names such as q_proj or attn_q [default: all-linear]
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// Weights that are trained whole beside the adapters, such as token_embd
    #[arg(long, value_name = "NAME")]
    whole: Vec<String>,
    /// Type of the matrices in model.gguf: F32, F16 or BF16 [default: F32 for trained ones, others as they are]
    #[arg(long = "type", value_name = "TYPE")]
    matrices: Option<String>,
    /// Scale by alpha / √rank (rsLoRA)
    #[arg(long)]
    rslora: bool,
    /// Train magnitude and direction apart (DoRA)
    #[arg(long)]
    dora: bool,
    /// How adapters begin: kaiming, gaussian or pissa [default: kaiming]
    #[arg(long, value_name = "NAME")]
    init: Option<String>,
    /// Times the learning rate of every B (LoRA+) [default: 1]
    #[arg(long, value_name = "X")]
    lora_plus: Option<f64>,
    /// An adapter to go on from
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    adapter: Option<PathBuf>,
    /// adamw, adamw8bit, adafactor, muon or sgd [default: adamw]
    #[arg(long, value_name = "NAME")]
    optim: Option<String>,
    /// Highest learning rate [default: the objective's; sft 2e-5, reward 1e-4, others 1e-6]
    #[arg(long, value_name = "X")]
    lr: Option<f64>,
    /// linear, cosine, constant, wsd, inverse_sqrt, polynomial or cosine_with_restarts [default: linear]
    #[arg(long, value_name = "NAME")]
    scheduler: Option<String>,
    /// Steps in which the learning rate rises
    #[arg(long, value_name = "N")]
    warmup_steps: Option<usize>,
    /// The same as a share of all steps
    #[arg(long, value_name = "SHARE")]
    warmup_ratio: Option<f64>,
    /// Weight decay of matrices [default: 0]
    #[arg(long, value_name = "X")]
    weight_decay: Option<f64>,
    /// Greatest norm of all gradients together; 0: no limit [default: 1]
    #[arg(long, value_name = "X")]
    max_grad_norm: Option<f64>,
    /// Passes over the data [default: 3]
    #[arg(long, value_name = "N")]
    epochs: Option<f64>,
    /// Optimizer steps, in place of passes
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Examples computed at once [default: 8]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Micro-batches in a step [default: 1]
    #[arg(long, value_name = "N")]
    accumulate: Option<usize>,
    /// Put short sequences together up to the longest length
    #[arg(long)]
    packing: bool,
    /// Take examples in the order of the files
    #[arg(long)]
    no_shuffle: bool,
    /// Decides order, splits, initial values, dropout and noise [default: 42]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Noise on embeddings (NEFTune), such as 5 [default: 0]
    #[arg(long, value_name = "ALPHA")]
    neftune: Option<f64>,
    /// Steps between evaluations [default: at the end only]
    #[arg(long, value_name = "N")]
    eval_every: Option<usize>,
    /// Steps between checkpoints [default: at the end only]
    #[arg(long, value_name = "N")]
    save_every: Option<usize>,
    /// End after so many evaluations without improvement
    #[arg(long, value_name = "N")]
    patience: Option<usize>,
    /// Keep less for the backward pass and compute it again: less memory, more time
    #[arg(long)]
    recompute: bool,
    /// Multiply forwards with the kernels that serve, where the base is quantized: faster, rows rounded to eight bits
    #[arg(long)]
    served: bool,
}

impl Settings {
    /// The settings of file and flags together.
    pub(crate) fn config(&self) -> Result<Config> {
        let mut config = match &self.config {
            Some(file) => Config::read(file)?,
            None => Config {
                model: self.base.clone().unwrap_or_default(),
                output: "tuned".into(),
                data: DataConfig::default(),
                objective: Objective::Sft(Sft::default()),
                train: TrainConfig::default(),
                optimizer: OptimizerConfig::default(),
                run: RunConfig::default(),
            },
        };
        set(&mut config.model, &self.base);
        set(&mut config.output, &self.output);
        self.data(&mut config.data)?;
        if let Some(name) = &self.objective {
            config.objective = objective(name)?;
        }
        self.objective(&mut config.objective)?;
        self.train(&mut config.train)?;
        self.optimizer(&mut config.optimizer)?;
        self.run(&mut config.run);
        config.check()?;
        Ok(config)
    }

    fn data(&self, data: &mut DataConfig) -> Result<()> {
        let source = |text: &String| -> Source {
            let weighted = text.rsplit_once('=').and_then(|(path, weight)| Some((path, weight.parse().ok()?)));
            let (path, weight) = weighted.unwrap_or((text, 1.0));
            Source { path: path.into(), weight }
        };
        if !self.data.is_empty() {
            data.train = self.data.iter().map(source).collect();
        }
        if !self.eval.is_empty() {
            data.eval = self.eval.iter().map(|path| Source { path: path.clone(), weight: 1.0 }).collect();
        }
        if let Some(mask) = &self.mask {
            let names = [
                ("auto", Mask::Auto),
                ("all", Mask::All),
                ("completion", Mask::Completion),
                ("assistant", Mask::Assistant),
                ("answers", Mask::Answers),
            ];
            data.mask = one_of("--mask", mask, &names)?;
        }
        if let Some(truncation) = &self.truncation {
            let names =
                [("keep-start", Truncation::KeepStart), ("keep-end", Truncation::KeepEnd), ("drop", Truncation::Drop)];
            data.truncation = one_of("--truncation", truncation, &names)?;
        }
        for pair in &self.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                Failure::new(format!("--set {pair} has no value"), "write KEY=VALUE, such as --set name=Allod")
            })?;
            data.set.insert(key.into(), value.into());
        }
        set(&mut data.max_length, &self.max_length);
        set(&mut data.held_out, &self.held_out);
        data.template = self.template.clone().or(data.template.take());
        data.limit = self.limit.or(data.limit);
        data.skip_problems |= self.skip_problems;
        Ok(())
    }

    fn objective(&self, objective: &mut Objective) -> Result<()> {
        let beta = match objective {
            Objective::Dpo(o) => Some(&mut o.beta),
            Objective::Orpo(o) => Some(&mut o.beta),
            Objective::Cpo(o) => Some(&mut o.beta),
            Objective::Kto(o) => Some(&mut o.beta),
            Objective::Sft(_) | Objective::Reward(_) => None,
        };
        if let (Some(beta), Some(given)) = (beta, self.beta) {
            *beta = given;
        }
        let Some(loss) = &self.loss else { return Ok(()) };
        let unknown = || {
            let hint = "dpo: sigmoid, hinge, ipo, exo_pair, nca_pair, robust, bco_pair, sppo_hard, aot, aot_unpaired, \
                        apo_zero, apo_down, discopop, sft, sigmoid_norm; cpo: sigmoid, hinge, ipo, simpo; kto: kto, \
                        apo_zero_unpaired";
            Failure::new(format!("--loss {loss} is none of this objective's"), hint)
        };
        let value = serde_json::Value::from(loss.as_str());
        match objective {
            Objective::Dpo(o) => {
                let loss = serde_json::from_value(value).map_err(|_| unknown())?;
                o.losses = vec![Term { loss, weight: 1.0 }];
            }
            Objective::Cpo(o) => o.loss = serde_json::from_value(value).map_err(|_| unknown())?,
            Objective::Kto(o) => o.loss = serde_json::from_value(value).map_err(|_| unknown())?,
            _ => return Err(unknown().into()),
        }
        Ok(())
    }

    fn train(&self, train: &mut TrainConfig) -> Result<()> {
        train.full |= self.full;
        train.rslora |= self.rslora;
        train.dora |= self.dora;
        if let Some(rank) = self.rank {
            train.rank = rank;
            train.alpha = 2.0 * rank as f64;
        }
        set(&mut train.alpha, &self.alpha);
        set(&mut train.dropout, &self.dropout);
        if !self.target.is_empty() {
            train.targets.clone_from(&self.target);
        }
        if !self.whole.is_empty() {
            train.whole.clone_from(&self.whole);
        }
        if let Some(init) = &self.init {
            let names = [("kaiming", Init::Kaiming), ("gaussian", Init::Gaussian), ("pissa", Init::Pissa)];
            train.init = one_of("--init", init, &names)?;
        }
        if let Some(name) = &self.matrices {
            let names = [("F32", Matrices::F32), ("F16", Matrices::F16), ("BF16", Matrices::BF16)];
            train.matrices = Some(one_of("--type", name, &names)?);
        }
        train.adapter = self.adapter.clone().or(train.adapter.take());
        Ok(())
    }

    fn optimizer(&self, o: &mut OptimizerConfig) -> Result<()> {
        if let Some(name) = &self.optim {
            let names = [
                ("adamw", Kind::Adamw(Adam::default())),
                ("adamw8bit", Kind::Adamw8bit(Adam::default())),
                ("adafactor", Kind::Adafactor),
                ("muon", Kind::Muon(Muon::default())),
                ("sgd", Kind::Sgd(Sgd::default())),
            ];
            o.kind = one_of("--optim", name, &names)?;
        }
        if let Some(name) = &self.scheduler {
            let names = [
                ("linear", Shape::Linear),
                ("cosine", Shape::Cosine),
                ("constant", Shape::Constant),
                ("wsd", Shape::Wsd { decay: 0.2, min_ratio: 0.0, curve: Decay::Linear }),
                ("inverse_sqrt", Shape::InverseSqrt),
                ("polynomial", Shape::Polynomial { power: 1.0, end_ratio: 0.0 }),
                ("cosine_with_restarts", Shape::CosineWithRestarts { cycles: 2 }),
            ];
            o.schedule = one_of("--scheduler", name, &names)?;
        }
        o.learning_rate = self.lr.or(o.learning_rate);
        o.warmup_steps = self.warmup_steps.or(o.warmup_steps);
        set(&mut o.warmup_ratio, &self.warmup_ratio);
        set(&mut o.weight_decay, &self.weight_decay);
        set(&mut o.max_grad_norm, &self.max_grad_norm);
        set(&mut o.lora_plus, &self.lora_plus);
        Ok(())
    }

    fn run(&self, run: &mut RunConfig) {
        set(&mut run.epochs, &self.epochs);
        run.steps = self.steps.or(run.steps);
        set(&mut run.batch, &self.batch);
        set(&mut run.accumulate, &self.accumulate);
        run.packing |= self.packing;
        if self.no_shuffle {
            run.shuffle = Some(false);
        }
        set(&mut run.seed, &self.seed);
        set(&mut run.neftune, &self.neftune);
        set(&mut run.eval_every, &self.eval_every);
        set(&mut run.save_every, &self.save_every);
        set(&mut run.patience, &self.patience);
        run.recompute |= self.recompute;
        run.served |= self.served;
    }
}

fn set<T: Clone>(field: &mut T, given: &Option<T>) {
    if let Some(given) = given {
        *field = given.clone();
    }
}

fn objective(name: &str) -> Result<Objective> {
    let names = [
        ("sft", Objective::Sft(Sft::default())),
        ("dpo", Objective::Dpo(Dpo::default())),
        ("orpo", Objective::Orpo(Orpo::default())),
        ("cpo", Objective::Cpo(Cpo::default())),
        ("simpo", Objective::Cpo(Cpo { loss: CpoLoss::Simpo, alpha: 0.0, ..Cpo::default() })),
        ("kto", Objective::Kto(Kto::default())),
        ("reward", Objective::Reward(Reward::default())),
    ];
    one_of("--objective", name, &names)
}

pub(crate) fn one_of<T: Clone>(flag: &str, given: &str, names: &[(&str, T)]) -> Result<T> {
    match names.iter().find(|(name, _)| *name == given) {
        Some((_, value)) => Ok(value.clone()),
        None => {
            let all: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
            Err(Failure::new(format!("{flag} {given} is not known"), format!("one of {}", all.join(", "))).into())
        }
    }
}
