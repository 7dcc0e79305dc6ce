//! What a caller of the engine may be told.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::params::ParamError;
use crate::model::ModelError;
use crate::tokenizer::TokenizerError;

/// An error of the engine floor.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// A sampling parameter is out of range.
    #[error(transparent)]
    Param(#[from] ParamError),
    /// The prompt leaves no room for a new token.
    #[error(
        "the prompt has {tokens} tokens, but the model's context has {limit} and at least one \
         must be left to generate"
    )]
    ContextFull {
        /// Tokens of the prompt.
        tokens: usize,
        /// The context's length.
        limit: usize,
    },
    /// A text to score is longer than the context.
    #[error("{tokens} tokens to score, but the model's context has {limit}")]
    TooLongToScore {
        /// Tokens of the text.
        tokens: usize,
        /// The context's length.
        limit: usize,
    },
    /// There is nothing to score.
    #[error("no tokens to score")]
    NothingToScore,
    /// An id has no row in the token embedding.
    #[error("token id {id} is not below the model's vocabulary size, {vocab_size}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Rows of the token embedding.
        vocab_size: usize,
    },
    /// An empty prompt needs an end-of-text token to start from.
    #[error("an empty prompt starts from end-of-text, and this model has no such token")]
    NoStart,
    /// The queue is full.
    #[error(
        "the engine's queue is full ({requests} requests and {tokens} tokens of prompts are \
         waiting); try again later"
    )]
    Overloaded {
        /// Requests that wait.
        requests: usize,
        /// Tokens of their prompts.
        tokens: usize,
    },
    /// The request's deadline passed.
    #[error("the request's deadline has passed")]
    DeadlineExceeded,
    /// Nobody took the events for too long.
    #[error("the reader took no token for {} s", after.as_secs_f64())]
    SlowReader {
        /// How long the engine waited.
        after: Duration,
    },
    /// The engine's thread is gone.
    #[error("the engine has stopped")]
    Stopped,
    /// The model could not be loaded or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer could not be loaded or used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Something that should not happen did; details are in the log.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Turns a panic into an error, so that one bug is not the end of the engine.
pub fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let reason = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "unknown panic".to_owned());
        Err(EngineError::Internal(reason))
    })
}
