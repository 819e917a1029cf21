//! Recording: what is refused, what is fused, where values lie.

use allod_plan::{Arena, Op, Plan, RecordError, RowLimits, Rows, Scope, Value, record};
use allod_tensor::DType;
use allod_testkit::{Memory, suite};

fn source() -> Memory {
    Memory::default()
        .random("token_embd.weight", &[11, 8], -1.0, 1.0)
        .random("blk.0.a.weight", &[6, 8], -1.0, 1.0)
        .random("blk.0.b.weight", &[6, 8], -1.0, 1.0)
        .random("blk.0.b.bias", &[6], -1.0, 1.0)
}

fn two(m: &mut Scope<'_, '_>) -> Value {
    let x = m.embed("token_embd", 11, 8);
    let mut l = m.layer(0);
    let (a, b) = (l.linear("a", x, 6), l.linear("b", x, 6));
    l.mul(a, b)
}

#[test]
fn linears_of_one_input_become_one_with_their_biases() {
    let plan = record(&source(), two).unwrap();
    let parts = plan.nodes().iter().find_map(|n| match &n.op {
        Op::Linear { parts } => Some((parts.len(), parts[0].bias.is_some(), parts[1].bias.is_some())),
        _ => None,
    });
    assert_eq!(parts, Some((2, false, true)));
    assert!(plan.named("blk.0.b").is_some());
}

#[test]
fn the_digest_knows_programs_apart() {
    let digest = |f: fn(&mut Scope<'_, '_>) -> Value| record(&source(), f).unwrap().digest();
    let scaled = |m: &mut Scope<'_, '_>| {
        let x = two(m);
        m.scale(x, 2.0)
    };
    assert_eq!(digest(two), digest(two));
    assert_ne!(digest(two), digest(scaled));
}

#[test]
fn what_does_not_fit_is_named() {
    let record = |f: fn(&mut Scope<'_, '_>) -> Value| record(&source(), f).unwrap_err();
    let missing = record(|m| m.embed("embeddings", 11, 8));
    assert!(matches!(&missing, RecordError::Missing { name, expected, .. }
        if name == "embeddings.weight" && expected == &[11, 8]));
    let shape = record(|m| m.embed("token_embd", 12, 8));
    assert!(matches!(&shape, RecordError::Shape { name, expected, found, .. }
        if name == "token_embd.weight" && expected == &[12, 8] && found == &[11, 8]));
    let widths = record(|m| {
        let x = m.embed("token_embd", 11, 8);
        let y = m.layer(0).linear("a", x, 6);
        m.add(x, y)
    });
    assert!(widths.to_string().contains("widths 8 and 6"), "{widths}");
    let rows = record(|m| {
        let x = m.embed("token_embd", 11, 8);
        let y = m.gather_outputs(x);
        m.add(x, y)
    });
    assert!(rows.to_string().contains("other rows"), "{rows}");
}

/// Steps of liveness: a value occupies its place from the node that makes it to the last that reads it.
fn overlaps(plan: &Plan, arena: &Arena, limits: RowLimits) -> bool {
    let mut lives: Vec<(Value, usize, usize)> = vec![];
    for (i, n) in plan.nodes().iter().enumerate() {
        lives.extend(n.outputs.iter().map(|&v| (v, i, i)));
        for v in &n.inputs {
            lives.iter_mut().filter(|l| l.0 == *v).for_each(|l| l.2 = i);
        }
    }
    if let Some(r) = plan.result() {
        lives.iter_mut().filter(|l| l.0 == r).for_each(|l| l.2 = usize::MAX);
    }
    let place = |v: Value| {
        let info = plan.value(v);
        arena.offset(v)..arena.offset(v) + limits.of(info.rows) * info.width
    };
    lives.iter().enumerate().any(|(i, a)| {
        lives[..i].iter().any(|b| {
            let (p, q) = (place(a.0), place(b.0));
            a.1.max(b.1) <= a.2.min(b.2) && p.start < q.end && q.start < p.end
        })
    })
}

#[test]
fn values_that_live_together_lie_apart() {
    let limits = RowLimits { tokens: 9, outputs: 3, sequences: 2 };
    for c in suite::cases() {
        for plan in [&c.plan, &c.plan.narrowed(&[])] {
            let arena = Arena::new(plan, limits, &[]);
            assert!(!overlaps(plan, &arena, limits), "{}", c.name);
        }
    }
}

#[test]
fn only_keys_and_values_of_a_last_layer_need_every_row() {
    let case = suite::cases().into_iter().find(|c| c.name == "grouped-query attention").unwrap();
    let rows = |plan: &Plan, of: fn(&Op) -> bool| {
        let node = plan.nodes().iter().rfind(|n| of(&n.op)).unwrap();
        node.inputs.iter().map(|&v| plan.value(v).rows).collect::<Vec<_>>()
    };
    let attend = |op: &Op| matches!(op, Op::Attend(_));
    assert_eq!(rows(&case.plan, attend), [Rows::Tokens; 3]);
    let plan = case.plan.narrowed(&[]);
    assert_eq!(rows(&plan, attend), [Rows::Outputs, Rows::Tokens, Rows::Tokens]);
    let attended = case.plan.nodes().iter().rfind(|n| attend(&n.op)).unwrap().outputs[0];
    let kept = case.plan.narrowed(&[attended]);
    assert_eq!(rows(&kept, attend), [Rows::Tokens; 3], "a value that is kept has all its rows");
    assert_eq!(kept.value(attended).rows, Rows::Tokens);
    assert_eq!(plan.result_width(), case.plan.result_width());
}

#[test]
fn estimates_count_cache_and_state() {
    let limits = RowLimits { tokens: 16, outputs: 1, sequences: 1 };
    let case = suite::cases().into_iter().find(|c| c.name == "grouped-query attention").unwrap();
    let estimate = |context, dtype| case.plan.estimate(|_| 100, context, dtype, limits);
    // 2 heads × (16 + 16) elements, 64 positions, 2 bytes
    assert_eq!(estimate(64, DType::F16).cache, 64 * 64 * 2);
    assert_eq!(estimate(50, DType::F16).cache, 64 * 64 * 2, "whole pages");
    assert_eq!(estimate(64, DType::I16).cache, 64 * (64 * 2 + 2 * 2 * 4), "with scales");
    // 2 heads × (key + value), each filled up to a block of 32
    assert_eq!(estimate(64, DType::Q8_0).cache, 64 * 2 * 2 * 34);
    assert_eq!(estimate(64, DType::F16).weights, 100 * case.plan.params().len());
    let conv = suite::cases().into_iter().find(|c| c.name == "convolution of 4").unwrap();
    assert_eq!(conv.plan.estimate(|_| 0, 64, DType::F16, limits).state, 24 * 3 * 4);
}
