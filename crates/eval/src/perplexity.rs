//! Perplexity: `e` to the power of the mean negative log-likelihood of the tokens of a text.

use crate::{
    Error, Estimate, LogitsWriter, Progress, Scorer, Windows,
    rows::{Softmax, each_row},
};
use serde::Serialize;
use std::ops::ControlFlow;

/// How well a model predicts a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Perplexity {
    /// `e^nll`.
    pub perplexity: Estimate,
    /// Mean negative log-likelihood of a token, in nats.
    pub nll: Estimate,
    /// Tokens that were counted.
    pub tokens: usize,
    /// Windows that were run.
    pub windows: usize,
}

/// The perplexity of a text; with `save`, every prediction that counts is saved as well.
///
/// # Errors
/// [`Error`].
pub fn perplexity(
    scorer: &mut Scorer<'_>,
    tokens: &[u32],
    windows: &Windows,
    mut save: Option<&mut LogitsWriter>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Perplexity, Error> {
    let width = scorer.vocabulary();
    let (mut all, mut sum) = (Vec::new(), 0.0);
    windows.for_each(0, progress, |i| {
        windows.run(i, scorer, tokens, |pool, logits, next, at| {
            let saving = save.is_some();
            let found = each_row(pool, next.len(), |r| {
                let row = &logits[r * width..(r + 1) * width];
                let softmax = Softmax::of(row, windows.range(i).start + windows.first + at + r)?;
                let record = saving.then(|| crate::logits_file::record(row, &softmax));
                Ok::<_, Error>((softmax.nll(row[next[r] as usize]), record))
            });
            for row in found {
                let (nll, record) = row?;
                if let (Some(save), Some(record)) = (save.as_deref_mut(), record) {
                    save.append(&record)?;
                }
                sum += nll;
                all.push(nll);
            }
            Ok(())
        })?;
        Ok(libm::exp(sum / all.len().max(1) as f64))
    })?;
    let nll = Estimate::mean(all.iter().copied());
    Ok(Perplexity { perplexity: nll.exp(), nll, tokens: all.len(), windows: windows.count })
}

/// As [`perplexity`], saving a reference for [`crate::kl()`] at `path`, which appears complete or not at all.
///
/// # Errors
/// [`Error`]; nothing is left behind then.
pub fn save_logits(
    scorer: &mut Scorer<'_>,
    tokens: &[u32],
    windows: &Windows,
    path: &std::path::Path,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Perplexity, Error> {
    let mut writer = LogitsWriter::create(path, windows, scorer.vocabulary(), tokens)?;
    let found = perplexity(scorer, tokens, windows, Some(&mut writer), progress)?;
    writer.finish()?;
    Ok(found)
}
