//! Server-sent events: one `data:` line each.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use serde_json::Value;

/// The mark that ends a stream.
pub const DONE: &str = "data: [DONE]\n\n";

/// One event. JSON escapes line breaks, so the text cannot end the line.
pub fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// A response of these frames, each sent as it comes.
pub fn response(frames: impl Stream<Item = String> + Send + 'static) -> Response {
    let body = Body::from_stream(frames.map(Ok::<_, Infallible>));
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Asks proxies such as nginx not to collect the stream.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
