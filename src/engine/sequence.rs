//! One request's state: its tokens, its sampler, its text.

use super::event::{Event, FinishReason, Finished, Token, Usage};
use super::params::SamplingParams;
use super::sampling::Sampler;
use super::scheduler::{PREFILL_CHUNK, Step, next_step};
use super::stream::{Pushed, TextStream};
use crate::model::Lease;
use crate::tokenizer::Tokenizer;

/// What a sequence needs to know of the model.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Context length in tokens.
    pub n_positions: usize,
    /// Logit columns that may be sampled: rows of `wte` with a token.
    pub sampled: usize,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Sequence {
    /// Prompt and output.
    tokens: Vec<u32>,
    prompt_len: usize,
    /// Most tokens that are to be generated.
    budget: usize,
    min_tokens: usize,
    eos: Vec<u32>,
    ignore_eos: bool,
    sampler: Sampler,
    text: TextStream,
    /// Its keys and values in the cache.
    pub lease: Lease,
}

impl Sequence {
    /// A sequence for a checked prompt: not empty, with room in the context.
    pub fn new(
        prompt: Vec<u32>,
        params: SamplingParams,
        tokenizer: Option<&Tokenizer>,
        limits: &Limits,
        lease: Lease,
    ) -> Self {
        let room = limits.n_positions - prompt.len();
        Self {
            prompt_len: prompt.len(),
            budget: params.max_tokens.min(room),
            min_tokens: params.min_tokens,
            eos: limits.eos.clone(),
            ignore_eos: params.ignore_eos,
            text: TextStream::new(tokenizer.map(Tokenizer::incremental), params.stop.clone()),
            sampler: Sampler::new(params, &prompt).limited_to(limits.sampled),
            tokens: prompt,
            lease,
        }
    }

    /// What is to be computed next.
    pub fn next_step(&self) -> Option<Step> {
        next_step(self.tokens.len(), self.lease.len(), PREFILL_CHUNK)
    }

    /// The tokens of a step.
    pub fn tokens(&self, step: &Step) -> &[u32] {
        &self.tokens[step.tokens.clone()]
    }

    /// Chooses the next token from its logits and tells what happened.
    pub fn advance(&mut self, logits: &mut [f32]) -> (Token, Option<Finished>) {
        let held_back: &[u32] = if self.ignore_eos { &[] } else { &self.eos };
        let chosen = self.sampler.choose(logits, held_back);
        self.tokens.push(chosen.id);
        let index = self.sampler.generated() - 1;
        let (text, reason) = self.text_of(chosen.id);
        let token = Token {
            index,
            token_id: chosen.id,
            text,
            logprob: chosen.logprob,
        };
        (token, reason.map(|reason| self.finished(reason)))
    }

    /// The text that a token makes certain, and whether it is the last.
    fn text_of(&mut self, id: u32) -> (String, Option<FinishReason>) {
        let generated = self.sampler.generated();
        let stops_count = generated >= self.min_tokens;
        let stop = Some(FinishReason::Stop);
        if !self.ignore_eos && self.eos.contains(&id) {
            return match self.text.finish(stops_count) {
                Pushed::Text(text) | Pushed::Stopped(text) => (text, stop),
            };
        }
        let mut certain = match self.text.push(id, stops_count) {
            Pushed::Text(text) => text,
            Pushed::Stopped(text) => return (text, stop),
        };
        if generated < self.budget {
            return (certain, None);
        }
        match self.text.finish(stops_count) {
            Pushed::Text(text) => {
                certain += &text;
                (certain, Some(FinishReason::Length))
            }
            Pushed::Stopped(text) => {
                certain += &text;
                (certain, stop)
            }
        }
    }

    fn finished(&self, finish_reason: FinishReason) -> Finished {
        let completion_tokens = self.sampler.generated();
        let usage = Usage {
            prompt_tokens: self.prompt_len,
            completion_tokens,
            total_tokens: self.prompt_len + completion_tokens,
        };
        Finished {
            finish_reason,
            usage,
        }
    }
}

impl From<Finished> for Event {
    fn from(finished: Finished) -> Self {
        Self::Finished(finished)
    }
}
