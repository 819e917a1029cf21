//! A model of each architecture without weights: what its configuration describes where nothing is said, of a few
//! layers. From its plan follows what can be done here with the architecture.

use crate::{Arch, Error, Output, arch, hf::Hf, recorded};
use allod_formats::{Metadata, TensorInfo, WeightSource};
use allod_plan::{LinearKind, Plan, RecordError, Wanted, differentiate};
use allod_tensor::{DType, Shape, Tensor};
use serde_json::json;
use std::collections::HashMap;

/// What can be done with an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Its network is computed.
    pub run: bool,
    /// GGUF files of it are read, and written from folders.
    pub gguf: bool,
    /// Folders of it are read, and written from GGUF files.
    pub safetensors: bool,
    /// Sequences become vectors.
    pub embed: bool,
    /// Its weights are trained, whole and by adapters.
    pub tune: bool,
}

impl Arch {
    /// What can be done with it, found by trying.
    pub fn abilities(&self) -> Abilities {
        let plan = sample(self, Output::Own);
        let named = |found: Option<&Arch>| found.is_some_and(|a| std::ptr::fn_addr_eq(a.forward, self.forward));
        Abilities {
            run: plan.is_ok(),
            gguf: named(arch::by_gguf(self.gguf)) && self.names().next().is_some(),
            safetensors: named(arch::by_model_type(self.model_type)) && self.names().next().is_some(),
            embed: sample(self, Output::Embedding).is_ok(),
            tune: plan.is_ok_and(|plan| is_trained(&plan)),
        }
    }
}

/// True where a loss can be followed to every weight, and to an adapter at every linear map but the head.
fn is_trained(plan: &Plan) -> bool {
    let whole = vec![Wanted { whole: true, ..Wanted::default() }; plan.params().len()];
    let linears = plan.linears();
    let is_adapted = |name: &str| linears.iter().any(|l| l.kind != LinearKind::Head && l.weight == name);
    let adapter = |name: &str| Wanted { rank: is_adapted(name).then_some(8), ..Wanted::default() };
    let adapted: Vec<Wanted> = plan.params().iter().map(|p| adapter(&p.name)).collect();
    [whole, adapted].iter().all(|wanted| differentiate(plan, wanted, false).is_ok())
}

/// Layers: enough for each kind that follows from a regular pattern.
const LAYERS: usize = 8;
/// Rows of tables whose size is theirs to say.
const ROWS: usize = 1 << 16;

/// The plan of a model that `config.json` says nothing of but its type, its number of layers, and what no class has a
/// default for.
///
/// # Errors
/// What recording says of an architecture whose parts do not fit together.
pub fn sample(arch: &Arch, output: Output) -> Result<Plan, Error> {
    let sizes = json!({ "num_hidden_layers": LAYERS, "vocab_size": ROWS, "num_experts": 64, "num_experts_per_tok": 1 });
    let mut hf = Hf::new(arch.model_type.to_owned(), arch, sizes);
    hf.all(arch);
    if let Some(e) = hf.error {
        return Err(e);
    }
    // What is only looked for is there; what is needed is added as it is asked for.
    let mut shapes: HashMap<String, Shape> = HashMap::new();
    for name in arch.names().filter(|n| !n.gguf.is_empty() && !n.gguf.ends_with("attn_qkv")) {
        let ending = if name.gguf.ends_with(".weight") || name.gguf.ends_with(".bias") { "" } else { ".weight" };
        for layer in 0..if name.gguf.contains("{}") { LAYERS } else { 1 } {
            let full = hf.renamed(name.gguf).replacen("{}", &layer.to_string(), 1);
            shapes.insert(format!("{full}{ending}"), vec![ROWS]);
        }
    }
    let mut source = Unweighted { origin: hf.origin, meta: hf.meta, made: hf.made, shapes };
    loop {
        match recorded(&source, None, output) {
            Ok((_, _, plan)) => return Ok(plan),
            Err(Error::Record(e)) => match *e {
                RecordError::Missing { name, expected, .. } | RecordError::Shape { name, expected, .. }
                    if source.shapes.get(&name) != Some(&expected) =>
                {
                    source.shapes.insert(name, expected);
                }
                other => return Err(other.into()),
            },
            Err(e) => return Err(e),
        }
    }
}

/// Shapes without numbers.
struct Unweighted {
    origin: String,
    meta: Metadata,
    made: HashMap<String, Tensor>,
    shapes: HashMap<String, Shape>,
}

impl WeightSource for Unweighted {
    fn origin(&self) -> String {
        self.origin.clone()
    }
    fn metadata(&self) -> &Metadata {
        &self.meta
    }
    fn names(&self) -> Vec<String> {
        self.shapes.keys().chain(self.made.keys()).cloned().collect()
    }
    fn info(&self, name: &str) -> Option<TensorInfo> {
        let made = self.made.get(name).map(|t| &t.shape);
        made.or_else(|| self.shapes.get(name)).map(|shape| TensorInfo { dtype: DType::F32, shape: shape.clone() })
    }
    fn tensor(&self, name: &str) -> Result<Tensor, allod_formats::Error> {
        let missing = || allod_formats::Error::NoTensor { origin: self.origin.clone(), name: name.to_owned() };
        self.made.get(name).cloned().ok_or_else(missing)
    }
}
