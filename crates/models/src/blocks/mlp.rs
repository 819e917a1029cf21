//! Feed-forward parts: dense and mixtures of experts.

use crate::Config;
use allod_plan::{Act, Experts, Groups, LinearPart, Route, Scope, Score, Value, Weigh};

/// A dense feed-forward part: `ffn_up`, `ffn_down`, and `ffn_gate` where it is gated. Biases where the source has
/// them; `ffn_up` of twice the width holds gate and up fused.
#[derive(Clone, Copy, Debug)]
pub struct Ffn {
    /// Hidden width.
    pub hidden: usize,
    /// Activation.
    pub act: Act,
    /// With a gate: `act(gate) · up`.
    pub gated: bool,
    /// Suffix of the tensor names, such as `_shexp`.
    pub suffix: &'static str,
}

impl Ffn {
    /// `down(act(gate) · up)`
    pub fn glu(hidden: usize, act: Act) -> Ffn {
        Ffn { hidden, act, gated: true, suffix: "" }
    }
    /// `down(act(up))`
    pub fn plain(hidden: usize, act: Act) -> Ffn {
        Ffn { hidden, act, gated: false, suffix: "" }
    }
}

pub(super) fn ffn(m: &mut Scope<'_, '_>, x: Value, f: Ffn) -> Value {
    let width = m.width(x);
    let name = |base: &str| format!("{base}{}", f.suffix);
    let h = if !f.gated {
        let up = m.linear(&name("ffn_up"), x, f.hidden);
        m.act(up, f.act)
    } else {
        let [gate, up] = if m.has(&format!("{}.weight", name("ffn_gate"))) {
            [m.linear(&name("ffn_gate"), x, f.hidden), m.linear(&name("ffn_up"), x, f.hidden)]
        } else {
            let both = m.linear(&name("ffn_up"), x, 2 * f.hidden);
            m.split(both, [f.hidden, f.hidden])
        };
        m.gated(gate, up, f.act)
    };
    m.linear(&name("ffn_down"), h, width)
}

/// A mixture of experts: router `ffn_gate_inp`, its correction `exp_probs_b`, stacked experts
/// `ffn_{gate,up,down}_exps`.
#[derive(Clone, Copy, Debug)]
pub struct Moe {
    /// Experts.
    pub experts: usize,
    /// Experts that a row uses.
    pub used: usize,
    /// Hidden width of one.
    pub hidden: usize,
    /// Activation.
    pub act: Act,
    /// With a gate.
    pub gated: bool,
    /// From router logits to scores.
    pub score: Score,
    /// Divide the chosen weights by their sum.
    pub normalize: bool,
    /// Factor on the weights.
    pub scale: f32,
    /// Group-limited choice.
    pub groups: Option<Groups>,
    /// Correction added to the scores for choosing: the tensor `exp_probs_b`.
    pub bias: bool,
    /// Where the weight is applied.
    pub weigh: Weigh,
    /// Hidden width of the expert that all rows use, with tensors `_shexp`; 0 where there is none.
    pub shared: usize,
    /// Scale that expert by the sigmoid of `ffn_gate_inp_shexp`.
    pub shared_gate: bool,
    /// Experts work in a space of this width, between `ffn_latent_down` and `ffn_latent_up`.
    pub latent: Option<usize>,
}

impl Moe {
    /// Experts of layer `i` as the configuration says; by default SiLU-gated, with softmax routing that is not
    /// normalized.
    pub fn of(c: &Config, i: usize) -> Moe {
        let count = |key: &str| Some(c.count(key)).filter(|&n| n > 0);
        let hidden = count("expert_feed_forward_length").unwrap_or(c.ff(i));
        let groups = count("expert_group_count").zip(count("expert_group_used_count"));
        let together = count("expert_shared_count").map(|n| n.saturating_mul(hidden));
        Moe {
            experts: count("expert_count").unwrap_or(0),
            used: count("expert_used_count").unwrap_or(0),
            hidden,
            act: Act::Silu,
            gated: true,
            score: match c.uint("expert_gating_func") {
                Some(2) => Score::Sigmoid,
                Some(3) => Score::SoftmaxOfChosen,
                _ => Score::Softmax,
            },
            normalize: c.flag("expert_weights_norm").unwrap_or(false),
            scale: c.float("expert_weights_scale").filter(|&s| s != 0.0).unwrap_or(1.0),
            groups: groups.filter(|&(n, _)| n > 1).map(|(count, top)| Groups { count, top, best: 2 }),
            bias: false,
            weigh: Weigh::Output,
            shared: count("expert_shared_feed_forward_length").or(together).unwrap_or(0),
            shared_gate: false,
            latent: None,
        }
    }
}

pub(super) fn moe(m: &mut Scope<'_, '_>, x: Value, e: Moe) -> Value {
    let logits = m.linear("ffn_gate_inp", x, e.experts);
    let width = m.width(x);
    let mut y = match e.latent {
        Some(latent) => {
            let t = m.linear("ffn_latent_down", x, latent);
            let t = experts(m, t, logits, &e);
            m.linear("ffn_latent_up", t, width)
        }
        None => experts(m, x, logits, &e),
    };
    if e.shared > 0 {
        let mut s = ffn(m, x, Ffn { hidden: e.shared, act: e.act, gated: e.gated, suffix: "_shexp" });
        if e.shared_gate {
            let gate = m.linear("ffn_gate_inp_shexp", x, 1);
            let gate = m.act(gate, Act::Sigmoid);
            s = m.mul(s, gate);
        }
        y = m.add(y, s);
    }
    y
}

/// Runs the experts that router logits choose on `x`.
pub(super) fn experts(m: &mut Scope<'_, '_>, x: Value, logits: Value, e: &Moe) -> Value {
    let bias = e.bias.then(|| m.param("exp_probs_b.bias", &[e.experts]));
    let (top, score, groups, normalize, scale) = (e.used, e.score, e.groups, e.normalize, e.scale);
    let chosen = m.route(logits, Route { top, score, bias, groups, normalize, scale });
    let width = m.width(x);
    let mut part = |name: &str, out, input| -> LinearPart { m.part(name, &[e.experts, out, input]) };
    let gate = e.gated.then(|| part("ffn_gate_exps", e.hidden, width));
    let (up, down) = (part("ffn_up_exps", e.hidden, width), part("ffn_down_exps", width, e.hidden));
    let down_scale = m.optional("ffn_down_exps.scale", &[e.experts]);
    m.experts(x, chosen, e.hidden, Experts { gate, up, down, down_scale, act: e.act, weigh: e.weigh })
}
