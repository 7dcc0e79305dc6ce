//! What a request hears back.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use serde::Serialize;
use tokio::sync::mpsc;

use super::EngineError;
use super::alternatives::Alternative;

/// An event of a generation: tokens, then exactly one of the other two, if it
/// is not cancelled before.
#[derive(Debug, Clone)]
pub enum Event {
    /// A token was generated.
    Token(Token),
    /// The generation is over.
    Finished(Finished),
    /// The generation could not go on.
    Failed(EngineError),
}

/// A generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its place in the output, from 0.
    pub index: usize,
    /// Its id.
    pub token_id: u32,
    /// The text that this token made certain, perhaps none; end-of-text and
    /// stop strings are not part of it.
    pub text: String,
    /// Natural log of its probability under the model alone.
    pub logprob: f32,
    /// The most likely tokens at its place, as many as were asked for.
    pub top: Vec<Alternative>,
}

/// How a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Why.
    pub finish_reason: FinishReason,
    /// How much was read and written.
    pub usage: Usage,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// At end-of-text or a stop string.
    Stop,
    /// At `max_tokens` or the end of the context.
    Length,
}

impl FinishReason {
    /// The name in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// Tokens read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, end-of-text included.
    pub completion_tokens: usize,
    /// Both together.
    pub total_tokens: usize,
    /// Tokens of the prompt that were in the cache already. Not serialised:
    /// it depends on what was asked before, and an answer must not.
    #[serde(skip)]
    pub cached_tokens: usize,
}

/// The events of one request. Dropping it cancels the request.
#[derive(Debug)]
pub struct Events {
    pub(super) receiver: mpsc::Receiver<Event>,
    /// Whether the last event has been handed out.
    over: bool,
    cancelled: bool,
}

impl Events {
    /// Those that come through this channel.
    pub(super) fn new(receiver: mpsc::Receiver<Event>) -> Self {
        Self {
            receiver,
            over: false,
            cancelled: false,
        }
    }

    /// Ends the generation; events that were sent still come. On a GPU a token
    /// is sent a step after it was chosen, so that the last may not. Dropping
    /// does the same.
    pub fn cancel(&mut self) {
        self.cancelled = true;
        self.receiver.close();
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The next event, for callers without a runtime.
    ///
    /// # Panics
    /// When called from asynchronous code, which it would block.
    pub fn blocking_next(&mut self) -> Option<Event> {
        if self.over {
            return None;
        }
        let event = self.receiver.blocking_recv();
        self.noted(event)
    }

    /// A channel that closes without a last event means that the engine is
    /// gone, if it was not told to close.
    fn noted(&mut self, event: Option<Event>) -> Option<Event> {
        let stopped = || (!self.cancelled).then_some(Event::Failed(EngineError::Stopped));
        let event = event.or_else(stopped);
        self.over = !matches!(event, Some(Event::Token(_)));
        event
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.over {
            return Poll::Ready(None);
        }
        let event = std::task::ready!(self.receiver.poll_recv(cx));
        Poll::Ready(self.noted(event))
    }
}
