//! How likely a model finds texts of any length: one object, which `gpt2
//! score --json` prints and `POST /api/score` returns.
//!
//! A text longer than the context is scored in overlapping windows, the
//! sliding-window method of Hugging Face's page on the perplexity of
//! fixed-length models: each window adds `stride` tokens and sees as many
//! before them as fit.

use std::ops::Range;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::{Engine, EngineError, ParamError, TokenScore, logprob_sum, perplexity};

/// The score of a text.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TextScore {
    /// The model's name.
    pub model: String,
    /// Every token of the text.
    pub tokens: Vec<ScoredToken>,
    /// Sum of the tokens' log probabilities.
    pub logprob_sum: f64,
    /// All tokens, the first included.
    pub token_count: usize,
    /// exp(−logprob_sum / (token_count − 1)); null for one token.
    pub perplexity: Option<f64>,
}

impl TextScore {
    /// Of a text without tokens.
    pub fn of_nothing(engine: &Engine) -> Self {
        Self {
            model: engine.model_name().to_owned(),
            tokens: Vec::new(),
            logprob_sum: 0.0,
            token_count: 0,
            perplexity: None,
        }
    }
}

/// A token of a text and how likely it was.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ScoredToken {
    /// Its id.
    pub id: u32,
    /// Its own text; empty without a tokenizer.
    pub text: String,
    /// Natural log of its probability after the tokens before it; null for
    /// the first.
    pub logprob: Option<f64>,
    /// Its place among all tokens by probability, from 1; ties share the
    /// lower number. Null for the first.
    pub rank: Option<usize>,
}

/// Between two tries to score a window for which the queue had no room.
const PAUSE: Duration = Duration::from_millis(50);

/// The stride that was asked for, or half the context.
///
/// # Errors
/// When it is 0, or leaves no token of context to the first that it adds.
pub fn stride(asked: Option<u64>, n_positions: usize) -> Result<usize, ParamError> {
    let most = n_positions.saturating_sub(1).max(1);
    let Some(asked) = asked else {
        return Ok((n_positions / 2).max(1));
    };
    let stride = usize::try_from(asked).ok();
    stride
        .filter(|stride| (1..=most).contains(stride))
        .ok_or_else(|| ParamError {
            param: "stride",
            message: format!("{asked} is not a whole number from 1 to {most}"),
        })
}

/// What becomes of a text for which the queue has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It is an error.
    Refuse,
    /// It waits.
    Wait,
}

/// Texts of one request that are scored at a time: more would only fill the
/// engine's queue.
const AT_A_TIME: usize = 4;

/// Scores of several texts of token ids, in their order, some computed
/// together. Dropping the stream ends it.
///
/// Its errors are those of [`score_text`]. A full queue is one only for the
/// first text: a request that has begun waits, as long as it takes.
pub fn score_texts(
    engine: &Engine,
    texts: Vec<Vec<u32>>,
    stride: usize,
) -> impl Stream<Item = Result<TextScore, EngineError>> + use<> {
    score_all(engine, texts, move |engine, ids, when_full| async move {
        score_text(&engine, &ids, stride, when_full).await
    })
}

/// What `score` says of several texts, in their order, some computed together;
/// the first is refused where the queue is full, the others wait.
pub fn score_all<T, F: Future<Output = T>, S: Fn(Engine, Vec<u32>, WhenFull) -> F>(
    engine: &Engine,
    texts: Vec<Vec<u32>>,
    score: S,
) -> impl Stream<Item = T> + use<T, F, S> {
    let engine = engine.clone();
    let scores = texts.into_iter().enumerate().map(move |(i, ids)| {
        let when_full = match i {
            0 => WhenFull::Refuse,
            _ => WhenFull::Wait,
        };
        score(engine.clone(), ids, when_full)
    });
    // The first is asked for first.
    stream::iter(scores).buffered(AT_A_TIME)
}

/// Scores the text of these tokens. Dropping the future ends it.
///
/// # Errors
/// The engine's. A full queue is one only where it is to be, and for the first
/// window: a text that has begun waits.
pub async fn score_text(
    engine: &Engine,
    ids: &[u32],
    stride: usize,
    mut when_full: WhenFull,
) -> Result<TextScore, EngineError> {
    let mut scores = Vec::with_capacity(ids.len());
    for window in windows(ids.len(), engine.config().n_positions, stride) {
        let new = scores.len() - window.start;
        let known = score_tokens(engine, &ids[window], 0, when_full).await?;
        scores.extend(known.into_iter().skip(new));
        when_full = WhenFull::Wait;
    }
    if scores.is_empty() {
        return Err(EngineError::NothingToScore);
    }
    Ok(TextScore {
        model: engine.model_name().to_owned(),
        tokens: scores.iter().map(|score| named(engine, score)).collect(),
        logprob_sum: logprob_sum(&scores),
        token_count: scores.len(),
        perplexity: perplexity(&scores),
    })
}

/// The scores of tokens that fit into the context, with the most likely
/// `alternatives` at each place.
///
/// # Errors
/// Those of [`Engine::score_top`].
pub async fn score_tokens(
    engine: &Engine,
    ids: &[u32],
    alternatives: usize,
    when_full: WhenFull,
) -> Result<Vec<TokenScore>, EngineError> {
    loop {
        match engine.score_top(ids.to_vec(), alternatives).await {
            Err(EngineError::Overloaded { .. }) if when_full == WhenFull::Wait => {
                tokio::time::sleep(PAUSE).await;
            }
            scores => return scores,
        }
    }
}

/// The windows of a text, each of at most `context` tokens, each `stride`
/// after the one before, the last at the text's end.
fn windows(len: usize, context: usize, stride: usize) -> impl Iterator<Item = Range<usize>> {
    let mut begin = 0;
    let mut end = 0;
    std::iter::from_fn(move || {
        if end == len {
            return None;
        }
        end = len.min(begin + context);
        let window = begin..end;
        begin += stride;
        Some(window)
    })
}

fn named(engine: &Engine, score: &TokenScore) -> ScoredToken {
    let tokenizer = engine.tokenizer().ok();
    ScoredToken {
        id: score.id,
        text: tokenizer
            .and_then(|t| t.decode(&[score.id]).ok())
            .unwrap_or_default(),
        logprob: score.logprob.map(f64::from),
        rank: score.rank,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_those_of_the_published_method() {
        let all = |len, context, stride| windows(len, context, stride).collect::<Vec<_>>();
        assert!(all(0, 8, 4).is_empty());
        assert_eq!(all(3, 8, 4), vec![0..3; 1]);
        assert_eq!(all(8, 8, 4), vec![0..8; 1]);
        assert_eq!(all(9, 8, 4), [0..8, 4..9]);
        assert_eq!(all(13, 8, 3), [0..8, 3..11, 6..13]);
    }

    #[test]
    fn every_later_token_has_a_context() {
        for context in 2..9 {
            for stride in 1..context {
                for len in 1..40 {
                    let mut known = 0;
                    for window in windows(len, context, stride) {
                        assert!(known == 0 || window.start < known);
                        assert!(window.len() <= context && window.end > known);
                        known = window.end;
                    }
                    assert_eq!(known, len);
                }
            }
        }
    }

    #[test]
    fn a_stride_leaves_room() {
        assert_eq!(stride(None, 1024).unwrap(), 512);
        assert_eq!(stride(Some(1023), 1024).unwrap(), 1023);
        for bad in [0, 1024, u64::MAX] {
            assert_eq!(stride(Some(bad), 1024).unwrap_err().param, "stride");
        }
    }
}
