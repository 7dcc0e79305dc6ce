//! `/api/generate` and `/api/stream`: the API of the engine that this one
//! replaces, with its defaults.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value, json};
use utoipa::ToSchema;

use super::AppState;
use super::body::JsonBody;
use super::config::RequestLimits;
use super::error::{ApiError, ErrorBody};
use super::generation::{Part, Parts, encode_prompt, parts, stop_strings};
use super::sse::{self, ServerSentEvent};
use super::values::{Strings, Whole};
use crate::engine::{
    DEFAULT_K, FinishReason, Request, SamplingOptions, SamplingParams, Strategy,
    Usage as EngineUsage,
};

const DEFAULT_MAX_TOKENS: u64 = 50;

/// What to generate. Unknown fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub struct GenerateRequest {
    /// The text to continue; an empty one starts from end-of-text.
    prompt: String,
    /// Most tokens to generate; beyond the context's end nothing comes.
    #[schema(value_type = Option<u64>, format = "uint64", minimum = 1, maximum = 2147483647, default = 50)]
    max_tokens: Option<Whole>,
    /// `greedy`, `top-k` or `top-p`.
    #[schema(value_type = Option<StrategyName>, default = "greedy")]
    strategy: Option<String>,
    /// Keep the `k` most likely tokens: 50 under `top-k`; under `top-p` none are
    /// dropped unless it is given.
    #[schema(value_type = Option<u64>, format = "uint64", minimum = 1, default = 50)]
    k: Option<Whole>,
    /// Divides the logits; 0 is greedy.
    #[schema(value_type = Option<f64>, minimum = 0, default = 1.0)]
    temperature: Option<Number>,
    /// Keep the smallest set of tokens with this probability.
    #[schema(value_type = Option<f64>, exclusive_minimum = 0, maximum = 1)]
    top_p: Option<Number>,
    /// Keep tokens at least this likely, relative to the likeliest.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 1)]
    min_p: Option<Number>,
    /// Makes tokens that were there before less likely.
    #[schema(value_type = Option<f64>, exclusive_minimum = 0)]
    repetition_penalty: Option<Number>,
    /// Repeats a draw.
    #[schema(value_type = Option<u64>, format = "uint64")]
    seed: Option<Whole>,
    /// Where to end.
    stop: Option<Strings>,
}

/// The strategies.
#[derive(ToSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(dead_code, reason = "only its schema is used")]
enum StrategyName {
    Greedy,
    TopK,
    TopP,
}

/// The whole answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct GenerateResponse {
    /// Prompt and continuation.
    generated_text: String,
    prompt: String,
    /// The parameters as they were received, or their defaults.
    #[schema(value_type = Object)]
    params: Map<String, Value>,
}

/// An event of a stream: one for each token.
#[derive(Debug, Serialize, ToSchema)]
struct TokenEvent<'a> {
    index: usize,
    token_id: u32,
    /// The text that this token made certain, perhaps none.
    token: &'a str,
}

/// The last event of a stream but for `[DONE]`.
#[derive(Debug, Serialize)]
struct DoneEvent<'a> {
    done: bool,
    finish_reason: FinishReason,
    generated_text: &'a str,
    usage: EngineUsage,
}

/// The whole answer at once.
#[utoipa::path(
    post,
    path = "/api/generate",
    tag = "native",
    request_body = GenerateRequest,
    responses(
        (status = 200, body = GenerateResponse),
        (status = "default", description = "An error", body = ErrorBody),
    ),
)]
pub async fn generate(
    State(state): State<AppState>,
    JsonBody(request): JsonBody<GenerateRequest>,
) -> Result<Json<GenerateResponse>, ApiError> {
    let Answer {
        mut parts,
        prompt,
        params,
    } = request.submit(&state).await?;
    let mut generated_text = prompt.clone();
    while let Some(part) = parts.next().await {
        match part? {
            Part::Token(token) => generated_text += &token.text,
            Part::Finished(_) => break,
        }
    }
    Ok(Json(GenerateResponse {
        generated_text,
        prompt,
        params,
    }))
}

/// The same as server-sent events, token by token.
#[utoipa::path(
    post,
    path = "/api/stream",
    tag = "native",
    request_body = GenerateRequest,
    responses(
        (status = 200, description = "Server-sent events: one for each token, \
            `{\"index\",\"token_id\",\"token\"}`; one with `\"done\":true`, `finish_reason`, \
            `generated_text` and `usage`, or one with `error`; then `[DONE]`",
            content_type = "text/event-stream", body = ServerSentEvent),
        (status = "default", description = "An error", body = ErrorBody),
    ),
)]
pub async fn stream_tokens(
    State(state): State<AppState>,
    JsonBody(request): JsonBody<GenerateRequest>,
) -> Result<Response, ApiError> {
    let Answer { parts, prompt, .. } = request.submit(&state).await?;
    let start = Some((parts, prompt));
    Ok(sse::response(stream::unfold(start, |state| async {
        let (mut parts, mut text) = state?;
        let last = match parts.next().await? {
            Ok(Part::Token(token)) => {
                text += &token.text;
                let event = sse::data(&TokenEvent {
                    index: token.index,
                    token_id: token.token_id,
                    token: &token.text,
                });
                return Some((event, Some((parts, text))));
            }
            Ok(Part::Finished(finished)) => sse::data(&DoneEvent {
                done: true,
                finish_reason: finished.finish_reason,
                generated_text: &text,
                usage: finished.usage,
            }),
            Err(error) => sse::data(&error.body()),
        };
        Some((last + sse::DONE, None))
    })))
}

/// An answer in the making.
struct Answer {
    parts: Parts,
    prompt: String,
    /// What the answer repeats, in the order in which it always did.
    params: Map<String, Value>,
}

impl GenerateRequest {
    async fn submit(self, state: &AppState) -> Result<Answer, ApiError> {
        let deadline = state.deadline();
        let engine = state.engine()?;
        let sampling = self.sampling(&state.config().limits)?;
        let params = self.echo();
        state.log_prompt(&self.prompt);
        let ids = encode_prompt(&engine, self.prompt.clone()).await?;
        let events = engine.submit(Request::new(ids, sampling).deadline(deadline))?;
        Ok(Answer {
            parts: parts(events, state),
            prompt: self.prompt,
            params,
        })
    }

    fn strategy(&self) -> &str {
        self.strategy.as_deref().unwrap_or("greedy")
    }

    /// What the sampler is to do.
    ///
    /// # Errors
    /// 400 for the first field out of range.
    pub fn sampling(&self, limits: &RequestLimits) -> Result<SamplingParams, ApiError> {
        let name = self.strategy();
        let strategy = Strategy::from_name(name).ok_or_else(|| {
            let expected = "expected \"greedy\", \"top-k\" or \"top-p\"";
            let name: String = name.chars().take(64).collect();
            let message = format!("`strategy`: {name:?} is unknown, {expected}");
            ApiError::field("strategy", message)
        })?;
        let number = |number: &Option<Number>| number.as_ref().and_then(Number::as_f64);
        let whole = |whole: Option<Whole>| whole.map(|whole| whole.0);
        Ok(SamplingParams::new(SamplingOptions {
            strategy,
            k: whole(self.k),
            top_p: number(&self.top_p),
            min_p: number(&self.min_p),
            temperature: number(&self.temperature),
            repetition_penalty: number(&self.repetition_penalty),
            seed: whole(self.seed),
            stop: stop_strings(self.stop.clone(), limits)?,
            max_tokens: Some(whole(self.max_tokens).unwrap_or(DEFAULT_MAX_TOKENS)),
            ..Default::default()
        })?)
    }

    fn echo(&self) -> Map<String, Value> {
        let whole = |whole: Option<Whole>| whole.map(|whole| whole.0);
        let mut params = Map::new();
        let mut put = |name: &str, value: Value| {
            if !value.is_null() {
                params.insert(name.to_owned(), value);
            }
        };
        put(
            "max_tokens",
            whole(self.max_tokens).unwrap_or(DEFAULT_MAX_TOKENS).into(),
        );
        put("strategy", self.strategy().into());
        put("k", whole(self.k).unwrap_or(DEFAULT_K).into());
        put(
            "temperature",
            self.temperature.clone().map_or(json!(1.0), Into::into),
        );
        put("top_p", json!(self.top_p));
        put("min_p", json!(self.min_p));
        put("repetition_penalty", json!(self.repetition_penalty));
        put("seed", json!(self.seed));
        put("stop", json!(self.stop));
        params
    }
}
