//! Every operation's adjoint against differences of the f64 reference.

use super::{LearnOptions, Learner};
use crate::Pool;
use allod_formats::{Metadata, TensorInfo, WeightSource};
use allod_plan::{Head, Pass, RowLimits, TrainBatch, Tune};
use allod_tensor::Tensor;
use allod_testkit::{
    reference,
    suite::{Case, cases},
};
use std::{ops::Range, sync::Arc};

/// Differences are taken over this distance either way: in f64 their own error is its square.
const STEP: f32 = 1e-3;
/// f32 sums of some hundred terms against the difference, relative to the largest derivative of a tensor.
const TOLERANCE: f64 = 2e-4;

fn ids() -> Vec<Vec<u32>> {
    (0..2).map(|s| (0..13 - 4 * s).map(|t| ((t * 7 + s * 5 + t * t) % 48) as u32).collect()).collect()
}

/// Factor on each result in the loss.
fn factor(i: usize) -> f32 {
    (i * 7 % 11) as f32 / 5.0 - 0.9
}

/// Gradients of `Σ factor · result` by every weight.
fn gradients(c: &Case, threads: usize) -> Vec<(String, Vec<f32>)> {
    let ids = ids();
    let tokens = ids.concat();
    let mut next = 0;
    let sequences: Vec<Range<usize>> = ids.iter().map(|s| (next, next += s.len()).0..next).collect();
    let weights = c.plan.params().iter().map(|p| p.name.clone()).collect();
    let tune = Tune { weights, head: Head::Value, ..Tune::default() };
    let limits = RowLimits { tokens: tokens.len(), outputs: tokens.len(), sequences: 2 };
    let options = LearnOptions { limits, ..LearnOptions::default() };
    let mut l = Learner::new(&c.plan, &c.source, Arc::new(Pool::new(threads)), &tune, &options).unwrap();
    let batch = TrainBatch { tokens: &tokens, sequences: &sequences, targets: &[], seed: 0, embedding_noise: 0.0 };
    l.take(&batch, Pass::Train).unwrap();
    l.batch.outputs = (0..tokens.len() as u32).collect();
    l.cpu.last.outputs = tokens.len();
    l.with_weights(|l| {
        l.with_step(|l, step| {
            l.cpu.prepare_step(step);
            l.forwards(step).unwrap();
            let allod_plan::End::Hidden { d_hidden, .. } = l.program.end else { panic!("{} has a head", c.name) };
            let d = l.range(d_hidden);
            l.cpu.arena[d].iter_mut().enumerate().for_each(|(i, d)| *d = factor(i));
            l.backwards(step).unwrap();
        });
    });
    l.tensors.iter().filter(|t| t.name != "value_head.weight").map(|t| (t.name.clone(), t.gradient.clone())).collect()
}

/// A source one of whose numbers is another.
struct Nudged<'a> {
    source: &'a dyn WeightSource,
    name: &'a str,
    values: &'a [f32],
}

impl WeightSource for Nudged<'_> {
    fn origin(&self) -> String {
        self.source.origin()
    }
    fn metadata(&self) -> &Metadata {
        self.source.metadata()
    }
    fn names(&self) -> Vec<String> {
        self.source.names()
    }
    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.source.info(name)
    }
    fn tensor(&self, name: &str) -> Result<Tensor, allod_formats::Error> {
        let t = self.source.tensor(name)?;
        Ok(if name == self.name { Tensor::from_f32(t.shape, self.values) } else { t })
    }
}

fn loss(c: &Case, source: &dyn WeightSource) -> f64 {
    let results = ids().iter().flat_map(|ids| reference::run(&c.plan, source, ids).concat()).collect::<Vec<f64>>();
    results.iter().enumerate().map(|(i, r)| f64::from(factor(i)) * r).sum()
}

/// Left and right differences of the loss by element `i` of a weight.
fn differences(c: &Case, name: &str, i: usize) -> [f64; 2] {
    let mut values = allod_codec::to_f32(&c.source.tensor(name).unwrap()).unwrap();
    let middle = values[i];
    let mut at = |v: f32| {
        values[i] = v;
        loss(c, &Nudged { source: &c.source, name, values: &values })
    };
    let (low, high) = (middle - STEP, middle + STEP);
    let (a, b, e) = (at(low), at(middle), at(high));
    [(b - a) / f64::from(middle - low), (e - b) / f64::from(high - middle)]
}

#[test]
fn every_adjoint_is_the_derivative() {
    let (mut checked, mut kinks) = (0, 0);
    for c in cases() {
        for (name, found) in gradients(&c, 2) {
            let largest = found.iter().fold(0f32, |m, v| m.max(v.abs()));
            let top = found.iter().position(|v| v.abs() == largest).unwrap();
            let further = (0..4).map(|k| (k * 7919 + 13) % found.len());
            for i in std::iter::once(top).chain(further) {
                let [left, right] = differences(&c, &name, i);
                let scale = f64::from(largest).max(left.abs()).max(1e-3);
                if (left - right).abs() > 2e-2 * scale {
                    // A kink (a ReLU, a clamp, another choice of experts) lies between.
                    kinks += 1;
                    continue;
                }
                let off = (f64::from(found[i]) - 0.5 * (left + right)).abs() / scale;
                let (c, found, difference) = (&c.name, found[i], 0.5 * (left + right));
                assert!(off < TOLERANCE, "{c}: {name}[{i}]: found {found}, difference {difference} (of {largest})");
                checked += 1;
            }
        }
    }
    println!("{checked} derivatives checked, {kinks} beside a kink");
    assert!(checked > 800 && checked > 20 * kinks, "{checked} checked, {kinks} beside a kink");
}

#[test]
fn gradients_do_not_depend_on_threads() {
    for c in cases() {
        let one = gradients(&c, 1);
        for threads in [2, 3] {
            let same = one
                .iter()
                .zip(gradients(&c, threads))
                .all(|((_, a), (_, b))| a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()));
            assert!(same, "{}: other bytes on {threads} threads", c.name);
        }
    }
}
