//! How a text is cut into windows, and which of their predictions count.

use crate::{Error, Scorer};
use allod_kernels::pool::Pool;
use std::{
    ops::{ControlFlow, Range},
    time::{Duration, Instant},
};

/// Windows of one length over a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens of a window.
    pub context: usize,
    /// From one window's start to the next one's.
    pub step: usize,
    /// First position of a window whose prediction of the next token counts; all after it do.
    pub first: usize,
    /// Number of windows.
    pub count: usize,
    /// What stands in place of each window's first token, for models that want to see it there.
    pub bos: Option<u32>,
}

impl Windows {
    /// Windows side by side, all of whose tokens count: for looking at what a text does in a model.
    ///
    /// # Errors
    /// [`Error::TooShort`] for texts of less than one window.
    pub fn whole(context: usize, tokens: usize, bos: Option<u32>) -> Result<Windows, Error> {
        enough(context, tokens, context)?;
        Ok(Windows { context, step: context, first: 0, count: tokens / context, bos })
    }

    /// llama.cpp's definition of perplexity: windows side by side, of which the second half counts, so that every counted token has
    /// half a window before it.
    ///
    /// # Errors
    /// [`Error::TooShort`] for texts of less than two windows.
    pub fn halves(context: usize, tokens: usize, bos: Option<u32>) -> Result<Windows, Error> {
        enough(context, tokens, 2 * context)?;
        Ok(Windows { context, step: context, first: context / 2, count: tokens / context, bos })
    }

    /// llama.cpp's strided definition: windows of `context + stride / 2` tokens that move on by `stride`, of which the
    /// last `stride` tokens count. (BOS stands only where the text has it.)
    ///
    /// # Errors
    /// [`Error::TooShort`], [`Error::Stride`].
    pub fn strided(context: usize, stride: usize, tokens: usize) -> Result<Windows, Error> {
        if stride == 0 || stride >= context {
            return Err(Error::Stride { stride, context });
        }
        let context = context + stride / 2;
        enough(context, tokens, 2 * context)?;
        let count = (tokens - context).div_ceil(stride);
        Ok(Windows { context, step: stride, first: context - stride - 1, count, bos: None })
    }

    /// The same, but at most `count` windows.
    #[must_use]
    pub fn at_most(mut self, count: Option<usize>) -> Windows {
        self.count = self.count.min(count.unwrap_or(usize::MAX));
        self
    }

    /// Predictions that count in each window.
    pub fn counted(&self) -> usize {
        self.context - 1 - self.first
    }

    /// Where window `i` lies in the text.
    pub(crate) fn range(&self, i: usize) -> Range<usize> {
        i * self.step..i * self.step + self.context
    }

    /// Runs window `i`. `each` gets logits and the tokens that in fact came next, one for each row.
    pub(crate) fn run(
        &self,
        i: usize,
        scorer: &mut Scorer<'_>,
        tokens: &[u32],
        mut each: impl FnMut(&Pool, &[f32], &[u32], usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let window = &tokens[self.range(i)];
        let width = scorer.vocabulary();
        if let Some(at) = window.iter().position(|&id| id as usize >= width) {
            let (id, position) = (window[at], self.range(i).start + at);
            return Err(allod_engine::Error::UnknownToken { id, position, vocabulary: width }.into());
        }
        scorer.run(&self.ids(i, tokens), self.first..self.context - 1, |pool, at, logits| {
            let next = &window[at + 1..at + 1 + logits.len() / width];
            each(pool, logits, next, at - self.first)
        })
    }

    /// Runs windows `from..` for what the backend's observers see of them; where `output` is set, the output matrix
    /// takes part. `progress` is called after each.
    ///
    /// # Errors
    /// [`Error`].
    pub fn each(
        &self,
        mut scorer: Scorer<'_>,
        tokens: &[u32],
        from: usize,
        output: bool,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let wanted = if output { 0..self.context } else { self.context..self.context };
        self.for_each(from, progress, |i| {
            scorer.run(&self.ids(i, tokens), wanted.clone(), |_, _, _| Ok(()))?;
            Ok(0.0)
        })
    }

    /// The tokens of window `i` as the model sees them.
    fn ids(&self, i: usize, tokens: &[u32]) -> Vec<u32> {
        let mut ids = tokens[self.range(i)].to_vec();
        if let Some(bos) = self.bos {
            ids[0] = bos;
        }
        ids
    }

    /// Calls `one` for each window from `from` on, and `progress` after it with what `one` says of the state of things.
    pub(crate) fn for_each(
        &self,
        from: usize,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
        mut one: impl FnMut(usize) -> Result<f64, Error>,
    ) -> Result<(), Error> {
        let start = Instant::now();
        for i in from..self.count {
            let value = one(i)?;
            let left = start.elapsed().div_f64((i + 1 - from) as f64).mul_f64((self.count - i - 1) as f64);
            if progress(Progress { done: i + 1, count: self.count, value, left }).is_break() {
                return Err(Error::Stopped);
            }
        }
        Ok(())
    }
}

fn enough(context: usize, found: usize, needed: usize) -> Result<(), Error> {
    if context < 4 || found < needed {
        return Err(Error::TooShort { found, context, needed: needed.max(8) });
    }
    Ok(())
}

/// How far the work is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Windows done.
    pub done: usize,
    /// Number of windows.
    pub count: usize,
    /// The result so far: perplexity, or mean divergence.
    pub value: f64,
    /// Time that the rest will take at the pace so far.
    pub left: Duration,
}
