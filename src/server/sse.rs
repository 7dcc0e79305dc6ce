//! Server-sent events: one `data:` line each.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
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

/// How long a stream is silent at most: proxies close a connection on which
/// nothing comes, nginx after a minute.
const SILENCE: Duration = Duration::from_secs(15);

/// A comment, which clients ignore.
const COMMENT: &str = ":\n\n";

/// A response of these frames, each sent as it comes.
pub fn response(frames: impl Stream<Item = String> + Send + 'static) -> Response {
    let body = Body::from_stream(kept_alive(frames, SILENCE).map(Ok::<_, Infallible>));
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

/// The frames, and a comment after each `silence`.
fn kept_alive(
    frames: impl Stream<Item = String> + Send + 'static,
    silence: Duration,
) -> impl Stream<Item = String> + Send {
    stream::unfold(frames.boxed(), move |mut frames| async move {
        let frame = match tokio::time::timeout(silence, frames.next()).await {
            Ok(frame) => frame?,
            Err(_) => COMMENT.to_owned(),
        };
        Some((frame, frames))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn a_stream_is_never_silent_for_long() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let late = stream::once(async { receiver.await.expect("a frame") });
        let mut frames = kept_alive(late, Duration::from_millis(5)).boxed();
        assert_eq!(frames.next().await.as_deref(), Some(COMMENT));
        sender.send(data(&1)).expect("somebody listens");
        // Perhaps one more came before it.
        let rest: Vec<String> = frames.collect().await;
        assert_eq!(rest.last(), Some(&data(&1)));
        let quick = kept_alive(stream::iter([data(&1), data(&2)]), Duration::MAX);
        assert_eq!(quick.count().await, 2);
    }

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
