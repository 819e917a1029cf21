//! Training on the CPU: a plan and its weights enter [`Learner::new`]; packed batches and derivatives enter
//! [`Trainable`], gradients leave. Operations without weights run as in [`Cpu`]; products, attention and experts have
//! float kernels of their own, which read frozen weights of any type as the numbers they stand for.

mod adjoint;
mod elementwise;
mod head;
mod init;
mod linear;
mod mixture;
mod products;
mod scan;
#[cfg(test)]
mod tests;
mod weights;

use crate::{Activations, Arranged, Cpu, Isa, KvType, Pool, PrepareError, Scratch, arena::Numbers, weights::Prepared};
use allod_kernels::gradient::Score;
use allod_plan::{
    Arena, Backward, Capacity, DifferentiateError, End, Forward, Head, Op, Pass, Plan, Program, Role, RowLimits,
    Scores, SeqRows, Step, StepError, TrainBatch, Trainable, TrainedTensor, Tune, Value, Wanted, differentiate,
};
use std::{ops::Range, sync::Arc};
use weights::{Held, Link};

/// How a [`Learner`] is built.
#[derive(Clone, Debug)]
pub struct LearnOptions {
    /// Instruction set; the best one by default.
    pub isa: Isa,
    /// Most rows, targets and sequences of a batch.
    pub limits: RowLimits,
    /// How quantized matrices of the layers are multiplied in the forward pass.
    pub products: Products,
    /// Keep only what enters each layer, and compute the rest again on the way back: less memory, a third more time.
    pub recompute: bool,
}

impl Default for LearnOptions {
    fn default() -> LearnOptions {
        let limits = RowLimits { tokens: 2048, outputs: 2048, sequences: 64 };
        LearnOptions { isa: Isa::best(), limits, products: Products::Exact, recompute: false }
    }
}

/// How a forward pass multiplies with quantized matrices. The way back always takes the numbers they stand for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// As the numbers they stand for, in f32: what another trainer computes on the dequantized weights.
    #[default]
    Exact,
    /// With the kernels that serve: rows are rounded to eight bits. Faster, sees what serving will see, and holds the
    /// matrices twice (as in the file, and packed).
    Served,
}

/// Why a model cannot be trained as asked.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// Its weights could not be read.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// Its plan cannot be differentiated.
    #[error(transparent)]
    Differentiate(#[from] DifferentiateError),
    /// Something to train that the model does not have.
    #[error("the model has no weight called {name}; nearest: {nearest}")]
    NoWeight {
        /// What was asked for.
        name: String,
        /// What there is.
        nearest: String,
    },
    /// Something that cannot be trained this way.
    #[error("{name}: {why}")]
    Unfit {
        /// The weight.
        name: String,
        /// Why not.
        why: String,
    },
    /// Nothing to train.
    #[error("nothing is to be trained: name adapters or weights")]
    Nothing,
}

/// A model in training.
pub struct Learner {
    /// Runs what has no products; its arena holds the values of forward and backward pass.
    cpu: Cpu,
    program: Arc<Program>,
    /// For each weight.
    held: Vec<Held>,
    links: Vec<Link>,
    tensors: Vec<TrainedTensor>,
    value_head: Option<usize>,
    batch: Batch,
    results: Results,
    turned: Vec<f32>,
}

/// What the backward pass wants to know of the batch of the forward pass.
#[derive(Default)]
struct Batch {
    tokens: Vec<u32>,
    sequences: Vec<Range<usize>>,
    /// Rows whose results are wanted, and their targets.
    outputs: Vec<u32>,
    targets: Vec<u32>,
    seed: u64,
    noise: f32,
    /// A training pass was run and no backward pass has followed.
    ready: bool,
    adapted: bool,
    training: bool,
}

#[derive(Default)]
struct Results {
    scores: Vec<Score>,
    values: Vec<f32>,
    correct: Vec<bool>,
    entropies: Vec<f32>,
    collisions: Vec<f32>,
}

impl Learner {
    /// Prepares `plan` for training as `tune` says.
    ///
    /// # Errors
    /// [`LearnError`] for weights that cannot be read, for names that the model does not have, and for plans that no
    /// loss can follow.
    pub fn new(
        plan: &Plan,
        source: &dyn allod_formats::WeightSource,
        pool: Arc<Pool>,
        tune: &Tune,
        options: &LearnOptions,
    ) -> Result<Learner, LearnError> {
        let wanted = weights::wanted(plan, tune)?;
        if tune.head != Head::Value && !wanted.iter().any(Wanted::any) {
            return Err(LearnError::Nothing);
        }
        let program = differentiate(plan, &wanted, options.recompute)?;
        if (tune.head == Head::Value) != matches!(program.end, End::Hidden { .. }) {
            let why = "a value head reads hidden states, log-probabilities need an output head: open the model for the \
                       one or the other";
            return Err(DifferentiateError::Head(why.into()).into());
        }
        let mut set = weights::load(plan, source, &pool, tune, &wanted, options.products == Products::Served)?;
        let value_head = (tune.head == Head::Value).then(|| {
            set.tensors.push(init::value_head(plan.result_width(), tune.seed));
            set.tensors.len() - 1
        });
        let limits = options.limits;
        let layout = program.arena(&wanted, limits);
        let plan = program.over(plan);
        let cpu = bare(plan, set.prepared, layout, pool, options.isa, limits)?;
        Ok(Learner {
            cpu,
            program: Arc::new(program),
            held: set.held,
            links: set.links,
            tensors: set.tensors,
            value_head,
            batch: Batch::default(),
            results: Results::default(),
            turned: vec![],
        })
    }

    /// Bytes held: frozen weights, trained tensors with their gradients, activations.
    pub fn bytes(&self) -> [usize; 3] {
        let frozen = self.held.iter().map(Held::bytes).sum();
        let trained = self.tensors.iter().map(|t| 8 * t.data.len()).sum();
        [frozen, trained, self.cpu.arena.len() * 4]
    }

    fn range(&self, v: Value) -> Range<usize> {
        self.cpu.range(v, self.cpu.last)
    }

    fn rows(&self, v: Value) -> usize {
        self.cpu.rows(v)
    }

    fn width(&self, v: Value) -> usize {
        self.cpu.width(v)
    }

    /// Runs `f` with tensors trained whole where the operations look for them.
    fn with_weights<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        weights::swap_in(&mut self.cpu.weights, &self.links, &mut self.tensors);
        let r = f(self);
        weights::swap_out(&mut self.cpu.weights, &self.links, &mut self.tensors);
        r
    }

    /// Runs `f` with the step that the batch is.
    fn with_step<R>(&mut self, f: impl FnOnce(&mut Self, &Step<'_>) -> R) -> R {
        let batch = std::mem::take(&mut self.batch);
        let sequences = batch.sequences.iter().enumerate();
        let sequences: Vec<SeqRows<'_>> = sequences
            .map(|(i, r)| SeqRows { rows: r.clone(), start: 0, pages: &[], state: i as u32, adapter: 0 })
            .collect();
        let step = Step { tokens: &batch.tokens, sequences: &sequences, outputs: &batch.outputs };
        let flags = (batch.seed, batch.noise, batch.adapted, batch.training);
        (self.batch.seed, self.batch.noise, self.batch.adapted, self.batch.training) = flags;
        let r = f(self, &step);
        self.batch = batch;
        r
    }

    fn run(&mut self, f: &Forward, step: &Step<'_>) -> Result<(), StepError> {
        let n = &f.node;
        match &n.op {
            Op::Linear { parts } => self.linear(parts, n.inputs[0], &n.outputs, &f.kept, f.only_kept),
            Op::HeadLinear { weight } => self.head_linear(*weight, n.inputs[0], n.outputs[0]),
            Op::Attend(a) => self.attend(a, &n.inputs, n.outputs[0], f.kept[0], step),
            Op::Experts(e) => self.experts(e, &n.inputs, &n.outputs, &f.kept),
            op => {
                // Sequences begin with empty states.
                if let Some(s) = weights::state(op) {
                    self.cpu.states[s.index()].fill(0.0);
                }
                self.cpu.node(n, step)?;
                if matches!(op, Op::Embed { .. }) && self.batch.training && self.batch.noise > 0.0 {
                    self.noise(n.outputs[0], step);
                }
                Ok(())
            }
        }
    }

    fn forwards(&mut self, step: &Step<'_>) -> Result<(), StepError> {
        let program = Arc::clone(&self.program);
        for f in &program.forward {
            self.run(f, step)?;
        }
        Ok(())
    }

    fn backwards(&mut self, step: &Step<'_>) -> Result<(), StepError> {
        let program = Arc::clone(&self.program);
        for b in &program.backward {
            match b {
                Backward::Recompute(f) => self.run(f, step)?,
                Backward::Adjoint(a) => self.adjoint(a, step)?,
            }
        }
        Ok(())
    }

    /// Holds a batch against the limits and itself, and takes it over.
    fn take(&mut self, batch: &TrainBatch<'_>, pass: Pass) -> Result<(), StepError> {
        let below = |what: &'static str, found: usize, limit: usize| match found < limit {
            true => Ok(()),
            false => Err(StepError::Outside { what, found, limit }),
        };
        let (limits, vocabulary) = (self.cpu.limits, self.cpu.vocabulary());
        below("rows in a batch", batch.tokens.len(), limits.tokens + 1)?;
        below("sequences in a batch", batch.sequences.len(), limits.sequences + 1)?;
        for &id in batch.tokens.iter().chain(batch.targets.iter().flatten()) {
            below("token id", id as usize, vocabulary)?;
        }
        let mut next = 0;
        for s in batch.sequences {
            if s.start != next || s.end <= next {
                return Err(StepError::Inconsistent(format!("rows {s:?} of a sequence do not follow row {next}")));
            }
            next = s.end;
        }
        if next != batch.tokens.len() {
            return Err(StepError::Inconsistent(format!("sequences cover {next} of {} rows", batch.tokens.len())));
        }
        let b = &mut self.batch;
        b.tokens.clear();
        b.tokens.extend(batch.tokens);
        b.sequences.clear();
        b.sequences.extend(batch.sequences.iter().cloned());
        b.outputs.clear();
        b.targets.clear();
        if self.value_head.is_some() {
            b.outputs.extend(batch.sequences.iter().map(|s| s.end as u32 - 1));
        } else {
            if batch.targets.len() != batch.tokens.len() {
                let (found, expected) = (batch.targets.len(), batch.tokens.len());
                return Err(StepError::Inconsistent(format!("{found} targets for {expected} rows")));
            }
            for (t, target) in batch.targets.iter().enumerate() {
                if let Some(id) = target {
                    b.outputs.push(t as u32);
                    b.targets.push(*id);
                }
            }
        }
        (b.seed, b.noise) = (batch.seed, batch.embedding_noise);
        (b.ready, b.adapted, b.training) = (false, pass != Pass::Reference, pass == Pass::Train);
        below("targets in a batch", self.batch.outputs.len(), limits.outputs + 1)?;
        self.cpu.last = RowLimits {
            tokens: self.batch.tokens.len(),
            outputs: self.batch.outputs.len(),
            sequences: self.batch.sequences.len(),
        };
        Ok(())
    }
}

/// A [`Cpu`] that has no caches and whose matrices are held elsewhere.
fn bare(
    plan: Plan,
    weights: Vec<Prepared>,
    layout: Arena,
    pool: Arc<Pool>,
    isa: Isa,
    limits: RowLimits,
) -> Result<Cpu, PrepareError> {
    let program = Arc::new(Arranged { plan, groups: vec![], layout });
    let plan = &program.plan;
    Ok(Cpu {
        weights,
        caches: vec![],
        cache_type: KvType::F32,
        activations: Activations::F32,
        states: plan.states().iter().map(|n| vec![0.0; n * limits.sequences]).collect(),
        arena: Numbers::zeroed(program.layout.len())?,
        adapters: crate::adapters::Adapters::default(),
        scratch: Scratch::new(plan, limits),
        capacity: Capacity {
            width: plan.result_width(),
            rows: limits.tokens,
            pages: 0,
            states: limits.sequences,
            context: limits.tokens,
        },
        isa,
        causal: plan.is_causal(),
        whole: Arc::clone(&program),
        narrowed: Arc::clone(&program),
        program,
        pool,
        limits,
        taps: vec![],
        observer: None,
        last: RowLimits { tokens: 0, outputs: 0, sequences: 0 },
    })
}

impl Trainable for Learner {
    fn limits(&self) -> RowLimits {
        self.cpu.limits
    }

    fn forward(&mut self, batch: &TrainBatch<'_>, pass: Pass) -> Result<Scores<'_>, StepError> {
        self.take(batch, pass)?;
        if !batch.tokens.is_empty() {
            self.with_weights(|l| {
                l.with_step(|l, step| {
                    l.cpu.prepare_step(step);
                    l.forwards(step)
                })?;
                l.score()
            })?;
        }
        self.batch.ready = pass == Pass::Train;
        let r = &self.results;
        Ok(Scores { values: &r.values, correct: &r.correct, entropies: &r.entropies, collisions: &r.collisions })
    }

    fn backward(&mut self, d_values: &[f32]) -> Result<(), StepError> {
        if !std::mem::take(&mut self.batch.ready) {
            return Err(StepError::Inconsistent("a backward pass follows a training pass, once".into()));
        }
        if d_values.len() != self.results.values.len() {
            let (found, expected) = (d_values.len(), self.results.values.len());
            return Err(StepError::Inconsistent(format!("{found} derivatives for {expected} values")));
        }
        if self.batch.tokens.is_empty() {
            return Ok(());
        }
        self.with_weights(|l| {
            l.end_adjoint(d_values)?;
            l.with_step(|l, step| l.backwards(step))
        })
    }

    fn tensors(&self) -> &[TrainedTensor] {
        &self.tensors
    }

    fn tensors_mut(&mut self) -> &mut [TrainedTensor] {
        // What was kept belongs to the old values.
        self.batch.ready = false;
        &mut self.tensors
    }

    fn zero_gradients(&mut self) {
        for t in &mut self.tensors {
            t.gradient.fill(0.0);
        }
    }
}

/// An empty trained tensor of a shape.
fn tensor(name: String, role: Role, shape: Vec<usize>, data: Vec<f32>) -> TrainedTensor {
    TrainedTensor { name, role, shape, gradient: vec![0.0; data.len()], data }
}
