//! The tokens that may still come next, and the filters that thin them out.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

/// A token and its logit, finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) id: u32,
    pub(crate) logit: f32,
}

impl Candidate {
    /// Likelier first; among equals the lower id first. A strict order, so that unstable sorts have one result.
    fn order(&self, other: &Candidate) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// Candidates of which only as many are sorted as somebody asked for: vocabularies are long, nuclei short.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidates {
    items: Vec<Candidate>,
    /// The first `sorted` items are the likeliest ones, in order.
    sorted: usize,
}

impl Candidates {
    /// Starts over with a whole vocabulary.
    pub(crate) fn fill(&mut self, logits: &[f32]) {
        self.items.clear();
        self.items.extend((0..).zip(logits).map(|(id, &logit)| Candidate { id, logit }));
        self.sorted = 0;
    }

    /// Starts over with some tokens, in increasing order.
    pub(crate) fn fill_some(&mut self, logits: &[f32], ids: impl Iterator<Item = u32>) {
        self.items.clear();
        self.items.extend(ids.filter_map(|id| Some(Candidate { id, logit: *logits.get(id as usize)? })));
        self.sorted = 0;
    }

    pub(crate) fn items(&self) -> &[Candidate] {
        &self.items
    }

    /// Adds to logits; what falls to minus infinity is no candidate any more.
    pub(crate) fn bias(&mut self, bias: &BTreeMap<u32, f32>) {
        self.items.retain_mut(|c| {
            c.logit += bias.get(&c.id).copied().unwrap_or_default();
            c.logit > f32::NEG_INFINITY
        });
        self.sorted = 0;
    }

    /// Changes the logits of the tokens named in `changes`, usually few of a whole vocabulary.
    pub(crate) fn change_some<T>(&mut self, changes: &HashMap<u32, T>, change: impl Fn(f32, &T) -> f32) {
        let at_its_place = |items: &[Candidate], id: u32| items.get(id as usize).is_some_and(|c| c.id == id);
        if changes.keys().all(|&id| at_its_place(&self.items, id)) {
            for (&id, with) in changes {
                let c = &mut self.items[id as usize];
                c.logit = change(c.logit, with);
            }
        } else {
            for c in &mut self.items {
                c.logit = changes.get(&c.id).map_or(c.logit, |with| change(c.logit, with));
            }
        }
        self.sorted = 0;
    }

    /// The likeliest candidate.
    pub(crate) fn best(&self) -> Option<Candidate> {
        if self.sorted > 0 {
            return self.items.first().copied();
        }
        self.items.iter().copied().min_by(Candidate::order)
    }

    fn sort(&mut self, wanted: usize) {
        let wanted = wanted.min(self.items.len());
        if wanted <= self.sorted {
            return;
        }
        if wanted < self.items.len() {
            self.items.select_nth_unstable_by(wanted, Candidate::order);
        }
        self.items[..wanted].sort_unstable_by(Candidate::order);
        self.sorted = wanted;
    }

    fn truncate(&mut self, length: usize) {
        self.items.truncate(length.max(1));
        self.sorted = self.sorted.min(self.items.len());
    }

    fn at_least(&mut self, logit: f32) {
        self.items.retain(|c| c.logit >= logit);
        self.sorted = self.sorted.min(self.items.len());
    }

    /// Sum of exp(logit − the largest logit), and that largest logit.
    fn mass(&self) -> (f64, f64) {
        let top = self.best().map_or(0.0, |c| f64::from(c.logit));
        (self.items.iter().map(|c| libm::exp(f64::from(c.logit) - top)).sum(), top)
    }

    /// Logarithm of the sum of exp(logit).
    pub(crate) fn log_mass(&self) -> f64 {
        let (mass, top) = self.mass();
        top + libm::log(mass)
    }

    /// Probability of each candidate, in the order of [`Self::items`].
    pub(crate) fn probabilities(&self) -> Vec<f64> {
        let (mass, top) = self.mass();
        self.items.iter().map(|c| libm::exp(f64::from(c.logit) - top) / mass).collect()
    }

    /// Keeps the `k` likeliest.
    pub(crate) fn top_k(&mut self, k: usize) {
        self.sort(k);
        self.truncate(k);
    }

    /// Keeps the fewest likeliest tokens whose probabilities reach `p` (Holtzman et al. 2019).
    pub(crate) fn top_p(&mut self, p: f64) {
        let mut left = p;
        self.keep_while(|probability| {
            let more = left > 0.0;
            left -= probability;
            more
        });
    }

    /// Keeps the likeliest tokens as long as `keep` says so of their probabilities; at least one.
    pub(crate) fn keep_while(&mut self, mut keep: impl FnMut(f64) -> bool) {
        let (mass, top) = self.mass();
        for n in 0..self.items.len() {
            if n >= self.sorted {
                self.sort((4 * n).max(64));
            }
            if !keep(libm::exp(f64::from(self.items[n].logit) - top) / mass) {
                return self.truncate(n);
            }
        }
    }

    /// Keeps tokens at least `p` times as likely as the likeliest (Nguyen et al. 2024).
    pub(crate) fn min_p(&mut self, p: f64) {
        if let Some(best) = self.best() {
            self.at_least((f64::from(best.logit) + libm::log(p)) as f32);
        }
    }

    /// Keeps tokens whose logit lies within `n` standard deviations of the largest (Tang et al. 2024).
    pub(crate) fn top_n_sigma(&mut self, n: f64) {
        let Some(best) = self.best() else { return };
        let count = self.items.len() as f64;
        let mean = self.items.iter().map(|c| f64::from(c.logit)).sum::<f64>() / count;
        let square = |c: &Candidate| (f64::from(c.logit) - mean) * (f64::from(c.logit) - mean);
        let sigma = libm::sqrt(self.items.iter().map(square).sum::<f64>() / count);
        self.at_least((f64::from(best.logit) - n * sigma) as f32);
    }

    /// Keeps the tokens whose surprise is nearest to the entropy, until their probabilities reach `p`
    /// (Meister et al. 2022, locally typical sampling).
    pub(crate) fn typical(&mut self, p: f64) {
        let probabilities = self.probabilities();
        let entropy = entropy(&probabilities);
        let mut by_distance: Vec<(f64, f64, Candidate)> = self
            .items
            .iter()
            .zip(&probabilities)
            .filter(|&(_, &p)| p > 0.0)
            .map(|(&c, &p)| ((-libm::log(p) - entropy).abs(), p, c))
            .collect();
        by_distance.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.2.id.cmp(&b.2.id)));
        let mut left = p;
        self.items.clear();
        for (_, probability, candidate) in by_distance {
            self.items.push(candidate);
            left -= probability;
            if left <= 0.0 {
                break;
            }
        }
        self.sorted = 0;
    }

    /// Of the tokens at least `threshold` likely removes all but the least likely, if there are two or more
    /// ("exclude top choices").
    pub(crate) fn exclude_top_choices(&mut self, threshold: f64) {
        let (mass, top) = self.mass();
        let likely = |c: &Candidate| libm::exp(f64::from(c.logit) - top) / mass >= threshold;
        let count = self.items.iter().filter(|c| likely(c)).count();
        if count >= 2 {
            self.sort(count);
            self.items.drain(..count - 1);
            self.sorted = 1;
        }
    }

    /// Divides the logits by a temperature above 0. They are shifted first, so that no quotient overflows upwards.
    pub(crate) fn scale(&mut self, temperature: f64) {
        let Some(best) = self.best() else { return };
        for c in &mut self.items {
            c.logit = ((f64::from(c.logit) - f64::from(best.logit)) / temperature) as f32;
        }
    }
}

/// Entropy in nats.
pub(crate) fn entropy(probabilities: &[f64]) -> f64 {
    probabilities.iter().filter(|&&p| p > 0.0).map(|&p| -p * libm::log(p)).sum()
}
