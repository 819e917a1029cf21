//! Weights in the form that each use wants: packed matrices, plain vectors, tables read row by row.

use crate::{Activations, store::Store};
use allod_formats::{WeightSource, codec};
use allod_kernels::{conv, linear, pool::Pool};
use allod_plan::{Op, Param, ParamInfo, Plan};
use allod_tensor::{DType, Tensor};
use std::collections::HashMap;

/// Why weights could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A tensor could not be read.
    #[error(transparent)]
    Source(#[from] allod_formats::Error),
    /// A tensor's bytes could not be read as numbers.
    #[error("tensor {name}: {source}")]
    Decode {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        source: codec::Error,
    },
    /// A matrix could not be packed.
    #[error("tensor {name}: {source}")]
    Pack {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        source: linear::PackError,
    },
    /// Keys and values cannot be cached in the type asked for.
    #[error(transparent)]
    Cache(#[from] allod_kernels::attention::KvError),
    /// The system has not that much memory.
    #[error("no memory for the {bytes} bytes of a step's values; fewer rows need less")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// What the system says.
        source: std::io::Error,
    },
    /// A tap that names no value of the plan.
    #[error("the plan has no value called {0}; `allod inspect --plan` lists them")]
    NoValue(String),
}

/// A weight in the form that its use wants.
pub(crate) enum Prepared {
    /// Used as a matrix, possibly also row by row.
    Matrix(linear::Weights),
    /// Used row by row only.
    Table(Tensor),
    /// Used as numbers.
    Vector(Vec<f32>),
}

impl Prepared {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Prepared::Matrix(w) => w.packed_bytes().len(),
            Prepared::Table(t) => t.data.len(),
            Prepared::Vector(v) => v.len() * 4,
        }
    }

    pub(crate) fn is_f32(&self) -> bool {
        match self {
            Prepared::Matrix(w) => w.dtype() == DType::F32,
            Prepared::Table(t) => t.dtype == DType::F32,
            Prepared::Vector(_) => true,
        }
    }

    /// The weight as it multiplies such activations; its bytes are the same.
    pub(crate) fn taking(self, activations: Activations) -> Prepared {
        match (self, activations) {
            (Prepared::Matrix(w), Activations::BF16) => Prepared::Matrix(w.rounding_input()),
            (weight, _) => weight,
        }
    }

    /// Row `row` of a matrix or table as numbers.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        match self {
            Prepared::Matrix(w) => w.decode_row(0, row, out),
            Prepared::Table(t) => {
                let n = t.row_bytes();
                let read = codec::decode(t.dtype, &t.data[row * n..(row + 1) * n], out);
                debug_assert!(read.is_ok(), "the shape was checked when the plan was recorded");
            }
            Prepared::Vector(v) => out.copy_from_slice(&v[row * out.len()..(row + 1) * out.len()]),
        }
    }

    pub(crate) fn vector(&self) -> &[f32] {
        match self {
            Prepared::Vector(v) => v,
            Prepared::Matrix(_) | Prepared::Table(_) => &[],
        }
    }
}

#[derive(Clone, Copy, PartialEq, PartialOrd)]
/// What a weight is used as.
pub(crate) enum Use {
    Vector,
    /// A convolution's taps, the oldest first.
    Filter,
    Table,
    Matrix,
}

/// The use of each weight: the most demanding one.
pub(crate) fn uses(plan: &Plan) -> Vec<Use> {
    let mut uses = vec![Use::Vector; plan.params().len()];
    let mut mark = |p: Param, u: Use| {
        if u > uses[p.index()] {
            uses[p.index()] = u;
        }
    };
    for n in plan.nodes() {
        match &n.op {
            Op::Embed { table } | Op::EmbedPositions { table, .. } | Op::AddRow { table, .. } => {
                mark(*table, Use::Table);
            }
            Op::Conv1d(c) => mark(c.weight, Use::Filter),
            Op::Linear { parts } => parts.iter().for_each(|p| mark(p.weight, Use::Matrix)),
            Op::HeadLinear { weight } => mark(*weight, Use::Matrix),
            Op::Experts(e) => {
                e.gate.iter().chain([&e.up, &e.down]).for_each(|p| mark(p.weight, Use::Matrix));
            }
            _ => {}
        }
    }
    uses
}

/// Takes the matrices from `store` where there is one.
pub(crate) fn prepare(
    plan: &Plan,
    source: &dyn WeightSource,
    pool: &Pool,
    store: Option<&Store>,
) -> Result<Vec<Prepared>, PrepareError> {
    let uses = uses(plan);
    let mut kept = HashMap::new();
    if let Some(store) = store {
        let used = plan.params().iter().zip(&uses);
        let matrices: Vec<&ParamInfo> = used.filter(|(_, u)| **u == Use::Matrix).map(|(info, _)| info).collect();
        kept = store.matrices(source, &matrices, pool, &|info| pack(info, source, pool))?;
    }
    let one = |(info, u): (&ParamInfo, Use)| match kept.remove(&info.name) {
        Some(matrix) => Ok(Prepared::Matrix(matrix)),
        None => prepare_one(info, u, source, pool),
    };
    plan.params().iter().zip(uses).map(one).collect()
}

/// The weight called `name` anew; `None` when the plan has none of that name.
pub(crate) fn again(
    plan: &Plan,
    name: &str,
    source: &dyn WeightSource,
    pool: &Pool,
) -> Option<(usize, Result<Prepared, PrepareError>)> {
    let at = plan.params().iter().position(|p| p.name == name)?;
    Some((at, prepare_one(&plan.params()[at], uses(plan)[at], source, pool)))
}

/// Files differ in axes of size 1; the plan says which are meant.
fn tensor(info: &ParamInfo, source: &dyn WeightSource) -> Result<Tensor, PrepareError> {
    Ok(Tensor { shape: info.shape.clone(), ..source.tensor(&info.name)? })
}

fn pack(info: &ParamInfo, source: &dyn WeightSource, pool: &Pool) -> Result<linear::Weights, PrepareError> {
    let t = tensor(info, source)?;
    let packed = linear::Weights::pack(&t, pool);
    let packed = packed.map_err(|source| PrepareError::Pack { name: info.name.clone(), source })?;
    // The file's bytes have done their service: they need not stay in memory beside their copy.
    t.data.release();
    Ok(packed)
}

fn prepare_one(info: &ParamInfo, u: Use, source: &dyn WeightSource, pool: &Pool) -> Result<Prepared, PrepareError> {
    if u == Use::Matrix {
        return Ok(Prepared::Matrix(pack(info, source, pool)?));
    }
    let t = tensor(info, source)?;
    let numbers = || codec::to_f32(&t).map_err(|source| PrepareError::Decode { name: info.name.clone(), source });
    Ok(match u {
        Use::Vector | Use::Matrix => Prepared::Vector(numbers()?),
        Use::Filter => Prepared::Vector(conv::taps_first(&numbers()?, t.columns())),
        Use::Table => Prepared::Table(t),
    })
}
