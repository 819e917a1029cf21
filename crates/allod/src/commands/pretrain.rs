//! `allod pretrain`: a model from nothing but text.

use super::tune::{Job, fresh, one_of, train};
use crate::failure::Failure;
use crate::load;
use crate::printer::note;
use allod_formats::Value;
use allod_train::data::{Mask, Source};
use allod_train::objective::{Objective, Sft};
use allod_train::optim::{Adam, Decay, Kind, Muon, Shape};
use allod_train::pretrain::{Init, Size, initialize, train_tokenizer};
use allod_train::run::Config;
use allod_train::run::config::{DataConfig, OptimizerConfig, RunConfig, TrainConfig};
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Make a small Llama from text: a vocabulary is trained, weights are drawn, and the model learns to continue the text
///
/// The folder gets the tokenizer, the model as it began (base.gguf) and as it ended (model.gguf), figures, checkpoints
/// and a manifest; `allod tune verify` replays it. Documents of a text file are separated by lines of <|endoftext|>.
#[derive(Args)]
#[command(after_help = "Examples:\n  allod pretrain --data stories.txt -o stories\n  \
                        allod pretrain --data corpus.txt --layers 6 --width 256 --heads 8 --steps 2000 --lr 2e-3 -o small\n  \
                        allod run stories/model.gguf 'Once upon a time'")]
pub(crate) struct PretrainArgs {
    /// Text to learn from; may be given several times
    #[arg(long, value_name = "FILE", required = true, value_hint = clap::ValueHint::FilePath)]
    data: Vec<PathBuf>,
    /// Text to evaluate on
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    eval: Vec<PathBuf>,
    /// Share of the windows that is kept for evaluation where no --eval is given
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    held_out: f64,
    /// Folder to write to
    #[arg(long, short, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    output: PathBuf,
    /// The model's name, as its metadata say it [default: the folder's]
    #[arg(long)]
    name: Option<String>,
    /// A folder with a tokenizer.json to use instead of training a vocabulary
    #[arg(long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    tokenizer: Option<PathBuf>,
    /// Tokens of the vocabulary
    #[arg(long, value_name = "N", default_value_t = Size::default().vocabulary)]
    vocabulary: usize,
    /// Further tokens of their own, such as '<|im_start|>'
    #[arg(long, value_name = "TEXT")]
    mark: Vec<String>,
    /// Begin every document with the token that ends one, so that the model can write from nothing
    #[arg(long)]
    bos: bool,
    /// A file with a chat template for the model's metadata
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    template: Option<PathBuf>,
    /// Further metadata of the model
    #[arg(long, value_name = "KEY=VALUE")]
    meta: Vec<String>,
    /// Elements of a hidden state
    #[arg(long, value_name = "N", default_value_t = Size::default().width)]
    width: usize,
    /// Layers
    #[arg(long, value_name = "N", default_value_t = Size::default().layers)]
    layers: usize,
    /// Query heads
    #[arg(long, value_name = "N", default_value_t = Size::default().heads)]
    heads: usize,
    /// Key and value heads
    #[arg(long, value_name = "N", default_value_t = Size::default().kv_heads)]
    kv_heads: usize,
    /// Elements within a feed-forward
    #[arg(long, value_name = "N", default_value_t = Size::default().ff)]
    ff: usize,
    /// Positions of the model, and tokens of a window of text
    #[arg(long, value_name = "TOKENS", default_value_t = Size::default().context)]
    context: usize,
    /// How weights begin: gpt2 (of deviation 0.02) or fan-in (of deviation 1/√inputs, those that write into the residual
    /// stream zero)
    #[arg(long, value_name = "NAME", default_value = "gpt2")]
    init: String,
    /// adamw or muon (for the matrices; AdamW for the rest)
    #[arg(long, value_name = "NAME", default_value = "muon")]
    optim: String,
    /// Highest learning rate
    #[arg(long, value_name = "X", default_value_t = 3e-3)]
    lr: f64,
    /// Highest learning rate of what muon leaves to AdamW: embeddings and norms [default: --lr]
    #[arg(long, value_name = "X")]
    adam_lr: Option<f64>,
    /// Weight decay of matrices
    #[arg(long, value_name = "X", default_value_t = 0.1)]
    weight_decay: f64,
    /// Steps in which the learning rate rises
    #[arg(long, value_name = "N", default_value_t = 50)]
    warmup_steps: usize,
    /// wsd (level, then down in the last 40 %), cosine, linear or constant
    #[arg(long, value_name = "NAME", default_value = "wsd")]
    scheduler: String,
    /// Passes over the text
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    epochs: f64,
    /// Optimizer steps, in place of passes
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Windows computed at once (packed: bins of a window's length)
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Micro-batches in a step
    #[arg(long, value_name = "N", default_value_t = 1)]
    accumulate: usize,
    /// Take windows in the order of the files
    #[arg(long)]
    no_shuffle: bool,
    /// Steps between evaluations
    #[arg(long, value_name = "N", default_value_t = 0)]
    eval_every: usize,
    /// Steps between checkpoints
    #[arg(long, value_name = "N", default_value_t = 200)]
    save_every: usize,
    /// Decides initial weights and order
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Go on from the newest checkpoint in the output folder
    #[arg(long)]
    resume: bool,
    /// Threads to compute with [default: all cores]; the result does not depend on it
    #[arg(long, short, value_name = "N")]
    threads: Option<usize>,
    /// Print one line of JSON for each step and evaluation on stdout
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &PretrainArgs) -> Result<ExitCode> {
    let config = config(args)?;
    config.check()?;
    fresh(&config, args.resume)?;
    if !(args.resume && config.model.exists()) {
        begin(args, &config)?;
    }
    train(Job::new(&config, args.threads)?, args.resume, args.json)
}

/// Vocabulary and random weights.
fn begin(args: &PretrainArgs, config: &Config) -> Result<()> {
    let mut size = Size {
        vocabulary: args.vocabulary,
        width: args.width,
        layers: args.layers,
        heads: args.heads,
        kv_heads: args.kv_heads,
        ff: args.ff,
        context: args.context,
        ..Size::default()
    };
    size.check()?;
    std::fs::create_dir_all(&args.output).with_context(|| args.output.display().to_string())?;
    let folder = match &args.tokenizer {
        Some(folder) => folder.clone(),
        None => {
            let folder = args.output.join("tokenizer");
            train_tokenizer(&args.data, args.vocabulary, &args.mark, args.bos, &folder)?;
            folder
        }
    };
    size.vocabulary = allod_text::Tokenizer::from_folder(&folder)?.vocab_size();
    let mut extra = load::metadata(&args.meta)?;
    if let Some(file) = &args.template {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        extra.push(("tokenizer.chat_template".into(), Value::from(text.trim_end())));
    }
    let name = args.name.clone().unwrap_or_else(|| {
        args.output.file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned())
    });
    let init = one_of("--init", &args.init, &[("gpt2", Init::Gpt2), ("fan-in", Init::FanIn)])?;
    initialize(&size, &folder, &name, &extra, (init, args.seed), &config.model)?;
    let parameters: usize = size.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    note(&format!("a vocabulary of {} tokens, {parameters} parameters", size.vocabulary));
    Ok(())
}

fn optimizer(args: &PretrainArgs) -> Result<Kind> {
    let adam = Adam { beta2: 0.95, ..Adam::default() };
    match (args.optim.as_str(), args.adam_lr) {
        ("adamw", None) => Ok(Kind::Adamw(adam)),
        ("adamw", Some(_)) => {
            let hint = "leave --adam-lr out, or take --optim muon";
            Err(Failure::new("adamw moves everything at one rate, --lr", hint).into())
        }
        ("muon", rate) => {
            let adam_rate = rate.map_or(1.0, |rate| rate / args.lr);
            Ok(Kind::Muon(Muon { match_rms: true, adam, adam_rate, ..Muon::default() }))
        }
        (other, _) => Err(Failure::new(format!("--optim {other} is not known"), "one of adamw, muon").into()),
    }
}

fn config(args: &PretrainArgs) -> Result<Config> {
    let source = |path: &PathBuf| Source { path: path.clone(), weight: 1.0 };
    let schedule = match args.scheduler.as_str() {
        "wsd" => Shape::Wsd { decay: 0.4, min_ratio: 0.0, curve: Decay::Linear },
        "cosine" => Shape::Cosine,
        "linear" => Shape::Linear,
        "constant" => Shape::Constant,
        other => {
            let hint = "one of wsd, cosine, linear, constant";
            return Err(Failure::new(format!("--scheduler {other} is not known"), hint).into());
        }
    };
    Ok(Config {
        model: args.output.join("base.gguf"),
        output: args.output.clone(),
        data: DataConfig {
            train: args.data.iter().map(source).collect(),
            eval: args.eval.iter().map(source).collect(),
            held_out: if args.eval.is_empty() { args.held_out } else { 0.0 },
            mask: Mask::All,
            // A window of text and the token after it.
            max_length: args.context + 1,
            ..DataConfig::default()
        },
        objective: Objective::Sft(Sft::default()),
        train: TrainConfig { full: true, ..TrainConfig::default() },
        optimizer: OptimizerConfig {
            kind: optimizer(args)?,
            learning_rate: Some(args.lr),
            weight_decay: args.weight_decay,
            schedule,
            warmup_steps: Some(args.warmup_steps),
            ..OptimizerConfig::default()
        },
        run: RunConfig {
            epochs: args.epochs,
            steps: args.steps,
            batch: args.batch,
            accumulate: args.accumulate,
            packing: true,
            shuffle: args.no_shuffle.then_some(false),
            seed: args.seed,
            eval_every: args.eval_every,
            save_every: args.save_every,
            ..RunConfig::default()
        },
    })
}
