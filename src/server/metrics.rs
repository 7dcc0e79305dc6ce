//! `/metrics`: what server and engine count.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use tokio::runtime::Handle;

use super::AppState;
use super::state::Readiness;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counters for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    responses((
        status = 200,
        description = "The OpenMetrics text format",
        content_type = "application/openmetrics-text",
        body = String,
    )),
)]
pub async fn metrics(State(state): State<AppState>) -> Response {
    let tasks = Handle::current().metrics().num_alive_tasks();
    let mut text = state.metrics().tasks(tasks).encode();
    if let Readiness::Ready(engine) = state.readiness() {
        text += &engine.metrics().encode();
    }
    text += "# EOF\n";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response()
}
