//! The configuration's rotary positions into metadata and back.

use super::{Hf, keys::number};
use crate::rope::{Scaling, frequencies, llama3_factors};
use serde_json::{Map, Value as Json, json};

/// A divisor so large that nothing turns.
const STILL: f32 = 1e30;

impl Hf {
    /// `rope_parameters` (Transformers 5), or `rope_theta` with `rope_scaling` (before).
    pub(crate) fn rope(&mut self) {
        let nested = |v: &Json| v.as_object().is_some_and(|o| o.values().any(Json::is_object));
        let mut params = self.get(&["rope_parameters", "rope_scaling"]).cloned().unwrap_or(Json::Null);
        if nested(&params) {
            self.sliding_rope(&params["sliding_attention"]);
            params = params["full_attention"].take();
        }
        let number = |h: &Hf, name: &str| params.get(name).and_then(Json::as_f64).or_else(|| h.get(&[name])?.as_f64());
        if let Some(base) = number(self, "rope_theta").or_else(|| number(self, "rotary_emb_base")) {
            self.set("rope.freq_base", base as f32);
        }
        let heads = self.known("attention.head_count").unwrap_or(0);
        let derived = self.known("embedding_length").and_then(|d| d.checked_div(heads)).unwrap_or(0);
        let head_dim = self.known("attention.key_length").unwrap_or(derived);
        let share = number(self, "partial_rotary_factor").or_else(|| number(self, "rotary_pct")).unwrap_or(1.0);
        let dims = self.uint("rotary_dim").unwrap_or((head_dim as f64 * share) as u32);
        if dims > 0 {
            self.set("rope.dimension_count", dims);
        }
        self.rope_scaling(&params, dims as usize);
    }

    /// Layers with a window have a base of their own, and nothing else.
    fn sliding_rope(&mut self, params: &Json) {
        if let Some(base) = params["rope_theta"].as_f64() {
            self.set("rope.freq_base_swa", base as f32);
        }
        let kind = ["rope_type", "type"].iter().find_map(|k| params.get(k)?.as_str()).unwrap_or("default");
        if kind != "default" {
            self.reject("rope_parameters.sliding_attention.rope_type", "default", kind);
        }
        if let Some(share) = params["partial_rotary_factor"].as_f64().filter(|&s| s != 1.0) {
            self.reject("rope_parameters.sliding_attention.partial_rotary_factor", "1", share);
        }
    }

    fn rope_scaling(&mut self, params: &Json, dims: usize) {
        let kind = ["rope_type", "type"].iter().find_map(|k| params.get(k)?.as_str()).unwrap_or("default").to_owned();
        let number = |name: &str| params.get(name).and_then(Json::as_f64);
        let context = self.known("context_length").unwrap_or(0) as f64;
        // What stands outside counts, as in Transformers.
        let original = (self.float("original_max_position_embeddings").map(f64::from))
            .or(number("original_max_position_embeddings"))
            .unwrap_or(context);
        let factor = number("factor").unwrap_or(context / original.max(1.0));
        match kind.as_str() {
            "default" | "mrope" => return,
            "proportional" => return self.proportional(&params.clone()),
            "llama3" => {
                let base = self.meta.float(&format!("{}.rope.freq_base", self.arch)).unwrap_or(10_000.0);
                let (low, high) = (number("low_freq_factor").unwrap_or(1.0), number("high_freq_factor").unwrap_or(4.0));
                let list = llama3_factors(dims, base.into(), factor, low, high, original);
                self.make("rope_freqs.weight", &list);
                return;
            }
            "linear" | "dynamic" | "yarn" => {}
            "longrope" | "su" => {
                for (name, field) in [("long", "long_factor"), ("short", "short_factor")] {
                    let list = params.get(field).and_then(Json::as_array).cloned().unwrap_or_default();
                    let list: Vec<f32> = list.iter().filter_map(|v| v.as_f64().map(|v| v as f32)).collect();
                    self.make(&format!("rope_factors_{name}.weight"), &list);
                }
                let computed = if factor <= 1.0 { 1.0 } else { (1.0 + libm::log(factor) / libm::log(original)).sqrt() };
                self.set("rope.scaling.type", "longrope");
                self.set("rope.scaling.attn_factor", number("attention_factor").unwrap_or(computed) as f32);
                self.set("rope.scaling.original_context_length", original as u32);
                return;
            }
            other => {
                let known = "default, linear, dynamic, yarn, longrope, llama3 or proportional";
                return self.reject("rope_type", known, other);
            }
        }
        self.set("rope.scaling.type", kind.as_str());
        self.set("rope.scaling.factor", factor as f32);
        // The context is what the dynamic kind grows from.
        let original = if kind == "dynamic" { context } else { original };
        self.set("rope.scaling.original_context_length", original as u32);
        if kind == "yarn" {
            self.yarn(params, factor);
        }
    }

    /// Of a whole head, the first share of the frequencies turns and the others stand still.
    pub(crate) fn proportional(&mut self, params: &Json) {
        let number = |name: &str| params.get(name).and_then(Json::as_f64).unwrap_or(1.0);
        let heads = self.known("attention.head_count").unwrap_or(0);
        let derived = self.known("embedding_length").and_then(|d| d.checked_div(heads)).unwrap_or(0);
        let dims = self.known("attention.key_length").unwrap_or(derived).min(1 << 16);
        let turned = (number("partial_rotary_factor") * dims as f64 / 2.0) as usize;
        let factor = number("factor") as f32;
        self.set("rope.dimension_count", dims as u32);
        let divisors: Vec<f32> = (0..dims / 2).map(|i| if i < turned { factor } else { STILL }).collect();
        self.make("rope_freqs.weight", &divisors);
    }

    fn yarn(&mut self, params: &Json, factor: f64) {
        let number = |name: &str| params.get(name).and_then(Json::as_f64);
        for (key, name) in [("beta_fast", "beta_fast"), ("beta_slow", "beta_slow")] {
            if let Some(v) = number(name) {
                self.set(&format!("rope.scaling.yarn_{key}"), v as f32);
            }
        }
        // GGUF's attention factor multiplies the one that follows from the extension; Hugging Face's replaces it.
        let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * libm::log(factor) + 1.0 };
        let both = number("mscale").filter(|m| *m != 0.0).zip(number("mscale_all_dim").filter(|m| *m != 0.0));
        let wanted = number("attention_factor").or(both.map(|(m, all)| magnitude(m) / magnitude(all)));
        // DeepSeek's multiplier moves the magnitude into the scores.
        let all = number("mscale_all_dim").filter(|m| *m != 0.0);
        let implied = if all.is_some() { 1.0 } else { magnitude(1.0) };
        if let Some(wanted) = wanted.filter(|w| all.is_none() || *w != 1.0) {
            self.set("rope.scaling.attn_factor", (wanted / implied) as f32);
        }
        if let Some(all) = all {
            self.set("rope.scaling.yarn_log_multiplier", (0.1 * all) as f32);
        }
        if params.get("truncate").and_then(Json::as_bool) == Some(false) {
            self.set("rope.scaling.yarn_truncate", false);
        }
    }

    /// The way back: `rope_parameters` as Transformers 5 writes them, one for each kind of layer where there are two.
    pub(super) fn rope_back(&mut self) {
        let mut params = Map::new();
        params.insert("rope_type".into(), "default".into());
        let known = |h: &Hf, key: &str| h.meta.float(&h.key(key));
        // Defaults of Transformers differ by architecture; GGUF's is one.
        params.insert("rope_theta".into(), number(known(self, "rope.freq_base").unwrap_or(10_000.0)));
        let heads = self.known("attention.head_count").unwrap_or(0);
        let derived = self.known("embedding_length").and_then(|d| d.checked_div(heads)).unwrap_or(0);
        let head_dim = self.known("attention.key_length").unwrap_or(derived);
        // MLA has a field for the elements that turn.
        let is_share = |&d: &usize| d != head_dim && head_dim > 0 && self.known("attention.key_length_mla").is_none();
        if let Some(dims) = self.known("rope.dimension_count").filter(is_share) {
            let share = dims as f64 / head_dim as f64;
            let exact = (head_dim as f64 * share) as usize == dims;
            params.insert("partial_rotary_factor".into(), json!(if exact { share } else { share.next_up() }));
        }
        self.scaling_back(&mut params);
        let local =
            known(self, "rope.freq_base_swa").map(|base| json!({ "rope_type": "default", "rope_theta": number(base) }));
        match local {
            Some(local) => {
                self.field("rope_parameters", json!({ "full_attention": params, "sliding_attention": local }));
            }
            None => self.field("rope_parameters", params),
        }
    }

    fn scaling_back(&mut self, params: &mut Map<String, Json>) {
        let float = |key: &str| self.meta.float(&self.key(&format!("rope.scaling.{key}")));
        let mut set = |name: &str, v: Option<Json>| v.map(|v| params.insert(name.into(), v));
        let kind = self.meta.str(&self.key("rope.scaling.type")).unwrap_or("none").to_owned();
        let original = self.known("rope.scaling.original_context_length");
        let table = |name: &str| allod_formats::codec::to_f32(self.made.get(name)?).ok();
        if let (Some(list), "none") = (table("rope_freqs.weight"), kind.as_str()) {
            let base = self.meta.float(&self.key("rope.freq_base")).unwrap_or(10_000.0);
            for (name, v) in llama3_back(&list, base.into()) {
                set(name, Some(v));
            }
            return;
        }
        if kind == "none" {
            return;
        }
        set("rope_type", Some(kind.as_str().into()));
        set("factor", float("factor").map(number));
        set("original_max_position_embeddings", original.map(Json::from));
        match kind.as_str() {
            "longrope" => {
                for (name, field) in [("long", "long_factor"), ("short", "short_factor")] {
                    let list = table(&format!("rope_factors_{name}.weight"));
                    set(field, list.map(|l| l.into_iter().map(number).collect()));
                }
                set("attention_factor", float("attn_factor").map(number));
                // Phi 3 reads it from the top.
                original.into_iter().for_each(|v| self.field("original_max_position_embeddings", v));
            }
            "yarn" => {
                set("beta_fast", float("yarn_beta_fast").map(number));
                set("beta_slow", float("yarn_beta_slow").map(number));
                let factor = f64::from(float("factor").unwrap_or(1.0)).max(1.0);
                let magnitude = 0.1 * libm::log(factor) + 1.0;
                // With a multiplier the scores have the magnitude, and what is left of it is none where no key says.
                let all = float("yarn_log_multiplier").and_then(|v| Some(number(v).as_f64()? * 10.0));
                let magnitude = if all.is_some() { 1.0 } else { magnitude };
                let factor = float("attn_factor").map(|v| f64::from(v) * magnitude);
                set("attention_factor", factor.or(all.map(|_| 1.0)).map(Json::from));
                set("mscale_all_dim", all.map(Json::from));
                let truncate = self.meta.bool(&self.key("rope.scaling.yarn_truncate"));
                set("truncate", truncate.map(Json::from));
            }
            _ => {}
        }
    }
}

/// Values that configurations have for `low_freq_factor`, and for the ratio of `high_freq_factor` to it.
const LOW_FACTORS: [f64; 5] = [1.0, 1.5, 2.0, 0.5, 4.0];
const HIGH_FACTORS: [f64; 5] = [4.0, 2.0, 3.0, 8.0, 16.0];

/// The parameters that give Llama 3's divisors. They are known up to a common factor of the last three; the first usual
/// `low_freq_factor` with which the others are round settles it.
fn llama3_back(list: &[f32], base: f64) -> Vec<(&'static str, Json)> {
    let dims = 2 * list.len();
    let factor = f64::from(list.iter().copied().fold(1.0, f32::max));
    let (plain, _) = frequencies(dims, base as f32, &Scaling::None, 0, None);
    // Between the bounds, the share of the kept frequency is linear in the frequency.
    let shares = list.iter().zip(&plain).filter_map(|(&d, &f)| {
        let share = (1.0 / f64::from(d) - 1.0 / factor) / (1.0 - 1.0 / factor);
        (d > 1.0 && f64::from(d) < factor).then(|| (f64::from(f) / (2.0 * std::f64::consts::PI), share))
    });
    let shares: Vec<(f64, f64)> = shares.collect();
    // With a `low_freq_factor` of 1: original · x - share · high = 1 - share.
    let (original, high) = match (shares.first(), shares.last()) {
        (Some(a), Some(b)) if shares.len() > 1 => {
            let determinant = b.0 * a.1 - a.0 * b.1;
            let original = ((1.0 - b.1) * a.1 - (1.0 - a.1) * b.1) / determinant;
            (original, ((1.0 - b.1) * a.0 - (1.0 - a.1) * b.0) / determinant)
        }
        (Some(a), _) => ((1.0 + 3.0 * a.1) / a.0, 4.0),
        _ => {
            // Nothing between the bounds: they stand somewhere between the last that is kept and the next.
            let kept = list.iter().take_while(|&&d| d == 1.0).count();
            let wavelength = |i: usize| plain.get(i).map(|&f| 2.0 * std::f64::consts::PI / f64::from(f));
            let before = kept.checked_sub(1).and_then(wavelength);
            let original = wavelength(kept).map_or(16.0 * before.unwrap_or(512.0), |w| 0.999 * w);
            (original, before.map_or(4.0, |w| (0.999 * original / w).min(4.0)))
        }
    };
    let scaled = LOW_FACTORS.iter().map(|low| (*low, (original * low).round(), (high * low * 100.0).round() / 100.0));
    let one_share = shares.first().into_iter().flat_map(|a| {
        HIGH_FACTORS.iter().flat_map(move |high| {
            LOW_FACTORS.iter().map(move |low| (*low, ((low + (high * low - low) * a.1) / a.0).round(), high * low))
        })
    });
    let mut candidates = scaled.chain(one_share.filter(|_| shares.len() == 1));
    let fits =
        |&(low, original, high): &(f64, f64, f64)| llama3_factors(dims, base, factor, low, high, original) == list;
    let (low, original, high) = candidates.find(fits).unwrap_or((1.0, original, high));
    vec![
        ("rope_type", "llama3".into()),
        ("factor", json!(factor)),
        ("low_freq_factor", json!(low)),
        ("high_freq_factor", json!(high)),
        ("original_max_position_embeddings", json!(original)),
    ]
}
