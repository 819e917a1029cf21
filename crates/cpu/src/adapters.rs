//! Low-rank changes of weights, each for the rows of the sequences that ask for it.
//!
//! The base product runs for all rows together. Then the rows of each adapter are gathered, go through its two thin
//! matrices, and are added: sums in f32, each of them one chain, so that a row's bytes do not depend on the others.

use crate::{PrepareError, Prepared};
use allod_kernels::{isa::Isa, linear, pool::Pool, rows::for_rows};
use allod_plan::{AdapterError, Delta, Lora, Op, Param, Plan, Rows, Step};
use allod_tensor::Tensor;
use std::collections::{BTreeMap, HashMap};

/// The names of a table and of the head that may share it.
const TABLE: &str = "token_embd.weight";
const HEAD: &str = "output.weight";

/// Adapters by number, and who uses which in the step that runs.
#[derive(Default)]
pub(crate) struct Adapters {
    loaded: HashMap<u32, Loaded>,
    /// Of the step that runs, by what the rows of a value are: the rows of each adapter.
    groups: [BTreeMap<u32, Vec<u32>>; 3],
}

#[derive(Default)]
struct Loaded {
    matrices: HashMap<Param, Matrices>,
    tables: HashMap<Param, Delta>,
}

/// A change of a matrix, ready to run.
struct Matrices {
    /// `A`, `[rank × in]`
    a: linear::Weights,
    /// `scale · B`, `[out × rank]`
    b: linear::Weights,
    /// What brings each changed row of the weight to its magnitude.
    gains: Option<Vec<f32>>,
}

/// Buffers of a change.
#[derive(Default)]
pub(crate) struct Scratch {
    x: Vec<f32>,
    low: Vec<f32>,
    change: Vec<f32>,
}

fn kind(rows: Rows) -> usize {
    match rows {
        Rows::Tokens => 0,
        Rows::Outputs => 1,
        Rows::Sequences => 2,
    }
}

impl Adapters {
    /// Prepares an adapter for a plan and its weights.
    pub(crate) fn load(
        &mut self,
        id: u32,
        adapter: &Lora,
        plan: &Plan,
        weights: &[Prepared],
        pool: &Pool,
    ) -> Result<(), AdapterError> {
        if let Some(name) = adapter.whole.keys().next() {
            return Err(AdapterError::Whole { name: name.clone() });
        }
        let mut loaded = Loaded::default();
        for (name, delta) in &adapter.deltas {
            let is_stack = |p: &&allod_plan::ParamInfo| p.name == *name && p.shape.len() == 3;
            let unknown = || match plan.params().iter().find(is_stack) {
                Some(stack) => AdapterError::Experts { name: stack.name.clone() },
                None => AdapterError::UnknownWeight { name: name.clone() },
            };
            let (param, is_table) = find(plan, name).ok_or_else(unknown)?;
            let &[rows, columns] = &plan.param(param).shape[..] else { return Err(unknown()) };
            if is_table {
                delta.check(name, columns, rows)?;
                loaded.tables.insert(param, delta.clone());
            } else {
                delta.check(name, rows, columns)?;
                let matrices = Matrices::new(delta, rows, columns, &weights[param.index()], pool);
                loaded.matrices.insert(param, matrices.map_err(|_| unknown())?);
            }
        }
        self.loaded.insert(id, loaded);
        Ok(())
    }

    pub(crate) fn drop(&mut self, id: u32) {
        self.loaded.remove(&id);
    }

    pub(crate) fn is_loaded(&self, id: u32) -> bool {
        id == 0 || self.loaded.contains_key(&id)
    }

    /// Notes which rows of the step go through which adapter.
    pub(crate) fn prepare_step(&mut self, step: &Step<'_>) {
        self.groups.iter_mut().for_each(BTreeMap::clear);
        if step.sequences.iter().all(|s| s.adapter == 0) {
            return;
        }
        let mut outputs = step.outputs.iter().zip(0..).peekable();
        for (s, index) in step.sequences.iter().zip(0..) {
            let mut wanted = Vec::new();
            while let Some((_, output)) = outputs.next_if(|(row, _)| s.rows.contains(&(**row as usize))) {
                wanted.push(output);
            }
            if s.adapter == 0 {
                continue;
            }
            let rows = s.rows.start as u32..s.rows.end as u32;
            self.groups[kind(Rows::Tokens)].entry(s.adapter).or_default().extend(rows);
            self.groups[kind(Rows::Outputs)].entry(s.adapter).or_default().extend(wanted);
            self.groups[kind(Rows::Sequences)].entry(s.adapter).or_default().push(index);
        }
    }

    /// Whether no row of the step that runs goes through one.
    pub(crate) fn are_idle(&self) -> bool {
        self.groups.iter().all(BTreeMap::is_empty)
    }

    /// Adds the changes of one matrix to its products `y`, `[rows × out]`, with inputs `x`, `[rows × in]`.
    pub(crate) fn add(
        &self,
        (weight, bias): (Param, Option<&[f32]>),
        rows: Rows,
        (x, y): (&[f32], &mut [f32]),
        (pool, isa): (&Pool, Isa),
        (scratch, linear): (&mut Scratch, &mut linear::Scratch),
    ) {
        for (id, rows) in &self.groups[kind(rows)] {
            let Some(m) = self.loaded.get(id).and_then(|loaded| loaded.matrices.get(&weight)) else { continue };
            let (columns, out, n) = (m.a.cols(), m.b.rows(), rows.len());
            let Scratch { x: gathered, low, change } = scratch;
            gathered.clear();
            rows.iter().for_each(|&row| gathered.extend_from_slice(&x[row as usize * columns..][..columns]));
            low.resize(n * m.a.rows(), 0.0);
            change.resize(n * out, 0.0);
            let mut product = |w: &linear::Weights, x: &[f32], y: &mut [f32]| {
                let mut input = linear::Input::new(linear, x, n, w.cols());
                let product = linear::Product { w, bias: None, y, stride: w.rows() };
                linear::linear(pool, isa, &mut input, &mut [product]);
            };
            product(&m.a, gathered, low);
            product(&m.b, low, change);
            for (&row, change) in rows.iter().zip(change.chunks_exact(out)) {
                m.apply(bias, change, &mut y[row as usize * out..][..out]);
            }
        }
    }

    /// Adds the changes of a table to its rows `y`, `[rows × width]`, of `tokens`.
    pub(crate) fn add_to_table(&self, table: Param, tokens: &[u32], of: usize, y: &mut [f32], width: usize) {
        for (id, rows) in &self.groups[kind(Rows::Tokens)] {
            let Some(delta) = self.loaded.get(id).and_then(|loaded| loaded.tables.get(&table)) else { continue };
            for &row in rows {
                delta.add_to_table_row(tokens[row as usize] as usize, of, &mut y[row as usize * width..][..width]);
            }
        }
    }
}

/// The weight that an adapter means, and whether it means it as a table.
fn find(plan: &Plan, name: &str) -> Option<(Param, bool)> {
    let is = |p: Param, name: &str| plan.param(p).name == name;
    let linear = |name: &str| {
        plan.nodes().iter().find_map(|node| match &node.op {
            Op::Linear { parts } => parts.iter().map(|part| part.weight).find(|&p| is(p, name)),
            _ => None,
        })
    };
    let table = plan.nodes().iter().find_map(|node| match node.op {
        Op::Embed { table } if is(table, name) => Some(table),
        _ => None,
    });
    match (table, name) {
        (Some(table), _) => Some((table, true)),
        // A tied head is a product with the table.
        (None, HEAD) => linear(HEAD).or_else(|| linear(TABLE)).map(|head| (head, false)),
        (None, _) => linear(name).map(|weight| (weight, false)),
    }
}

impl Matrices {
    fn new(
        delta: &Delta,
        rows: usize,
        columns: usize,
        weight: &Prepared,
        pool: &Pool,
    ) -> Result<Matrices, PrepareError> {
        let pack = |shape: [usize; 2], values: &[f32]| {
            let tensor = Tensor::from_f32(shape.to_vec(), values);
            linear::Weights::pack(&tensor, pool)
                .map_err(|source| PrepareError::Pack { name: "the adapter".into(), source })
        };
        let scaled: Vec<f32> = delta.b.iter().map(|b| b * delta.scale).collect();
        let gains = delta.magnitude.as_ref().map(|_| {
            let mut gains = vec![0.0; rows];
            for_rows(pool, rows, 1, &mut gains, |range, gains| {
                let mut changed = vec![0.0; columns];
                for (row, gain) in range.zip(gains) {
                    weight.row(row, &mut changed);
                    delta.add_to_row(row, &mut changed);
                    *gain = delta.gain(row, &changed);
                }
            });
            gains
        });
        Ok(Matrices { a: pack([delta.rank, columns], &delta.a)?, b: pack([rows, delta.rank], &scaled)?, gains })
    }

    /// `y + change`, or with gains `g · (y - bias + change) + bias`.
    fn apply(&self, bias: Option<&[f32]>, change: &[f32], y: &mut [f32]) {
        match &self.gains {
            None => y.iter_mut().zip(change).for_each(|(y, change)| *y += change),
            Some(gains) => {
                for (i, y) in y.iter_mut().enumerate() {
                    let bias = bias.map_or(0.0, |bias| bias[i]);
                    *y = gains[i] * (*y - bias + change[i]) + bias;
                }
            }
        }
    }
}
