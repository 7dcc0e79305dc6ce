//! Completions as server-sent events.

use axum::response::Response;
use futures_util::{StreamExt, stream};

use super::super::logprobs::LogprobsBuilder;
use super::super::outputs::Merged;
use super::super::usage::Usage;
use super::{Choice, Work};
use crate::engine::FinishReason;
use crate::server::generation::Part;
use crate::server::sse;

/// The answer, event by event.
pub fn response(work: Work, merged: Merged) -> Response {
    let count = work.plan.prompts.len() * work.plan.n;
    let mut streaming = Streaming {
        usage: work.prompt_usage(),
        logprobs: (0..count).map(|i| work.logprobs(i / work.plan.n)).collect(),
        work,
    };
    let head = streaming.head(count);
    let tail = stream::unfold(Some((streaming, merged)), |running| async {
        let (mut streaming, mut merged) = running?;
        let frame = match merged.next().await {
            Some((index, Ok(part))) => {
                let frame = streaming.frame(index, part);
                return Some((frame, Some((streaming, merged))));
            }
            Some((_, Err(error))) => sse::data(&error.body()),
            None => streaming.usage_frame(),
        };
        Some((frame + sse::DONE, None))
    });
    sse::response(stream::iter(head).chain(tail))
}

struct Streaming {
    work: Work,
    usage: Usage,
    /// Of each choice, where they are wanted.
    logprobs: Vec<Option<LogprobsBuilder>>,
}

impl Streaming {
    /// What is known before the first token: the prompts, and the end of
    /// choices that have no tokens.
    fn head(&mut self, count: usize) -> Vec<String> {
        let plan = &self.work.plan;
        let over = plan.max_tokens == 0;
        if !(plan.echo || plan.return_token_ids || over) {
            return Vec::new();
        }
        let n = plan.n;
        let choice = |index: usize| {
            let mut choice = self.work.beginning(index, index / n);
            choice.finish_reason = over.then_some(FinishReason::Length);
            choice
        };
        let mut choices: Vec<Choice> = (0..count).map(choice).collect();
        for choice in &mut choices {
            choice.logprobs = self.logprobs[choice.index]
                .as_mut()
                .map(LogprobsBuilder::take);
        }
        choices
            .into_iter()
            .map(|choice| self.event(vec![choice]))
            .collect()
    }

    fn frame(&mut self, index: usize, part: Part) -> String {
        let mut choice = Choice {
            index,
            text: String::new(),
            logprobs: None,
            finish_reason: None,
            token_ids: None,
            prompt_token_ids: None,
            prompt_logprobs: None,
        };
        match part {
            Part::Token(token) => {
                choice.logprobs = self.logprobs[index].as_mut().map(|logprobs| {
                    logprobs.push(token.token_id, Some(token.logprob), &token.top);
                    logprobs.take()
                });
                let ids = || vec![token.token_id];
                choice.token_ids = self.work.plan.return_token_ids.then(ids);
                choice.text = token.text;
            }
            Part::Finished(finished) => {
                if index.is_multiple_of(self.work.plan.n) {
                    self.usage.add_cached(&finished.usage);
                }
                self.usage.add_choice(&finished.usage);
                choice.finish_reason = Some(finished.finish_reason);
            }
        }
        self.event(vec![choice])
    }

    /// The last event but for `[DONE]`, if it was asked for.
    fn usage_frame(&self) -> String {
        if !self.work.plan.include_usage {
            return String::new();
        }
        let usage = Some(Some(self.usage));
        sse::data(&self.work.head.completion(Vec::new(), usage))
    }

    fn event(&self, choices: Vec<Choice>) -> String {
        // Null in all events but the last, where the last tells it.
        let usage = self.work.plan.include_usage.then_some(None);
        sse::data(&self.work.head.completion(choices, usage))
    }
}
