//! One request's state: its tokens, its sampler, its text.
//!
//! What the next step depends on is known as soon as a token is chosen: the
//! token, and whether it is the last. What is only to be told, most of all its
//! text, may be made while that step is under way: see [`Sequence::tell`].

use super::event::{Event, FinishReason, Finished, Token, Usage};
use super::params::SamplingParams;
use super::sampling::{Chosen, Sampler};
use super::speculation::{Drafter, Speculation};
use super::stream::{Pushed, Role, TextStream};
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
    /// In their order.
    untold: Vec<Untold>,
    over: bool,
}

/// A token that was chosen and is yet to be told.
#[derive(Debug)]
struct Untold {
    index: usize,
    chosen: Chosen,
    text: Text,
    /// Why it is the last, if it is.
    end: Option<FinishReason>,
}

/// The text that a token makes certain.
#[derive(Debug)]
enum Text {
    /// It had to be known: a stop string might have been in it.
    Known(String),
    /// Nothing depends on it.
    Later(Role),
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
            untold: Vec::new(),
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
    /// right. The tokens are to be [told](Self::tell).
    pub fn advance(&mut self, rows: &mut [Row<'_>]) {
        let mut right = 0;
        for (place, row) in rows.iter_mut().enumerate() {
            let id = self.choose(row);
            if self.over {
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

    /// Takes the next token: its id.
    fn choose(&mut self, row: &mut Row<'_>) -> u32 {
        let chosen = self.sampler.take(row, &self.ends);
        let id = chosen.id;
        self.tokens.push(id);
        let (text, end) = self.decide(id);
        self.over = end.is_some();
        self.untold.push(Untold {
            index: self.sampler.generated() - 1,
            chosen,
            text,
            end,
        });
        id
    }

    /// Whether a token is the last, and its text as far as that depends on it.
    fn decide(&mut self, id: u32) -> (Text, Option<FinishReason>) {
        let generated = self.sampler.generated();
        let (role, end) = if self.ends.contains(&id) {
            (Role::End, Some(FinishReason::Stop))
        } else if generated >= self.budget {
            (Role::Last, Some(FinishReason::Length))
        } else {
            (Role::Inner, None)
        };
        if !self.text.has_stops() {
            return (Text::Later(role), end);
        }
        match self.text.add(id, role, generated >= self.min_tokens) {
            Pushed::Text(text) => (Text::Known(text), end),
            Pushed::Stopped(text) => (Text::Known(text), Some(FinishReason::Stop)),
        }
    }

    /// Tokens that were chosen and not told yet.
    pub fn untold(&self) -> usize {
        self.untold.len()
    }

    /// Tells of these, in their order.
    pub fn tell(&mut self, mut emit: impl FnMut(Token, Option<Finished>)) {
        for untold in std::mem::take(&mut self.untold) {
            let Chosen { id, logprob, top } = untold.chosen;
            let text = match untold.text {
                Text::Known(text) => text,
                // Without stop strings it doesn't matter whether they count.
                Text::Later(role) => self.text.add(id, role, true).into_text(),
            };
            let token = Token {
                index: untold.index,
                token_id: id,
                text,
                logprob,
                top,
            };
            emit(token, untold.end.map(|reason| self.finished(reason)));
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
