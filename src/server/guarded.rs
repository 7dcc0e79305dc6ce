//! A body that holds something until it is sent or given up.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::response::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};

/// What wants to know how a body ends.
pub trait Guard: Send + Unpin + 'static {
    /// The last byte was handed to the connection.
    fn complete(&mut self) {}
}

struct Guarded<G> {
    body: Body,
    guard: G,
}

/// The response, whose body keeps `guard` to its end.
pub fn guarded(response: Response, guard: impl Guard) -> Response {
    response.map(|body| {
        let mut guarded = Guarded { body, guard };
        if guarded.body.is_end_stream() {
            guarded.guard.complete();
        }
        Body::new(guarded)
    })
}

impl<G: Guard> HttpBody for Guarded<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let over = matches!(frame, Poll::Ready(None)) || self.body.is_end_stream();
        if over {
            self.guard.complete();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
