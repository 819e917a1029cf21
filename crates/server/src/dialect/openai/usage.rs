//! Tokens used, as OpenAI reports them.

use allod_engine::Stats;
use serde::Serialize;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    pub(crate) total_tokens: usize,
    pub(crate) prompt_tokens_details: PromptDetails,
    pub(crate) completion_tokens_details: CompletionDetails,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct PromptDetails {
    /// Tokens that were computed already.
    pub(crate) cached_tokens: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(crate) struct CompletionDetails {
    pub(crate) reasoning_tokens: usize,
}

impl Usage {
    /// Adds an answer; its prompt counts with the answer that `leads`.
    pub(crate) fn add(&mut self, leads: bool, stats: &Stats) {
        if leads {
            self.prompt_tokens += stats.prompt_tokens;
            self.prompt_tokens_details.cached_tokens += stats.cached_tokens;
        }
        self.completion_tokens += stats.generated_tokens;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }
}
