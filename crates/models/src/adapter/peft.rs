//! Adapters as PEFT saves them. Its names are those of Transformers' modules, so the architecture's table says which
//! weights are meant and how their layout differs: what reorders a weight's rows reorders those of `B`, what reorders
//! its columns reorders those of `A`.

use super::{
    heads, key, matched,
    merge::{HEAD, TABLE},
    numbers,
    stacks::{WRAPPER, drop_idle, parameters, rows_of_stack, used},
    transposed,
};
use crate::{
    Arch, Error, arch,
    hf::{Fix, Heads, rebuild},
};
use allod_formats::{Safetensors, WeightSource, json};
use allod_plan::{Delta, Lora};
use allod_tensor::Tensor;
use regex_automata::meta::Regex;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::Path;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Fields that ask for more than low-rank changes of matrices.
const OTHER_CHANGES: &[&str] = &[
    "trainable_token_indices",
    "layer_replication",
    "lora_bias",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "arrow_config",
];

/// Ways to begin an adapter that change the base as well.
const CHANGED_BASES: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga"];

/// The matrices of one module.
#[derive(Default)]
struct Module {
    a: Option<Tensor>,
    b: Option<Tensor>,
    magnitude: Option<Tensor>,
    is_embedding: bool,
    /// The module's weight itself, trained whole (`modules_to_save`).
    whole: Option<Tensor>,
}

pub(super) fn open(folder: &Path, base: &dyn WeightSource) -> Result<Lora, Error> {
    let config = Config::read(folder)?;
    let files = Safetensors::open(folder.join(WEIGHTS))?;
    let modules = modules(&folder.join(WEIGHTS), &files)?;
    let name = base.metadata().str("general.architecture").unwrap_or_default();
    let knows_all = |arch: &&&Arch| modules.keys().all(|m| !named(arch, &config.weight(arch, m)).is_empty());
    let candidates: Vec<&&Arch> = arch::ALL.iter().filter(|arch| arch.gguf == name).collect();
    let Some(arch) = candidates.iter().copied().find(knows_all).or(candidates.first().copied()) else {
        return Err(Error::UnknownArchitecture {
            origin: base.origin(),
            nearest: arch::nearest(name),
            found: name.to_owned(),
        });
    };
    let heads = heads(base);
    let mut adapter = Lora::default();
    for (module, parts) in &modules {
        let weight = config.weight(arch, module);
        let names = named(arch, &weight);
        if names.is_empty() {
            let origin = folder.display().to_string();
            return Err(Error::UnknownTensor { origin, name: module.clone(), arch: arch.gguf });
        }
        let is_stack = !weight.ends_with(".weight");
        let mut deltas = BTreeMap::new();
        for (gguf, fix) in names {
            if let Some(whole) = &parts.whole {
                let plain = Tensor::from_f32(whole.shape.clone(), &numbers(module, whole)?);
                adapter.whole.insert(gguf, numbers(module, &fix.apply(plain, heads)?)?.into());
            } else {
                let experts = base.info(&gguf).filter(|i| is_stack && i.shape.len() == 3).map(|i| i.shape[0]);
                if is_stack && experts.is_none() {
                    let expected = "stacks of experts and weights of modules in target_parameters";
                    return Err(key(folder, module, expected, weight));
                }
                let fix = if is_stack { rows_of_stack(arch, &weight, fix)? } else { fix };
                let scale = |rank| config.scale(folder, &weight, rank);
                deltas.insert(gguf, delta(folder, module, parts, fix, heads, experts, scale)?);
            }
        }
        if is_stack {
            drop_idle(&mut deltas);
        }
        adapter.deltas.extend(deltas);
    }
    if adapter.deltas.is_empty() && adapter.whole.is_empty() {
        return Err(key(folder, WEIGHTS, "tensors MODULE.lora_A.weight and MODULE.lora_B.weight", "none"));
    }
    // PEFT trains a copy of the table and leaves the head that shared it as it was, unless it is told otherwise.
    if adapter.whole.contains_key(TABLE)
        && !adapter.whole.contains_key(HEAD)
        && !config.keeps_ties
        && base.info(HEAD).is_none()
    {
        let table = base.tensor(TABLE)?;
        adapter.whole.insert(HEAD.into(), numbers(TABLE, &table)?.into());
    }
    if config.keeps_ties && base.info(HEAD).is_none() && adapter.whole.contains_key(TABLE) {
        adapter.whole.remove(HEAD);
    }
    Ok(adapter)
}

/// What GGUF calls `weight`, or its parts, and what differs in layout.
fn named(arch: &Arch, weight: &str) -> Vec<(String, Fix)> {
    let found = arch.names().filter_map(|name| {
        let m = matched(name.hf, weight)?;
        let gguf = format!("{}{}", name.gguf.replacen("{}", &m.layer, 1), m.ending);
        (!name.gguf.is_empty() && m.expert.is_none()).then_some((gguf, name.fix))
    });
    // Later tables override earlier ones.
    found.collect::<BTreeMap<_, _>>().into_iter().collect()
}

/// The file's tensors by module.
fn modules(path: &Path, files: &Safetensors) -> Result<BTreeMap<String, Module>, Error> {
    let mut modules: BTreeMap<String, Module> = BTreeMap::new();
    for (name, _) in files.entries() {
        let bare = name.strip_prefix("base_model.model.").unwrap_or(name);
        if bare.ends_with(".base_layer.weight") {
            // PEFT saves the base's own tables beside the changes to them.
            continue;
        }
        let tensor = files.tensor(name)?;
        let Some((module, part)) = bare.split_once(".lora_") else {
            let Some(module) = bare.strip_suffix(".weight") else {
                return Err(key(path, name, "low-rank matrices and whole weights (no biases)", "another tensor"));
            };
            modules.entry(module.to_owned()).or_default().whole = Some(tensor);
            continue;
        };
        let entry = modules.entry(module.to_owned()).or_default();
        match part {
            "A.weight" => entry.a = Some(tensor),
            "B.weight" => entry.b = Some(tensor),
            "embedding_A" => (entry.a, entry.is_embedding) = (Some(tensor), true),
            "embedding_B" => (entry.b, entry.is_embedding) = (Some(tensor), true),
            "magnitude_vector" | "magnitude_vector.weight" => entry.magnitude = Some(tensor),
            _ => return Err(key(path, name, "lora_A, lora_B or lora_magnitude_vector", format!("lora_{part}"))),
        }
    }
    Ok(modules)
}

/// The change that `parts` are of a matrix, or of a stack of so many `experts`: then the rows of `A` are `[expert, rank]`,
/// the columns of `B` `[rank, expert]`.
fn delta(
    folder: &Path,
    module: &str,
    parts: &Module,
    fix: Fix,
    heads: Heads,
    experts: Option<usize>,
    scale: impl Fn(usize) -> Result<f32, Error>,
) -> Result<Delta, Error> {
    let (Some(a), Some(b)) = (&parts.a, &parts.b) else {
        return Err(key(folder, module, "lora_A and lora_B", "one of them"));
    };
    let (&[all, width], &[rows, columns]) = (&a.shape[..], &b.shape[..]) else {
        return Err(key(folder, module, "two matrices", format!("{:?} and {:?}", a.shape, b.shape)));
    };
    let rank = all.checked_div(experts.unwrap_or(1)).unwrap_or(0);
    if rank == 0 || all != columns || rank * experts.unwrap_or(1) != all {
        let found = format!("{:?} and {:?}", a.shape, b.shape);
        let stack = experts.map(|n| format!("lora_A [{n} · rank × in] and lora_B [out × rank · {n}]"));
        let expected = stack.as_deref().unwrap_or("lora_A [rank × in] and lora_B [out × rank]");
        return Err(key(folder, module, expected, found));
    }
    let plain = |t: &Tensor| Ok::<_, Error>(Tensor::from_f32(t.shape.clone(), &numbers(module, t)?));
    let (mut a, mut b) = (plain(a)?, plain(b)?);
    if let Some(n) = experts {
        b = Tensor::from_f32(vec![n, rows, rank], &transposed(&numbers(module, &b)?, n));
    }
    let mut magnitude = parts.magnitude.as_ref().map(plain).transpose()?;
    if let Some(m) = &mut magnitude {
        let count = m.shape.iter().product();
        *m = rebuild(m.dtype, vec![count], m.data.to_vec())?;
    }
    let steps = if let Fix::Then(all) = &fix { all } else { std::slice::from_ref(&fix) };
    for &step in if parts.is_embedding { &[] } else { steps } {
        match step {
            // A and B say what is in and what is out, however the weight is stored.
            Fix::None | Fix::Transpose => {}
            Fix::TileColumns => a = step.apply(a, heads)?,
            Fix::Every { .. } if experts.is_some() => b = step.apply(b, heads)?,
            Fix::InterleaveQ
            | Fix::InterleaveK
            | Fix::QkvByHead
            | Fix::TileRows
            | Fix::TileValues
            | Fix::QkvOfGroups
            | Fix::GatesOfGroups
            | Fix::Part { .. } => {
                b = step.apply(b, heads)?;
                magnitude = magnitude.map(|m| step.apply(m, heads)).transpose()?;
            }
            _ => return Err(key(folder, module, "a weight that keeps its form", "one that is taken apart")),
        }
    }
    let (scale, mut a, mut b) = (scale(rank)?, numbers(module, &a)?, numbers(module, &b)?);
    let mut left = rank;
    if experts.is_some() {
        (left, a, b) = used(rank, a, b, width);
    }
    let magnitude = magnitude.map(|m| numbers(module, &m)).transpose()?.map(Into::into);
    Ok(Delta { rank: left, a: a.into(), b: b.into(), scale, magnitude })
}

/// What `adapter_config.json` says about how strong the change is, and of what.
struct Config {
    /// Ends of names of parameters that are changed (`target_parameters`).
    parameters: Vec<String>,
    alpha: f32,
    alphas: Vec<(Regex, f32)>,
    by_root: bool,
    /// A table that is also the head stays so.
    keeps_ties: bool,
}

impl Config {
    fn read(folder: &Path) -> Result<Config, Error> {
        let path = folder.join(CONFIG);
        let bytes = std::fs::read(&path).map_err(|source| allod_formats::Error::Io { path: path.clone(), source })?;
        let config = json::config(&path, &bytes)?;
        let kind = config.get("peft_type").and_then(Json::as_str).unwrap_or("nothing");
        if kind != "LORA" {
            return Err(key(&path, "peft_type", "LORA", kind));
        }
        let is_set =
            |v: &Json| !matches!(v, Json::Null | Json::Bool(false)) && v.as_array().is_none_or(|a| !a.is_empty());
        for name in OTHER_CHANGES {
            if let Some(found) = config.get(*name).filter(|v| is_set(v)) {
                return Err(key(&path, name, "nothing (only low-rank changes of matrices can be applied)", found));
            }
        }
        let init = config.get("init_lora_weights").and_then(Json::as_str).unwrap_or_default();
        if CHANGED_BASES.iter().any(|name| init.starts_with(name)) {
            let expected = "an adapter of the base as it is (PEFT converts such adapters when it saves them)";
            return Err(key(&path, "init_lora_weights", expected, init));
        }
        let number = |v: &Json| v.as_f64().map(|v| v as f32).filter(|v| v.is_finite());
        let alpha = config.get("lora_alpha").and_then(number);
        let alpha = alpha.ok_or_else(|| key(&path, "lora_alpha", "a number", config["lora_alpha"].to_string()))?;
        let mut alphas = Vec::new();
        for (pattern, value) in config.get("alpha_pattern").and_then(Json::as_object).into_iter().flatten() {
            let whole = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"));
            let regex = whole.map_err(|e| key(&path, "alpha_pattern", "regular expressions", e))?;
            let value = number(value).ok_or_else(|| key(&path, "alpha_pattern", "numbers", value))?;
            alphas.push((regex, value));
        }
        let flag = |name: &str| config.get(name).and_then(Json::as_bool).unwrap_or(false);
        let mut parameters = Vec::new();
        for name in config.get("target_parameters").and_then(Json::as_array).into_iter().flatten() {
            let name = name.as_str().ok_or_else(|| key(&path, "target_parameters", "names of parameters", name))?;
            parameters.push(name.to_owned());
        }
        let (by_root, keeps_ties) = (flag("use_rslora"), flag("ensure_weight_tying"));
        Ok(Config { parameters, alpha, alphas, by_root, keeps_ties })
    }

    /// The tensor of the base that the matrices of `module` change: its weight, or the one of its parameters that PEFT
    /// wrapped at this depth; the first that the class declares is innermost.
    fn weight(&self, arch: &Arch, module: &str) -> String {
        let owner = module.trim_end_matches(WRAPPER);
        let depth = (module.len() - owner.len()) / WRAPPER.len();
        let changed = parameters(arch, owner).into_iter().filter(|name| self.is_parameter(name));
        changed.rev().nth(depth).unwrap_or_else(|| format!("{module}.weight"))
    }

    /// True for a parameter that `target_parameters` names.
    fn is_parameter(&self, full: &str) -> bool {
        let names = |end: &String| full.strip_suffix(end.as_str()).is_some_and(|s| s.is_empty() || s.ends_with('.'));
        self.parameters.iter().any(names)
    }

    /// alpha / r, or alpha / √r (rsLoRA).
    fn scale(&self, folder: &Path, weight: &str, rank: usize) -> Result<f32, Error> {
        // PEFT goes by the name of the parameter where that is what it was given, else by that of the module.
        let module = weight.strip_suffix(".weight").filter(|_| !self.is_parameter(weight)).unwrap_or(weight);
        let own = self.alphas.iter().find(|(pattern, _)| pattern.is_match(module));
        let alpha = own.map_or(self.alpha, |(_, alpha)| *alpha);
        let rank = rank as f32;
        let scale = alpha / if self.by_root { rank.sqrt() } else { rank };
        if scale.is_finite() { Ok(scale) } else { Err(key(folder, module, "a finite scale", scale)) }
    }
}
