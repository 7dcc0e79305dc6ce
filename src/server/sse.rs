//! Server-sent events: one `data:` line each.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use utoipa::ToSchema;

/// The mark that ends a stream.
pub const DONE: &str = "data: [DONE]\n\n";

/// An event, as the OpenAPI document describes one.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
pub struct ServerSentEvent {
    /// JSON, or `[DONE]`.
    data: String,
}

/// One event. JSON escapes line breaks, so the text cannot end the line.
pub fn data(value: &impl Serialize) -> String {
    // Types of this crate with string keys and finite numbers: nothing that
    // JSON could not hold.
    let json = serde_json::to_string(value).expect("an event is valid JSON");
    format!("data: {json}\n\n")
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn no_text_can_end_its_event() {
        for text in ["\r", "\n\n", "data: [DONE]\n\n", "\r\n\r\n", "\u{2028}\0"] {
            let frame = data(&json!({"token": text}));
            let line = frame.strip_prefix("data: ").unwrap();
            let line = line.strip_suffix("\n\n").unwrap();
            assert!(!line.contains(['\r', '\n']), "{frame:?}");
            let back: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(back["token"], text);
        }
    }
}
