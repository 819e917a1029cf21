//! A plan run the slow way: one sequence, f64, one loop after the other, straight from the formulas. What a backend
//! gives must be this up to rounding.

use allod_formats::{WeightSource, codec};
use allod_plan::{
    Act, Attend, Conv1d, DeltaRule, Experts, GateOrder, Mask, Norm, NormKind, Op, Param, Plan, Pool, Rope, RopeStyle,
    Route, Score, SelectiveScan, StateSpaceDual, Value, Weigh,
};

/// One value: a row for each token.
type Rows = Vec<Vec<f64>>;

/// Runs `plan` over the tokens `ids` of one sequence, every row wanted, and returns the result row by row.
///
/// # Panics
/// When the plan or its weights are not what a backend would accept.
pub fn run(plan: &Plan, source: &dyn WeightSource, ids: &[u32]) -> Rows {
    let mut m = Machine { plan, source, ids, values: vec![Rows::new(); plan.values().len()], caches: vec![] };
    for node in plan.nodes() {
        let ins: Vec<Rows> = node.inputs.iter().map(|v| m.values[v.index()].clone()).collect();
        let width = plan.value(node.outputs[0]).width;
        let outs = m.node(&node.op, &ins, width);
        for (v, rows) in node.outputs.iter().zip(outs) {
            m.values[v.index()] = rows;
        }
    }
    plan.result().map_or_else(Rows::new, |v: Value| m.values[v.index()].clone())
}

struct Machine<'a> {
    plan: &'a Plan,
    source: &'a dyn WeightSource,
    ids: &'a [u32],
    values: Vec<Rows>,
    caches: Vec<(Rows, Rows)>,
}

impl Machine<'_> {
    /// A weight as rows of its last axis.
    fn weight(&self, p: Param) -> Rows {
        let name = &self.plan.param(p).name;
        let t = self.source.tensor(name).unwrap_or_else(|e| panic!("{e}"));
        let values = codec::to_f32(&t).unwrap_or_else(|e| panic!("{name}: {e}"));
        values.chunks(t.columns()).map(|r| r.iter().map(|&v| f64::from(v)).collect()).collect()
    }
    fn vector(&self, p: Param) -> Vec<f64> {
        self.weight(p).concat()
    }

    fn node(&mut self, op: &Op, ins: &[Rows], width: usize) -> Vec<Rows> {
        let x = ins.first().cloned().unwrap_or_default();
        let each = |f: &dyn Fn(f64) -> f64| x.iter().map(|r| r.iter().map(|&v| f(v)).collect()).collect::<Rows>();
        let pair = |f: &dyn Fn(f64, f64) -> f64| -> Rows {
            let row = |(a, b): (&Vec<f64>, &Vec<f64>)| {
                let group = a.len() / b.len();
                a.iter().enumerate().map(|(i, &v)| f(v, b[i / group])).collect()
            };
            x.iter().zip(&ins[1]).map(row).collect()
        };
        let one = match op {
            Op::Embed { table } => {
                let table = self.weight(*table);
                self.ids.iter().map(|&i| table[i as usize].clone()).collect()
            }
            Op::EmbedPositions { table, offset } => self.weight(*table)[*offset..][..self.ids.len()].to_vec(),
            Op::AddRow { table, row } => {
                let add = self.weight(*table)[*row].clone();
                x.iter().map(|r| r.iter().zip(&add).map(|(a, b)| a + b).collect()).collect()
            }
            Op::Norm(n) => x.iter().map(|r| self.norm(n, r)).collect(),
            Op::GatedNorm { group, eps, weight, order } => {
                let w = self.vector(*weight);
                x.iter().zip(&ins[1]).map(|(r, z)| gated_norm(r, z, &w, *group, *eps, *order)).collect()
            }
            Op::Linear { parts } => {
                let parts = parts.iter().map(|p| {
                    let (w, b) = (self.weight(p.weight), p.bias.map(|b| self.vector(b)));
                    x.iter().map(|r| product(&w, b.as_deref(), r)).collect()
                });
                return parts.collect();
            }
            Op::HeadLinear { weight } => {
                let (w, heads) = (self.weight(*weight), self.plan.param(*weight).shape[0]);
                let row = |r: &Vec<f64>| {
                    let parts = r.chunks(r.len() / heads).zip(w.chunks(w.len() / heads));
                    parts.flat_map(|(r, w)| product(w, None, r)).collect()
                };
                x.iter().map(row).collect()
            }
            Op::Rope(r) => x.iter().enumerate().map(|(p, row)| rope(r, p, row)).collect(),
            Op::Attend(a) => self.attend(a, ins),
            Op::PositionScale { floor, scale } => {
                let factor =
                    |p: usize| 1.0 + f64::from(*scale) * (1.0 + ((p as f64 + 1.0) / f64::from(*floor)).floor()).ln();
                x.iter().enumerate().map(|(p, r)| r.iter().map(|v| v * factor(p)).collect()).collect()
            }
            Op::Act(a) => each(&|v| act(*a, v)),
            Op::Glu(a) => pair(&|g, u| glu(*a, g, u)),
            Op::Add => pair(&|a, b| a + b),
            Op::Mul => pair(&|a, b| a * b),
            Op::Scale(k) => each(&|v| v * f64::from(*k)),
            Op::ScaleBy(p) => {
                let w = self.vector(*p);
                x.iter().map(|r| r.iter().enumerate().map(|(i, v)| v * w[i % w.len()]).collect()).collect()
            }
            Op::Clamp(c) => each(&|v| v.clamp(-f64::from(*c), f64::from(*c))),
            Op::Softcap(c) => each(&|v| f64::from(*c) * (v / f64::from(*c)).tanh()),
            Op::Columns { group, start, width } => {
                x.iter().map(|r| r.chunks(*group).flat_map(|g| g[*start..start + width].to_vec()).collect()).collect()
            }
            Op::Concat { groups } => (0..x.len())
                .map(|t| {
                    let part = |g: usize, i: &Rows| {
                        let size = i[t].len() / groups;
                        i[t][g * size..(g + 1) * size].to_vec()
                    };
                    (0..*groups).flat_map(|g| ins.iter().flat_map(move |i| part(g, i))).collect()
                })
                .collect(),
            Op::Route(r) => return self.route(r, &x),
            Op::Experts(e) => self.experts(e, ins),
            Op::Conv1d(c) => self.conv1d(c, &x),
            Op::SelectiveScan(s) => self.selective_scan(s, ins),
            Op::StateSpaceDual(s) => self.state_space_dual(s, ins),
            Op::DeltaRule(d) => delta_rule(d, ins),
            Op::GatherOutputs => x,
            Op::Pool(Pool::First) => vec![x[0].clone()],
            Op::Pool(Pool::Last) => vec![x[x.len() - 1].clone()],
            Op::Pool(Pool::Mean) => {
                vec![(0..width).map(|i| x.iter().map(|r| r[i]).sum::<f64>() / x.len() as f64).collect()]
            }
        };
        vec![one]
    }

    fn norm(&self, n: &Norm, row: &[f64]) -> Vec<f64> {
        let vector = |p: Option<Param>| p.map(|p| self.vector(p));
        let (w, b, eps) = (vector(n.weight), vector(n.bias), f64::from(n.eps));
        let group = |(g, x): (usize, &[f64])| {
            let size = x.len() as f64;
            let mean = if n.kind == NormKind::Layer { x.iter().sum::<f64>() / size } else { 0.0 };
            let square = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
            let by = if n.kind == NormKind::L2 { (square + eps).sqrt() } else { (square / size + eps).sqrt() };
            let at = |v: &Option<Vec<f64>>, i: usize, none| v.as_ref().map_or(none, |v| v[(g * x.len() + i) % v.len()]);
            (0..x.len()).map(|i| (x[i] - mean) / by * at(&w, i, 1.0) + at(&b, i, 0.0)).collect::<Vec<_>>()
        };
        row.chunks(n.group).enumerate().flat_map(group).collect()
    }

    fn attend(&mut self, a: &Attend, ins: &[Rows]) -> Rows {
        let info = self.plan.caches()[a.cache.index()];
        self.caches.resize(self.plan.caches().len(), (vec![], vec![]));
        if let Some(k) = ins.get(1) {
            let prefix = || {
                let heads = |r: &Vec<f64>| {
                    r.chunks(info.key_dim).flat_map(|h| h[..info.value_dim].to_vec()).collect::<Vec<_>>()
                };
                k.iter().map(heads).collect()
            };
            self.caches[a.cache.index()] = (k.clone(), ins.get(2).cloned().unwrap_or_else(prefix));
        }
        let (keys, values) = &self.caches[a.cache.index()];
        let sinks = a.sinks.map(|p| self.vector(p));
        let head = |p: usize, h: usize| -> Vec<f64> {
            let (q, kv) = (&ins[0][p][h * info.key_dim..][..info.key_dim], h / (a.heads / info.kv_heads));
            let seen: Vec<usize> = (0..keys.len()).filter(|&j| sees(a.mask, p, j)).collect();
            let score = |j: usize| {
                let dot = dot(q, &keys[j][kv * info.key_dim..][..info.key_dim]) * f64::from(a.scale);
                let capped = a.softcap.map_or(dot, |c| f64::from(c) * (dot / f64::from(c)).tanh());
                capped + a.alibi.as_ref().map_or(0.0, |s| f64::from(s[h]) * (j as f64 - p as f64))
            };
            let weights: Vec<f64> = seen.iter().map(|&j| score(j).exp()).collect();
            let total = weights.iter().sum::<f64>() + sinks.as_ref().map_or(0.0, |s| s[h].exp());
            let value = |i: usize| {
                let terms = seen.iter().zip(&weights).map(|(&j, w)| w * values[j][kv * info.value_dim + i]);
                terms.sum::<f64>() / total
            };
            (0..info.value_dim).map(value).collect()
        };
        (0..keys.len()).map(|p| (0..a.heads).flat_map(|h| head(p, h)).collect()).collect()
    }

    fn route(&self, r: &Route, x: &Rows) -> Vec<Rows> {
        let bias = r.bias.map(|b| self.vector(b));
        let (mut ids, mut weights) = (Rows::new(), Rows::new());
        for row in x {
            let scores: Vec<f64> = match r.score {
                Score::Softmax => softmax(row),
                Score::Sigmoid => row.iter().map(|&v| act(Act::Sigmoid, v)).collect(),
                Score::SoftmaxOfChosen => row.clone(),
            };
            let choice: Vec<f64> =
                scores.iter().enumerate().map(|(i, s)| s + bias.as_ref().map_or(0.0, |b| b[i])).collect();
            let allowed: Vec<bool> = match r.groups {
                None => vec![true; row.len()],
                Some(g) => {
                    let size = row.len() / g.count;
                    let rank: Vec<f64> =
                        choice.chunks(size).map(|c| best(c, g.best).iter().map(|&i| c[i]).sum()).collect();
                    let kept = best(&rank, g.top);
                    (0..row.len()).map(|i| kept.contains(&(i / size))).collect()
                }
            };
            let masked: Vec<f64> =
                choice.iter().zip(&allowed).map(|(&c, &a)| if a { c } else { f64::NEG_INFINITY }).collect();
            let chosen = best(&masked, r.top);
            let mut w: Vec<f64> = chosen.iter().map(|&i| scores[i]).collect();
            if r.score == Score::SoftmaxOfChosen {
                w = softmax(&w);
            }
            let sum = if r.normalize { w.iter().sum() } else { 1.0 };
            ids.push(chosen.iter().map(|&i| i as f64).collect());
            weights.push(w.iter().map(|v| v / sum * f64::from(r.scale)).collect());
        }
        vec![ids, weights]
    }

    fn experts(&self, e: &Experts, ins: &[Rows]) -> Rows {
        let load = |p: &allod_plan::LinearPart| (self.weight(p.weight), p.bias.map(|b| self.weight(b)));
        let (gate, up, down) = (e.gate.as_ref().map(load), load(&e.up), load(&e.down));
        let count = self.plan.param(e.up.weight).shape[0];
        let scale = e.down_scale.map(|p| self.vector(p));
        let apply = |(w, b): &(Rows, Option<Rows>), id: usize, x: &[f64]| {
            let rows = w.len() / count;
            product(&w[id * rows..(id + 1) * rows], b.as_ref().map(|b| b[id].as_slice()), x)
        };
        let token = |t: usize| {
            let mut sum = vec![0.0; ins[0][t].len()];
            for (&id, &weight) in ins[1][t].iter().zip(&ins[2][t]) {
                let id = id as usize;
                let factor = if e.weigh == Weigh::Input { weight } else { 1.0 };
                let x: Vec<f64> = ins[0][t].iter().map(|v| v * factor).collect();
                let up = apply(&up, id, &x);
                let hidden: Vec<f64> = match &gate {
                    Some(g) => apply(g, id, &x).iter().zip(&up).map(|(&g, &u)| glu(e.act, g, u)).collect(),
                    None => up.iter().map(|&u| act(e.act, u)).collect(),
                };
                let factor = if e.weigh == Weigh::Output { weight } else { 1.0 };
                let factor = factor * scale.as_ref().map_or(1.0, |s| s[id]);
                sum.iter_mut().zip(apply(&down, id, &hidden)).for_each(|(s, v)| *s += v * factor);
            }
            sum
        };
        (0..ins[0].len()).map(token).collect()
    }

    fn conv1d(&self, c: &Conv1d, x: &Rows) -> Rows {
        let (w, bias) = (self.weight(c.weight), c.bias.map(|b| self.vector(b)));
        let at = |t: usize, i: usize| {
            let tap = |j: usize| (t + j + 1).checked_sub(c.kernel).map_or(0.0, |s| x[s][i] * w[i][j]);
            let sum = (0..c.kernel).map(tap).sum::<f64>() + bias.as_ref().map_or(0.0, |b| b[i]);
            c.act.map_or(sum, |a| act(a, sum))
        };
        (0..x.len()).map(|t| (0..x[t].len()).map(|i| at(t, i)).collect()).collect()
    }

    fn selective_scan(&self, s: &SelectiveScan, ins: &[Rows]) -> Rows {
        let (a, d, bias) = (self.weight(s.a), self.vector(s.d), self.vector(s.dt_bias));
        let mut state = vec![vec![0.0; ins[2][0].len()]; d.len()];
        let mut out = Rows::new();
        for (((x, dt), b), c) in ins[0].iter().zip(&ins[1]).zip(&ins[2]).zip(&ins[3]) {
            let channel = |(i, h): (usize, &mut Vec<f64>)| {
                let dt = act(Act::Softplus, dt[i] + bias[i]);
                for n in 0..b.len() {
                    h[n] = h[n] * (dt * a[i][n]).exp() + dt * b[n] * x[i];
                }
                dot(h, c) + d[i] * x[i]
            };
            out.push(state.iter_mut().enumerate().map(channel).collect());
        }
        out
    }

    fn state_space_dual(&self, s: &StateSpaceDual, ins: &[Rows]) -> Rows {
        let (a, d, bias) = (self.vector(s.a), self.vector(s.d), self.vector(s.dt_bias));
        let head_dim = ins[0][0].len() / s.heads;
        let state_dim = ins[2][0].len() / s.groups;
        let mut state = vec![vec![0.0; state_dim]; s.heads * head_dim];
        let mut out = Rows::new();
        for (((x, dt), b), c) in ins[0].iter().zip(&ins[1]).zip(&ins[2]).zip(&ins[3]) {
            let row = |(i, h): (usize, &mut Vec<f64>)| {
                let head = i / head_dim;
                let group = head / (s.heads / s.groups) * state_dim;
                let dt = act(Act::Softplus, dt[head] + bias[head]);
                let dt = dt.clamp(f64::from(s.dt_limit.0), f64::from(s.dt_limit.1));
                let (b, c) = (&b[group..][..state_dim], &c[group..][..state_dim]);
                for n in 0..state_dim {
                    h[n] = h[n] * (dt * a[head]).exp() + dt * b[n] * x[i];
                }
                dot(h, c) + d[head] * x[i]
            };
            out.push(state.iter_mut().enumerate().map(row).collect());
        }
        out
    }
}

fn delta_rule(r: &DeltaRule, ins: &[Rows]) -> Rows {
    let mut state = vec![vec![vec![0.0; r.value_dim]; r.key_dim]; r.value_heads];
    let token = |t: usize| {
        let mut row = vec![];
        for (h, s) in state.iter_mut().enumerate() {
            let kh = if r.tiled { h % r.key_heads } else { h / (r.value_heads / r.key_heads) } * r.key_dim;
            let (q, k) = (&ins[0][t][kh..][..r.key_dim], &ins[1][t][kh..][..r.key_dim]);
            let (v, beta, decay) = (&ins[2][t][h * r.value_dim..][..r.value_dim], ins[3][t][h], ins[4][t][h].exp());
            s.iter_mut().flatten().for_each(|x| *x *= decay);
            for j in 0..r.value_dim {
                let error = beta * (v[j] - (0..r.key_dim).map(|i| s[i][j] * k[i]).sum::<f64>());
                (0..r.key_dim).for_each(|i| s[i][j] += k[i] * error);
                row.push((0..r.key_dim).map(|i| s[i][j] * q[i]).sum::<f64>() * f64::from(r.scale));
            }
        }
        row
    };
    (0..ins[0].len()).map(token).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn product(w: &[Vec<f64>], bias: Option<&[f64]>, x: &[f64]) -> Vec<f64> {
    w.iter().enumerate().map(|(i, r)| dot(r, x) + bias.map_or(0.0, |b| b[i])).collect()
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let total: f64 = x.iter().map(|v| v.exp()).sum();
    x.iter().map(|v| v.exp() / total).collect()
}

/// Places of the `n` largest, largest first, earlier ones first among equals.
fn best(x: &[f64], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[b].total_cmp(&x[a]).then(a.cmp(&b)));
    order.truncate(n);
    order
}

fn sees(mask: Mask, p: usize, j: usize) -> bool {
    match mask {
        Mask::Causal => j <= p,
        Mask::Window(n) => j <= p && p - j < n,
        Mask::Chunk(n) => j <= p && j / n == p / n,
        Mask::Full => true,
        Mask::Local(n) => p.abs_diff(j) <= n,
    }
}

fn rope(r: &Rope, position: usize, row: &[f64]) -> Vec<f64> {
    let (mut out, pairs) = (row.to_vec(), r.frequencies.len());
    for head in out.chunks_mut(r.head_dim) {
        for (i, &f) in r.frequencies.iter().enumerate() {
            let (a, b) = match r.style {
                RopeStyle::Half => (i, i + pairs),
                RopeStyle::Interleaved => (2 * i, 2 * i + 1),
            };
            let (sin, cos) = (position as f64 * f64::from(f)).sin_cos();
            let (x, y, m) = (head[a], head[b], f64::from(r.magnitude));
            (head[a], head[b]) = ((x * cos - y * sin) * m, (y * cos + x * sin) * m);
        }
    }
    out
}

fn gated_norm(x: &[f64], z: &[f64], w: &[f64], group: usize, eps: f32, order: GateOrder) -> Vec<f64> {
    let gated = |x: &[f64]| x.iter().zip(z).map(|(v, z)| v * act(Act::Silu, *z)).collect::<Vec<_>>();
    let before = if order == GateOrder::GateThenNorm { gated(x) } else { x.to_vec() };
    let normed: Vec<f64> = before
        .chunks(group)
        .flat_map(|g| {
            let by = (dot(g, g) / group as f64 + f64::from(eps)).sqrt();
            g.iter().map(move |v| v / by).collect::<Vec<_>>()
        })
        .enumerate()
        .map(|(i, v)| v * w[i % w.len()])
        .collect();
    if order == GateOrder::NormThenGate { gated(&normed) } else { normed }
}

fn glu(a: Act, gate: f64, up: f64) -> f64 {
    match a {
        Act::ClampedSwiglu { alpha, limit } => {
            let (g, u) = (gate.min(limit.into()), up.clamp(-f64::from(limit), limit.into()));
            g * act(Act::Sigmoid, f64::from(alpha) * g) * (u + 1.0)
        }
        a => act(a, gate) * up,
    }
}

fn act(a: Act, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match a {
        Act::Silu => x * sigmoid(x),
        Act::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Act::GeluTanh => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
        Act::GeluQuick => x * sigmoid(1.702 * x),
        Act::Relu => x.max(0.0),
        Act::Relu2 => x.max(0.0).powi(2),
        Act::Sigmoid => sigmoid(x),
        Act::Softplus => x.exp().ln_1p(),
        Act::Tanh => x.tanh(),
        Act::ClampedSwiglu { .. } => x,
    }
}

/// The error function by its Maclaurin series, which converges for the small arguments of tests.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..60 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}
