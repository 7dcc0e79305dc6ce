//! `/health`, `/health/ready`, `/health/live`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{AppState, Readiness};

/// Whether requests are answered: 200 `ok`, or 503 `loading` or `error`.
pub async fn ready(State(state): State<AppState>) -> (StatusCode, Json<Value>) {
    let readiness = state.readiness();
    let status = match &readiness {
        Readiness::Ready(engine) if engine.is_alive() => "ok",
        Readiness::Loading => "loading",
        Readiness::Ready(_) | Readiness::Failed => "error",
    };
    let code = if status == "ok" {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut body = json!({
        "status": status,
        "model_loaded": status == "ok",
        "model": state.model_name(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    if let Readiness::Ready(engine) = &readiness {
        body["n_positions"] = engine.config().n_positions.into();
    }
    (code, Json(body))
}

/// 200 while the process lives.
pub async fn live() -> Json<Value> {
    Json(json!({"status": "ok"}))
}
