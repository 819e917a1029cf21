//! Rewrites of a recorded plan that leave its results unchanged to the byte.

use crate::{Node, Op, Plan, Value};
use std::{collections::HashMap, ops::Range};

/// Consecutive operations that a backend may run as one pass over rows. Every result that is used outside the group is
/// written; every byte is what the operations give one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// One operation by itself.
    One(usize),
    /// A residual sum and the norm of it.
    ResidualNorm {
        /// The sum, which is used again.
        add: usize,
        /// The norm, next in order.
        norm: usize,
    },
    /// Matrix products with what belongs to them: the input's rows are made and turned into the form that the products
    /// want in one pass, and two products become one result before it is written.
    Linear {
        /// The residual sum that is normed.
        add: Option<usize>,
        /// The norm, used by nothing else.
        norm: Option<usize>,
        /// The products.
        linear: usize,
        /// The gate over its two products, used by nothing else.
        glu: Option<usize>,
    },
    /// Keys that get their rotary positions on their way into the cache.
    Attend {
        /// The rotation of the keys.
        rope: usize,
        /// The attention.
        attend: usize,
    },
}

impl Group {
    /// Its operations, which are consecutive.
    pub fn nodes(&self) -> Range<usize> {
        match *self {
            Group::One(i) => i..i + 1,
            Group::ResidualNorm { add, norm } => add..norm + 1,
            Group::Linear { add, norm, linear, glu } => add.or(norm).unwrap_or(linear)..glu.unwrap_or(linear) + 1,
            Group::Attend { rope, attend } => rope..attend + 1,
        }
    }
}

/// Products that one group takes.
const MOST_PARTS: usize = 4;

impl Plan {
    /// Linears that share an input become one, at the place of the first: the input is prepared once and all rows of
    /// all matrices form one parallel region.
    pub(crate) fn fuse(mut self) -> Plan {
        let mut first: HashMap<Value, usize> = HashMap::new();
        let mut nodes: Vec<Node> = Vec::with_capacity(self.nodes.len());
        for mut node in self.nodes {
            if let Op::Linear { parts } = &mut node.op {
                if let Some(&at) = first.get(&node.inputs[0])
                    && let Op::Linear { parts: earlier } = &mut nodes[at].op
                {
                    earlier.append(parts);
                    nodes[at].outputs.append(&mut node.outputs);
                    continue;
                }
                first.insert(node.inputs[0], nodes.len());
            }
            nodes.push(node);
        }
        self.nodes = nodes;
        self
    }

    /// Cuts the plan into groups. Values in `keep` are asked for by name and stay results of their own.
    pub fn groups(&self, keep: &[Value]) -> Vec<Group> {
        let mut users = vec![0; self.values.len()];
        for v in self.nodes.iter().flat_map(|n| &n.inputs).chain(keep).chain(&self.result) {
            users[v.index()] += 1;
        }
        let mut groups = Vec::with_capacity(self.nodes.len());
        let mut at = 0;
        while at < self.nodes.len() {
            let group = self.group(at, &users);
            at = group.nodes().end;
            groups.push(group);
        }
        groups
    }

    /// The longest group that begins at node `at`; `users` counts what uses each value.
    fn group(&self, at: usize, users: &[usize]) -> Group {
        let node = |i: usize| self.nodes.get(i);
        let is = |i: usize, f: fn(&Op) -> bool| node(i).is_some_and(|n| f(&n.op));
        let feeds = |i: usize, next: usize, input: usize| {
            node(i).zip(node(next)).is_some_and(|(a, b)| b.inputs.get(input) == a.outputs.first())
        };
        let alone = |i: usize| node(i).is_some_and(|n| n.outputs.iter().all(|v| users[v.index()] == 1));
        let is_norm = |i| is(i, |op| matches!(op, Op::Norm(_)));
        let is_linear = |i| is(i, |op| matches!(op, Op::Linear { parts } if parts.len() <= MOST_PARTS));

        let two = |n: &&Node| matches!(n.op, Op::Add) && n.inputs[0] != n.inputs[1];
        let add = node(at).filter(two).filter(|_| is_norm(at + 1) && feeds(at, at + 1, 0)).map(|_| at);
        let norm = Some(add.map_or(at, |a| a + 1)).filter(|&i| is_norm(i));
        let linear = norm.map_or(at, |n| n + 1);
        let fits = is_linear(linear) && norm.is_none_or(|n| feeds(n, linear, 0) && alone(n));
        if fits {
            let gated = |i: &usize| {
                node(*i).is_some_and(|n| matches!(n.op, Op::Glu(_)) && n.inputs == self.nodes[linear].outputs)
            };
            let glu = Some(linear + 1).filter(gated).filter(|_| alone(linear));
            return Group::Linear { add, norm, linear, glu };
        }
        if let Some((add, norm)) = add.zip(norm) {
            return Group::ResidualNorm { add, norm };
        }
        let turned = match (node(at).map(|n| &n.op), node(at + 1).map(|n| &n.op)) {
            (Some(Op::Rope(r)), Some(Op::Attend(a))) => r.head_dim == self.caches[a.cache.index()].key_dim,
            _ => false,
        };
        if turned && feeds(at, at + 1, 1) && alone(at) {
            return Group::Attend { rope: at, attend: at + 1 };
        }
        Group::One(at)
    }
}
