//! `/api/score`: how likely the model finds texts.

use axum::Json;
use axum::extract::State;
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::body::JsonBody;
use super::error::{ApiError, ErrorBody};
use super::generation::{check_ids, encode, unless_cut};
use super::values::{Text, Texts, Whole};
use crate::engine::{Engine, EngineError};
use crate::scoring::{TextScore, score_texts, stride};

/// What to score.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScoreRequest {
    /// One text or several, of any length.
    input: Texts,
    /// Tokens that each window adds, where a text is longer than the context;
    /// half the context unless given.
    #[schema(value_type = Option<u64>, format = "uint64", minimum = 1)]
    stride: Option<Whole>,
}

/// The scores of all texts, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScoreResponse {
    results: Vec<TextScore>,
}

/// Log probabilities and perplexity of texts.
#[utoipa::path(
    post,
    path = "/api/score",
    tag = "native",
    request_body = ScoreRequest,
    responses(
        (status = 200, body = ScoreResponse),
        (status = "default", description = "An error", body = ErrorBody),
    ),
)]
pub async fn score(
    State(state): State<AppState>,
    JsonBody(request): JsonBody<ScoreRequest>,
) -> Result<Json<ScoreResponse>, ApiError> {
    let deadline = state.deadline();
    let engine = state.engine()?;
    let stride = stride(request.stride.map(|s| s.0), engine.config().n_positions)?;
    let Texts(texts) = request.input;
    let most = state.config().limits.prompts;
    if texts.len() > most {
        let message = format!("`input`: {} texts, at most {most}", texts.len());
        return Err(ApiError::field("input", message));
    }
    let work = score_all(&state, &engine, texts, stride);
    let results = unless_cut(&state, deadline, work).await?;
    Ok(Json(ScoreResponse { results }))
}

/// All texts are encoded before the first is scored, so that what is wrong
/// with one is said at once.
async fn score_all(
    state: &AppState,
    engine: &Engine,
    texts: Vec<Text>,
    stride: usize,
) -> Result<Vec<TextScore>, ApiError> {
    let mut encoded = Vec::with_capacity(texts.len());
    let single = texts.len() == 1;
    for (i, text) in texts.into_iter().enumerate() {
        let ids = ids_of(state, engine, text).await;
        encoded.push(ids.map_err(|error| match single {
            true => error.about_input("input"),
            false => error.about_input(format!("input[{i}]")),
        })?);
    }
    Ok(score_texts(engine, encoded, stride).try_collect().await?)
}

/// The ids of a text, which it has some of.
async fn ids_of(state: &AppState, engine: &Engine, text: Text) -> Result<Vec<u32>, ApiError> {
    let ids = match text {
        Text::Ids(ids) => ids,
        Text::Plain(text) => {
            state.log_prompt(&text);
            encode(engine.tokenizer()?, text).await?
        }
    };
    if ids.is_empty() {
        let message = format!("`prompt`: {}", EngineError::NothingToScore);
        return Err(ApiError::field("prompt", message));
    }
    check_ids(engine, "prompt", &ids)?;
    Ok(ids)
}
