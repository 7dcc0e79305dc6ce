//! Calls from pages of other sites.

use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::AppState;
use super::config::Cors;

/// How long a browser may remember what is allowed.
const MAX_AGE: Duration = Duration::from_secs(600);

/// The routes, with answers to what browsers ask before they call them.
pub fn layered(routes: Router<AppState>, cors: &Cors) -> Router<AppState> {
    let origins = match cors {
        Cors::Off => return routes,
        Cors::Any => AllowOrigin::any(),
        Cors::Origins(origins) => AllowOrigin::list(origins.iter().cloned()),
    };
    let request_id = HeaderName::from_static("x-request-id");
    let layer = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            header::CONTENT_TYPE,
            header::AUTHORIZATION,
            request_id.clone(),
        ])
        .expose_headers([request_id, header::RETRY_AFTER])
        .max_age(MAX_AGE);
    routes.layer(layer)
}
