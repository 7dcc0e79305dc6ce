//! `/v1/models`: the one model that is served.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::server::AppState;
use crate::server::error::{ApiError, ErrorBody};
use crate::server::state::Readiness;

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    id: String,
    #[schema(pattern = "^model$")]
    object: &'static str,
    /// When the server started, in seconds since 1970.
    created: u64,
    owned_by: &'static str,
    /// The length of the context, in tokens; absent while the model loads.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_model_len: Option<usize>,
}

/// All models.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    #[schema(pattern = "^list$")]
    object: &'static str,
    data: Vec<Model>,
}

/// The models that are served.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "openai",
    responses(
        (status = 200, body = ModelList),
        (status = "default", description = "An error", body = ErrorBody),
    ),
)]
pub async fn list(State(state): State<AppState>) -> Json<ModelList> {
    Json(ModelList {
        object: "list",
        data: vec![served(&state)],
    })
}

/// One model.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    tag = "openai",
    params(("id" = String, Path, description = "Its name")),
    responses(
        (status = 200, body = Model),
        (status = "default", description = "An error", body = ErrorBody),
    ),
)]
pub async fn get(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Json<Model>, ApiError> {
    if state.serves(&id) {
        Ok(Json(served(&state)))
    } else {
        Err(unknown(&state, &id))
    }
}

/// A 404 for a model that is not served.
pub fn unknown(state: &AppState, model: &str) -> ApiError {
    let model: String = model.chars().take(100).collect();
    let served = state.model_name();
    let message = format!("the model {model:?} is not served here; {served:?} is");
    ApiError::status(StatusCode::NOT_FOUND, message)
        .with_param("model")
        .with_code("model_not_found")
}

fn served(state: &AppState) -> Model {
    Model {
        id: state.model_name().to_owned(),
        object: "model",
        created: state.started(),
        owned_by: "gpt2-engine",
        max_model_len: match state.readiness() {
            Readiness::Ready(engine) => Some(engine.config().n_positions),
            Readiness::Loading | Readiness::Failed => None,
        },
    }
}
