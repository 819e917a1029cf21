//! GGUF files as llama.cpp once wrote them, seen under the names it writes now.

use crate::{
    Error, arch,
    hf::{Fix, Heads, Hf, Name, fixed, matches, rebuild, same},
};
use allod_formats::{Metadata, TensorInfo, WeightSource};
use allod_tensor::Tensor;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};

/// What is now called the first, and was called the second: fused, or one tensor for each expert.
const NAMES: &[Name] = &[
    fixed("blk.{}.attn_k_b", "blk.{}.attn_kv_b", Fix::KeysOfKvB),
    fixed("blk.{}.attn_v_b", "blk.{}.attn_kv_b", Fix::ValuesOfKvB),
    same("blk.{}.ffn_gate_exps", "blk.{}.ffn_gate.{e}"),
    same("blk.{}.ffn_up_exps", "blk.{}.ffn_up.{e}"),
    same("blk.{}.ffn_down_exps", "blk.{}.ffn_down.{e}"),
    fixed("blk.{}.ffn_gate_exps", "blk.{}.ffn_gate_up_exps", Fix::Part { index: 0, of: 2 }),
    fixed("blk.{}.ffn_up_exps", "blk.{}.ffn_gate_up_exps", Fix::Part { index: 1, of: 2 }),
];

/// Likewise in files of one architecture, where the old name means something else in others.
const OF_ARCHITECTURE: &[(&str, &[Name])] = &[(
    "qwen3next",
    &[
        fixed("blk.{}.attn_qkv", "blk.{}.ssm_in", Fix::QkvOfGroups),
        fixed("blk.{}.attn_gate", "blk.{}.ssm_in", Fix::GatesOfGroups),
    ],
)];

/// A source with some tensors under other names.
struct Renamed {
    source: Box<dyn WeightSource>,
    /// For each new name, the old ones (of experts, in order) and what differs in layout.
    made: BTreeMap<String, (Vec<String>, Fix)>,
    old: BTreeSet<String>,
    heads: Heads,
}

/// `source` under today's names.
pub(crate) fn renamed(source: Box<dyn WeightSource>) -> Box<dyn WeightSource> {
    let name = source.metadata().str("general.architecture").unwrap_or_default();
    let Some(arch) = arch::by_gguf(name) else { return source };
    let own = OF_ARCHITECTURE.iter().filter(|(of, _)| *of == arch.gguf).flat_map(|(_, names)| *names);
    let table: Vec<&Name> = NAMES.iter().chain(own).collect();
    let mut stacks: BTreeMap<String, (BTreeMap<usize, String>, Fix)> = BTreeMap::new();
    let mut old = BTreeSet::new();
    for name in source.names() {
        for n in &table {
            let Some(m) = matches(n.hf, &name) else { continue };
            old.insert(name.clone());
            let new = format!("{}{}", n.gguf.replacen("{}", &m.layer, 1), m.ending);
            if source.info(&new).is_none() {
                let stack = stacks.entry(new).or_insert_with(|| (BTreeMap::new(), n.fix));
                stack.0.insert(m.expert.unwrap_or(0), name.clone());
            }
        }
    }
    if old.is_empty() {
        return source;
    }
    let mut hf = Hf::new(source.origin(), arch, Json::Null);
    hf.meta = source.metadata().clone();
    let heads = hf.heads();
    let made = stacks.into_iter().map(|(new, (olds, fix))| (new, (olds.into_values().collect(), fix)));
    Box::new(Renamed { made: made.collect(), source, old, heads })
}

impl WeightSource for Renamed {
    fn origin(&self) -> String {
        self.source.origin()
    }

    fn metadata(&self) -> &Metadata {
        self.source.metadata()
    }

    fn names(&self) -> Vec<String> {
        let kept = self.source.names().into_iter().filter(|n| !self.old.contains(n));
        kept.chain(self.made.keys().cloned()).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let Some((olds, fix)) = self.made.get(name) else {
            return self.source.info(name).filter(|_| !self.old.contains(name));
        };
        let one = self.source.info(olds.first()?)?;
        let mut shape = one.shape;
        if olds.len() > 1 {
            shape.insert(0, olds.len());
        }
        Some(TensorInfo { dtype: fix.dtype(one.dtype), shape: fix.shape(shape, self.heads) })
    }

    fn tensor(&self, name: &str) -> Result<Tensor, allod_formats::Error> {
        let Some((olds, fix)) = self.made.get(name) else { return self.source.tensor(name) };
        let parts = olds.iter().map(|n| self.source.tensor(n)).collect::<Result<Vec<_>, _>>()?;
        let whole = stack(parts).and_then(|t| fix.apply(t, self.heads));
        whole.map_err(|e| allod_formats::Error::Malformed {
            path: self.origin().into(),
            field: name.into(),
            expected: "a tensor that the architecture's layout fits".into(),
            found: e.to_string(),
            hint: "the tensors do not fit the file's metadata",
        })
    }
}

/// Tensors of one type and shape as one, on a new first axis; one alone as it is.
fn stack(mut parts: Vec<Tensor>) -> Result<Tensor, Error> {
    if parts.len() == 1 {
        return Ok(parts.remove(0));
    }
    let first = parts.first().ok_or_else(|| Error::Layout("no experts".into()))?;
    let (dtype, mut shape) = (first.dtype, first.shape.clone());
    if let Some(odd) = parts.iter().find(|t| t.dtype != dtype || t.shape != shape) {
        return Err(Error::Layout(format!("experts of {} {:?} and {dtype} {shape:?}", odd.dtype, odd.shape)));
    }
    shape.insert(0, parts.len());
    rebuild(dtype, shape, parts.iter().flat_map(|t| t.data.iter().copied()).collect())
}
