//! A thin HTTP layer over the engine: [`router`] is a plain function of the
//! state, [`serve`] runs it on a listener until told to stop.

mod error;
mod fields;
mod health;
mod native;
mod page;
mod sse;

use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;

use crate::engine::Engine;
use error::ApiError;

/// Most bytes of a request's body.
const MAX_BODY: usize = 1 << 20;

/// What the handlers share. The server listens before the model is loaded.
#[derive(Debug, Clone)]
pub struct AppState {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    model_name: String,
    /// Written once, when loading ends; read for the time of a clone.
    readiness: RwLock<Readiness>,
}

/// Whether requests can be answered.
#[derive(Debug, Clone)]
enum Readiness {
    Loading,
    Ready(Engine),
    Failed,
}

impl AppState {
    /// A state that answers 503 until [`set_engine`](Self::set_engine).
    pub fn loading(model_name: impl Into<String>) -> Self {
        let readiness = RwLock::new(Readiness::Loading);
        let shared = Shared {
            model_name: model_name.into(),
            readiness,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// From now on requests go to `engine`.
    pub fn set_engine(&self, engine: Engine) {
        self.set(Readiness::Ready(engine));
    }

    /// The model could not be loaded.
    pub fn set_failed(&self) {
        self.set(Readiness::Failed);
    }

    fn set(&self, readiness: Readiness) {
        // A reader or writer does nothing that could leave it half-written.
        *self
            .shared
            .readiness
            .write()
            .unwrap_or_else(PoisonError::into_inner) = readiness;
    }

    fn readiness(&self) -> Readiness {
        self.shared
            .readiness
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn model_name(&self) -> &str {
        &self.shared.model_name
    }

    fn engine(&self) -> Result<Engine, ApiError> {
        let unavailable = |message| Err(ApiError::status(StatusCode::SERVICE_UNAVAILABLE, message));
        match self.readiness() {
            Readiness::Ready(engine) => Ok(engine),
            Readiness::Loading => unavailable("the model is still loading"),
            Readiness::Failed => unavailable("the model could not be loaded"),
        }
    }
}

/// All routes.
pub fn router(state: AppState) -> Router {
    Router::new()
        .merge(page::routes())
        .route("/api/generate", post(native::generate))
        .route("/api/stream", post(native::stream_tokens))
        .route("/health", get(health::ready))
        .route("/health/ready", get(health::ready))
        .route("/health/live", get(health::live))
        .fallback(|| async { ApiError::status(StatusCode::NOT_FOUND, "no such path") })
        .method_not_allowed_fallback(|| async {
            ApiError::status(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path has no such method",
            )
        })
        .layer(middleware::from_fn(json_errors))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}

/// Serves until `shutdown` is ready; running answers are finished first.
///
/// # Errors
/// What the operating system says of the listener.
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(state))
        .with_graceful_shutdown(shutdown)
        .await
}

/// Gives the framework's own plain-text refusals the body of all other errors.
async fn json_errors(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    match response.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("the body is larger than {MAX_BODY} bytes");
            ApiError::status(StatusCode::PAYLOAD_TOO_LARGE, message).into_response()
        }
        _ => response,
    }
}
