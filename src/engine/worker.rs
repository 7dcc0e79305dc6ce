//! The one thread that owns the model: takes a request, then schedule →
//! forward → emit until it is answered.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::{mpsc, oneshot};

use super::EngineError;
use super::event::Event;
use super::params::SamplingParams;
use super::scheduler::{SCORE_CHUNK, Step, next_step};
use super::score::{TokenScore, score_token};
use super::sequence::{Context, Limits, Progress, Sequence};
use super::speculation::Speculation;
use crate::model::{Batch, Gpt2, KvCache, Lease, LogitRows, Logits};
use crate::tokenizer::Tokenizer;

/// What the engine's handle asks of the worker.
#[derive(Debug)]
pub enum Command {
    /// Generate from a checked prompt.
    Generate {
        prompt: Vec<u32>,
        params: SamplingParams,
        events: mpsc::Sender<Event>,
    },
    /// Score a checked text.
    Score {
        ids: Vec<u32>,
        answer: oneshot::Sender<Result<Vec<TokenScore>, EngineError>>,
    },
}

/// The model and its state.
pub struct Worker {
    pub model: Gpt2,
    pub cache: KvCache,
    pub tokenizer: Option<Tokenizer>,
    pub limits: Limits,
    pub speculation: Speculation,
}

impl Worker {
    /// Answers commands until every handle is gone.
    pub fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.blocking_recv() {
            match command {
                Command::Generate {
                    prompt,
                    params,
                    events,
                } => {
                    let result = guarded(|| self.generate(prompt, params, &events));
                    if let Err(error) = result {
                        // A receiver that is gone no longer cares.
                        let _ = events.try_send(Event::Failed(error));
                    }
                }
                Command::Score { ids, answer } => {
                    if answer.is_closed() {
                        continue;
                    }
                    let result = guarded(|| self.score(&ids, &answer));
                    let _ = answer.send(result);
                }
            }
        }
    }

    fn generate(
        &mut self,
        prompt: Vec<u32>,
        params: SamplingParams,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), EngineError> {
        let lease = self.cache.lease();
        let context = Context {
            tokenizer: self.tokenizer.as_ref(),
            limits: &self.limits,
            speculation: self.speculation,
        };
        let mut sequence = Sequence::new(prompt, params, &context, lease);
        // A dropped receiver is a cancelled request, seen at every step.
        while !events.is_closed() {
            let Some(work) = sequence.next_work() else {
                break;
            };
            let mut logits = self.forward(&work.tokens, &mut sequence.lease, work.rows)?;
            if emit(&mut sequence, &mut logits, events) == Progress::Over {
                break;
            }
        }
        Ok(())
    }

    fn score(
        &mut self,
        ids: &[u32],
        answer: &oneshot::Sender<Result<Vec<TokenScore>, EngineError>>,
    ) -> Result<Vec<TokenScore>, EngineError> {
        let mut lease = self.cache.lease();
        let mut scores = vec![TokenScore {
            id: ids[0],
            logprob: None,
            rank: None,
        }];
        while let Some(Step { tokens, .. }) = next_step(ids.len(), lease.len(), SCORE_CHUNK) {
            if answer.is_closed() {
                break;
            }
            let logits = self.forward(&ids[tokens.clone()], &mut lease, LogitRows::All)?;
            // The logits at a position are about the token after it.
            for (row, &next) in ids[tokens.start + 1..]
                .iter()
                .take(tokens.len())
                .enumerate()
            {
                scores.push(score_token(logits.row(row), next));
            }
        }
        Ok(scores)
    }

    fn forward(
        &mut self,
        tokens: &[u32],
        lease: &mut Lease,
        rows: LogitRows,
    ) -> Result<Logits, EngineError> {
        lease.grow(tokens.len())?;
        let mut batch = Batch::new();
        batch.push(tokens, lease, rows)?;
        let logits = self.model.forward(&batch, &mut self.cache)?;
        lease.commit(tokens.len());
        Ok(logits)
    }
}

/// Chooses the next tokens and sends their events.
fn emit(sequence: &mut Sequence, logits: &mut Logits, events: &mpsc::Sender<Event>) -> Progress {
    // The channel has room for every event of a context, so sending fails
    // only when the receiver is gone.
    sequence.advance(logits, |token, finished| {
        events.try_send(Event::Token(token)).is_ok()
            && finished.is_none_or(|finished| events.try_send(finished.into()).is_ok())
    })
}

/// Turns a panic into an error, so that one request's bug is not the end of
/// the engine. Leases return their blocks while unwinding, and a block's
/// content is rewritten before it is read.
fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let reason = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "unknown panic".to_owned());
        tracing::error!("a request failed inside the engine: {reason}");
        Err(EngineError::Internal(reason))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let result = guarded::<()>(|| panic!("on purpose"));
        assert!(matches!(result, Err(EngineError::Internal(reason)) if reason == "on purpose"));
    }
}
