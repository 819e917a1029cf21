//! The run itself: progress, and what is written at the end.

use super::job::Job;
use crate::commands::convert::tokenizer_keys;
use crate::interrupt::Guard;
use crate::load;
use crate::printer::{Progress, note, size};
use allod_engine::Cancel;
use allod_formats::Metadata;
use allod_models::convert::{GgufOptions, to_gguf};
use allod_plan::{Role, Trainable, TrainedTensor};
use allod_train::run::config::Init;
use allod_train::run::{Event, Manifest, Summary, Trainer, manifest, metrics, plot};
use allod_train::{Error, out};
use anyhow::Result;
use serde_json::{Map, Value};
use std::io::{IsTerminal, Write, stderr, stdout};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// What the program is, for manifests.
pub(crate) const CODE: &str = concat!("allod ", env!("CARGO_PKG_VERSION"));

/// Trains and writes everything.
pub(crate) fn train(job: Job, resume: bool, json: bool) -> Result<ExitCode> {
    let start = Instant::now();
    let mut learner = job.learner()?;
    let first = (job.config.train.init == Init::Pissa).then(|| learner.tensors().to_vec());
    announce(&job, &learner);
    let settings = job.config.output.join("config.toml");
    std::fs::write(&settings, job.config.to_toml()?)?;
    let cancel = Cancel::default();
    let _guard = Guard::new(cancel.clone());
    let mut teller = Teller { progress: Progress::default(), json, cancel, start };
    let mut trainer = Trainer {
        config: &job.config,
        store: &job.data.store,
        items: &job.data.train,
        held_out: &job.held_out,
        model: &mut learner,
        pool: &job.pool,
        identity: job.identity.clone(),
        resume,
        until: None,
        writes: true,
    };
    let summary = trainer.run(&mut |event| teller.tell(&event))?;
    teller.progress.clear();
    let outputs = write(&job, learner.tensors(), first.as_deref())?;
    let record = record(&job, &summary, learner.tensors(), &outputs, start.elapsed().as_secs_f64())?;
    record.write(&job.config.output)?;
    metrics::report(&job.config.output, &job.config.output.display().to_string())?;
    conclude(&job, &summary, learner.tensors(), &outputs, json)?;
    Ok(ExitCode::SUCCESS)
}

/// What is about to be done.
fn announce(job: &Job, learner: &dyn Trainable) {
    let report = &job.data.report;
    let trained: usize = learner.tensors().iter().map(|t| t.data.len()).sum();
    note(&format!(
        "{} examples, {} tokens, {} of them learned; {} held out; {trained} numbers trained",
        job.data.train.len(),
        report.tokens(),
        report.learned,
        job.held_out.len(),
    ));
    if report.cut.0 > 0 {
        note(&format!(
            "{} sequences were longer than {} tokens and lost {} tokens together (--max-length)",
            report.cut.0, job.config.data.max_length, report.cut.1
        ));
    }
    let skipped: usize = report.skipped.values().sum();
    if skipped + report.problem_count > 0 {
        note(&format!("left out: {skipped} examples{}, {} with problems", report.reasons(), report.problem_count));
    }
}

/// Tells of a run as it goes.
struct Teller {
    progress: Progress,
    json: bool,
    cancel: Cancel,
    start: Instant,
}

impl Teller {
    fn tell(&mut self, event: &Event<'_>) -> ControlFlow<()> {
        let figure = |figures: &[(String, f64)], name: &str| figures.iter().find(|f| f.0 == name).map_or(0.0, |f| f.1);
        match event {
            Event::Reference { done, total } => self.progress.show(&format!("reference: {done} of {total} examples")),
            Event::Step { step: (at, of), figures } => {
                let left = self.start.elapsed().as_secs_f64() / *at as f64 * (of - at) as f64;
                self.progress.show(&format!(
                    "step {at} of {of}, loss {:.4}, {:.0} tokens/s, {} left",
                    figure(figures, "loss"),
                    figure(figures, "tokens_per_second"),
                    time(left),
                ));
                self.line("train", *at, figures);
            }
            Event::Evaluation { step, figures } => {
                self.progress.clear();
                note(&format!("step {step}: evaluation loss {:.4}", figure(figures, "loss")));
                self.line("eval", *step, figures);
            }
            Event::Saved(_) => {}
        }
        if self.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn line(&self, phase: &str, step: usize, figures: &[(String, f64)]) {
        if !self.json {
            return;
        }
        let mut object = Map::new();
        object.insert("phase".into(), phase.into());
        object.insert("step".into(), step.into());
        object.extend(figures.iter().map(|(name, value)| (name.clone(), Value::from(*value))));
        // Nothing can be done where stdout is closed.
        let _ = writeln!(stdout(), "{}", Value::Object(object));
    }
}

fn time(seconds: f64) -> String {
    let s = seconds.round() as u64;
    if s >= 3600 {
        format!("{} h {:02} min", s / 3600, s % 3600 / 60)
    } else {
        format!("{} min {:02} s", s / 60, s % 60)
    }
}

/// Writes what was learned, as far as each format can hold it.
fn write(job: &Job, tensors: &[TrainedTensor], first: Option<&[TrainedTensor]>) -> Result<Vec<PathBuf>> {
    let (config, source) = (&job.config, &*job.model.source);
    // The model's own need not be written down again.
    let template = job.encoder.template().filter(|_| config.data.template.is_some());
    let mut files = Vec::new();
    let is_whole = |t: &TrainedTensor| matches!(t.role, Role::Matrix | Role::Embedding | Role::Norm | Role::Vector);
    if tensors.iter().any(|t| t.role == Role::ValueHead) {
        let path = config.output.join("value_head.safetensors");
        let head: Vec<TrainedTensor> = tensors.iter().filter(|t| t.role == Role::ValueHead).cloned().collect();
        allod_train::run::checkpoint::write_tensors(&path, &head)?;
        files.push(path);
    }
    if tensors.iter().any(is_whole) {
        let path = config.output.join("model.gguf");
        let options = GgufOptions { matrices: config.train.matrices.map(Into::into), ..GgufOptions::default() };
        let mut extra = match load::folder(&config.model) {
            Some(folder) => tokenizer_keys(folder)?,
            None => Metadata::default(),
        };
        if let Some(template) = template {
            extra.set(load::CHAT_TEMPLATE, template);
        }
        files.extend(to_gguf(&out::Replaced::new(source, tensors), &extra, &path, &options)?);
    }
    if !tensors.iter().any(|t| t.role == Role::LoraA) {
        return Ok(files);
    }
    let lora = out::adapters(tensors, out::scale(&config.train), first);
    let (folder, base) = (config.output.join("adapter"), config.model.display().to_string());
    let reward = matches!(config.objective, allod_train::objective::Objective::Reward(_));
    match out::write_peft(&folder, source, &base, &lora, &config.train, reward) {
        Ok(written) => files.extend(written),
        Err(error) => note(&format!("no PEFT folder: {error}")),
    }
    if let Some(template) = template
        && folder.is_dir()
    {
        let path = folder.join(allod_models::adapter::TEMPLATE);
        std::fs::write(&path, template)?;
        files.push(path);
    }
    match out::write_gguf(&config.output.join("adapter.gguf"), source, &lora, template) {
        Ok(written) => files.extend(written),
        Err(error) => note(&format!("no GGUF adapter: {error}")),
    }
    Ok(files)
}

/// The record of the run.
fn record(
    job: &Job,
    summary: &Summary,
    tensors: &[TrainedTensor],
    outputs: &[PathBuf],
    seconds: f64,
) -> Result<Manifest, Error> {
    let report = &job.data.report;
    let relative = |path: &PathBuf| {
        let name = path.strip_prefix(&job.config.output).unwrap_or(path);
        Ok::<_, Error>((name.display().to_string(), manifest::digest(path)?))
    };
    Ok(Manifest {
        code: CODE.into(),
        config: job.config.to_toml()?,
        identity: job.identity.clone(),
        base: job.base.clone(),
        plan: job.model.plan.digest().to_hex().to_string(),
        data: job.files.clone(),
        tokens: job.tokens.clone(),
        template: job.encoder.template().map(|t| manifest::digest_bytes(t.as_bytes())),
        counts: [job.data.train.len() as u64, job.held_out.len() as u64, report.tokens(), report.learned],
        steps: summary.steps,
        losses: summary.losses.clone(),
        loss: summary.loss,
        evaluations: summary.evaluations.clone(),
        trained: manifest::digest_tensors(tensors),
        outputs: outputs.iter().map(relative).collect::<Result<_, _>>()?,
        seconds,
        peak_memory: manifest::peak_memory(),
    })
}

fn conclude(job: &Job, summary: &Summary, tensors: &[TrainedTensor], outputs: &[PathBuf], json: bool) -> Result<()> {
    if json {
        return Ok(());
    }
    let curve = metrics::curve(&job.config.output, "train", "loss")?;
    if stderr().is_terminal() {
        let width = size().0.saturating_sub(12).clamp(20, 100);
        let _ = write!(stderr(), "{}", plot::braille(&curve, width, 8));
    }
    let early = if summary.stopped_early { ", ended early: evaluations no longer improved" } else { "" };
    note(&format!("{} steps, loss {:.4}{early}", summary.steps, summary.loss));
    outputs.iter().for_each(|f| note(&format!("wrote {}", f.display())));
    if outputs.iter().any(|f| f.ends_with("adapter_config.json")) {
        let (base, adapter) = (job.config.model.display(), job.config.output.join("adapter"));
        let has_experts = tensors.iter().any(|t| t.role == Role::LoraA && t.shape.len() == 3);
        let (command, more) = if has_experts { ("convert", " -o merged.gguf") } else { ("run", "") };
        note(&format!("try it: allod {command} {base} --adapter {}{more}", adapter.display()));
    }
    Ok(())
}
