//! A model small enough to see through: the log-probability of a token depends on the one before it only.

use allod_plan::{Pass, Role, RowLimits, Scores, StepError, TrainBatch, Trainable, TrainedTensor};

/// `log softmax(table[previous])`, and the table's gradient.
pub(crate) struct Bigram {
    tensors: Vec<TrainedTensor>,
    vocabulary: usize,
    values: Vec<f32>,
    correct: Vec<bool>,
    entropies: Vec<f32>,
    collisions: Vec<f32>,
    rows: Vec<(usize, usize, Vec<f32>)>,
    /// After so many training passes, what comes out is no number.
    pub(crate) breaks_after: Option<usize>,
    passes: usize,
    /// What it was made for.
    pub(crate) most: RowLimits,
}

impl Bigram {
    pub(crate) fn new(vocabulary: usize) -> Bigram {
        let n = vocabulary * vocabulary;
        let data = (0..n).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 5000.0 - 0.1).collect();
        let tensor = TrainedTensor {
            name: "table.weight".into(),
            role: Role::Matrix,
            shape: vec![vocabulary, vocabulary],
            data,
            gradient: vec![0.0; n],
        };
        Bigram {
            tensors: vec![tensor],
            vocabulary,
            values: vec![],
            correct: vec![],
            entropies: vec![],
            collisions: vec![],
            rows: vec![],
            breaks_after: None,
            passes: 0,
            most: RowLimits { tokens: 1 << 20, outputs: 1 << 20, sequences: 1 << 10 },
        }
    }
}

impl Trainable for Bigram {
    fn limits(&self) -> RowLimits {
        self.most
    }

    fn forward(&mut self, batch: &TrainBatch<'_>, pass: Pass) -> Result<Scores<'_>, StepError> {
        self.values.clear();
        self.rows.clear();
        self.correct.clear();
        self.entropies.clear();
        self.collisions.clear();
        assert!(batch.tokens.len() <= self.most.tokens && batch.sequences.len() <= self.most.sequences);
        assert!(batch.targets.iter().flatten().count() <= self.most.outputs);
        assert_eq!(batch.sequences.iter().map(|s| s.len()).sum::<usize>(), batch.tokens.len());
        for (token, target) in batch.tokens.iter().zip(batch.targets) {
            let Some(target) = target else { continue };
            let (token, target) = (*token as usize, *target as usize);
            let row = &self.tensors[0].data[token * self.vocabulary..][..self.vocabulary];
            let most = row.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
            let sum: f32 = row.iter().map(|v| (v - most).exp()).sum();
            let probabilities: Vec<f32> = row.iter().map(|v| (v - most).exp() / sum).collect();
            let broken = pass == Pass::Train && self.breaks_after.is_some_and(|n| self.passes >= n);
            self.values.push(if broken { f32::NAN } else { probabilities[target].ln() });
            self.correct.push(probabilities.iter().all(|p| *p <= probabilities[target]));
            self.collisions.push(probabilities.iter().map(|p| p * p).sum::<f32>().ln());
            self.entropies.push(probabilities.iter().map(|p| -p * p.ln()).sum());
            self.rows.push((token, target, probabilities));
        }
        self.passes += usize::from(pass == Pass::Train);
        Ok(Scores {
            values: &self.values,
            correct: &self.correct,
            entropies: &self.entropies,
            collisions: &self.collisions,
        })
    }

    fn backward(&mut self, d_values: &[f32]) -> Result<(), StepError> {
        assert_eq!(d_values.len(), self.rows.len());
        for ((token, target, probabilities), d) in self.rows.iter().zip(d_values) {
            let row = &mut self.tensors[0].gradient[token * self.vocabulary..][..self.vocabulary];
            row.iter_mut().zip(probabilities).for_each(|(g, p)| *g -= d * p);
            row[*target] += d;
        }
        Ok(())
    }

    fn tensors(&self) -> &[TrainedTensor] {
        &self.tensors
    }

    fn tensors_mut(&mut self) -> &mut [TrainedTensor] {
        &mut self.tensors
    }
}
