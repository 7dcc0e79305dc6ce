//! Several choices that are generated at the same time.

use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use crate::engine::{Events, Finished, Token};
use crate::server::AppState;
use crate::server::error::ApiError;
use crate::server::generation::{Part, parts};

/// Parts of several answers as they come, each with the index of its answer.
pub type Merged = BoxStream<'static, (usize, Result<Part, ApiError>)>;

/// Reads all answers at once: one that nobody reads would be given up.
pub fn merged(events: Vec<Events>, state: &AppState) -> Merged {
    let numbered = events.into_iter().enumerate();
    let all = numbered.map(|(index, events)| parts(events, state).map(move |part| (index, part)));
    stream::select_all(all).boxed()
}

/// A whole answer.
#[derive(Debug)]
pub struct Output {
    pub tokens: Vec<Token>,
    pub text: String,
    pub finished: Finished,
}

impl Output {
    /// The mean log probability of a token, by which the best of several
    /// answers is chosen.
    pub fn mean_logprob(&self) -> f64 {
        let sum: f64 = self.tokens.iter().map(|t| f64::from(t.logprob)).sum();
        sum / self.tokens.len().max(1) as f64
    }
}

/// Whole answers, in their order, and when the first token came.
#[derive(Debug)]
pub struct Collected {
    pub outputs: Vec<Output>,
    pub first_token: Option<Instant>,
}

/// Reads `count` answers to their ends.
///
/// # Errors
/// The first that any of them meets.
pub async fn collect(mut merged: Merged, count: usize) -> Result<Collected, ApiError> {
    let mut running: Vec<(Vec<Token>, String)> = (0..count).map(|_| Default::default()).collect();
    let mut ends: Vec<Option<Finished>> = vec![None; count];
    let mut first_token = None;
    while let Some((index, part)) = merged.next().await {
        match part? {
            Part::Token(token) => {
                first_token.get_or_insert_with(Instant::now);
                running[index].1 += &token.text;
                running[index].0.push(token);
            }
            Part::Finished(finished) => ends[index] = Some(finished),
        }
    }
    let whole = running.into_iter().zip(ends);
    let outputs = whole.map(|((tokens, text), end)| {
        let finished = end.ok_or_else(ApiError::internal)?;
        Ok(Output {
            tokens,
            text,
            finished,
        })
    });
    Ok(Collected {
        outputs: outputs.collect::<Result<_, ApiError>>()?,
        first_token,
    })
}
