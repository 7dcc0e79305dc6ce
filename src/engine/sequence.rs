//! One request's state: its tokens, its sampler, its text.

use super::event::{Event, FinishReason, Finished, Token, Usage};
use super::params::SamplingParams;
use super::sampling::Sampler;
use super::scheduler::{PREFILL_CHUNK, next_step};
use super::speculation::{Drafter, Speculation};
use super::stream::{Pushed, TextStream};
use crate::model::{Lease, LogitRows, Logits};
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

/// Whether a sequence has more to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It has.
    GoesOn,
    /// It ended, or nobody listens.
    Over,
}

/// What a sequence wants of the next forward pass.
#[derive(Debug)]
pub struct Work {
    /// Known tokens that are not computed yet, then guesses.
    pub tokens: Vec<u32>,
    /// Logits of the last known token and of the guesses, or of none while
    /// the prompt goes on.
    pub rows: LogitRows,
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
    /// Absent where nothing is guessed ahead.
    drafter: Option<Drafter>,
    /// The guesses that the next forward pass checks.
    draft: Vec<u32>,
    /// Its keys and values in the cache.
    pub lease: Lease,
}

impl Sequence {
    /// A sequence for a checked prompt: not empty, with room in the context.
    pub fn new(
        prompt: Vec<u32>,
        params: SamplingParams,
        context: &Context<'_>,
        lease: Lease,
    ) -> Self {
        let Context {
            tokenizer, limits, ..
        } = context;
        let room = limits.n_positions - prompt.len();
        Self {
            prompt_len: prompt.len(),
            budget: params.max_tokens.min(room),
            min_tokens: params.min_tokens,
            eos: limits.eos.clone(),
            ignore_eos: params.ignore_eos,
            text: TextStream::new(tokenizer.map(Tokenizer::incremental), params.stop.clone()),
            sampler: Sampler::new(params, &prompt).limited_to(limits.sampled),
            drafter: match context.speculation {
                Speculation::PromptLookup => Some(Drafter::default()),
                Speculation::Off => None,
            },
            draft: Vec::new(),
            tokens: prompt,
            lease,
        }
    }

    /// What is to be computed next.
    pub fn next_work(&mut self) -> Option<Work> {
        let step = next_step(self.tokens.len(), self.lease.len(), PREFILL_CHUNK)?;
        let mut tokens = self.tokens[step.tokens.clone()].to_vec();
        self.draft.clear();
        let rows = match (step.last, tokens.len()) {
            (false, _) => LogitRows::None,
            (true, 1) => {
                self.guess();
                tokens.extend_from_slice(&self.draft);
                LogitRows::All
            }
            (true, _) => LogitRows::Last,
        };
        Some(Work { tokens, rows })
    }

    fn guess(&mut self) {
        // The last token needs no successor, so it is never worth a guess.
        let most = self.budget - self.sampler.generated() - 1;
        if let Some(drafter) = &mut self.drafter {
            self.draft = drafter.draft(&self.tokens, most);
        }
    }

    /// Takes the logits of a forward pass, row by row as long as the guesses
    /// are right, and tells of each token that is certain now. False from
    /// `emit` ends it.
    pub fn advance(
        &mut self,
        logits: &mut Logits,
        mut emit: impl FnMut(Token, Option<Finished>) -> bool,
    ) -> Progress {
        let mut right = 0;
        for row in 0..logits.rows() {
            let (token, finished) = self.choose(logits.row_mut(row));
            let (id, over) = (token.token_id, finished.is_some());
            if !emit(token, finished) || over {
                return Progress::Over;
            }
            if self.draft.get(row) != Some(&id) {
                break;
            }
            right += 1;
        }
        if let Some(drafter) = &mut self.drafter {
            drafter.learn(self.draft.len(), right);
        }
        // Wrong guesses are forgotten; the last token is yet to be computed.
        self.lease.truncate(self.tokens.len() - 1);
        Progress::GoesOn
    }

    /// Chooses the next token from its logits and tells what happened.
    fn choose(&mut self, logits: &mut [f32]) -> (Token, Option<Finished>) {
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
