//! `/health`, `/health/ready`, `/health/live`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::lifecycle::Phase;
use super::state::Readiness;

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`, `loading`, `stopping` or `error`.
    status: &'static str,
    model_loaded: bool,
    model: String,
    version: &'static str,
    /// The length of the model's context, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    n_positions: Option<usize>,
}

/// That the process lives.
#[derive(Debug, Serialize, ToSchema)]
pub struct Live {
    status: &'static str,
}

/// Whether requests are answered.
#[utoipa::path(
    get,
    path = "/health",
    tag = "operation",
    security(()),
    responses((status = 200, body = Health), (status = 503, body = Health)),
)]
pub async fn health(state: State<AppState>) -> (StatusCode, Json<Health>) {
    ready(state).await
}

/// Whether requests are answered.
#[utoipa::path(
    get,
    path = "/health/ready",
    tag = "operation",
    security(()),
    responses((status = 200, body = Health), (status = 503, body = Health)),
)]
pub async fn ready(State(state): State<AppState>) -> (StatusCode, Json<Health>) {
    let readiness = state.readiness();
    let status = match &readiness {
        Readiness::Ready(engine) if !engine.is_alive() => "error",
        Readiness::Ready(_) if state.lifecycle().phase() > Phase::Running => "stopping",
        Readiness::Ready(_) => "ok",
        Readiness::Loading => "loading",
        Readiness::Failed => "error",
    };
    let code = if status == "ok" {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let health = Health {
        status,
        model_loaded: matches!(status, "ok" | "stopping"),
        model: state.model_name().to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        n_positions: match &readiness {
            Readiness::Ready(engine) => Some(engine.config().n_positions),
            Readiness::Loading | Readiness::Failed => None,
        },
    };
    (code, Json(health))
}

/// 200 while the process lives.
#[utoipa::path(
    get,
    path = "/health/live",
    tag = "operation",
    security(()),
    responses((status = 200, body = Live)),
)]
pub async fn live() -> Json<Live> {
    Json(Live { status: "ok" })
}
