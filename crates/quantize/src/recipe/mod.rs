//! Recipes: which type each tensor of a model gets under a name such as `Q4_K_M`. Names, shapes and a few facts about
//! the model enter; one [`Choice`] per tensor leaves.
//!
//! The mixes are llama.cpp's, exactly, so that a name means the same file everywhere. They are kept as data
//! ([`RECIPES`]) over a small vocabulary of conditions; what is the same for all of them is the code here.

mod role;
mod table;

pub use role::{Role, is_quantizable, layer};
pub use table::{RECIPES, Recipe};

use allod_formats::{Metadata, TensorInfo, WeightSource};
use allod_tensor::DType;
use regex_automata::meta::Regex;
use table::{Family, When};

/// What recipes want to know about a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// GGUF's name of the architecture.
    pub arch: String,
    /// Transformer blocks, those that predict further tokens included.
    pub layers: usize,
    /// Query heads of the first layer.
    pub heads: usize,
    /// Key-value heads of the first layer.
    pub kv_heads: usize,
    /// Experts of a layer; 0 for dense models.
    pub experts: usize,
    /// Whether importance statistics are given.
    pub imatrix: bool,
}

impl Facts {
    /// Reads them from a model's metadata. What is absent counts as zero.
    pub fn read(metadata: &Metadata, imatrix: bool) -> Facts {
        let arch = metadata.str("general.architecture").unwrap_or_default().to_owned();
        let number = |key: &str| {
            let key = format!("{arch}.{key}");
            let first = || metadata.ints(&key)?.first().copied()?.try_into().ok();
            metadata.uint(&key).or_else(first).and_then(|n: u64| usize::try_from(n).ok())
        };
        let heads = number("attention.head_count").unwrap_or(0);
        let kv_heads = number("attention.head_count_kv").unwrap_or(heads);
        let layers = number("block_count").unwrap_or(0);
        let experts = number("expert_count").unwrap_or(0);
        Facts { layers, heads, kv_heads, experts, imatrix, arch }
    }

    /// Query heads to a key-value head.
    fn group(&self) -> usize {
        self.heads.checked_div(self.kv_heads).unwrap_or(0)
    }

    /// The models that llama.cpp calls 70B, whose few value matrices it spares.
    fn is_70b(&self) -> bool {
        match self.arch.as_str() {
            "llama" => self.layers == 80 && self.heads != self.kv_heads,
            "qwen2" | "deci" | "olmo" => self.layers == 80,
            "jais2" => self.layers == 68,
            _ => false,
        }
    }
}

/// Wishes that stand above a recipe.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Types for tensors whose name a pattern matches; the first match counts.
    pub overrides: Vec<(Pattern, DType)>,
    /// The type of `output.weight`.
    pub output: Option<DType>,
    /// The type of the embeddings.
    pub embedding: Option<DType>,
    /// The recipe's default type for everything.
    pub pure: bool,
    /// Keeps `output.weight` as it is.
    pub leave_output: bool,
}

/// A regular expression that is looked for anywhere in a name.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

/// A pattern that is no regular expression.
#[derive(Debug, thiserror::Error)]
#[error("pattern {text:?}: {source}")]
pub struct PatternError {
    text: String,
    source: Box<regex_automata::meta::BuildError>,
}

impl Pattern {
    /// Reads a regular expression.
    ///
    /// # Errors
    /// [`PatternError`] when it is none.
    pub fn new(text: &str) -> Result<Pattern, PatternError> {
        let regex = Regex::new(text).map_err(|e| PatternError { text: text.into(), source: Box::new(e) })?;
        Ok(Pattern { text: text.into(), regex })
    }

    /// True when it occurs in `name`.
    pub fn matches(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// What becomes of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The tensor.
    pub name: String,
    /// The type it has.
    pub from: DType,
    /// The type it gets.
    pub to: DType,
    /// The type the recipe wanted, where no block of it divides the rows.
    pub instead_of: Option<DType>,
}

/// The recipe called `name`, in any case.
pub fn by_name(name: &str) -> Option<&'static Recipe> {
    RECIPES.iter().find(|r| r.name.eq_ignore_ascii_case(name))
}

/// Tensors in the order in which llama.cpp writes them: by layer, those outside the layers first, then by name.
pub fn in_order(mut tensors: Vec<(String, TensorInfo)>) -> Vec<(String, TensorInfo)> {
    tensors.sort_by(|(a, _), (b, _)| (layer(a), a).cmp(&(layer(b), b)));
    tensors
}

/// All tensors of a source.
pub fn tensors_of(source: &dyn WeightSource) -> Vec<(String, TensorInfo)> {
    source.names().into_iter().filter_map(|n| source.info(&n).map(|i| (n, i))).collect()
}

impl Recipe {
    /// Chooses a type for every tensor. The choices come in the order of [`in_order`], in which counters run.
    pub fn choose(&self, facts: &Facts, tensors: Vec<(String, TensorInfo)>, options: &Options) -> Vec<Choice> {
        let tensors = in_order(tensors);
        let mut chooser = Chooser {
            recipe: self,
            facts,
            options,
            tied: tensors.iter().all(|(name, _)| name != "output.weight"),
            values: tensors.iter().filter(|(name, _)| Role::of(name) == Role::Value).count(),
            seen: Seen::default(),
        };
        tensors.iter().map(|(name, info)| chooser.choose(name, info)).collect()
    }

    /// The choices for all tensors of a source.
    pub fn choose_for(&self, source: &dyn WeightSource, imatrix: bool, options: &Options) -> Vec<Choice> {
        self.choose(&Facts::read(source.metadata(), imatrix), tensors_of(source), options)
    }

    /// True when a tensor of this type comes out badly in this recipe without importance statistics.
    pub fn needs_imatrix(&self, name: &str, dtype: DType) -> bool {
        use DType::*;
        let ends = matches!(Role::of(name), Role::Embedding | Role::Output);
        let low = matches!(dtype, IQ3_XXS | IQ2_XXS | IQ2_XS | IQ2_S | IQ1_M | IQ1_S);
        !ends && (low || dtype == Q2_K && self.name == "Q2_K_S")
    }
}

/// Tensors of a role met so far.
#[derive(Default)]
struct Seen {
    values: usize,
    up: usize,
    gate: usize,
    down: usize,
}

struct Chooser<'a> {
    recipe: &'a Recipe,
    facts: &'a Facts,
    options: &'a Options,
    tied: bool,
    /// Number of [`Role::Value`] tensors.
    values: usize,
    seen: Seen,
}

impl Chooser<'_> {
    fn choose(&mut self, name: &str, info: &TensorInfo) -> Choice {
        let wanted = self.wanted(name, info);
        let to = if wanted == info.dtype { wanted } else { fitting(wanted, info) };
        Choice { name: name.into(), from: info.dtype, to, instead_of: (to != wanted).then_some(wanted) }
    }

    /// The type before the shape is looked at.
    fn wanted(&mut self, name: &str, info: &TensorInfo) -> DType {
        let (role, o) = (Role::of(name), self.options);
        if !is_quantizable(name, info) || o.leave_output && role == Role::Output {
            return info.dtype;
        }
        let manual = o.overrides.iter().find(|(p, _)| p.matches(name)).map(|&(_, t)| t);
        match (role, o.embedding, o.output) {
            (Role::Embedding, Some(t), _) if name == "token_embd.weight" || manual.is_none() => return t,
            (Role::Output, _, Some(t)) => return t,
            _ => {}
        }
        let default = self.recipe.default;
        if !default.is_quantized() {
            return default;
        }
        // A tensor chosen by hand is not counted, so the layers after it get what the ones before would have had: that
        // is how llama.cpp does it.
        match manual {
            Some(t) => t,
            None if o.pure => default,
            None => self.by_recipe(role, name, info),
        }
    }

    fn by_recipe(&mut self, role: Role, name: &str, info: &TensorInfo) -> DType {
        let r = self.recipe;
        if role == Role::Output || role == Role::Embedding && self.tied {
            let cut = !columns(info).is_multiple_of(r.default.block());
            return if self.facts.arch == "falcon" || cut { DType::Q8_0 } else { r.output };
        }
        if r.family == Family::Experts {
            let stacked = info.shape.len() >= 3 && info.shape[info.shape.len() - 3] > 1;
            let experts = stacked && (self.facts.arch != "bailingmoe3" || name.contains("_exps"));
            return if experts { r.default } else { DType::Q8_0 };
        }
        if role == Role::Embedding {
            return r.embedding;
        }
        let (i, n) = self.place(role, name);
        let rule = r.rules.iter().find(|(of, when, _)| *of == role && when.iter().all(|w| self.holds(*w, i, n)));
        let found = rule.map_or(r.default, |&(_, _, t)| t);
        if r.family == Family::Plain { self.afterwards(role, found) } else { found }
    }

    /// The tensor's number among those of its role, and how many there are.
    fn place(&mut self, role: Role, name: &str) -> (usize, usize) {
        let seen = &mut self.seen;
        let (counter, n) = match role {
            Role::Value => (&mut seen.values, self.values),
            Role::FfnUp => (&mut seen.up, self.facts.layers),
            Role::FfnGate => (&mut seen.gate, self.facts.layers),
            Role::FfnDown => (&mut seen.down, self.facts.layers),
            _ => return (0, 0),
        };
        let running = *counter;
        *counter += 1;
        // Experts may stand in files one by one, so counting them does not give the layer.
        let by_name = role != Role::Value && self.facts.experts > 1 && self.recipe.family == Family::Plain;
        (if by_name { layer(name).unwrap_or(running) } else { running }, n)
    }

    fn holds(&self, when: When, i: usize, n: usize) -> bool {
        let middle = i >= n / 8 && i < 7 * n / 8;
        match when {
            When::First(most) => i < most,
            When::FirstOf(parts) => i < n / parts,
            When::Spread => !middle || (i - n / 8) % 3 == 2,
            When::Middle => middle,
            When::WideGroups(yes) => (self.facts.group() >= 4) == yes,
            When::Imatrix(yes) => self.facts.imatrix == yes,
            When::EightExperts(yes) => (self.facts.experts == 8) == yes,
            When::FourExperts => self.facts.experts >= 4,
            When::Falcon(yes) => (self.facts.arch == "falcon") == yes,
        }
    }

    /// Small matrices that are worth more bits whatever the recipe says.
    fn afterwards(&self, role: Role, found: DType) -> DType {
        match role {
            Role::Value | Role::Key if self.facts.experts == 8 => DType::Q8_0,
            Role::Value if self.facts.is_70b() && matches!(found, DType::Q3_K | DType::Q4_K) => DType::Q5_K,
            _ => found,
        }
    }
}

fn columns(info: &TensorInfo) -> usize {
    info.shape.last().copied().unwrap_or(1)
}

/// The type itself, or the next best whose blocks divide the rows.
fn fitting(wanted: DType, info: &TensorInfo) -> DType {
    use DType::*;
    let fits = |t: DType| columns(info).is_multiple_of(t.block());
    if fits(wanted) {
        return wanted;
    }
    let smaller = match wanted {
        IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S | IQ4_XS => IQ4_NL,
        Q2_0 | Q2_K | Q3_K | TQ1_0 | TQ2_0 => Q4_0,
        Q4_K | NVFP4 => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        _ => F16,
    };
    if fits(smaller) { smaller } else { F16 }
}
