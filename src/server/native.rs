//! `/api/generate` and `/api/stream`: the API of the engine that this one
//! replaces, with its defaults.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use futures_util::stream;
use serde_json::{Map, Value, json};

use super::AppState;
use super::error::ApiError;
use super::fields::Fields;
use super::sse;
use crate::engine::{Engine, Event, Events, Request, SamplingOptions, SamplingParams, Strategy};

const DEFAULT_MAX_TOKENS: u64 = 50;
const DEFAULT_K: u64 = 50;
/// Stop strings in a request, and bytes in one.
const MAX_STOPS: usize = 4;
const MAX_STOP_BYTES: usize = 256;

/// `POST /api/generate`: the whole answer at once.
pub async fn generate(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let engine = state.engine()?;
    let body = Body::parse(&headers, &body)?;
    let mut events = body.submit(&engine)?;
    let mut generated_text = body.prompt.clone();
    while let Some(event) = events.next().await {
        match event {
            Event::Token(token) => generated_text += &token.text,
            Event::Finished(_) => break,
            Event::Failed(error) => return Err(error.into()),
        }
    }
    Ok(Json(json!({
        "generated_text": generated_text,
        "prompt": body.prompt,
        "params": body.params,
    })))
}

/// `POST /api/stream`: the same as server-sent events, token by token.
pub async fn stream_tokens(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let engine = state.engine()?;
    let body = Body::parse(&headers, &body)?;
    let events = body.submit(&engine)?;
    let start = Some((events, body.prompt));
    Ok(sse::response(stream::unfold(start, |state| async {
        let (mut events, mut text) = state?;
        let frame = match events.next().await? {
            Event::Token(token) => {
                text += &token.text;
                let frame = sse::data(&json!({
                    "index": token.index,
                    "token_id": token.token_id,
                    "token": token.text,
                }));
                return Some((frame, Some((events, text))));
            }
            Event::Finished(finished) => sse::data(&json!({
                "done": true,
                "finish_reason": finished.finish_reason,
                "generated_text": text,
                "usage": finished.usage,
            })),
            Event::Failed(error) => sse::data(&ApiError::from(error).body()),
        };
        Some((frame + sse::DONE, None))
    })))
}

/// A checked body.
struct Body {
    prompt: String,
    sampling: SamplingParams,
    /// What the answer repeats, in the order in which it always did.
    params: Map<String, Value>,
}

impl Body {
    fn parse(headers: &HeaderMap, body: &Bytes) -> Result<Self, ApiError> {
        let fields = Fields::parse(headers, body)?;
        let prompt = fields
            .string("prompt")?
            .ok_or_else(|| ApiError::field("prompt", "`prompt` is missing: give a string"))?
            .to_owned();
        let name = fields.string("strategy")?.unwrap_or("greedy");
        let strategy = Strategy::from_name(name).ok_or_else(|| {
            let expected = "expected \"greedy\", \"top-k\" or \"top-p\"";
            ApiError::field(
                "strategy",
                format!("`strategy`: {name:?} is unknown, {expected}"),
            )
        })?;
        let number = |name| Ok::<_, ApiError>(fields.number(name)?.and_then(|n| n.as_f64()));
        let max_tokens = max_tokens(&fields)?;
        let sampling = SamplingParams::new(SamplingOptions {
            strategy,
            k: fields.whole("k")?,
            top_p: number("top_p")?,
            min_p: number("min_p")?,
            temperature: number("temperature")?,
            repetition_penalty: number("repetition_penalty")?,
            seed: fields.whole("seed")?,
            stop: stops(&fields)?,
            max_tokens: Some(max_tokens),
            ..Default::default()
        })?;
        let mut params = Map::new();
        let mut echo = |name: &str, default: Option<Value>| {
            if let Some(value) = fields.raw(name).or(default) {
                params.insert(name.to_owned(), value);
            }
        };
        echo("max_tokens", Some(DEFAULT_MAX_TOKENS.into()));
        echo("strategy", Some(name.into()));
        echo("k", Some(DEFAULT_K.into()));
        echo("temperature", Some(1.0.into()));
        for name in ["top_p", "min_p", "repetition_penalty", "seed", "stop"] {
            echo(name, None);
        }
        Ok(Self {
            prompt,
            sampling,
            params,
        })
    }

    fn submit(&self, engine: &Engine) -> Result<Events, ApiError> {
        let prompt = engine.tokenizer()?.encode(&self.prompt)?;
        let params = self.sampling.clone();
        Ok(engine.submit(Request::new(prompt, params))?)
    }
}

fn max_tokens(fields: &Fields) -> Result<u64, ApiError> {
    match fields.number("max_tokens")? {
        None => Ok(DEFAULT_MAX_TOKENS),
        Some(number) => number.as_u64().ok_or_else(|| {
            let message = format!("`max_tokens`: {number} is not a whole number of 1 or more");
            ApiError::field("max_tokens", message)
        }),
    }
}

fn stops(fields: &Fields) -> Result<Vec<String>, ApiError> {
    let stop = fields.strings("stop")?.unwrap_or_default();
    if stop.len() > MAX_STOPS {
        let message = format!("`stop`: {} strings, at most {MAX_STOPS}", stop.len());
        return Err(ApiError::field("stop", message));
    }
    if let Some(long) = stop.iter().find(|s| s.len() > MAX_STOP_BYTES) {
        let message = format!(
            "`stop`: a string of {} bytes, at most {MAX_STOP_BYTES}",
            long.len()
        );
        return Err(ApiError::field("stop", message));
    }
    Ok(stop)
}
