//! Rewrites of a recorded plan that leave its results unchanged to the byte.

use crate::{Node, Op, Plan, Value};
use std::collections::HashMap;

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
}
