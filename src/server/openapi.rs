//! `/openapi.json`: the API described, from the same types that are parsed
//! and written.

use axum::Json;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::openai::{chat, completions, models};
use super::{health, inspect, metrics, native, score, tokens};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "gpt2-engine",
        description = "A GPT-2 over HTTP. Errors have one body everywhere; where the server was \
            given API keys, send one as a bearer token.",
    ),
    paths(
        native::generate,
        native::stream_tokens,
        score::score,
        inspect::inspect,
        completions::complete,
        chat::complete,
        models::list,
        models::get,
        tokens::tokenize,
        tokens::detokenize,
        tokens::info,
        health::health,
        health::ready,
        health::live,
        metrics::metrics,
    ),
    security((), ("api_key" = [])),
    modifiers(&ApiKey),
)]
struct Document;

struct ApiKey;

impl Modify for ApiKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("api_key", bearer);
    }
}

/// The document.
pub async fn document() -> Response {
    Json(Document::openapi()).into_response()
}
