//! The operation suite on this backend, and steps it must refuse.

mod store;

use allod_cpu::{Activations, Cpu, Isa, KvType, Options, Pool};
use allod_formats::WeightSource;
use allod_plan::{Backend, SeqRows, Step, StepError};
use allod_tensor::DType;
use allod_testkit::suite::{self, Case, LENGTH};
use std::sync::Arc;

fn cpu(c: &Case, isa: Isa, threads: usize, sequences: usize, rows: usize) -> Cpu {
    let options = Options { isa, ..Options::default() };
    cpu_with(c, options, threads, sequences, rows)
}

fn cpu_with(c: &Case, options: Options, threads: usize, sequences: usize, rows: usize) -> Cpu {
    let options = Options {
        rows,
        outputs: rows,
        sequences,
        context: LENGTH,
        pages: Some(sequences * LENGTH.div_ceil(allod_plan::PAGE)),
        cache_type: Some(KvType::F32),
        ..options
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
fn activations_have_names() {
    for activations in Activations::ALL {
        assert_eq!(activations.to_string().to_uppercase().parse(), Ok(activations));
    }
    let told = "f8".parse::<Activations>().unwrap_err().to_string();
    assert!(told.contains("\"f8\": f32 and bf16"), "{told}");
}

#[test]
fn rounded_activations_change_products_of_bf16_only() {
    let products = ["linear", "a matrix for each head", "experts"];
    for mut c in suite::cases() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            // Inputs stay as they are, so that there is something to round.
            for name in c.source.names().into_iter().filter(|name| !name.starts_with("in")) {
                c.source = c.source.stored_as(&name, dtype);
            }
            let results = |activations, isa, threads| {
                let options = Options { activations, isa, ..Options::default() };
                let make = |sequences, rows| cpu_with(&c, options.clone(), threads, sequences, rows);
                suite::results(&c, make).concat().into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            };
            let plain = results(Activations::F32, Isa::best(), 1);
            let rounded = results(Activations::BF16, Isa::best(), 1);
            let changes = dtype == DType::BF16 && products.iter().any(|product| c.name.starts_with(product));
            assert_eq!(rounded != plain, changes, "{} {dtype}", c.name);
            for (isa, threads) in Isa::available().flat_map(|isa| [1, 2, 3].map(|threads| (isa, threads))) {
                let same = results(Activations::BF16, isa, threads) == rounded;
                assert!(same, "{}: other bytes on {isa} and {threads} threads", c.name);
            }
        }
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
