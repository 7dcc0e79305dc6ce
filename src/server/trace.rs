//! What is known of every request: an id, how long it took, how it ended.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use rand::Rng;
use tracing::Instrument;

use super::AppState;
use super::error::ApiError;
use super::guarded::{Guard, guarded};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Longest id that is taken from a client.
const MAX_ID: usize = 128;

/// The id of a request, the client's own or a new one; an extension of every
/// request.
#[derive(Debug, Clone)]
pub struct RequestId(String);

impl RequestId {
    fn of(request: &Request) -> Self {
        let given = request.headers().get(REQUEST_ID);
        let given = given.and_then(|id| id.to_str().ok()).filter(|id| fits(id));
        Self(given.map_or_else(Self::new_id, str::to_owned))
    }

    fn new_id() -> String {
        format!("{:032x}", rand::rng().random::<u128>())
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An id goes into logs and answers, so it is short and plain.
fn fits(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(plain)
}

/// How long parts of an answer took; an extension of responses.
#[derive(Debug, Clone, Default)]
pub struct Timing(Vec<(&'static str, Duration)>);

impl Timing {
    /// Adds a part.
    pub fn add(&mut self, name: &'static str, took: Duration) {
        self.0.push((name, took));
    }

    /// The value of a `Server-Timing` header, in milliseconds.
    fn header(&self) -> Option<HeaderValue> {
        let part =
            |(name, took): &(&str, Duration)| format!("{name};dur={:.3}", took.as_secs_f64() * 1e3);
        let parts: Vec<_> = self.0.iter().map(part).collect();
        HeaderValue::from_str(&parts.join(", ")).ok()
    }
}

/// Gives a request its id, survives a panic, and logs how the answer ended.
pub async fn trace(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId::of(&request);
    request.extensions_mut().insert(id.clone());
    state.metrics().begun();
    let mut record = Record {
        state: state.clone(),
        started,
        method: request.method().clone(),
        route: route_of(&request),
        id,
        status: StatusCode::INTERNAL_SERVER_ERROR,
        // The body that an answer to HEAD would have is never sent.
        complete: request.method() == Method::HEAD,
    };
    let span = tracing::info_span!("request", id = record.id.as_str());
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    let mut response = answer.instrument(span).await.unwrap_or_else(|_| {
        tracing::error!(request_id = record.id.as_str(), "a handler panicked");
        state.metrics().panicked();
        ApiError::internal().into_response()
    });
    record.status = response.status();
    add_headers(&mut response, &record);
    guarded(response, record)
}

fn route_of(request: &Request) -> String {
    let matched = request.extensions().get::<MatchedPath>();
    matched.map_or("unmatched", MatchedPath::as_str).to_owned()
}

fn add_headers(response: &mut Response, record: &Record) {
    let took = record.started.elapsed();
    let mut timing = response
        .extensions_mut()
        .remove::<Timing>()
        .unwrap_or_default();
    timing.add("total", took);
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(record.id.as_str()) {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(timing) = timing.header() {
        headers.insert(SERVER_TIMING, timing);
    }
    // For every answer, since it costs nothing: a browser is not to guess
    // types, show the answer in a frame, or tell others where it was.
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// A request that is being answered; dropping it writes the line of the log.
struct Record {
    state: AppState,
    started: Instant,
    id: RequestId,
    method: Method,
    route: String,
    status: StatusCode,
    complete: bool,
}

impl Guard for Record {
    fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let outcome = if self.complete { "complete" } else { "cut off" };
        let took = self.started.elapsed();
        // To a microsecond.
        let ms = (took.as_secs_f64() * 1e6).round() / 1e3;
        let (method, route, status) = (&self.method, &self.route, self.status.as_u16());
        let request_id = self.id.as_str();
        let metrics = self.state.metrics();
        metrics.ended(route, status, took, self.complete);
        // Probes come every few seconds.
        if self.route.starts_with("/health") || self.route == "/metrics" {
            tracing::debug!(request_id, %method, route, status, ms, outcome, "request");
        } else {
            tracing::info!(request_id, %method, route, status, ms, outcome, "request");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_break_a_line_are_replaced() {
        assert!(fits("abc-1_2.3:4"));
        for bad in ["", "a b", "a\"b", "ä", &"x".repeat(MAX_ID + 1)] {
            assert!(!fits(bad), "{bad:?}");
        }
        assert_eq!(RequestId::new_id().len(), 32);
    }

    #[test]
    fn timing_is_in_milliseconds() {
        let mut timing = Timing::default();
        timing.add("a", Duration::from_micros(1500));
        timing.add("b", Duration::from_secs(2));
        assert_eq!(timing.header().unwrap(), "a;dur=1.500, b;dur=2000.000");
    }
}
