//! Rows that nobody asks for are not computed.

use crate::{LinearPart, Mask, Node, Op, Plan, Rows, Value, ValueInfo};
use std::collections::HashMap;

impl Op {
    /// How many of its `inputs`, from the first on, need only the rows that are wanted of the outputs. Of the others every row
    /// counts.
    fn row_by_row(&self, inputs: usize) -> usize {
        match self {
            Op::Embed { .. } | Op::EmbedPositions { .. } | Op::Pool(_) => 0,
            Op::Conv1d(_) | Op::SelectiveScan(_) | Op::StateSpaceDual(_) | Op::DeltaRule(_) => 0,
            // Where rows see what comes after them, the last row tells where that ends.
            Op::Attend(a) => usize::from(!matches!(a.mask, Mask::Full | Mask::Local(_))),
            _ => inputs,
        }
    }
}

impl Plan {
    /// The same results with less work: what serves wanted rows only is computed for these alone, so that
    /// [`Op::GatherOutputs`] moves up to where rows still meet. In a decoder that leaves keys and values of the last layer.
    /// Values in `keep` keep all their rows. Where all rows of a step are wanted, the plan as it was recorded is as good.
    pub fn narrowed(&self, keep: &[Value]) -> Plan {
        let whole = self.whole(keep);
        let mut narrow = Narrow { plan: Plan { nodes: vec![], ..self.clone() }, wanted: HashMap::new() };
        for node in self.nodes.iter().flat_map(|node| split(node, &whole)) {
            narrow.take(node, &whole);
        }
        narrow.plan.result = self.result.map(|v| narrow.renamed(v));
        narrow.plan
    }

    /// Of which values of the step's tokens every row counts, and which others are in `keep`.
    fn whole(&self, keep: &[Value]) -> Vec<bool> {
        let of_tokens = |v: &&Value| self.value(**v).rows == Rows::Tokens;
        let mut whole = vec![false; self.values.len()];
        keep.iter().chain(self.result.iter().filter(of_tokens)).for_each(|v| whole[v.index()] = true);
        for node in self.nodes.iter().rev() {
            for part in split(node, &whole) {
                part.inputs[part.narrow(&whole)..].iter().filter(of_tokens).for_each(|v| whole[v.index()] = true);
            }
        }
        whole
    }
}

impl Node {
    /// How many inputs it takes with wanted rows only.
    fn narrow(&self, whole: &[bool]) -> usize {
        if self.outputs.iter().any(|v| whole[v.index()]) { 0 } else { self.op.row_by_row(self.inputs.len()) }
    }
}

/// Linears that were joined for their input, apart again where not all of them are needed whole.
fn split(node: &Node, whole: &[bool]) -> Vec<Node> {
    let Op::Linear { parts } = &node.op else { return vec![node.clone()] };
    let of = |wanted: bool| {
        let some = parts.iter().zip(&node.outputs).filter(|(_, v)| whole[v.index()] == wanted);
        let (parts, outputs): (Vec<LinearPart>, Vec<Value>) = some.unzip();
        Node { op: Op::Linear { parts }, inputs: node.inputs.clone(), outputs }
    };
    [true, false].map(of).into_iter().filter(|n| !n.outputs.is_empty()).collect()
}

/// A plan while it is narrowed.
struct Narrow {
    plan: Plan,
    /// What holds the wanted rows of a value.
    wanted: HashMap<Value, Value>,
}

impl Narrow {
    fn take(&mut self, mut node: Node, whole: &[bool]) {
        let narrow = node.narrow(whole);
        if let (Op::GatherOutputs, 1) = (&node.op, narrow) {
            let rows = self.rows(node.inputs[0]);
            self.wanted.insert(node.outputs[0], rows);
            return;
        }
        for (i, v) in node.inputs.iter_mut().enumerate() {
            *v = if i < narrow { self.rows(*v) } else { self.renamed(*v) };
        }
        for &v in node.outputs.iter().filter(|_| narrow > 0) {
            let rows = &mut self.plan.values[v.index()].rows;
            if *rows == Rows::Tokens {
                *rows = Rows::Outputs;
                self.wanted.insert(v, v);
            }
        }
        self.plan.nodes.push(node);
    }

    /// What holds the wanted rows of `v`.
    fn rows(&mut self, v: Value) -> Value {
        if let Some(&rows) = self.wanted.get(&v) {
            return rows;
        }
        let info = self.plan.value(v);
        if info.rows != Rows::Tokens {
            return v;
        }
        let info = ValueInfo { name: format!("{}.wanted", info.name), rows: Rows::Outputs, ..*info };
        self.plan.values.push(info);
        let rows = Value(self.plan.values.len() as u32 - 1);
        self.plan.nodes.push(Node { op: Op::GatherOutputs, inputs: vec![v], outputs: vec![rows] });
        self.wanted.insert(v, rows);
        rows
    }

    /// `v`, unless it was nothing but the wanted rows of another value.
    fn renamed(&self, v: Value) -> Value {
        match self.plan.value(v).rows {
            Rows::Outputs => self.wanted.get(&v).copied().unwrap_or(v),
            _ => v,
        }
    }
}
