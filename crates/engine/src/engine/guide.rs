//! Which tokens may come next, apart from what the model says: constraint, thinking, end tokens that come too early.

use super::constraint::{Constraint, ConstraintError, TokenMask};
use super::request::{Request, Thinking};
use std::sync::Arc;

/// What may come next.
#[derive(Debug, PartialEq)]
pub(super) enum Next<'a> {
    /// Anything.
    Free,
    /// One of these.
    Among(&'a TokenMask),
    /// This.
    Forced(u32),
}

/// Where an answer stands between its thinking and its constraint.
#[derive(Debug)]
pub(super) struct Guide {
    constraint: Option<Box<dyn Constraint>>,
    phase: Phase,
    mask: TokenMask,
    /// Length of the answer for which the mask is that of the constraint already.
    masked: Option<usize>,
}

/// A guide on loan while its sequence runs.
#[derive(Debug)]
pub(super) struct LentGuide {
    pub(super) key: u64,
    pub(super) guide: Guide,
    pub(super) request: Arc<Request>,
    pub(super) answer: Vec<u32>,
}

impl LentGuide {
    /// Works out what may follow. What goes wrong shows when the token is chosen.
    pub(super) fn prepare(&mut self) {
        drop(self.guide.next(&self.request, &self.answer));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first token decides whether it thinks.
    Before,
    /// It thinks since the answer's token with this index.
    Thinking(usize),
    /// What comes now is the answer proper.
    Answer,
}

impl Guide {
    pub(super) fn new(request: &Request, vocabulary: usize) -> Result<Guide, ConstraintError> {
        let constraint = request.constraint.as_ref().map(|grammar| grammar.start()).transpose()?;
        let phase = match &request.thinking {
            None => Phase::Answer,
            Some(Thinking { start: Some(_), .. }) => Phase::Before,
            Some(_) => Phase::Thinking(0),
        };
        Ok(Guide { constraint, phase, mask: TokenMask::none(vocabulary), masked: None })
    }

    /// One that guides nobody.
    pub(super) fn idle() -> Guide {
        Guide { constraint: None, phase: Phase::Answer, mask: TokenMask::default(), masked: None }
    }

    pub(super) fn is_constrained(&self) -> bool {
        self.constraint.is_some()
    }

    /// What may follow `answer`.
    pub(super) fn next(&mut self, request: &Request, answer: &[u32]) -> Result<Next<'_>, ConstraintError> {
        if let (Phase::Thinking(from), Some(thinking)) = (self.phase, &request.thinking)
            && thinking.budget.is_some_and(|budget| answer.len() - from >= budget as usize)
        {
            return Ok(Next::Forced(thinking.end[matched(&answer[from..], &thinking.end)]));
        }
        if self.masked == Some(answer.len()) {
            return Ok(Next::Among(&self.mask));
        }
        let early = answer.len() < request.sampling.min_tokens as usize;
        let allowed = &request.sampling.allowed_token_ids;
        if self.constraint.is_none() && !early && allowed.is_empty() {
            return Ok(Next::Free);
        }
        let mut may_end = !early;
        match &mut self.constraint {
            Some(constraint) if !matches!(self.phase, Phase::Thinking(_)) => {
                self.mask.fill(false);
                let mask = &mut self.mask;
                may_end &= alone(|| constraint.mask(mask).map(|()| constraint.may_end()))?;
                request.end_ids().for_each(|id| self.mask.set(id, may_end));
            }
            constraint => {
                // Whoever must keep to something may not stop before.
                may_end &= constraint.is_none();
                self.mask.fill(true);
            }
        }
        if !allowed.is_empty() {
            self.mask.intersect(allowed);
        }
        if !may_end {
            request.end_ids().for_each(|id| self.mask.set(id, false));
        }
        if let (Phase::Before, Some(start)) = (self.phase, request.thinking.as_ref().and_then(|t| t.start)) {
            self.mask.set(start, true);
        }
        self.masked = Some(answer.len());
        Ok(Next::Among(&self.mask))
    }

    /// Takes in the last token of `answer`, which is not an end. True when nothing can follow.
    pub(super) fn accept(&mut self, request: &Request, answer: &[u32]) -> Result<bool, ConstraintError> {
        let Some(&id) = answer.last() else { return Ok(false) };
        let thinking = request.thinking.as_ref();
        match self.phase {
            Phase::Before if thinking.is_some_and(|t| t.start == Some(id)) => self.phase = Phase::Thinking(1),
            Phase::Thinking(from) => {
                if thinking.is_some_and(|t| answer[from..].ends_with(&t.end)) {
                    self.phase = Phase::Answer;
                }
            }
            Phase::Before | Phase::Answer => {
                self.phase = Phase::Answer;
                if let Some(constraint) = &mut self.constraint {
                    return alone(|| constraint.accept(id).map(|()| constraint.is_complete()));
                }
            }
        }
        Ok(false)
    }
}

impl Guide {
    /// The state again, for trying out a draft.
    pub(super) fn fork(&self) -> Guide {
        let constraint = self.constraint.as_ref().map(|constraint| constraint.fork());
        Guide { constraint, phase: self.phase, mask: self.mask.clone(), masked: None }
    }

    /// Tokens that are likely to follow because the constraint leaves no choice.
    pub(super) fn likely(&mut self) -> Vec<u32> {
        match (&mut self.constraint, self.phase) {
            (Some(constraint), Phase::Answer) => alone(|| Ok(constraint.likely())).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// Cuts a draft where the constraint would not let it go on.
    pub(super) fn trim(&self, draft: &mut Vec<u32>) {
        let Some(constraint) = self.constraint.as_ref().filter(|_| self.phase == Phase::Answer && !draft.is_empty())
        else {
            return;
        };
        let kept = alone(|| {
            let mut tried = constraint.fork();
            Ok(draft.iter().take_while(|&&id| !tried.is_complete() && tried.accept(id).is_ok()).count())
        });
        draft.truncate(kept.unwrap_or(0));
    }
}

/// What a constraint says; a fault in it is an error of its own answer.
fn alone<T>(what: impl FnOnce() -> Result<T, ConstraintError>) -> Result<T, ConstraintError> {
    let fault = |_| Err(ConstraintError("it panicked".into()));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(what)).unwrap_or_else(fault)
}

/// How many tokens of `end` stand at the end of `answer`, fewer than all.
fn matched(answer: &[u32], end: &[u32]) -> usize {
    (0..end.len()).rev().find(|&count| answer.ends_with(&end[..count])).unwrap_or(0)
}
