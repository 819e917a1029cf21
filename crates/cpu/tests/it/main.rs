//! The operation suite on this backend, and steps it must refuse.

mod store;

use allod_cpu::{Cpu, Isa, KvType, Options, Pool};
use allod_plan::{Backend, SeqRows, Step, StepError};
use allod_testkit::suite::{self, Case, LENGTH};
use std::sync::Arc;

fn cpu(c: &Case, isa: Isa, threads: usize, sequences: usize, rows: usize) -> Cpu {
    let options = Options {
        isa,
        rows,
        outputs: rows,
        sequences,
        context: LENGTH,
        pages: Some(sequences * LENGTH.div_ceil(allod_plan::PAGE)),
        cache_type: Some(KvType::F32),
        taps: vec![],
        store: None,
    };
    Cpu::new(&c.plan, &c.source, Arc::new(Pool::new(threads)), &options).unwrap_or_else(|e| panic!("{}: {e}", c.name))
}

#[test]
fn every_operation_is_what_its_formula_says() {
    for isa in Isa::available() {
        suite::check(|c, sequences, rows| cpu(c, isa, 2, sequences, rows));
    }
}

#[test]
fn a_step_that_does_not_fit_is_refused() {
    let case = &suite::cases()[0];
    let mut cpu = cpu(case, Isa::best(), 1, 1, 8);
    let sequence = |rows, start| SeqRows { rows, start, pages: &[0, 1, 2], state: 0, adapter: 0 };
    let run = |cpu: &mut Cpu, tokens: &[u32], sequences: &[SeqRows<'_>], outputs: &[u32]| {
        cpu.run(&Step { tokens, sequences, outputs }).map(<[f32]>::to_vec).unwrap_err()
    };
    let outside = |e: StepError, name: &str| {
        assert!(matches!(e, StepError::Outside { what, .. } if what == name), "{e}");
    };
    outside(run(&mut cpu, &[0; 9], &[sequence(0..9, 0)], &[]), "rows in a step");
    outside(run(&mut cpu, &[48], &[sequence(0..1, 0)], &[0]), "token id");
    outside(run(&mut cpu, &[0], &[sequence(0..1, LENGTH as u32)], &[0]), "position");
    outside(run(&mut cpu, &[0], &[sequence(0..1, 0)], &[1]), "wanted row");
    let far = SeqRows { rows: 0..1, start: 17, pages: &[0], state: 0, adapter: 0 };
    outside(run(&mut cpu, &[0], &[far], &[0]), "pages needed");
    let unknown = SeqRows { rows: 0..1, start: 0, pages: &[3], state: 0, adapter: 0 };
    outside(run(&mut cpu, &[0], &[unknown], &[0]), "page");
    let slot = SeqRows { rows: 0..1, start: 0, pages: &[0], state: 1, adapter: 0 };
    outside(run(&mut cpu, &[0], &[slot], &[0]), "state slot");
    for e in [
        run(&mut cpu, &[0, 0], &[sequence(0..1, 0)], &[0]),
        run(&mut cpu, &[0, 0], &[sequence(1..2, 0)], &[0]),
        run(&mut cpu, &[0, 0], &[sequence(0..2, 0)], &[1, 0]),
    ] {
        assert!(matches!(e, StepError::Inconsistent(_)), "{e}");
    }
}
