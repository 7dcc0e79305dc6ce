//! `/v1/chat/completions`, for models that have a chat template.

mod request;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use utoipa::ToSchema;

use super::logprobs::{ChatLogprobs, ChatToken, Names};
use super::outputs::{Merged, Output, collect, merged};
use super::usage::Usage;
use crate::engine::{FinishReason, Request, Token};
use crate::server::AppState;
use crate::server::body::JsonBody;
use crate::server::error::{ApiError, ErrorBody};
use crate::server::generation::Part;
use crate::server::sse::{self, ServerSentEvent};
use crate::server::state::unix_time;
use crate::server::trace::RequestId;
pub use request::ChatRequest;
use request::Plan;

/// The answers to a chat, or a part of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletion {
    id: String,
    /// `chat.completion`, or `chat.completion.chunk` in a stream.
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    model: String,
    choices: Vec<ChatChoice>,
    /// In a stream only in its last event, and only if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    usage: Option<Option<Usage>>,
}

/// One answer, or a part of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    index: usize,
    /// The whole answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<ChatMessage>,
    /// In a stream: what is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<ChatMessage>,
    logprobs: Option<ChatLogprobs>,
    /// `stop` or `length`; null where more is to come.
    #[schema(value_type = Option<String>)]
    finish_reason: Option<FinishReason>,
}

/// What the assistant says.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ChatMessage {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// Answers to a chat.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "openai",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The answers; with `stream`, server-sent events of the same \
            form, then `[DONE]`", content(
                (ChatCompletion = "application/json"),
                (ServerSentEvent = "text/event-stream"),
        )),
        (status = "default", description = "An error", body = ErrorBody),
    ),
)]
pub async fn complete(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    JsonBody(request): JsonBody<ChatRequest>,
) -> Result<Response, ApiError> {
    let deadline = state.deadline();
    let engine = state.engine()?;
    let stream = request.stream == Some(true);
    let plan = request.plan(&state, &engine).await?;
    let requests = (0..plan.n).map(|index| {
        let request = Request::new(plan.ids.clone(), plan.options.choice(index)?);
        Ok(request.deadline(deadline))
    });
    let events = engine.submit_all(requests.collect::<Result<_, ApiError>>()?)?;
    let merged = merged(events, &state);
    let chat = Chat {
        id: format!("chatcmpl-{}", id.as_str()),
        created: unix_time(),
        model: state.model_name().to_owned(),
        names: Names::of(&engine),
        usage: Usage::default(),
        plan,
    };
    if stream {
        return Ok(chat.stream(merged));
    }
    let count = chat.plan.n;
    let collected = collect(merged, count).await?;
    Ok(Json(chat.whole(collected.outputs)).into_response())
}

/// A chat under way.
struct Chat {
    id: String,
    created: u64,
    model: String,
    names: Names,
    plan: Plan,
    /// Of the answers that have ended.
    usage: Usage,
}

impl Chat {
    fn whole(mut self, outputs: Vec<Output>) -> ChatCompletion {
        self.usage.add_prompt(self.plan.ids.len());
        let mut choices = Vec::with_capacity(outputs.len());
        for (index, output) in outputs.into_iter().enumerate() {
            self.ended(index, &output.finished.usage);
            choices.push(ChatChoice {
                index,
                logprobs: self.logprobs(&output.tokens),
                message: Some(ChatMessage {
                    role: Some("assistant"),
                    content: Some(output.text),
                }),
                delta: None,
                finish_reason: Some(output.finished.finish_reason),
            });
        }
        self.completion("chat.completion", choices, Some(Some(self.usage)))
    }

    fn stream(mut self, merged: Merged) -> Response {
        self.usage.add_prompt(self.plan.ids.len());
        let begins = |index| {
            let delta = ChatMessage {
                role: Some("assistant"),
                content: Some(String::new()),
            };
            self.event(delta_of(index, delta))
        };
        let head: Vec<String> = (0..self.plan.n).map(begins).collect();
        let tail = stream::unfold(Some((self, merged)), |running| async {
            let (mut chat, mut merged) = running?;
            let last = match merged.next().await {
                Some((index, Ok(part))) => {
                    let frame = chat.frame(index, part);
                    return Some((frame, Some((chat, merged))));
                }
                Some((_, Err(error))) => sse::data(&error.body()),
                None if chat.plan.include_usage => {
                    let usage = Some(Some(chat.usage));
                    sse::data(&chat.completion(CHUNK, Vec::new(), usage))
                }
                None => String::new(),
            };
            Some((last + sse::DONE, None))
        });
        sse::response(stream::iter(head).chain(tail))
    }

    fn frame(&mut self, index: usize, part: Part) -> String {
        let mut choice = delta_of(index, ChatMessage::default());
        match part {
            Part::Token(token) => {
                choice.logprobs = self.logprobs(std::slice::from_ref(&token));
                choice.delta = Some(ChatMessage {
                    role: None,
                    content: Some(token.text),
                });
            }
            Part::Finished(finished) => {
                self.ended(index, &finished.usage);
                choice.finish_reason = Some(finished.finish_reason);
            }
        }
        self.event(choice)
    }

    fn ended(&mut self, index: usize, usage: &crate::engine::Usage) {
        if index == 0 {
            self.usage.add_cached(usage);
        }
        self.usage.add_choice(usage);
    }

    fn logprobs(&self, tokens: &[Token]) -> Option<ChatLogprobs> {
        let one = |t: &Token| ChatToken::new(&self.names, t.token_id, t.logprob, &t.top);
        let content = || tokens.iter().map(one).collect();
        self.plan
            .logprobs
            .then(|| ChatLogprobs { content: content() })
    }

    fn event(&self, choice: ChatChoice) -> String {
        let usage = self.plan.include_usage.then_some(None);
        sse::data(&self.completion(CHUNK, vec![choice], usage))
    }

    fn completion(
        &self,
        object: &'static str,
        choices: Vec<ChatChoice>,
        usage: Option<Option<Usage>>,
    ) -> ChatCompletion {
        ChatCompletion {
            id: self.id.clone(),
            object,
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
        }
    }
}

const CHUNK: &str = "chat.completion.chunk";

fn delta_of(index: usize, delta: ChatMessage) -> ChatChoice {
    ChatChoice {
        index,
        message: None,
        delta: Some(delta),
        logprobs: None,
        finish_reason: None,
    }
}
