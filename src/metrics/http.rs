//! What an HTTP server counts.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use prometheus_client::registry::Unit::Seconds;

/// What an HTTP server counts. Labels take few values: routes as they are
/// declared, never paths as they were sent.
#[derive(Debug)]
pub struct HttpMetrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    durations: Family<Route, Histogram>,
    cut_off: Family<Route, Counter>,
    in_flight: Gauge,
    connections: Gauge,
    tasks: Gauge,
    refused_connections: Counter,
    panics: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

impl HttpMetrics {
    /// All of them, at zero.
    pub fn new() -> Self {
        // 1 ms to 262 s.
        let durations = || Histogram::new(exponential_buckets(0.001, 4.0, 10));
        let mut metrics = Self {
            registry: Registry::with_prefix("gpt2_http"),
            requests: Family::default(),
            durations: Family::new_with_constructor(durations),
            cut_off: Family::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            tasks: Gauge::default(),
            refused_connections: Counter::default(),
            panics: Counter::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("requests", "Requests answered", self.requests.clone());
        r.register_with_unit(
            "request_duration",
            "From a request's head to the last byte of its answer",
            Seconds,
            self.durations.clone(),
        );
        r.register(
            "cut_off",
            "Answers that did not reach their end: the client went away, or the server stopped",
            self.cut_off.clone(),
        );
        r.register(
            "in_flight",
            "Requests that are being answered",
            self.in_flight.clone(),
        );
        r.register("connections", "Open connections", self.connections.clone());
        r.register("tasks", "Tasks that are alive", self.tasks.clone());
        r.register(
            "refused_connections",
            "Connections beyond the limit",
            self.refused_connections.clone(),
        );
        r.register("panics", "Handlers that panicked", self.panics.clone());
    }

    /// Notes how many tasks are alive.
    pub fn tasks(&self, alive: usize) -> &Self {
        self.tasks.set(i64::try_from(alive).unwrap_or(i64::MAX));
        self
    }

    /// All values as text, in the OpenMetrics format, without its last line.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        match encode_registry(&mut text, &self.registry) {
            Ok(()) => text,
            // Writing to a string doesn't fail.
            Err(std::fmt::Error) => String::new(),
        }
    }

    /// A request has begun.
    pub fn begun(&self) {
        self.in_flight.inc();
    }

    /// It is over after `took`; `complete` if the client got all of the answer.
    pub fn ended(&self, route: &str, status: u16, took: Duration, complete: bool) {
        self.in_flight.dec();
        let answered = Answered {
            route: route.to_owned(),
            status,
        };
        self.requests.get_or_create(&answered).inc();
        let route = Route {
            route: route.to_owned(),
        };
        let duration = self.durations.get_or_create(&route);
        duration.observe(took.as_secs_f64());
        if !complete {
            self.cut_off.get_or_create(&route).inc();
        }
    }

    /// A connection was accepted.
    pub fn connected(&self) {
        self.connections.inc();
    }

    /// A connection is over.
    pub fn disconnected(&self) {
        self.connections.dec();
    }

    /// A connection was one too many.
    pub fn connection_refused(&self) {
        self.refused_connections.inc();
    }

    /// A handler panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }
}

impl Default for HttpMetrics {
    fn default() -> Self {
        Self::new()
    }
}
