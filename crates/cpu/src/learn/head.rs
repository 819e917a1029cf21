//! What a pass ends with: log-probabilities of targets, or one value for each sequence.

use super::{Learner, linear::apart};
use allod_kernels::{elementwise, gradient};
use allod_plan::{End, LinearPart, StepError};

impl Learner {
    /// Scores the hidden states of the forward pass.
    pub(super) fn score(&mut self) -> Result<(), StepError> {
        let program = std::sync::Arc::clone(&self.program);
        let mut results = std::mem::take(&mut self.results);
        let training = self.batch.training;
        let done = self.at_desk(|l, arena, desk| {
            match &program.end {
                End::LogProbs { hidden, d_hidden, part, scale, softcap } => {
                    results.scores.clear();
                    results.scores.resize(l.batch.targets.len(), gradient::Score::default());
                    let head = l.head(part, *scale, *softcap)?;
                    let (direction, rest) = apart(arena, &l.range(*d_hidden));
                    let (hidden, targets) = (rest.get(&l.range(*hidden)), &l.batch.targets);
                    let direction = training.then_some(direction);
                    gradient::log_probs(desk.pool, desk.isa, &head, hidden, targets, direction, &mut results.scores);
                    results.values = results.scores.iter().map(|s| s.log_prob).collect();
                    results.correct = results.scores.iter().zip(targets).map(|(s, t)| s.best == *t).collect();
                    results.entropies = results.scores.iter().map(|s| s.entropy).collect();
                    results.collisions = results.scores.iter().map(|s| s.collision).collect();
                }
                End::Hidden { hidden, .. } => {
                    let Some(w) = l.value_head.map(|i| &l.tensors[i].data) else { return Ok(()) };
                    let rows = arena[l.range(*hidden)].chunks_exact(w.len());
                    results.values = rows.map(|h| h.iter().zip(w).map(|(h, w)| h * w).sum()).collect();
                }
            }
            Ok(())
        });
        self.results = results;
        done
    }

    fn head(&self, part: &LinearPart, scale: f32, softcap: Option<f32>) -> Result<gradient::Head<'_>, StepError> {
        let p = self.projection(part, 0)?;
        Ok(gradient::Head { w: p.w, bias: p.bias, scale, softcap })
    }

    /// From derivatives by the results to those by hidden states, and by the head's own weights.
    pub(super) fn end_adjoint(&mut self, d_values: &[f32]) -> Result<(), StepError> {
        let program = std::sync::Arc::clone(&self.program);
        match &program.end {
            End::LogProbs { hidden, d_hidden, part, scale, softcap } => {
                let width = self.width(*hidden);
                let range = self.range(*d_hidden);
                elementwise::scale_rows(self.cpu.isa, &mut self.cpu.arena[range], d_values, width);
                let mut grads = self.take_gradients(part);
                if grads[0].is_some() || grads[1].is_some() {
                    let hidden = self.range(*hidden);
                    self.at_desk(|l, arena, desk| {
                        let head = l.head(part, *scale, *softcap)?;
                        let [dw, db, ..] = &mut grads;
                        let (hidden, targets, scores) = (&arena[hidden], &l.batch.targets, &l.results.scores);
                        gradient::log_probs_weight(
                            desk.pool,
                            desk.isa,
                            &head,
                            hidden,
                            targets,
                            scores,
                            d_values,
                            dw.as_deref_mut(),
                            db.as_deref_mut(),
                        );
                        Ok::<_, StepError>(())
                    })?;
                }
                self.put_gradients(part, grads);
            }
            End::Hidden { hidden, d_hidden } => {
                let Some(i) = self.value_head else { return Ok(()) };
                let (hidden, d) = (self.range(*hidden), self.range(*d_hidden));
                let (d, rest) = apart(&mut self.cpu.arena, &d);
                let t = &mut self.tensors[i];
                let rows = d.chunks_exact_mut(t.data.len()).zip(rest.get(&hidden).chunks_exact(t.data.len()));
                for ((d, h), dv) in rows.zip(d_values) {
                    d.iter_mut().zip(&t.data).for_each(|(d, w)| *d = dv * w);
                    t.gradient.iter_mut().zip(h).for_each(|(g, h)| *g += dv * h);
                }
            }
        }
        Ok(())
    }
}
