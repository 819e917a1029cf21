//! The operation suite: every operation in every variation, as small plans that any backend can be asked to run.

use crate::{Memory, reference};
use allod_plan::{
    Act, Attend, Backend, CacheInfo, Conv1d, DeltaRule, Experts, GateOrder, Groups, Mask, Norm, NormKind, PAGE, Plan,
    Pool, Rope, RopeStyle, Route, Scope, Score, SelectiveScan, SeqRows, StateSpaceDual, Step, Value, Weigh, record,
};

/// Tokens of the longest sequence a case is run on.
pub const LENGTH: usize = 37;
const VOCABULARY: usize = 48;

/// One operation in one variation.
pub struct Case {
    /// What it is, for messages.
    pub name: String,
    /// Its weights.
    pub source: Memory,
    /// The plan: an embedding, the operation, all rows wanted.
    pub plan: Plan,
    /// False where a sequence must be fed whole.
    pub causal: bool,
}

/// Records a case. Each of `inputs` becomes a random embedding of that width; each of `weights` is a tensor with its
/// shape and range.
fn case(
    name: &str,
    inputs: &[usize],
    weights: &[(&str, &[usize], f32, f32)],
    op: impl FnOnce(&mut Scope<'_, '_>, &[Value]) -> Value,
) -> Case {
    let mut source = Memory::default();
    for (i, &width) in inputs.iter().enumerate() {
        source = source.random(&format!("in{i}.weight"), &[VOCABULARY, width], -1.5, 1.5);
    }
    for (name, shape, low, high) in weights {
        source = source.random(name, shape, *low, *high);
    }
    let pooled = name.starts_with("pooling");
    let plan = record(&source, |m| {
        let ins: Vec<Value> =
            inputs.iter().enumerate().map(|(i, &w)| m.embed(&format!("in{i}"), VOCABULARY, w)).collect();
        let out = op(m, &ins);
        if pooled { out } else { m.gather_outputs(out) }
    });
    Case { name: name.into(), plan: plan.unwrap_or_else(|e| panic!("{name}: {e}")), source, causal: true }
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [rows(), elementwise(), attention(), mixtures(), recurrent()].into_iter().flatten().collect()
}

fn rows() -> Vec<Case> {
    let norm = |name: &str, kind, group: usize, w: Option<usize>, b: bool| {
        let len = w.unwrap_or(1);
        let weights: &[(&str, &[usize], f32, f32)] = &[("w.weight", &[len], 0.5, 1.5), ("w.bias", &[len], -0.5, 0.5)];
        case(name, &[48], weights, |m, x| {
            let weight = w.map(|n| m.param("w.weight", &[n]));
            let bias = b.then(|| m.param("w.bias", &[len]));
            m.norm("norm", x[0], Norm { kind, group, eps: 1e-3, weight, bias })
        })
    };
    let rope = |name: &str, style, pairs: usize| {
        case(name, &[64], &[], |m, x| {
            let frequencies: Vec<f32> = (0..pairs).map(|i| 0.7f32.powi(i as i32)).collect();
            m.rope(x[0], Rope { head_dim: 16, style, frequencies: frequencies.into(), magnitude: 1.25 })
        })
    };
    let gate = |name: &str, order| {
        case(name, &[48, 48], &[("w.weight", &[48], 0.5, 1.5)], |m, x| {
            m.gated_norm("w", (x[0], x[1]), 16, &[48], 1e-3, order)
        })
    };
    vec![
        norm("rms norm", NormKind::Rms, 48, Some(48), false),
        norm("rms norm of heads", NormKind::Rms, 16, Some(16), false),
        norm("rms norm of heads with weights of their own", NormKind::Rms, 16, Some(48), false),
        norm("bare rms norm", NormKind::Rms, 48, None, false),
        norm("layer norm", NormKind::Layer, 48, Some(48), true),
        norm("bare layer norm", NormKind::Layer, 48, None, false),
        norm("l2 norm", NormKind::L2, 12, None, false),
        gate("gate, then norm", GateOrder::GateThenNorm),
        gate("norm, then gate", GateOrder::NormThenGate),
        rope("rope by halves", RopeStyle::Half, 8),
        rope("rope of neighbours", RopeStyle::Interleaved, 8),
        rope("partial rope by halves", RopeStyle::Half, 5),
        rope("partial rope of neighbours", RopeStyle::Interleaved, 3),
        case("linear", &[40], &[("w.weight", &[23, 40], -1.0, 1.0), ("w.bias", &[23], -1.0, 1.0)], |m, x| {
            m.linear("w", x[0], 23)
        }),
        case(
            "linears of one input",
            &[33],
            &[("a.weight", &[17, 33], -1.0, 1.0), ("b.weight", &[17, 33], -1.0, 1.0)],
            |m, x| {
                let (a, b) = (m.linear("a", x[0], 17), m.linear("b", x[0], 17));
                m.mul(a, b)
            },
        ),
        case("a matrix for each head", &[48], &[("w.weight", &[3, 20, 16], -1.0, 1.0)], |m, x| {
            m.head_linear("w", x[0], 3, 20)
        }),
        case("learned positions", &[24], &[("p.weight", &[LENGTH + 2, 24], -1.0, 1.0)], |m, x| {
            let p = m.embed_positions("p", LENGTH + 2, 24, 2);
            m.add(x[0], p)
        }),
        case("one row for all", &[24], &[("p.weight", &[2, 24], -1.0, 1.0)], |m, x| m.add_row("p", x[0], 2, 1)),
        case("position scale", &[24], &[], |m, x| m.position_scale(x[0], 8.0, 0.3)),
    ]
}

fn elementwise() -> Vec<Case> {
    let acts = [
        Act::Silu,
        Act::Gelu,
        Act::GeluTanh,
        Act::GeluQuick,
        Act::Relu,
        Act::Relu2,
        Act::Sigmoid,
        Act::Softplus,
        Act::Tanh,
    ];
    let mut all: Vec<Case> = vec![];
    for a in acts {
        all.push(case(&format!("{a:?}"), &[29], &[], |m, x| m.act(x[0], a)));
        all.push(case(&format!("gated {a:?}"), &[29, 29], &[], |m, x| m.gated(x[0], x[1], a)));
    }
    let clamped = Act::ClampedSwiglu { alpha: 1.702, limit: 0.9 };
    all.push(case("clamped swiglu", &[29, 29], &[], |m, x| m.gated(x[0], x[1], clamped)));
    all.push(case("add", &[29, 29], &[], |m, x| m.add(x[0], x[1])));
    all.push(case("add to itself", &[29], &[], |m, x| m.add(x[0], x[0])));
    all.push(case("mul", &[29, 29], &[], |m, x| m.mul(x[0], x[1])));
    all.push(case("mul by groups", &[48, 3], &[], |m, x| m.mul(x[0], x[1])));
    all.push(case("mul by a number each", &[48, 1], &[], |m, x| m.mul(x[0], x[1])));
    all.push(case("scale", &[29], &[], |m, x| m.scale(x[0], 0.37)));
    all.push(case("scale by a vector", &[29], &[("s.weight", &[29], -1.0, 1.0)], |m, x| m.scale_by("s", x[0], 29)));
    all.push(case("scale by a number", &[29], &[("s.weight", &[1], -1.0, 1.0)], |m, x| m.scale_by("s", x[0], 1)));
    all.push(case("clamp", &[29], &[], |m, x| m.clamp(x[0], 0.6)));
    all.push(case("softcap", &[29], &[], |m, x| m.softcap(x[0], Some(0.8))));
    all.push(case("columns", &[48], &[], |m, x| m.columns(x[0], 12, 3, 5)));
    all.push(case("concat by groups", &[12, 20], &[], |m, x| m.concat(4, &[x[0], x[1]])));
    all
}

fn attention() -> Vec<Case> {
    let attend = |name: &str, heads, kv_heads, key_dim, value_dim, change: &dyn Fn(&mut Attend)| {
        let inputs = [heads * key_dim, kv_heads * key_dim, kv_heads * value_dim];
        let mut c = case(name, &inputs, &[("sinks.weight", &[heads], -1.0, 1.0)], |m, x| {
            let info = CacheInfo { kv_heads, key_dim, value_dim, value_in_key: false, horizon: None };
            let (cache, scale) = (m.cache(info), 1.0 / (key_dim as f32).sqrt());
            let sinks = Some(m.param("sinks.weight", &[heads]));
            let mut a = Attend { cache, heads, scale, softcap: None, mask: Mask::Causal, sinks, alibi: None };
            change(&mut a);
            m.attend(x, a)
        });
        c.causal = !name.contains("both ways");
        c
    };
    let plain = |a: &mut Attend| a.sinks = None;
    vec![
        attend("attention", 4, 4, 16, 16, &plain),
        attend("grouped-query attention", 6, 2, 16, 16, &plain),
        attend("multi-query attention, values of another size", 5, 1, 24, 8, &plain),
        attend("small odd heads", 3, 3, 6, 10, &plain),
        attend("sinks", 4, 2, 16, 16, &|_| {}),
        attend("a window", 4, 2, 16, 16, &|a| (a.sinks, a.mask) = (None, Mask::Window(5))),
        attend("chunks", 4, 2, 16, 16, &|a| (a.sinks, a.mask) = (None, Mask::Chunk(8))),
        attend("both ways", 4, 2, 16, 16, &|a| (a.sinks, a.mask) = (None, Mask::Full)),
        attend("both ways, local", 4, 2, 16, 16, &|a| (a.sinks, a.mask) = (None, Mask::Local(3))),
        attend("soft-capped scores", 4, 2, 16, 16, &|a| (a.sinks, a.softcap) = (None, Some(0.7))),
        attend("alibi", 4, 2, 16, 16, &|a| (a.sinks, a.alibi) = (None, Some(vec![0.5, 0.25, 0.125, 0.0625].into()))),
        case("values within keys", &[4 * 24, 24], &[], |m, x| {
            let info = CacheInfo { kv_heads: 1, key_dim: 24, value_dim: 16, value_in_key: true, horizon: None };
            let cache = m.cache(info);
            let (mask, softcap) = (Mask::Causal, None);
            m.attend(x, Attend { cache, heads: 4, scale: 0.2, softcap, mask, sinks: None, alibi: None })
        }),
        case("a cache shared by two layers", &[32, 16, 16, 32], &[], |m, x| {
            let info = CacheInfo { kv_heads: 1, key_dim: 16, value_dim: 16, value_in_key: false, horizon: None };
            let (cache, mask) = (m.cache(info), Mask::Causal);
            let a = Attend { cache, heads: 2, scale: 0.25, softcap: None, mask, sinks: None, alibi: None };
            let first = m.attend(&x[..3], a.clone());
            let q = m.add(first, x[3]);
            m.attend(&[q], a)
        }),
    ]
}

fn mixtures() -> Vec<Case> {
    let moe = |name: &str, act, gated: bool, change: &dyn Fn(&mut Route, &mut Experts)| {
        let (experts, hidden, width) = (8, 20, 24);
        let weights: &[(&str, &[usize], f32, f32)] = &[
            ("gate.weight", &[experts, hidden, width], -0.6, 0.6),
            ("gate.bias", &[experts, hidden], -0.6, 0.6),
            ("up.weight", &[experts, hidden, width], -0.6, 0.6),
            ("up.bias", &[experts, hidden], -0.6, 0.6),
            ("down.weight", &[experts, width, hidden], -0.6, 0.6),
            ("down.bias", &[experts, width], -0.6, 0.6),
            ("scale.weight", &[experts], 0.5, 1.5),
            ("correction.weight", &[experts], -0.5, 0.5),
        ];
        case(name, &[width, experts], weights, |m, x| {
            let correction = m.param("correction.weight", &[experts]);
            let scale = m.param("scale.weight", &[experts]);
            let mut route =
                Route { top: 3, score: Score::Softmax, bias: None, groups: None, normalize: false, scale: 1.0 };
            let mut e = Experts {
                gate: gated.then(|| m.part("gate", &[experts, hidden, width])),
                up: m.part("up", &[experts, hidden, width]),
                down: m.part("down", &[experts, width, hidden]),
                down_scale: Some(scale),
                act,
                weigh: Weigh::Output,
            };
            route.bias = Some(correction);
            change(&mut route, &mut e);
            let chosen = m.route(x[1], route);
            m.experts(x[0], chosen, hidden, e)
        })
    };
    let bare = |r: &mut Route, e: &mut Experts| (r.bias, e.down_scale) = (None, None);
    vec![
        moe("experts, softmax", Act::Silu, true, &bare),
        moe("experts, softmax normalized", Act::Silu, true, &|r, e| {
            bare(r, e);
            r.normalize = true;
        }),
        moe(
            "experts, softmax of the chosen, clamped",
            Act::ClampedSwiglu { alpha: 1.702, limit: 0.7 },
            true,
            &|r, e| {
                bare(r, e);
                r.score = Score::SoftmaxOfChosen;
            },
        ),
        moe("experts, sigmoid with correction and scale", Act::Silu, true, &|r, _| {
            (r.score, r.normalize, r.scale) = (Score::Sigmoid, true, 2.5);
        }),
        moe("experts in groups by their best", Act::Silu, true, &|r, _| {
            r.groups = Some(Groups { count: 4, top: 2, best: 1 });
        }),
        moe("experts in groups by their best two", Act::Silu, true, &|r, _| {
            (r.score, r.groups) = (Score::Sigmoid, Some(Groups { count: 2, top: 1, best: 2 }));
        }),
        moe("experts weighed at the input", Act::Silu, true, &|r, e| {
            bare(r, e);
            (r.top, r.score, e.weigh) = (1, Score::Sigmoid, Weigh::Input);
        }),
        moe("experts without gate", Act::Relu2, false, &bare),
    ]
}

fn recurrent() -> Vec<Case> {
    let conv = |name: &str, kernel: usize, act| {
        let weights: &[(&str, &[usize], f32, f32)] =
            &[("c.weight", &[24, kernel], -1.0, 1.0), ("c.bias", &[24], -1.0, 1.0)];
        case(name, &[24], weights, |m, x| {
            let state = m.state(24 * (kernel - 1));
            let (weight, bias) = (m.param("c.weight", &[24, kernel]), Some(m.param("c.bias", &[24])));
            m.conv1d(x[0], Conv1d { state, weight, bias, kernel, act })
        })
    };
    let delta = |name: &str, key_heads: usize, value_heads: usize, tiled| {
        let widths = [key_heads * 8, key_heads * 8, value_heads * 12, value_heads, value_heads];
        case(name, &widths, &[], |m, x| {
            let unit = |m: &mut Scope<'_, '_>, v| {
                m.norm("l2", v, Norm { kind: NormKind::L2, group: 8, eps: 1e-6, weight: None, bias: None })
            };
            let (q, k) = (unit(m, x[0]), unit(m, x[1]));
            let (beta, decay) = (m.act(x[3], Act::Sigmoid), m.act(x[4], Act::Softplus));
            let decay = m.scale(decay, -0.3);
            let state = m.state(value_heads * 8 * 12);
            let rule = DeltaRule { state, key_heads, value_heads, key_dim: 8, value_dim: 12, scale: 0.35, tiled };
            m.delta_rule([q, k, x[2], beta, decay], rule)
        })
    };
    vec![
        conv("convolution of 4", 4, Some(Act::Silu)),
        conv("convolution of 2, no activation", 2, None),
        case(
            "selective scan",
            &[20, 20, 6, 6],
            &[("a.weight", &[20, 6], -2.0, -0.1), ("d.weight", &[20], -1.0, 1.0), ("dt.weight", &[20], -1.0, 1.0)],
            |m, x| {
                let a = m.param("a.weight", &[20, 6]);
                let [d, dt_bias] = ["d", "dt"].map(|n| m.param(&format!("{n}.weight"), &[20]));
                let state = m.state(20 * 6);
                m.selective_scan([x[0], x[1], x[2], x[3]], SelectiveScan { state, a, d, dt_bias })
            },
        ),
        case(
            "state-space dual",
            &[4 * 6, 4, 2 * 5, 2 * 5],
            &[("a.weight", &[4], -2.0, -0.1), ("d.weight", &[4], -1.0, 1.0), ("dt.weight", &[4], -1.0, 1.0)],
            |m, x| {
                let [a, d, dt_bias] = ["a", "d", "dt"].map(|n| m.param(&format!("{n}.weight"), &[4]));
                let (state, dt_limit) = (m.state(4 * 6 * 5), (0.2, 1.5));
                let scan = StateSpaceDual { state, a, d, dt_bias, dt_limit, heads: 4, groups: 2 };
                m.state_space_dual([x[0], x[1], x[2], x[3]], scan)
            },
        ),
        delta("delta rule", 2, 2, false),
        delta("delta rule, keys shared", 2, 4, false),
        delta("delta rule, keys shared and tiled", 2, 6, true),
        case("pooling the first", &[24], &[], |m, x| m.pool(x[0], Pool::First)),
        case("pooling the last", &[24], &[], |m, x| m.pool(x[0], Pool::Last)),
        case("pooling the mean", &[24], &[], |m, x| m.pool(x[0], Pool::Mean)),
    ]
}

/// Rounding allowed: sums of at most a hundred f32 products of numbers around 1, three operations deep.
const TOLERANCE: f64 = 2e-5;

/// Runs every case on the backends that `make` builds, against [`reference::run`], and whole against in pieces, byte
/// for byte. `make` is told the case and the most sequences and rows of a step.
///
/// # Panics
/// Naming the case that is wrong.
pub fn check<B: Backend>(mut make: impl FnMut(&Case, usize, usize) -> B) {
    for c in cases() {
        let results = results(&c, |sequences, rows| make(&c, sequences, rows));
        for (s, (found, ids)) in results.iter().zip(sequences()).enumerate() {
            let expected: Vec<f64> = reference::run(&c.plan, &c.source, &ids).concat();
            assert_eq!(found.len(), expected.len(), "{}", c.name);
            for (i, (&found, &wanted)) in found.iter().zip(&expected).enumerate() {
                let off = (f64::from(found) - wanted).abs() / (1.0 + wanted.abs());
                assert!(off < TOLERANCE, "{}: element {i} of sequence {s}: expected {wanted}, found {found}", c.name);
            }
        }
    }
}

/// A case's results for two sequences on the backends that `make` builds, whole against in pieces, byte for byte. `make`
/// is told the most sequences and rows of a step.
///
/// # Panics
/// When the pieces give other bytes.
pub fn results<B: Backend>(c: &Case, mut make: impl FnMut(usize, usize) -> B) -> Vec<Vec<f32>> {
    let pooled = c.plan.result().is_some_and(|v| c.plan.value(v).rows == allod_plan::Rows::Sequences);
    let together = feed(&mut make(2, 2 * LENGTH), &sequences(), LENGTH, pooled);
    if c.causal && !pooled {
        for (ids, together) in sequences().iter().zip(&together) {
            for chunk in [1, 7] {
                let alone = feed(&mut make(2, 2 * LENGTH), std::slice::from_ref(ids), chunk, pooled);
                let same = alone[0].iter().zip(together).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{}: other bytes alone in pieces of {chunk}", c.name);
            }
        }
    }
    together
}

fn sequences() -> [Vec<u32>; 2] {
    [0, 1].map(|s| (0..LENGTH - 7 * s).map(|t| ((t * 7 + s * 5 + t * t) % VOCABULARY) as u32).collect())
}

/// Feeds sequences in steps of at most `chunk` rows each and returns the results of each.
fn feed(backend: &mut impl Backend, ids: &[Vec<u32>], chunk: usize, pooled: bool) -> Vec<Vec<f32>> {
    let width = backend.capacity().width;
    let tables: Vec<Vec<u32>> =
        (0..ids.len()).map(|s| (0..LENGTH.div_ceil(PAGE)).map(|p| (p * ids.len() + s) as u32).collect()).collect();
    let mut results = vec![vec![]; ids.len()];
    for start in (0..LENGTH).step_by(chunk) {
        let (mut tokens, mut sequences, mut owners) = (vec![], vec![], vec![]);
        for (s, ids) in ids.iter().enumerate() {
            let part = &ids[start.min(ids.len())..ids.len().min(start + chunk)];
            if part.is_empty() {
                continue;
            }
            let first = tokens.len();
            tokens.extend_from_slice(part);
            sequences.push(SeqRows {
                rows: first..tokens.len(),
                start: start as u32,
                pages: &tables[s],
                state: s as u32,
                adapter: 0,
            });
            owners.extend(std::iter::repeat_n(s, if pooled { 1 } else { part.len() }));
        }
        let outputs: Vec<u32> = (0..tokens.len() as u32).collect();
        let rows = backend.run(&Step { tokens: &tokens, sequences: &sequences, outputs: &outputs });
        for (row, s) in rows.unwrap_or_else(|e| panic!("{e}")).chunks_exact(width).zip(owners) {
            results[s].extend_from_slice(row);
        }
    }
    results
}
