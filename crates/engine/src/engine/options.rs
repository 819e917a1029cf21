//! What an engine may use.

use allod_plan::{Capacity, Op, PAGE, Plan, RowLimits, Rows};
use allod_tensor::DType;

/// Limits and policies. None of them changes a byte of any answer.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Sequences that run at the same time; of a recurrent model each takes a slot, and the slots left over keep
    /// checkpoints for prefixes that are asked for again. By default all the backend has for a model without states,
    /// half of them for a recurrent one.
    pub sequences: Option<usize>,
    /// Rows of one step.
    pub rows: usize,
    /// Most rows of a step that may belong to prompts while answers are being decoded.
    pub chunk: usize,
    /// How many times as long as without prompts a step may take while answers are being decoded, by what rows cost:
    /// bounds how long a prompt can delay everybody's next token. Fewer rows than [`Self::chunk`] are taken then.
    pub delay: f64,
    /// Most wanted rows of a step; what the backend was built for.
    pub outputs: usize,
    /// Answers that may wait.
    pub queue: usize,
    /// Finds prefixes that are computed already.
    pub prefix_cache: bool,
    /// Most tokens drafted for a sequence in a step: looked up in its own text, in past answers, or by a draft model (see
    /// [`Engine::with_draft`](super::Engine::with_draft)); 0 is off. Plans with recurrent states do not draft: their
    /// states cannot go back.
    pub draft: usize,
    /// Drafts as long as they pay, by how often they were right and what rows cost; otherwise always the most.
    pub adaptive: bool,
    /// Tokens of past answers that drafts are looked up in, roughly; 0 is none.
    pub past: usize,
    /// The plan has recurrent states.
    pub recurrent: bool,
    /// Positions after which no layer sees an entry of its cache any more; `None` when some layer sees everything.
    pub horizon: Option<usize>,
    /// The plan gives one vector for each sequence, which therefore runs whole.
    pub pooled: bool,
    /// Tokens that the plan knows, where that is not the width of its results.
    pub vocabulary: Option<usize>,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            sequences: None,
            rows: 512,
            chunk: 128,
            delay: 1.8,
            outputs: 1,
            queue: 1024,
            prefix_cache: true,
            draft: 0,
            adaptive: true,
            past: 1 << 15,
            recurrent: false,
            horizon: None,
            pooled: false,
            vocabulary: None,
        }
    }
}

/// Pages that `budget` bytes hold when keys and values are stored as `cache_type`; `None` for a plan that caches none.
pub fn pages_in(plan: &Plan, cache_type: DType, budget: usize) -> Option<usize> {
    let one = RowLimits { tokens: 1, outputs: 1, sequences: 1 };
    budget.checked_div(plan.estimate(|_| 0, PAGE, cache_type, one).cache)
}

impl EngineOptions {
    /// The defaults for a plan on a backend built for `outputs` wanted rows a step.
    pub fn for_plan(plan: &Plan, outputs: usize) -> EngineOptions {
        let horizons = plan.caches().iter().map(|c| c.horizon).collect::<Option<Vec<_>>>();
        EngineOptions {
            outputs,
            recurrent: !plan.states().is_empty(),
            horizon: horizons.and_then(|all| all.into_iter().max()),
            pooled: plan.result().is_some_and(|result| plan.value(result).rows == Rows::Sequences),
            vocabulary: plan.nodes().iter().find_map(|node| match node.op {
                Op::Embed { table } => plan.param(table).shape.first().copied(),
                _ => None,
            }),
            ..EngineOptions::default()
        }
    }

    /// Brings every limit into what the backend can do and what can make progress.
    pub(super) fn fit(mut self, capacity: &Capacity) -> EngineOptions {
        let slots = capacity.states.max(1);
        let usual = if self.recurrent { slots.div_ceil(2) } else { slots };
        self.sequences = Some(self.sequences.unwrap_or(usual).clamp(1, slots));
        self.rows = self.rows.clamp(1, capacity.rows.max(1));
        self.chunk = self.chunk.clamp(1, self.rows);
        self.outputs = self.outputs.clamp(1, self.rows);
        if self.recurrent || self.pooled {
            self.draft = 0;
        }
        self.prefix_cache &= !self.pooled;
        self
    }
}
