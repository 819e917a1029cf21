//! `allod inspect`: what a file holds, where it comes from, and what running it takes.

use crate::failure::told;
use crate::load;
use crate::printer::{self, bytes, count};
use allod_formats::{Array, Metadata, Value as Meta, WeightSource};
use allod_models::Model;
use allod_plan::{Estimate, RowLimits};
use allod_tensor::DType;
use allod_train::run::{Manifest, manifest};
use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Show what a model file holds
#[derive(Args)]
#[command(after_help = "Examples:\n  allod inspect model.gguf\n  allod inspect model.gguf --ctx 32768\n  \
                        allod inspect model.gguf --tensors | grep blk.0\n  allod inspect folder/ --json | jq .memory")]
pub(crate) struct InspectArgs {
    /// A .gguf file, a folder of safetensors, a llama2.c .bin, or `default`
    #[arg(value_hint = clap::ValueHint::AnyPath, default_value = load::DEFAULT)]
    file: PathBuf,
    /// Length of the context to size the memory for [default: what the model was trained for, up to 8192]
    #[arg(long, value_name = "TOKENS")]
    ctx: Option<usize>,
    /// List the tensors
    #[arg(long)]
    tensors: bool,
    /// List the metadata
    #[arg(long)]
    metadata: bool,
    /// List the operations of the plan
    #[arg(long)]
    plan: bool,
    /// Print one object
    #[arg(long)]
    json: bool,
}

/// A tensor as listed.
struct Listed {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
}

impl Listed {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn bytes(&self) -> usize {
        self.elements() / self.dtype.block() * self.dtype.block_bytes()
    }
}

/// Everything that is known about the file.
struct Facts {
    origin: String,
    meta: Metadata,
    tensors: Vec<Listed>,
    /// What `allod pretrain` and `allod tune` recorded when they made it, the first run first.
    runs: Vec<Manifest>,
    /// The network, or why there is none.
    model: Result<(Model, usize)>,
}

pub(crate) fn run(args: &InspectArgs) -> Result<ExitCode> {
    let source = load::source(&args.file)?;
    let facts = Facts {
        origin: source.origin(),
        meta: source.metadata().clone(),
        tensors: tensors(&*source),
        runs: runs(&args.file)?,
        model: load::model(source, args.ctx),
    };
    let mut out = stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&object(&facts, args))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let lists = args.tensors || args.metadata || args.plan;
    let text = match lists {
        false => summary(&facts),
        true => {
            let parts = [(args.metadata, metadata_list(&facts)), (args.tensors, tensor_list(&facts))];
            let mut text: String = parts.into_iter().filter(|p| p.0).map(|p| p.1).collect();
            if args.plan {
                text.push_str(&facts.model.map(|(model, _)| model.plan.dump())?);
            }
            text
        }
    };
    out.write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The manifests of the built-in model, or the one beside a file, where it names the file's bytes.
fn runs(file: &Path) -> Result<Vec<Manifest>> {
    if file == Path::new(load::DEFAULT) {
        return Ok(load::STORIES_RUNS.iter().map(|text| serde_json::from_str(text)).collect::<Result<_, _>>()?);
    }
    let Ok(run) = Manifest::read(&file.with_file_name(manifest::FILE)) else { return Ok(vec![]) };
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let wrote = match run.outputs.get(&*name) {
        Some(digest) => manifest::digest(file)? == *digest,
        None => false,
    };
    Ok(if wrote { vec![run] } else { vec![] })
}

/// A run for a person: what it began with, and what came of it.
fn run_row(run: &Manifest) -> (String, String) {
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>().join(", ");
    let held_out = run.evaluations.last().map_or_else(String::new, |(_, loss)| format!(", evaluation loss {loss:.4}"));
    let what = format!("{}: {} steps on {}{held_out}", run.code, run.steps, names(&run.data));
    (format!("from {}", names(&run.base)), what)
}

fn tensors(source: &dyn WeightSource) -> Vec<Listed> {
    let listed = source.names().into_iter().filter_map(|name| {
        let info = source.info(&name)?;
        Some(Listed { name, dtype: info.dtype, shape: info.shape.to_vec() })
    });
    listed.collect()
}

/// Tensors, elements and bytes of each type, the type with most bytes first.
fn by_type(tensors: &[Listed]) -> Vec<(DType, usize, usize, usize)> {
    let mut types: BTreeMap<DType, (usize, usize, usize)> = BTreeMap::new();
    for t in tensors {
        let sum = types.entry(t.dtype).or_default();
        *sum = (sum.0 + 1, sum.1 + t.elements(), sum.2 + t.bytes());
    }
    let mut types: Vec<_> = types.into_iter().map(|(t, s)| (t, s.0, s.1, s.2)).collect();
    types.sort_by_key(|t| std::cmp::Reverse(t.3));
    types
}

/// Keys that say what a model is, as `general.KEY`.
const IDENTITY: [&str; 13] = [
    "name",
    "author",
    "organization",
    "version",
    "description",
    "basename",
    "finetune",
    "size_label",
    "quantized_by",
    "url",
    "repo_url",
    "tags",
    "languages",
];

/// Metadata in groups: keys without their prefix, values shortened.
fn groups(meta: &Metadata) -> [(&'static str, Vec<(String, String)>); 4] {
    let mut groups = [("identity", vec![]), ("licence", vec![]), ("lineage", vec![]), ("training", vec![])];
    for (key, value) in meta.iter() {
        let (group, key) = match key.strip_prefix("general.") {
            Some(k) if IDENTITY.contains(&k) => (0, k),
            Some(k) if k.starts_with("license") => (1, k),
            Some(k) if ["source.", "base_model.", "dataset."].iter().any(|p| k.starts_with(p)) => (2, k),
            None if key.contains(".training.") => (3, key.split_once(".training.").map_or(key, |k| k.1)),
            _ => continue,
        };
        groups[group].1.push((key.to_string(), shown(value)));
    }
    groups
}

fn estimate(facts: &Facts, model: &Model, context: usize) -> Estimate {
    let bytes = |name: &str| facts.tensors.iter().find(|t| t.name == name).map_or(0, Listed::bytes);
    let limits = RowLimits { tokens: load::ROWS.min(context), outputs: 1, sequences: 1 };
    model.plan.estimate(bytes, context, DType::I16, limits)
}

fn operations(model: &Model) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for node in model.plan.nodes() {
        let debug = format!("{:?}", node.op);
        let name = debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        *all.entry(name.to_string()).or_insert(0) += 1;
    }
    all
}

fn summary(facts: &Facts) -> String {
    let mut text = format!("{}\n", facts.origin);
    let columns = if stdout().is_terminal() { printer::size().0 - 1 } else { usize::MAX };
    let elements: usize = facts.tensors.iter().map(Listed::elements).sum();
    let arch = facts.meta.str("general.architecture").unwrap_or("unknown");
    text.push_str(&format!("\narchitecture  {arch}, {} parameters\n", count(elements)));
    let runs = ("runs", facts.runs.iter().map(run_row).collect());
    for (title, rows) in groups(&facts.meta).into_iter().chain([runs]).filter(|g| !g.1.is_empty()) {
        text.push_str(&format!("\n{title}\n"));
        let width = rows.iter().map(|r| r.0.len()).max().unwrap_or(0);
        for (key, value) in rows {
            text.push_str(&printer::beside(&format!("  {key:<width$}  "), &value, columns));
            text.push('\n');
        }
    }
    if !facts.meta.iter().any(|(key, _)| key.starts_with("general.license")) {
        text.push_str("\nlicence\n  the file names none\n");
    }
    text.push_str(&format!("\ntensors       {:>8} {:>12} {:>12}\n", "count", "bytes", "bits/weight"));
    for (dtype, number, elements, size) in by_type(&facts.tensors) {
        let bits = size as f64 * 8.0 / elements.max(1) as f64;
        text.push_str(&format!("  {:<11} {number:>8} {:>12} {bits:>12.2}\n", dtype.name(), bytes(size)));
    }
    match &facts.model {
        Ok((model, context)) => plan_summary(facts, model, *context, &mut text),
        Err(_) if facts.tensors.is_empty() => text.push_str("\nplan\n  none: the file holds no tensors\n"),
        Err(error) => text.push_str(&format!("\nplan\n{}", told(error))),
    }
    text
}

fn plan_summary(facts: &Facts, model: &Model, context: usize, text: &mut String) {
    let operations = operations(model);
    let total: usize = operations.values().sum();
    let list: Vec<String> = operations.iter().map(|(op, n)| format!("{op} {n}")).collect();
    let digest = model.plan.digest().to_hex();
    text.push_str(&format!("\nplan          {total} operations, digest {}\n  {}\n", &digest[..16], list.join(", ")));
    let e = estimate(facts, model, context);
    let trained = model.config.trained_context;
    text.push_str(&format!("\nmemory at a context of {context} tokens (made for {trained})\n"));
    let parts = [("weights", e.weights), ("kv cache f16", e.cache), ("state", e.state), ("activations", e.activations)];
    for (name, size) in parts.into_iter().chain([("total", e.total())]).filter(|p| p.1 > 0) {
        text.push_str(&format!("  {name:<12} {:>12}\n", bytes(size)));
    }
}

fn object(facts: &Facts, args: &InspectArgs) -> Value {
    let mut all = json!({
        "file": facts.origin,
        "architecture": facts.meta.str("general.architecture"),
        "parameters": facts.tensors.iter().map(Listed::elements).sum::<usize>(),
    });
    for (title, rows) in groups(&facts.meta) {
        all[title] = Value::Object(rows.into_iter().map(|(k, v)| (k, v.into())).collect());
    }
    all["runs"] = json!(facts.runs);
    let types = by_type(&facts.tensors).into_iter().map(|(dtype, number, elements, size)| {
        json!({ "type": dtype.name(), "count": number, "elements": elements, "bytes": size,
                "bits_per_weight": size as f64 * 8.0 / elements.max(1) as f64 })
    });
    all["types"] = types.collect();
    match &facts.model {
        Ok((model, context)) => {
            let e = estimate(facts, model, *context);
            let c = &model.config;
            all["config"] = json!({ "layers": c.layers, "width": c.dim, "vocabulary": c.vocab, "head_dim": c.head_dim,
                                    "heads": c.heads(0), "kv_heads": c.kv_heads(0), "trained_context": c.trained_context });
            all["plan"] =
                json!({ "operations": operations(model), "digest": model.plan.digest().to_hex().to_string() });
            all["memory"] = json!({ "context": context, "weights": e.weights, "cache": e.cache, "state": e.state,
                                    "activations": e.activations, "total": e.total() });
            if args.plan {
                all["plan"]["text"] = model.plan.dump().into();
            }
        }
        Err(error) => all["plan_error"] = format!("{error:#}").into(),
    }
    if args.tensors {
        let list = facts.tensors.iter();
        all["tensors"] = list
            .map(|t| json!({ "name": t.name, "type": t.dtype.name(), "shape": t.shape, "bytes": t.bytes() }))
            .collect();
    }
    if args.metadata {
        all["metadata"] =
            Value::Object(facts.meta.iter().map(|(k, v)| (k.to_string(), json_of(v))).collect::<Map<_, _>>());
    }
    all
}

fn tensor_list(facts: &Facts) -> String {
    let width = facts.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0);
    let line = |t: &Listed| {
        let shape: Vec<String> = t.shape.iter().map(usize::to_string).collect();
        format!("{:<width$}  {:<8} {:>20} {:>12}\n", t.name, t.dtype.name(), shape.join(" × "), bytes(t.bytes()))
    };
    facts.tensors.iter().map(line).collect()
}

fn metadata_list(facts: &Facts) -> String {
    facts.meta.iter().map(|(key, value)| format!("{key} = {}\n", shown(value))).collect()
}

/// A value for a person: long ones shortened.
fn shown(value: &Meta) -> String {
    const LONGEST: usize = 6;
    let text = match (value, json_of(value)) {
        (Meta::Array(array), Value::Array(items)) if items.len() > LONGEST => {
            let first: Vec<String> = items[..LONGEST].iter().map(Value::to_string).collect();
            format!("[{}, … {} in all]", first.join(", "), array.len())
        }
        (_, Value::String(text)) => text,
        (_, other) => other.to_string(),
    };
    printer::harmless(&text).replace('\n', "\\n")
}

fn json_of(value: &Meta) -> Value {
    fn list<T: Clone + Into<Value>>(items: &[T]) -> Value {
        items.iter().cloned().map(Into::into).collect()
    }
    match value {
        Meta::String(s) => s.as_str().into(),
        Meta::Bool(b) => (*b).into(),
        Meta::F32(x) => short(*x),
        Meta::F64(x) => (*x).into(),
        Meta::Array(array) => match array {
            Array::U8(v) => list(v),
            Array::I8(v) => list(v),
            Array::U16(v) => list(v),
            Array::I16(v) => list(v),
            Array::U32(v) => list(v),
            Array::I32(v) => list(v),
            Array::U64(v) => list(v),
            Array::I64(v) => list(v),
            Array::F32(v) => v.iter().map(|&x| short(x)).collect(),
            Array::F64(v) => list(v),
            Array::Bool(v) => list(v),
            Array::String(v) => list(v),
        },
        integer => integer.as_u64().map(Value::from).or(integer.as_i64().map(Value::from)).unwrap_or_default(),
    }
}

/// The shortest number that means this `f32`.
fn short(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
