//! How many tokens a request took.

use serde::Serialize;
use utoipa::ToSchema;

use crate::engine;

/// How many tokens a request took.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of all prompts.
    prompt_tokens: usize,
    /// Tokens generated, also for choices that are not returned.
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
}

/// What is known of the prompts' tokens.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
struct PromptDetails {
    /// Those that were computed for an earlier request.
    cached_tokens: usize,
}

impl Usage {
    /// A prompt that was read.
    pub fn add_prompt(&mut self, tokens: usize) {
        self.prompt_tokens += tokens;
        self.total_tokens += tokens;
    }

    /// What the engine found of a prompt in its cache.
    pub fn add_cached(&mut self, usage: &engine::Usage) {
        self.prompt_tokens_details.cached_tokens += usage.cached_tokens;
    }

    /// A choice that was generated.
    pub fn add_choice(&mut self, usage: &engine::Usage) {
        self.completion_tokens += usage.completion_tokens;
        self.total_tokens += usage.completion_tokens;
    }
}
