//! Which examples make up which step. The order follows from the seed alone, so that a run can begin at any step.

use super::Config;
use crate::{
    data::{Item, Store, pack},
    objective::Objective,
};

/// Examples grouped for computing, and the order in which groups come.
#[derive(Debug)]
pub struct Order {
    /// Numbers of items that are computed together: one each, or a bin each when packed.
    groups: Vec<Vec<u32>>,
    batch: usize,
    accumulate: usize,
    shuffle: bool,
    seed: u64,
    /// Steps of the run.
    pub steps: usize,
}

impl Order {
    /// The order of `items` under these settings.
    pub fn new(config: &Config, store: &Store, items: &[Item]) -> Order {
        let run = &config.run;
        let groups: Vec<Vec<u32>> = if run.packing && matches!(config.objective, Objective::Sft(_)) {
            let length = |item: &Item| item.sequences().map(|s| store.get(s).len()).sum();
            let lengths: Vec<usize> = items.iter().map(length).collect();
            let bins = pack::best_fit(&lengths, config.data.max_length);
            bins.into_iter().map(|b| b.into_iter().map(|i| i as u32).collect()).collect()
        } else {
            (0..items.len() as u32).map(|i| vec![i]).collect()
        };
        let mut order = Order {
            groups,
            batch: run.batch,
            accumulate: run.accumulate,
            shuffle: config.shuffles(),
            seed: run.seed,
            steps: 0,
        };
        order.steps =
            run.steps.unwrap_or_else(|| (order.steps_per_epoch() as f64 * run.epochs).ceil().max(1.0) as usize);
        order
    }

    /// Steps in one pass over the data.
    pub fn steps_per_epoch(&self) -> usize {
        self.groups.len().div_ceil(self.batch * self.accumulate).max(1)
    }

    /// The micro-batches of a step, from 0.
    pub fn step(&self, step: usize) -> Vec<Vec<u32>> {
        let (epoch, at) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let order = self.epoch(epoch);
        let size = self.batch * self.accumulate;
        let groups = &order[at * size..((at + 1) * size).min(order.len())];
        let micro = |groups: &[u32]| groups.iter().flat_map(|&g| self.groups[g as usize].iter().copied()).collect();
        groups.chunks(self.batch).map(micro).collect()
    }

    /// The order of groups in a pass.
    fn epoch(&self, epoch: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.groups.len() as u32).collect();
        if self.shuffle {
            let mut random = Random::new(self.seed, epoch as u64);
            for i in (1..order.len()).rev() {
                order.swap(i, random.below(i as u64 + 1) as usize);
            }
        }
        order
    }
}

/// SplitMix64 (Steele et al. 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64, stream: u64) -> Random {
        let mut r = Random(seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Random(r.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`, each equally likely to within n / 2⁶⁴.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}
