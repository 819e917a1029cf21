//! Where each weight lies while a model is trained: frozen ones as in the file, trained ones as numbers.

use super::{LearnError, init, tensor};
use crate::{
    Pool, PrepareError,
    weights::{Prepared, Use, uses},
};
use allod_codec as codec;
use allod_formats::WeightSource;
use allod_kernels::{conv, gradient::Matrix, linear};
use allod_plan::{Adapter, AdapterInit, Op, Param, Plan, Role, State, TrainedTensor, Tune, Wanted};
use allod_tensor::Tensor;

/// A frozen matrix.
pub(super) enum Held {
    /// Not a matrix, or trained whole.
    Nothing,
    /// As in the source; and packed for the serving kernels, where they run the forward pass.
    Tensor(Tensor, Option<linear::Weights>),
    /// As numbers: what PiSSA leaves.
    Numbers(Vec<f32>, usize),
}

impl Held {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Held::Nothing => 0,
            Held::Tensor(t, packed) => t.data.len() + packed.as_ref().map_or(0, |w| w.packed_bytes().len()),
            Held::Numbers(v, _) => v.len() * 4,
        }
    }

    /// The matrix for the serving kernels.
    pub(super) fn packed(&self) -> Option<&linear::Weights> {
        match self {
            Held::Tensor(_, packed) => packed.as_ref(),
            _ => None,
        }
    }

    /// Matrix `expert` of `experts`.
    pub(super) fn matrix(&self, expert: usize, experts: usize) -> Option<Matrix<'_>> {
        match self {
            Held::Nothing => None,
            Held::Tensor(t, _) => {
                let len = t.data.len() / experts.max(1);
                let data = &t.data[expert * len..(expert + 1) * len];
                Some(Matrix::Encoded { dtype: t.dtype, data, cols: *t.shape.last()? })
            }
            Held::Numbers(v, cols) => {
                let len = v.len() / experts.max(1);
                Some(Matrix::Numbers { data: &v[expert * len..(expert + 1) * len], cols: *cols })
            }
        }
    }
}

/// What is trained of a weight: places in the list of trained tensors.
#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    pub(super) whole: Option<usize>,
    pub(super) adapter: Option<Low>,
    /// Stored transposed where operations read it (a convolution's taps), of this many.
    taps: Option<usize>,
}

/// An adapter's tensors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Low {
    pub(super) a: usize,
    pub(super) b: usize,
    pub(super) magnitude: Option<usize>,
    pub(super) rank: usize,
    pub(super) scale: f32,
    pub(super) dropout: f32,
}

/// All weights of a model in training.
pub(super) struct Set {
    pub(super) prepared: Vec<Prepared>,
    pub(super) held: Vec<Held>,
    pub(super) links: Vec<Link>,
    pub(super) tensors: Vec<TrainedTensor>,
}

/// The state that an operation carries.
pub(super) fn state(op: &Op) -> Option<State> {
    match op {
        Op::Conv1d(c) => Some(c.state),
        Op::SelectiveScan(s) => Some(s.state),
        Op::StateSpaceDual(s) => Some(s.state),
        Op::DeltaRule(r) => Some(r.state),
        _ => None,
    }
}

/// What is wanted of each weight.
pub(super) fn wanted(plan: &Plan, tune: &Tune) -> Result<Vec<Wanted>, LearnError> {
    let mut all = vec![Wanted::default(); plan.params().len()];
    let find = |name: &str| match plan.params().iter().position(|p| p.name == name) {
        Some(i) => Ok(i),
        None => {
            let common = |p: &&allod_plan::ParamInfo| p.name.bytes().zip(name.bytes()).filter(|(a, b)| a == b).count();
            let nearest = plan.params().iter().max_by_key(common).map_or_else(String::new, |p| p.name.clone());
            Err(LearnError::NoWeight { name: name.into(), nearest })
        }
    };
    for name in &tune.weights {
        all[find(name)?].whole = true;
    }
    let linears = plan.linears();
    for a in &tune.adapters {
        let at = find(&a.weight)?;
        let unfit = |why: &str| Err(LearnError::Unfit { name: a.weight.clone(), why: why.into() });
        let Some(info) = linears.iter().find(|l| l.weight == a.weight) else {
            return unfit("only a matrix that multiplies rows can have an adapter");
        };
        if a.rank == 0 || all[at].rank.is_some() {
            return unfit("one adapter of at least rank 1 is possible");
        }
        if all[at].whole {
            return unfit("it is trained whole, so an adapter has nothing to add");
        }
        if a.dora && info.shape.len() == 3 {
            return unfit("DoRA is not defined for a stack of experts");
        }
        all[at].rank = Some(a.rank);
        all[at].magnitude = a.dora;
    }
    Ok(all)
}

/// Reads and places all weights.
pub(super) fn load(
    plan: &Plan,
    source: &dyn WeightSource,
    pool: &Pool,
    tune: &Tune,
    wanted: &[Wanted],
    served: bool,
) -> Result<Set, LearnError> {
    let mut set = Set { prepared: vec![], held: vec![], links: vec![], tensors: vec![] };
    for ((i, info), u) in plan.params().iter().enumerate().zip(uses(plan)) {
        let t = Tensor { shape: info.shape.clone(), ..source.tensor(&info.name).map_err(PrepareError::from)? };
        let numbers = || {
            let decoded = codec::to_f32(&t);
            decoded.map_err(|source| PrepareError::Decode { name: info.name.clone(), source })
        };
        let mut link = Link { taps: (u == Use::Filter).then(|| t.columns()), ..Link::default() };
        let (mut held, mut prepared) = (Held::Nothing, Prepared::Vector(vec![]));
        if wanted[i].whole {
            link.whole = Some(set.tensors.len());
            set.tensors.push(tensor(info.name.clone(), role(plan, i, u), info.shape.clone(), numbers()?));
        } else {
            match u {
                Use::Vector => prepared = Prepared::Vector(numbers()?),
                Use::Filter => prepared = Prepared::Vector(conv::taps_first(&numbers()?, t.columns())),
                Use::Table => prepared = Prepared::Table(t.clone()),
                Use::Matrix => {
                    prepared = Prepared::Table(t.clone());
                    let serves = served && t.dtype.is_quantized() && t.shape.len() == 2;
                    let pack = |t: &Tensor| linear::Weights::pack(t, pool);
                    let packed = serves.then(|| pack(&t)).transpose();
                    let packed = packed.map_err(|source| PrepareError::Pack { name: info.name.clone(), source })?;
                    held = Held::Tensor(t.clone(), packed);
                }
            }
        }
        if let Some(a) = tune.adapters.iter().find(|a| a.weight == info.name) {
            link.adapter = Some(adapter(a, &t, pool, tune.seed, &mut held, &mut set.tensors)?);
        }
        set.prepared.push(prepared);
        set.held.push(held);
        set.links.push(link);
    }
    Ok(set)
}

fn role(plan: &Plan, param: usize, u: Use) -> Role {
    let is = |p: Param| p.index() == param;
    let table = plan.nodes().iter().any(|n| match &n.op {
        Op::Embed { table } | Op::EmbedPositions { table, .. } => is(*table),
        _ => false,
    });
    let norm = plan.nodes().iter().any(|n| match &n.op {
        Op::Norm(n) => n.weight.is_some_and(is) || n.bias.is_some_and(is),
        Op::GatedNorm { weight, .. } => is(*weight),
        _ => false,
    });
    match u {
        _ if table => Role::Embedding,
        _ if norm => Role::Norm,
        Use::Matrix => Role::Matrix,
        _ => Role::Vector,
    }
}

/// Makes an adapter's tensors; PiSSA changes what is held.
fn adapter(
    a: &Adapter,
    t: &Tensor,
    pool: &Pool,
    seed: u64,
    held: &mut Held,
    tensors: &mut Vec<TrainedTensor>,
) -> Result<Low, LearnError> {
    let (stack, out, width) = match *t.shape {
        [out, width] => (None, out, width),
        [experts, out, width] => (Some(experts), out, width),
        _ => {
            let why = format!("expected a matrix, found shape {:?}", t.shape);
            return Err(LearnError::Unfit { name: a.weight.clone(), why });
        }
    };
    let experts = stack.unwrap_or(1);
    let shape = |rows: usize, cols: usize| stack.into_iter().chain([rows, cols]).collect::<Vec<_>>();
    let numbers = || codec::to_f32(t).map_err(|source| PrepareError::Decode { name: a.weight.clone(), source });
    let (down, up) = match a.init {
        AdapterInit::Kaiming | AdapterInit::Gaussian => {
            (init::down(a, experts, width, seed), vec![0.0; experts * out * a.rank])
        }
        AdapterInit::Pissa => {
            let mut w = numbers()?;
            let pair = init::pissa(&mut w, (experts, out, width), a, pool);
            *held = Held::Numbers(w, width);
            pair
        }
    };
    let mut push = |suffix: &str, role, shape, data| {
        tensors.push(tensor(format!("{}.{suffix}", a.weight), role, shape, data));
        tensors.len() - 1
    };
    let magnitude = match a.dora {
        true => {
            let rows = numbers()?;
            let norms = rows.chunks_exact(width).map(init::norm).collect();
            Some(push("lora_magnitude", Role::Magnitude, vec![out], norms))
        }
        false => None,
    };
    let at_a = push("lora_a", Role::LoraA, shape(a.rank, width), down);
    let at_b = push("lora_b", Role::LoraB, shape(out, a.rank), up);
    Ok(Low { a: at_a, b: at_b, magnitude, rank: a.rank, scale: a.scale, dropout: a.dropout })
}

/// Puts tensors that are trained whole where operations read them.
pub(super) fn swap_in(prepared: &mut [Prepared], links: &[Link], tensors: &mut [TrainedTensor]) {
    for (p, l) in prepared.iter_mut().zip(links) {
        let Some(i) = l.whole else { continue };
        *p = Prepared::Vector(match l.taps {
            Some(taps) => conv::taps_first(&tensors[i].data, taps),
            None => std::mem::take(&mut tensors[i].data),
        });
    }
}

/// And back.
pub(super) fn swap_out(prepared: &mut [Prepared], links: &[Link], tensors: &mut [TrainedTensor]) {
    for (p, l) in prepared.iter_mut().zip(links) {
        let Some(i) = l.whole else { continue };
        if let (Prepared::Vector(v), None) = (std::mem::replace(p, Prepared::Vector(vec![])), l.taps) {
            tensors[i].data = v;
        }
    }
}
