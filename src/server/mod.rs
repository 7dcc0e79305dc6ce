//! A thin HTTP layer over the engine: [`router`] is a plain function of the
//! state, [`serve`] runs it on a listener until told to stop.
//!
//! A request comes through [`listener`](self::serve) (connections, TLS,
//! time limits), `trace` (its id, its line in the log), `host`, `cors` and
//! `auth`, before a route's handler reads its `body`. The handlers are
//! `native`, `openai`, `score`, `inspect`, `tokens`, `health`, `metrics`,
//! `openapi` and `page`.

mod auth;
mod body;
mod config;
mod cors;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod generation;
mod guarded;
mod health;
mod host;
mod inspect;
mod lifecycle;
mod listener;
mod metrics;
mod native;
mod openai;
mod openapi;
mod page;
mod score;
mod sse;
mod state;
mod timed_io;
mod tls;
mod tokens;
mod trace;
mod values;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware;
use axum::routing::{get, post};

pub use auth::ApiKeys;
pub use config::{ConnectionLimits, Cors, RequestLimits, ServerConfig};
pub use host::AllowedHosts;
pub use listener::serve;
pub use openai::{ChatTemplate, TemplateError};
pub use state::AppState;
pub use tls::{Tls, TlsError};

use error::ApiError;

/// All routes.
pub fn router(state: AppState) -> Router {
    let routes = Router::new()
        .merge(page::routes())
        .route("/api/generate", post(native::generate))
        .route("/api/stream", post(native::stream_tokens))
        .route("/health", get(health::health))
        .route("/health/ready", get(health::ready))
        .route("/health/live", get(health::live))
        .route("/api/score", post(score::score))
        .route("/api/inspect", post(inspect::inspect))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/tokenizer_info", get(tokens::info))
        .route("/v1/completions", post(openai::completions::complete))
        .route("/v1/chat/completions", post(openai::chat::complete))
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{*id}", get(openai::models::get))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(openapi::document))
        .fallback(|| async { ApiError::status(StatusCode::NOT_FOUND, "no such path") })
        .method_not_allowed_fallback(|| async {
            ApiError::status(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path has no such method",
            )
        });
    // The last is the first that a request meets.
    let checked = routes.layer(middleware::from_fn_with_state(
        state.clone(),
        auth::require_key,
    ));
    cors::layered(checked, &state.config().cors)
        .layer(middleware::from_fn_with_state(
            state.clone(),
            host::check_host,
        ))
        .layer(middleware::from_fn_with_state(state.clone(), trace::trace))
        .with_state(state)
}
