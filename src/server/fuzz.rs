//! Entrances for the fuzz targets; no part of the API.

use serde_json::json;

use super::AppState;
use super::body::parse;
use super::native::GenerateRequest;
use super::openai::CompletionRequest;
use super::openai::chat::ChatRequest;
use super::score::ScoreRequest;
use super::sse;

/// Reads a body as each kind of request and checks it as far as the engine;
/// how many kinds accept it.
pub async fn request(state: &AppState, body: &[u8]) -> usize {
    let Ok(engine) = state.engine() else {
        return 0;
    };
    let mut accepted = 0;
    if let Ok(request) = parse::<GenerateRequest>(body) {
        let limits = &state.config().limits;
        accepted += usize::from(request.sampling(limits).is_ok());
    }
    if let Ok(request) = parse::<CompletionRequest>(body) {
        accepted += usize::from(request.plan(state, &engine).await.is_ok());
    }
    if let Ok(request) = parse::<ChatRequest>(body) {
        accepted += usize::from(request.plan(state, &engine).await.is_ok());
    }
    accepted + usize::from(parse::<ScoreRequest>(body).is_ok())
}

/// A text as an event of a stream.
pub fn event(text: &str) -> String {
    sse::data(&json!({"token": text}))
}
