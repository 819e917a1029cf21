//! One answer on its way.

use super::constraint::ConstraintError;
use super::draft::Drafter;
use super::guide::{Guide, Next};
use super::request::{Request, RequestId};
use crate::{Error, Finish, PageHash, PagePool, Sampler, Stats, Token};
use allod_plan::PAGE;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tokens, how many of them are computed, and what that takes. It waits while it has no slot.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: RequestId,
    pub(super) answer: u32,
    pub(super) request: Arc<Request>,
    pub(super) guide: Guide,
    /// Prompt and answer. What is behind `computed` still has to run; the logits of the last one choose the next.
    pub(super) tokens: Vec<u32>,
    pub(super) computed: usize,
    pub(super) table: Vec<u32>,
    /// Pages at the beginning of the table that no layer sees any more; their entries repeat the first live page.
    pub(super) dropped: usize,
    /// Where the names of its pages begin.
    pub(super) root: PageHash,
    /// Names of the complete pages of `tokens`.
    hashes: Vec<PageHash>,
    /// Pages of the table that are known under their names.
    pub(super) published: usize,
    pub(super) slot: Option<u32>,
    pub(super) sampler: Sampler,
    pub(super) drafter: Option<Drafter>,
    pub(super) prompt_logprobs: Vec<Token>,
    /// Of the continuation to be scored.
    pub(super) scored: Vec<Token>,
    /// Tokens that it began with: the prompt, and of a continuation all but the last.
    pub(super) given: usize,
    /// The receiver is behind: nothing runs for it, though it may keep its pages.
    pub(super) held: bool,
    /// Step in which it last ran.
    pub(super) served: u64,
    pub(super) submitted: Instant,
    pub(super) first_token: Option<Duration>,
    pub(super) cached: usize,
}

impl Sequence {
    pub(super) fn new(
        (id, answer): (RequestId, u32),
        request: Arc<Request>,
        root: PageHash,
        sampler: Sampler,
        guide: Guide,
        drafts: bool,
    ) -> Sequence {
        let mut tokens = request.ids.clone();
        if let Some([continuation @ .., _]) = request.continuation(answer) {
            tokens.extend(continuation);
        }
        Sequence {
            id,
            answer,
            given: tokens.len(),
            tokens,
            request,
            guide,
            computed: 0,
            table: Vec::new(),
            dropped: 0,
            root,
            hashes: Vec::new(),
            published: 0,
            slot: None,
            sampler,
            drafter: drafts.then(Drafter::new),
            prompt_logprobs: Vec::new(),
            scored: Vec::new(),
            held: false,
            served: 0,
            submitted: Instant::now(),
            first_token: None,
            cached: 0,
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Tokens of the prompt.
    pub(super) fn prompt(&self) -> usize {
        self.request.ids.len()
    }

    pub(super) fn generated(&self) -> usize {
        self.tokens.len() - self.given
    }

    /// True until something has come of it beyond the prompt.
    pub(super) fn is_fresh(&self) -> bool {
        self.generated() == 0 && self.scored.is_empty()
    }

    /// The first position whose row is still needed for itself, not only for what follows. (A row speaks about the
    /// next position.)
    pub(super) fn needed(&self) -> usize {
        let prompt = self.request.ids.len();
        let scores_prompt = self.answer == 0 && self.request.prompt_logprobs.is_some();
        if scores_prompt && self.prompt_logprobs.len() + 1 < prompt {
            self.prompt_logprobs.len()
        } else if self.request.continuation(self.answer).is_some() {
            prompt - 1 + self.scored.len()
        } else {
            self.tokens.len() - 1
        }
    }

    /// The name of page `index`, which must be complete.
    pub(super) fn hash(&mut self, index: usize) -> PageHash {
        while self.hashes.len() <= index {
            let first = self.hashes.len() * PAGE;
            let before = self.hashes.last().copied().unwrap_or(self.root);
            let mut page = [0; PAGE];
            page.copy_from_slice(&self.tokens[first..first + PAGE]);
            self.hashes.push(before.next(&page));
        }
        self.hashes[index]
    }

    /// Complete pages before what always has to run.
    pub(super) fn sharable(&self) -> usize {
        self.needed() / PAGE
    }

    /// Lets go the pages that nothing at or behind position `computed` sees.
    pub(super) fn drop_unseen(&mut self, horizon: usize, pool: &mut PagePool) {
        let unseen = ((self.computed + 1).saturating_sub(horizon) / PAGE).min(self.table.len().saturating_sub(1));
        if unseen > self.dropped {
            let live = self.table[unseen];
            self.table[self.dropped..unseen].iter().for_each(|&page| pool.release(page));
            self.table[..unseen].fill(live);
            self.dropped = unseen;
        }
    }

    /// Gives all pages back. What was computed has to be found or computed again.
    pub(super) fn let_go(&mut self, pool: &mut PagePool) {
        self.table.drain(..self.dropped);
        pool.shrink(&mut self.table, 0);
        (self.dropped, self.published, self.computed) = (0, 0, 0);
    }

    /// The token that follows, from the logits of the last.
    pub(super) fn next_token(&mut self, row: &[f32]) -> Result<Token, Error> {
        let next = self.guide.next(&self.request, &self.tokens[self.given..])?;
        let token = match next {
            Next::Free => self.sampler.choose(row, &self.tokens)?,
            Next::Among(allowed) => self.sampler.choose_among(row, &self.tokens, Some(allowed))?,
            Next::Forced(id) => self.sampler.given(row, id)?,
        };
        Ok(token)
    }

    /// Tells the guide about the last token. True when nothing can follow.
    pub(super) fn guided(&mut self) -> Result<bool, ConstraintError> {
        self.guide.accept(&self.request, &self.tokens[self.given..])
    }

    /// Keeps the pages it has but counts nothing as computed: they are written again.
    pub(super) fn forget(&mut self, pool: &mut PagePool) {
        let length = self.tokens.len();
        self.let_go(pool);
        // As many were held a moment ago.
        drop(pool.cover(&mut self.table, length));
    }

    /// Whether `id` ends the answer without being part of it.
    pub(super) fn ends(&self, id: u32) -> bool {
        self.request.end_ids().any(|end| end == id)
    }

    /// Tokens that may still be generated.
    pub(super) fn room(&self, context: usize) -> usize {
        let max = self.request.sampling.max_tokens.map_or(usize::MAX, |max| max as usize);
        (max.saturating_sub(self.generated())).min(context.saturating_sub(self.tokens.len()))
    }

    /// Why it cannot go on, if so.
    pub(super) fn full(&self, context: usize) -> Option<Finish> {
        let max = self.request.sampling.max_tokens.map_or(usize::MAX, |max| max as usize);
        if self.generated() >= max {
            return Some(Finish::Length);
        }
        (self.tokens.len() >= context).then_some(Finish::ContextFull)
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            prompt_tokens: self.request.ids.len(),
            cached_tokens: self.cached,
            generated_tokens: self.generated(),
            first_token: self.first_token.unwrap_or_default(),
            total: self.submitted.elapsed(),
        }
    }
}
