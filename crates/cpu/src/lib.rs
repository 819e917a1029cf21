//! Plans on the CPU. A plan and its weights enter [`Cpu::new`]; steps enter [`Backend::run`] and leave as rows of
//! numbers. Keys, values and recurrent states live here; whoever schedules deals in page and slot numbers only.
#![deny(missing_docs)]

mod activations;
mod adapters;
mod arena;
mod experts;
mod fused;
mod learn;
mod observe;
mod recurrent;
mod run;
mod sequences;
mod store;
mod weights;

pub use activations::{Activations, UnknownActivations};
pub use allod_kernels::{
    attention::{KvError, KvType, PAGE_LAYOUT},
    isa::{Isa, UnknownIsa},
    pool::Pool,
};
pub use learn::{LearnError, LearnOptions, Learner, Products};
pub use observe::{Inputs, Observer, Reach};
pub use store::Store;
pub use weights::PrepareError;

use arena::Numbers;

use allod_formats::WeightSource;
use allod_kernels::{attention::KvCache, linear};
use allod_plan::{
    AdapterError, Arena, Backend, Capacity, Group, Lora, Op, PAGE, Plan, RowLimits, Step, StepError, Value,
};
use std::{ops::Range, sync::Arc};
use weights::Prepared;

/// Raised whenever a result of any kernel changes: within a revision the same request gives the same bytes anywhere.
pub const REVISION: u32 = 1;

/// What a [`Cpu`] is built for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Instruction set; the best one by default.
    pub isa: Isa,
    /// Most rows in one step.
    pub rows: usize,
    /// Most rows whose results are wanted in one step.
    pub outputs: usize,
    /// Most sequences in one step; also the slots for recurrent state.
    pub sequences: usize,
    /// Positions that a sequence may have.
    pub context: usize,
    /// Pages in the pool. By default as many as one sequence of `context` positions needs.
    pub pages: Option<usize>,
    /// Type of cached keys and values. By default F32 where every matrix is F32, so that nothing is rounded that was
    /// not, else I16.
    pub cache_type: Option<KvType>,
    /// What BF16 weights are multiplied with.
    pub activations: Activations,
    /// Names of values to keep readable after a step (see [`Cpu::tap`]).
    pub taps: Vec<String>,
    /// Where prepared weights are kept from run to run; nowhere by default. The results are the same.
    pub store: Option<Store>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            isa: Isa::best(),
            rows: 512,
            outputs: 1,
            sequences: 1,
            context: 4096,
            pages: None,
            cache_type: None,
            activations: Activations::default(),
            taps: vec![],
            store: None,
        }
    }
}

/// A model prepared for this machine's CPU.
pub struct Cpu {
    /// The plan as it was recorded.
    whole: Arc<Arranged>,
    /// The same on the rows that serve wanted ones.
    narrowed: Arc<Arranged>,
    /// Which of them runs, or ran last.
    program: Arc<Arranged>,
    causal: bool,
    pool: Arc<Pool>,
    isa: Isa,
    capacity: Capacity,
    limits: RowLimits,
    weights: Vec<Prepared>,
    arena: Numbers,
    caches: Vec<KvCache>,
    cache_type: KvType,
    activations: Activations,
    /// For each recurrent state of the plan: slots × elements.
    states: Vec<Vec<f32>>,
    adapters: adapters::Adapters,
    scratch: Scratch,
    taps: Vec<(String, Value)>,
    observer: Option<Observer>,
    last: RowLimits,
}

/// A plan and how it runs: in which groups, and where its values lie.
struct Arranged {
    plan: Plan,
    groups: Vec<Group>,
    layout: Arena,
}

impl Arranged {
    fn new(plan: Plan, limits: RowLimits, keep: &[Value]) -> Arranged {
        let groups = plan.groups(keep);
        let layout = Arena::grouped(&plan, limits, keep, &groups);
        Arranged { plan, groups, layout }
    }
}

/// Buffers of a step that are not values of the plan.
#[derive(Default)]
struct Scratch {
    positions: Vec<u32>,
    /// Cosines and sines for each distinct table of frequencies.
    rope: Vec<(allod_plan::Constants, f32, Vec<f32>)>,
    linear: linear::Scratch,
    adapters: adapters::Scratch,
    routes: linear::Routes,
}

impl Cpu {
    /// Prepares `plan` with the weights of `source`.
    ///
    /// # Errors
    /// Tensors that cannot be read or are of a type that their operation cannot use; taps that name nothing.
    pub fn new(
        plan: &Plan,
        source: &dyn WeightSource,
        pool: Arc<Pool>,
        options: &Options,
    ) -> Result<Cpu, PrepareError> {
        let taps = options.taps.iter().map(|name| match plan.named(name) {
            Some(v) => Ok((name.clone(), v)),
            None => Err(PrepareError::NoValue(name.clone())),
        });
        let taps = taps.collect::<Result<Vec<_>, _>>()?;
        let limits = RowLimits { tokens: options.rows, outputs: options.outputs, sequences: options.sequences };
        let keep: Vec<Value> = taps.iter().map(|t| t.1).collect();
        let whole = Arc::new(Arranged::new(plan.clone(), limits, &keep));
        let narrowed = Arc::new(Arranged::new(plan.narrowed(&keep), limits, &keep));
        let pages = options.pages.unwrap_or(options.context.div_ceil(PAGE));
        let weights = weights::prepare(plan, source, &pool, options.store.as_ref())?;
        let weights: Vec<Prepared> = weights.into_iter().map(|w| w.taking(options.activations)).collect();
        let exact = weights.iter().all(Prepared::is_f32);
        let cache_type = options.cache_type.unwrap_or(if exact { KvType::F32 } else { KvType::default() });
        let caches = plan.caches().iter().map(|c| sequences::cache(c, cache_type, pages));
        Ok(Cpu {
            weights,
            caches: caches.collect::<Result<_, _>>()?,
            states: plan.states().iter().map(|n| vec![0.0; n * options.sequences]).collect(),
            cache_type,
            activations: options.activations,
            arena: Numbers::zeroed(whole.layout.len().max(narrowed.layout.len()))?,
            adapters: adapters::Adapters::default(),
            scratch: Scratch::new(plan, limits),
            capacity: Capacity {
                width: plan.result_width(),
                rows: options.rows,
                pages,
                states: options.sequences,
                context: options.context,
            },
            isa: options.isa,
            causal: plan.is_causal(),
            program: Arc::clone(&whole),
            whole,
            narrowed,
            pool,
            limits,
            taps,
            observer: None,
            last: RowLimits { tokens: 0, outputs: 0, sequences: 0 },
        })
    }

    /// The plan that it was made for.
    pub fn plan(&self) -> &Plan {
        &self.whole.plan
    }

    /// Takes the weight called `name` from another source; false when the plan has no such weight.
    ///
    /// # Errors
    /// As [`Cpu::new`].
    pub fn reload(&mut self, name: &str, source: &dyn WeightSource) -> Result<bool, PrepareError> {
        let Some((at, weight)) = weights::again(&self.program.plan, name, source, &self.pool) else { return Ok(false) };
        self.weights[at] = weight?.taking(self.activations);
        Ok(true)
    }

    /// The value called `name` after the last step, `[rows × width]`, if it was asked for in [`Options::taps`].
    pub fn tap(&self, name: &str) -> Option<&[f32]> {
        let v = self.taps.iter().find(|t| t.0 == name)?.1;
        Some(&self.arena[self.range(v, self.last)])
    }

    /// The type of its cached keys and values.
    pub fn cache_type(&self) -> KvType {
        self.cache_type
    }

    /// What its BF16 weights are multiplied with.
    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// Bytes held: weights, caches and states, buffers.
    pub fn bytes(&self) -> [usize; 3] {
        let weights = self.weights.iter().map(Prepared::bytes).sum();
        let states = self.states.iter().map(|s| s.len() * 4).sum::<usize>();
        let caches = self.caches.iter().map(|c| c.page_bytes() * c.pages()).sum::<usize>();
        [weights, caches + states, self.arena.len() * 4]
    }

    fn results(&self) -> &[f32] {
        self.program.plan.result().map_or(&[], |v| &self.arena[self.range(v, self.last)])
    }

    fn ranges<const N: usize>(&self, values: [Value; N]) -> [Range<usize>; N] {
        values.map(|v| self.range(v, self.last))
    }

    fn range(&self, v: Value, rows: RowLimits) -> Range<usize> {
        let info = self.program.plan.value(v);
        let start = self.program.layout.offset(v);
        start..start + rows.of(info.rows) * info.width
    }
}

impl Backend for Cpu {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn run(&mut self, step: &Step<'_>) -> Result<&[f32], StepError> {
        sequences::check(step, &self.capacity, self.limits, self.vocabulary())?;
        if !self.states.is_empty() {
            sequences::check_states(step)?;
        }
        if let Some(s) = step.sequences.iter().find(|s| s.start != 0 && !self.causal) {
            let what = format!("rows see what comes after them, so position {} cannot come by itself", s.start);
            return Err(StepError::Inconsistent(what));
        }
        if let Some(s) = step.sequences.iter().find(|s| !self.adapters.is_loaded(s.adapter)) {
            return Err(StepError::Inconsistent(format!("no adapter has the number {}", s.adapter)));
        }
        self.last =
            RowLimits { tokens: step.tokens.len(), outputs: step.outputs.len(), sequences: step.sequences.len() };
        if step.tokens.is_empty() {
            return Ok(&[]);
        }
        self.prepare_step(step);
        let every_row = self.observer.is_some() || step.outputs.len() == step.tokens.len();
        self.program = Arc::clone(if every_row { &self.whole } else { &self.narrowed });
        let program = Arc::clone(&self.program);
        let nodes = program.plan.nodes();
        if self.observer.is_none() && self.adapters.are_idle() {
            let done = program.groups.iter().try_for_each(|group| self.group(nodes, group, step));
            return done.map(|()| self.results());
        }
        // What happens between the operations of a group is seen, or changed: one by one.
        let mut observer = self.observer.take();
        let mut done = Ok(());
        for node in nodes {
            done = self.node(node, step);
            if done.is_err() {
                break;
            }
            if let Some(observer) = &mut observer {
                self.show(node, observer);
            }
        }
        self.observer = observer;
        done.map(|()| self.results())
    }

    fn copy_page(&mut self, from: u32, to: u32) {
        for c in &mut self.caches {
            c.copy_page(from, to);
        }
    }

    fn copy_state(&mut self, from: u32, to: u32) {
        for s in &mut self.states {
            let n = s.len() / self.capacity.states;
            s.copy_within(from as usize * n..(from as usize + 1) * n, to as usize * n);
        }
    }

    fn read_page(&self, page: u32, out: &mut Vec<u8>) -> bool {
        self.caches.iter().for_each(|cache| cache.read_page(page, out));
        true
    }

    fn write_page(&mut self, page: u32, bytes: &[u8]) -> bool {
        let size: usize = self.caches.iter().map(KvCache::page_bytes).sum();
        if size != bytes.len() {
            return false;
        }
        let mut rest = bytes;
        for cache in &mut self.caches {
            let (bytes, others) = rest.split_at(cache.page_bytes());
            cache.write_page(page, bytes);
            rest = others;
        }
        true
    }

    fn read_state(&self, slot: u32, out: &mut Vec<u8>) -> bool {
        for s in &self.states {
            let n = s.len() / self.capacity.states;
            s[slot as usize * n..][..n].iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
        }
        true
    }

    fn write_state(&mut self, slot: u32, bytes: &[u8]) -> bool {
        let size: usize = self.states.iter().map(|s| s.len() / self.capacity.states * 4).sum();
        let (values, []) = bytes.as_chunks::<4>() else { return false };
        if size != bytes.len() {
            return false;
        }
        let mut values = values.iter().map(|bytes| f32::from_le_bytes(*bytes));
        for s in &mut self.states {
            let n = s.len() / self.capacity.states;
            s[slot as usize * n..][..n].iter_mut().zip(&mut values).for_each(|(own, value)| *own = value);
        }
        true
    }

    fn load_adapter(&mut self, id: u32, adapter: &Lora) -> Result<(), AdapterError> {
        self.adapters.load(id, adapter, &self.program.plan, &self.weights, &self.pool)
    }

    fn drop_adapter(&mut self, id: u32) {
        self.adapters.drop(id);
    }

    fn clear_state(&mut self, slot: u32) {
        for s in &mut self.states {
            let n = s.len() / self.capacity.states;
            s[slot as usize * n..(slot as usize + 1) * n].fill(0.0);
        }
    }
}

impl Scratch {
    fn new(plan: &Plan, limits: RowLimits) -> Scratch {
        let mut s = Scratch { positions: Vec::with_capacity(limits.tokens), ..Scratch::default() };
        for n in plan.nodes() {
            if let Op::Rope(r) = &n.op
                && !s.rope.iter().any(|t| t.0 == r.frequencies && t.1 == r.magnitude)
            {
                let table = vec![0.0; limits.tokens * 2 * r.frequencies.len()];
                s.rope.push((r.frequencies.clone(), r.magnitude, table));
            }
        }
        s
    }
}
