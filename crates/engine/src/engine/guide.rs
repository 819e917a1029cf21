//! Which tokens may come next, apart from what the model says: constraint, thinking, end tokens that come too early.

use super::constraint::{Constraint, ConstraintError, TokenMask};
use super::request::{Request, Thinking};

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
        Ok(Guide { constraint, phase, mask: TokenMask::none(vocabulary) })
    }

    /// What may follow `answer`.
    pub(super) fn next(&mut self, request: &Request, answer: &[u32]) -> Result<Next<'_>, ConstraintError> {
        if let (Phase::Thinking(from), Some(thinking)) = (self.phase, &request.thinking)
            && thinking.budget.is_some_and(|budget| answer.len() - from >= budget as usize)
        {
            return Ok(Next::Forced(thinking.end[matched(&answer[from..], &thinking.end)]));
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
                constraint.mask(&mut self.mask)?;
                may_end &= constraint.may_end();
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
                    constraint.accept(id)?;
                    return Ok(constraint.is_complete());
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
        Guide { constraint, phase: self.phase, mask: self.mask.clone() }
    }

    /// Tokens that are likely to follow because the constraint leaves no choice.
    pub(super) fn likely(&mut self) -> Vec<u32> {
        match (&mut self.constraint, self.phase) {
            (Some(constraint), Phase::Answer) => constraint.likely(),
            _ => Vec::new(),
        }
    }

    /// Cuts a draft where the constraint would not let it go on.
    pub(super) fn trim(&self, draft: &mut Vec<u32>) {
        let Some(constraint) = self.constraint.as_ref().filter(|_| self.phase == Phase::Answer && !draft.is_empty())
        else {
            return;
        };
        let mut tried = constraint.fork();
        let kept = draft.iter().take_while(|&&id| !tried.is_complete() && tried.accept(id).is_ok()).count();
        draft.truncate(kept);
    }
}

/// How many tokens of `end` stand at the end of `answer`, fewer than all.
fn matched(answer: &[u32], end: &[u32]) -> usize {
    (0..end.len()).rev().find(|&count| answer.ends_with(&end[..count])).unwrap_or(0)
}
