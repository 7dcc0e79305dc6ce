//! From a checked prompt to the parts of its answer, for every API.

use std::time::Instant;

use futures_util::stream::{self, BoxStream, StreamExt};

use super::AppState;
use super::config::RequestLimits;
use super::error::ApiError;
use super::lifecycle::Phase;
use super::values::Strings;
use crate::engine::{Engine, EngineError, Event, Events, Finished, Token};
use crate::tokenizer::Tokenizer;

/// Texts longer than this are encoded aside: a long one takes a third of a
/// second, in which this thread could serve others.
const SHORT: usize = 8 << 10;

/// A part of an answer.
#[derive(Debug)]
pub enum Part {
    /// A token was generated.
    Token(Token),
    /// The last part.
    Finished(Finished),
}

/// The parts of an answer; an error is the last of them.
pub type Parts = BoxStream<'static, Result<Part, ApiError>>;

/// What a request hears, until the server has to cut it short.
pub fn parts(events: Events, state: &AppState) -> Parts {
    let lifecycle = state.lifecycle().clone();
    let cut = async move {
        lifecycle.reached(Phase::Aborting).await;
        Err(ApiError::stopping())
    };
    let events = events.map(|event| match event {
        Event::Token(token) => Ok(Part::Token(token)),
        Event::Finished(finished) => Ok(Part::Finished(finished)),
        Event::Failed(error) => Err(error.into()),
    });
    let all = stream::select(events, stream::once(cut).boxed());
    stream::unfold(Some(all), |all| async {
        let mut all = all?;
        let part = all.next().await?;
        let goes_on = matches!(part, Ok(Part::Token(_)));
        Some((part, goes_on.then_some(all)))
    })
    .boxed()
}

/// The ids of a prompt. A text that can't fit into the context is refused
/// before it is encoded.
pub async fn encode_prompt(engine: &Engine, text: String) -> Result<Vec<u32>, ApiError> {
    let tokenizer = engine.tokenizer()?;
    let limit = engine.config().n_positions;
    if let Some(most) = tokenizer.most_bytes(limit)
        && text.len() > most
    {
        let message = format!(
            "the prompt has {} bytes, but the model's context has {limit} tokens, which hold at \
             most {most} bytes",
            text.len()
        );
        return Err(ApiError::field("prompt", message).with_code("context_length_exceeded"));
    }
    encode(tokenizer, text).await
}

/// The ids of a text of any length.
pub async fn encode(tokenizer: &Tokenizer, text: String) -> Result<Vec<u32>, ApiError> {
    if text.len() <= SHORT {
        return Ok(tokenizer.encode(&text)?);
    }
    let tokenizer = tokenizer.clone();
    aside(move || tokenizer.encode(&text))
        .await?
        .map_err(Into::into)
}

/// What `work` comes to, unless the server has to cut it short, or the time
/// for its request is over, before.
pub async fn unless_cut<T, E: Into<ApiError>>(
    state: &AppState,
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, ApiError> {
    let late = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        done = work => done.map_err(Into::into),
        () = state.lifecycle().reached(Phase::Aborting) => Err(ApiError::stopping()),
        () = late => Err(EngineError::DeadlineExceeded.into()),
    }
}

/// Runs what takes long on a thread that may wait.
pub async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| {
        tracing::error!("a request failed: {error}");
        ApiError::internal()
    })
}

/// Refuses ids beyond the logits.
pub fn check_ids(engine: &Engine, param: &'static str, ids: &[u32]) -> Result<(), ApiError> {
    let checked = engine.check_ids(ids);
    checked.map_err(|error| ApiError::field(param, format!("`{param}`: {error}")))
}

/// The stop strings of a request, within the limits.
pub fn stop_strings(
    stop: Option<Strings>,
    limits: &RequestLimits,
) -> Result<Vec<String>, ApiError> {
    let stop = stop.map_or_else(Vec::new, |stop| stop.as_slice().to_vec());
    let RequestLimits {
        stop_strings: most,
        stop_bytes: longest,
        ..
    } = *limits;
    if stop.len() > most {
        let message = format!("`stop`: {} strings, at most {most}", stop.len());
        return Err(ApiError::field("stop", message));
    }
    if let Some(long) = stop.iter().find(|s| s.len() > longest) {
        let message = format!(
            "`stop`: a string of {} bytes, at most {longest}",
            long.len()
        );
        return Err(ApiError::field("stop", message));
    }
    Ok(stop)
}
