//! What noise in a matrix does to the logits: each matrix in turn is put through a coarse type while all others stay as
//! they are, and the divergence of the predictions is held against the noise that the type made. Divergence grows with
//! the noise's power, so their ratio is what a unit of loss costs, whatever the type.

use super::kept;
use crate::{
    imatrix::Imatrix,
    recipe,
    run::{Error, rounded},
};
use allod_cpu::{Cpu, PrepareError};
use allod_eval::{Base, Error as ScoreError, Scorer, Windows, kl, predictions};
use allod_formats::{Error as FormatError, Metadata, TensorInfo, WeightSource};
use allod_kernels::pool::Pool;
use allod_tensor::{DType, Tensor};
use std::{collections::BTreeMap, ops::ControlFlow};

/// Divergence in nats for a unit of relative loss, by matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sensitivity {
    by_name: BTreeMap<String, f64>,
    /// For matrices that were not measured.
    mean: f64,
}

/// Why the sensitivity of a model is not known.
#[derive(Debug, thiserror::Error)]
pub enum SensitivityError {
    /// The model could not run the text.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// A weight could not be changed.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// A weight could not be rounded.
    #[error(transparent)]
    Run(#[from] Error),
}

impl Sensitivity {
    /// What a unit of loss in a matrix costs.
    pub fn of(&self, name: &str) -> f64 {
        self.by_name.get(name).copied().unwrap_or(self.mean)
    }
}

/// Types that make enough noise to be measured and little enough to add up.
const PROBES: [DType; 2] = [DType::Q3_K, DType::Q4_0];

/// A tensor in the place of one of a model.
struct Changed<'a> {
    source: &'a dyn WeightSource,
    name: &'a str,
    tensor: Tensor,
}

impl WeightSource for Changed<'_> {
    fn origin(&self) -> String {
        self.source.origin()
    }
    fn metadata(&self) -> &Metadata {
        self.source.metadata()
    }
    fn names(&self) -> Vec<String> {
        self.source.names()
    }
    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.source.info(name)
    }
    fn tensor(&self, name: &str) -> Result<Tensor, FormatError> {
        if name == self.name { Ok(self.tensor.clone()) } else { self.source.tensor(name) }
    }
}

/// Measures every matrix of the model that `cpu` holds, over the windows of a text. `progress` gets how many matrices
/// are done and how many there are.
///
/// # Errors
/// [`SensitivityError`].
pub fn sensitivity(
    cpu: &mut Cpu,
    source: &dyn WeightSource,
    imatrix: Option<&Imatrix>,
    (tokens, windows): (&[u32], &Windows),
    pool: &Pool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Sensitivity, SensitivityError> {
    let before = predictions(&mut Scorer::new(cpu, pool), tokens, windows)?;
    let matrices: Vec<_> = kept(source).into_iter().map(|c| c.name).collect();
    let matrices: Vec<&String> =
        matrices.iter().filter(|n| source.info(n).is_some_and(|i| recipe::is_quantizable(n, &i))).collect();
    let mut out = Sensitivity::default();
    for (i, name) in matrices.iter().enumerate() {
        progress(i, matrices.len());
        let tensor = source.tensor(name).map_err(Error::from)?;
        let Some(probe) = PROBES.into_iter().find(|t| tensor.columns().is_multiple_of(t.block())) else { continue };
        let (changed, loss) = rounded(source, name, &tensor, probe, imatrix, pool)?;
        let changed = Changed { source, name, tensor: changed };
        if loss <= 0.0 || !cpu.reload(name, &changed)? {
            continue;
        }
        let go = &mut |_: allod_eval::Progress| ControlFlow::Continue(());
        let found = kl(&mut Scorer::new(cpu, pool), &mut Base::Logits(&before), tokens, windows, go);
        cpu.reload(name, source)?;
        out.by_name.insert((*name).clone(), found?.kl.value.max(0.0) / loss);
    }
    out.mean = out.by_name.values().sum::<f64>() / out.by_name.len().max(1) as f64;
    // What seems to cost nothing on a short text is not free.
    let least = out.mean * 1e-2;
    out.by_name.values_mut().for_each(|v| *v = v.max(least));
    Ok(out)
}
