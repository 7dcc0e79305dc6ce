//! One request's state: its tokens, its sampler, its text.

use super::event::{Event, FinishReason, Finished, Token, Usage};
use super::params::SamplingParams;
use super::sampling::Sampler;
use super::speculation::{Drafter, Speculation};
use super::stream::{Pushed, TextStream};
use crate::model::{Row, Wish};
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

/// What all sequences of an engine share.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Absent where the checkpoint has none.
    pub tokenizer: Option<&'a Tokenizer>,
    /// The model's limits.
    pub limits: &'a Limits,
    /// Whether tokens are guessed ahead.
    pub speculation: Speculation,
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
    /// The tokens that end it.
    ends: Vec<u32>,
    sampler: Sampler,
    text: TextStream,
    /// Absent where nothing is guessed ahead.
    drafter: Option<Drafter>,
    /// The guesses that the next forward pass checks.
    draft: Vec<u32>,
    /// Tokens of the prompt that were in the cache already.
    cached: usize,
    over: bool,
}

impl Sequence {
    /// A sequence for a checked prompt: not empty, with room in the context.
    pub fn new(prompt: Vec<u32>, params: SamplingParams, context: &Context<'_>) -> Self {
        let Context {
            tokenizer, limits, ..
        } = context;
        let room = limits.n_positions - prompt.len();
        Self {
            prompt_len: prompt.len(),
            budget: params.max_tokens.min(room),
            min_tokens: params.min_tokens,
            ends: match params.ignore_eos {
                true => params.stop_token_ids.clone(),
                false => [&*limits.eos, &params.stop_token_ids].concat(),
            },
            text: TextStream::new(tokenizer.map(Tokenizer::incremental), params.stop.clone()),
            sampler: Sampler::new(params, &prompt).limited_to(limits.sampled),
            drafter: match context.speculation {
                Speculation::PromptLookup => Some(Drafter::default()),
                Speculation::Off => None,
            },
            draft: Vec::new(),
            cached: 0,
            over: false,
            tokens: prompt,
        }
    }

    /// Prompt and output.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Notes that this many tokens were in the cache when it started, or
    /// started again.
    pub fn started(&mut self, cached: usize) {
        if self.sampler.generated() == 0 {
            self.cached = cached;
        }
    }

    /// Guesses at most `most` tokens to come.
    pub fn guess(&mut self, most: usize) {
        // The last token needs no successor, so it is never worth a guess.
        let left = self.budget - self.sampler.generated() - 1;
        self.draft.clear();
        if let Some(drafter) = &mut self.drafter
            && most > 0
        {
            self.draft = drafter.draft(&self.tokens, most.min(left));
        }
    }

    /// The guesses that the next forward pass checks.
    pub fn draft(&self) -> &[u32] {
        &self.draft
    }

    /// What it wants of the next `rows` rows.
    pub fn wishes(&mut self, rows: usize) -> Vec<Wish> {
        self.sampler.wishes(rows)
    }

    /// Takes what a forward pass gives, row by row as long as the guesses are
    /// right, and tells of each token that is certain now. False from `emit`
    /// ends it.
    pub fn advance(
        &mut self,
        rows: &mut [Row<'_>],
        mut emit: impl FnMut(Token, Option<Finished>) -> bool,
    ) {
        let mut right = 0;
        for (place, row) in rows.iter_mut().enumerate() {
            let (token, finished) = self.choose(row);
            let (id, over) = (token.token_id, finished.is_some());
            if !emit(token, finished) || over {
                self.over = true;
                return;
            }
            if self.draft.get(place) != Some(&id) {
                break;
            }
            right += 1;
        }
        if let Some(drafter) = &mut self.drafter {
            drafter.learn(self.draft.len(), right);
        }
        self.draft.clear();
    }

    /// Takes the next token and tells what happened.
    fn choose(&mut self, row: &mut Row<'_>) -> (Token, Option<Finished>) {
        let chosen = self.sampler.take(row, &self.ends);
        self.tokens.push(chosen.id);
        let index = self.sampler.generated() - 1;
        let (text, reason) = self.text_of(chosen.id);
        let token = Token {
            index,
            token_id: chosen.id,
            text,
            logprob: chosen.logprob,
            top: chosen.top,
        };
        (token, reason.map(|reason| self.finished(reason)))
    }

    /// The text that a token makes certain, and whether it is the last.
    fn text_of(&mut self, id: u32) -> (String, Option<FinishReason>) {
        let generated = self.sampler.generated();
        let stops_count = generated >= self.min_tokens;
        let stop = Some(FinishReason::Stop);
        if self.ends.contains(&id) {
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
            cached_tokens: self.cached,
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
