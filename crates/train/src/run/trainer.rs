//! The loop: micro-batches through the model and back, a step of the optimizer, a look at what was held out.

use super::{
    Config,
    batch::{Micro, Rows},
    checkpoint::{self, Progress},
    metrics::{self, Log},
    order::Order,
    reference::Reference,
};
use crate::{
    Error,
    data::{Item, Store},
    objective::{Objective, Outcome},
    optim::{Group, Optimizer, Parameter, Schedule, global_norm, scale},
};
use allod_kernels::pool::Pool;
use allod_plan::{Pass, Role, RowLimits, Trainable};
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Instant,
};

/// What a run tells while it runs.
#[derive(Debug)]
pub enum Event<'e> {
    /// The reference scores so many of so many sequences.
    Reference {
        /// So far.
        done: usize,
        /// In all.
        total: usize,
    },
    /// A step was taken.
    Step {
        /// Its number, from 1, and how many there are.
        step: (usize, usize),
        /// Its figures.
        figures: &'e [(String, f64)],
    },
    /// An evaluation was made.
    Evaluation {
        /// After this step.
        step: usize,
        /// Its figures.
        figures: &'e [(String, f64)],
    },
    /// A checkpoint was written.
    Saved(&'e Path),
}

/// Where a run ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Steps taken in all.
    pub steps: usize,
    /// The last step's loss.
    pub loss: f64,
    /// Evaluation losses by step.
    pub evaluations: Vec<(usize, f64)>,
    /// Chain over all losses.
    pub losses: String,
    /// Tokens seen in training.
    pub tokens: u64,
    /// True where it ended early because evaluations no longer improved.
    pub stopped_early: bool,
}

/// Everything a run works on.
pub struct Trainer<'a> {
    /// Settings.
    pub config: &'a Config,
    /// Sequences.
    pub store: &'a Store,
    /// What is learned from.
    pub items: &'a [Item],
    /// What is evaluated on.
    pub held_out: &'a [Item],
    /// What learns.
    pub model: &'a mut dyn Trainable,
    /// Threads for the optimizer.
    pub pool: &'a Pool,
    /// Identifies settings, data and base: a checkpoint of another identity is refused.
    pub identity: String,
    /// Go on from the newest checkpoint, if there is one.
    pub resume: bool,
    /// Stop after this step, as if interrupted (replays look at the first steps only).
    pub until: Option<usize>,
    /// Write checkpoints and metrics into the run's folder.
    pub writes: bool,
}

/// The most that any micro-batch asks of a model, over a whole run.
pub fn limits(config: &Config, store: &Store, items: &[Item], held_out: &[Item]) -> RowLimits {
    let order = Order::new(config, store, items);
    let mut most = RowLimits { tokens: 1, outputs: 1, sequences: 1 };
    let mut take = |rows: &Rows| {
        let size = rows.size();
        most.tokens = most.tokens.max(size.tokens);
        most.outputs = most.outputs.max(size.outputs);
        most.sequences = most.sequences.max(size.sequences);
    };
    let distinct = order.steps.min(if config.shuffles() { order.steps } else { order.steps_per_epoch() });
    for step in 0..distinct {
        for micro in order.step(step) {
            let items = micro.iter().map(|&i| items[i as usize]).collect();
            let micro = Micro::new(&config.objective, store, items);
            take(&micro.rows);
            take(&micro.companions);
        }
    }
    let mut whole = |items: &[Item]| {
        for items in items.chunks(config.run.batch) {
            let micro = Micro::new(&config.objective, store, items.to_vec());
            take(&micro.rows);
            take(&micro.companions);
        }
    };
    whole(held_out);
    if config.objective.needs_reference() {
        // The reference scores them in the order of the files.
        whole(&[items, held_out].concat());
    }
    most
}

/// How each trained tensor is treated.
fn groups(config: &Config, model: &dyn Trainable) -> Vec<Group> {
    let group = |role: Role| {
        let matrix = matches!(role, Role::LoraA | Role::LoraB | Role::Matrix | Role::Embedding | Role::ValueHead);
        Group {
            rate: if role == Role::LoraB { config.optimizer.lora_plus } else { 1.0 },
            weight_decay: if matrix { config.optimizer.weight_decay } else { 0.0 },
            hidden_matrix: matches!(role, Role::Matrix | Role::LoraA | Role::LoraB),
        }
    };
    model.tensors().iter().map(|t| group(t.role)).collect()
}

impl Trainer<'_> {
    /// Runs to the end.
    ///
    /// # Errors
    /// [`Error::Diverged`] when a number is no number, [`Error::Stopped`] when `watch` says so, and what files and the
    /// model say.
    pub fn run(&mut self, watch: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>) -> Result<Summary, Error> {
        let config = self.config;
        let order = Order::new(config, self.store, self.items);
        let schedule = schedule(config, order.steps);
        let named: Vec<_> = self.model.tensors().iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
        let mut optimizer = Optimizer::new(config.optimizer.kind, &named, groups(config, self.model));
        let mut progress = Progress { identity: self.identity.clone(), ..Progress::default() };
        let reference = self.reference(watch)?;
        if self.resume
            && let Some((_, path)) = checkpoint::list(&config.output)?.pop()
        {
            progress = checkpoint::load(&path, &self.identity, self.model.tensors_mut(), &mut optimizer)?;
        }
        let mut log = if self.writes { Some(Log::open(&config.output, progress.step)?) } else { None };
        let mut summary = Summary { steps: progress.step, ..Summary::default() };
        let end = order.steps.min(self.until.unwrap_or(usize::MAX));
        let start = Instant::now();
        let mut seen = 0u64;
        while progress.step < end {
            let step = progress.step;
            let rate = config.learning_rate() * schedule.factor(step);
            let (outcome, tokens, norm) = self.step(&order, step, &reference)?;
            optimizer_step(self.model, &mut optimizer, rate, norm, config.optimizer.max_grad_norm, self.pool);
            progress.step += 1;
            progress.tokens += tokens;
            seen += tokens;
            progress.losses = chained(&progress.losses, outcome.loss, norm);
            summary.loss = outcome.loss;
            let mut figures = outcome.figures;
            figures.extend([
                ("grad_norm".to_owned(), norm),
                ("learning_rate".to_owned(), rate),
                ("epoch".to_owned(), progress.step as f64 / order.steps_per_epoch() as f64),
                ("tokens".to_owned(), progress.tokens as f64),
                ("tokens_per_second".to_owned(), seen as f64 / start.elapsed().as_secs_f64().max(1e-9)),
            ]);
            if let Some(log) = &mut log {
                log.write("train", progress.step, &figures)?;
            }
            let told = watch(Event::Step { step: (progress.step, order.steps), figures: &figures });
            let at = progress.step;
            let due = |every: usize| at == order.steps || every > 0 && at.is_multiple_of(every);
            let mut ends = false;
            if !self.held_out.is_empty() && due(config.run.eval_every) {
                ends = self.evaluation(&reference, &mut progress, &mut summary, log.as_mut(), watch)?;
            }
            let stopped = told.is_break();
            if self.writes && (due(config.run.save_every) || stopped || ends) {
                let path =
                    checkpoint::save(&config.output, self.model.tensors(), &optimizer, &progress, config.run.keep)?;
                // Nobody stops a run by looking at a checkpoint.
                let _ = watch(Event::Saved(&path));
            }
            if stopped {
                return Err(Error::Stopped);
            }
            if ends {
                summary.stopped_early = true;
                break;
            }
        }
        summary.steps = progress.step;
        summary.losses = progress.losses;
        summary.tokens = progress.tokens;
        Ok(summary)
    }

    /// Log-probabilities by the model as it was at the start, where the objective compares with it.
    fn reference(&mut self, watch: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>) -> Result<Reference, Error> {
        if !self.config.objective.needs_reference() {
            return Ok(Reference::default());
        }
        let path = self.config.output.join("reference.safetensors");
        if self.resume
            && let Some(found) = Reference::read(&path, &self.identity)?
        {
            return Ok(found);
        }
        let all: Vec<Item> = self.items.iter().chain(self.held_out).copied().collect();
        let batch = self.config.run.batch;
        let reference =
            Reference::compute(self.model, &self.config.objective, self.store, &all, batch, &mut |done, total| {
                watch(Event::Reference { done, total })
            })?;
        if self.writes {
            reference.write(&path, &self.identity)?;
        }
        Ok(reference)
    }

    /// Gradients of one step. Gives its figures, tokens and the norm of the gradients.
    fn step(&mut self, order: &Order, step: usize, reference: &Reference) -> Result<(Figures, u64, f64), Error> {
        let objective = &self.config.objective;
        self.model.zero_gradients();
        let micros: Vec<Micro> = order
            .step(step)
            .into_iter()
            .map(|m| Micro::new(objective, self.store, m.iter().map(|&i| self.items[i as usize]).collect()))
            .collect();
        let terms: f64 = micros.iter().map(|m| m.terms).sum();
        let (mut sum, mut tokens) = (Sum::default(), 0);
        for (i, micro) in micros.iter().enumerate() {
            let seed = self.config.run.seed ^ ((step as u64) << 20 | i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            tokens += micro.rows.size().tokens as u64;
            let noise = self.config.run.neftune as f32;
            let outcome = forward(self.model, objective, micro, reference, Some((seed, noise)), &mut sum)?;
            let gradient: Vec<f32> =
                outcome.gradients.iter().flatten().map(|g| (f64::from(*g) / terms) as f32).collect();
            self.model.backward(&gradient).map_err(|e| Error::Compute(e.to_string()))?;
        }
        let figures = sum.figures(terms);
        let norm = norm_of(self.model);
        if !figures.loss.is_finite() || !norm.is_finite() {
            return Err(self.diverged(step + 1, figures.loss)?);
        }
        Ok((figures, tokens, norm))
    }

    fn diverged(&self, step: usize, loss: f64) -> Result<Error, Error> {
        let bad = self.model.tensors().iter().find(|t| t.gradient.iter().any(|g| !g.is_finite()));
        let what = match bad {
            Some(t) if loss.is_finite() => format!("the gradient of {} is not a number", t.name),
            _ => format!("the loss is {loss}"),
        };
        let kept = match checkpoint::list(&self.config.output)?.pop().filter(|_| self.writes) {
            Some((_, path)) => path.display().to_string(),
            None => "none: the run had not saved one yet".into(),
        };
        let hint = format!(
            "lower the learning rate ({:e} now), warm up longer, or bound gradients with max_grad_norm",
            self.config.learning_rate()
        );
        Ok(Error::Diverged { step, what, kept, hint })
    }

    /// Evaluates; true when the run is to end.
    fn evaluation(
        &mut self,
        reference: &Reference,
        progress: &mut Progress,
        summary: &mut Summary,
        log: Option<&mut Log>,
        watch: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<bool, Error> {
        let mut sum = Sum::default();
        let mut terms = 0.0;
        for items in self.held_out.chunks(self.config.run.batch) {
            let micro = Micro::new(&self.config.objective, self.store, items.to_vec());
            terms += micro.terms;
            forward(self.model, &self.config.objective, &micro, reference, None, &mut sum)?;
        }
        let figures = sum.figures(terms);
        let loss = figures.loss;
        summary.evaluations.push((progress.step, loss));
        if let Some(log) = log {
            log.write("eval", progress.step, &figures.figures)?;
        }
        let told = watch(Event::Evaluation { step: progress.step, figures: &figures.figures });
        let run = &self.config.run;
        let improved = progress.best.is_none_or(|(best, _)| loss < best - run.threshold);
        if improved {
            progress.best = Some((loss, progress.step));
            progress.waited = 0;
        } else {
            progress.waited += 1;
        }
        Ok(run.patience > 0 && progress.waited >= run.patience || told.is_break())
    }
}

/// The course of the learning rate.
pub(crate) fn schedule(config: &Config, steps: usize) -> Schedule {
    let o = &config.optimizer;
    let warmup = o.warmup_steps.unwrap_or_else(|| (o.warmup_ratio * steps as f64).ceil() as usize);
    Schedule { shape: o.schedule, warmup, steps }
}

/// Figures of a step or an evaluation.
struct Figures {
    loss: f64,
    figures: Vec<(String, f64)>,
}

/// Sums over micro-batches.
#[derive(Default)]
struct Sum {
    loss: f64,
    metrics: Vec<(&'static str, f64)>,
    correct: usize,
    entropy: f64,
    scored: usize,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.loss += outcome.loss;
        for (name, value) in &outcome.metrics {
            match self.metrics.iter_mut().find(|(n, _)| n == name) {
                Some((_, sum)) => *sum += value,
                None => self.metrics.push((name, *value)),
            }
        }
    }

    fn figures(self, terms: f64) -> Figures {
        let loss = self.loss / terms;
        let mut figures = vec![("loss".to_owned(), loss)];
        figures.extend(self.metrics.iter().map(|(name, sum)| ((*name).to_owned(), sum / terms)));
        if self.scored > 0 {
            figures.push(("token_accuracy".to_owned(), self.correct as f64 / self.scored as f64));
            figures.push(("entropy".to_owned(), self.entropy / self.scored as f64));
        }
        Figures { loss, figures }
    }
}

/// A micro-batch through the model; `training` has the seed and the noise of a pass that is followed by a backward one.
fn forward(
    model: &mut dyn Trainable,
    objective: &Objective,
    micro: &Micro,
    reference: &Reference,
    training: Option<(u64, f32)>,
    sum: &mut Sum,
) -> Result<Outcome, Error> {
    let refused = |e: allod_plan::StepError| Error::Compute(e.to_string());
    let companions = match micro.companions.is_empty() {
        true => vec![],
        false => {
            let scores = model.forward(&micro.companions.batch(0, 0.0), Pass::Evaluate).map_err(refused)?;
            micro.companions.split(scores.values)
        }
    };
    let (pass, (seed, noise)) = training.map_or((Pass::Evaluate, (0, 0.0)), |t| (Pass::Train, t));
    let scores = model.forward(&micro.rows.batch(seed, noise), pass).map_err(refused)?;
    sum.correct += scores.correct.iter().filter(|c| **c).count();
    sum.entropy += scores.entropies.iter().map(|e| f64::from(*e)).sum::<f64>();
    sum.scored += scores.correct.len();
    let (values, collisions) = (micro.rows.split(scores.values), micro.rows.split(scores.collisions));
    let find = |number: u32| reference.get(number);
    let outcome = objective.loss(&micro.samples(&values, &collisions, &companions, &find));
    sum.add(&outcome);
    Ok(outcome)
}

fn norm_of(model: &mut dyn Trainable) -> f64 {
    global_norm(&parameters(model))
}

fn parameters(model: &mut dyn Trainable) -> Vec<Parameter<'_>> {
    let tensors = model.tensors_mut().iter_mut();
    tensors.map(|t| Parameter { name: &t.name, shape: &t.shape, data: &mut t.data, grad: &mut t.gradient }).collect()
}

fn optimizer_step(model: &mut dyn Trainable, optimizer: &mut Optimizer, rate: f64, norm: f64, most: f64, pool: &Pool) {
    let mut parameters = parameters(model);
    if most > 0.0 {
        scale(&mut parameters, norm, most);
    }
    optimizer.step(&mut parameters, rate, pool);
}

/// The next link of a chain over losses and norms.
pub(crate) fn chained(before: &str, loss: f64, norm: f64) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before.as_bytes()).update(&loss.to_le_bytes()).update(&norm.to_le_bytes());
    hasher.finalize().to_hex().to_string()
}

/// Where a run's metrics lie.
pub fn metrics_path(run: &Path) -> PathBuf {
    run.join(metrics::FILE)
}
