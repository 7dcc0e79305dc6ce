//! Every metric's name, once, as typed functions.

mod http;

use std::time::Duration;

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use prometheus_client::registry::Unit::Seconds;

pub use http::HttpMetrics;

/// What an engine counts, in the Prometheus data model.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests_waiting: Gauge,
    requests_running: Gauge,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    generated_tokens: Counter,
    blocks: Gauge,
    blocks_used: Gauge,
    blocks_shared: Gauge,
    blocks_idle: Gauge,
    preemptions: Counter,
    failed_steps: Counter,
    time_to_first_token: Histogram,
    time_between_tokens: Histogram,
    step: Histogram,
    scheduling: Counter<f64, std::sync::atomic::AtomicU64>,
}

/// The state of an engine between two steps.
#[derive(Debug, Clone, Copy)]
pub struct EngineState {
    /// Requests in the queue.
    pub waiting: usize,
    /// Requests that share the steps.
    pub running: usize,
    /// Blocks of the KV cache: all, held, held by several, kept for reuse.
    pub blocks: [usize; 4],
}

impl Metrics {
    /// All of them, at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("gpt2");
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let counter = |registry: &mut Registry, name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let seconds = |registry: &mut Registry, name: &str, help: &str| {
            // 1 ms to 32 s.
            let histogram = Histogram::new(exponential_buckets(0.001, 2.0, 16));
            registry.register_with_unit(name, help, Seconds, histogram.clone());
            histogram
        };
        let scheduling = Counter::default();
        registry.register_with_unit(
            "scheduling",
            "Time spent on deciding what a step computes",
            Seconds,
            scheduling.clone(),
        );
        let r = &mut registry;
        Self {
            requests_waiting: gauge(r, "requests_waiting", "Requests in the queue"),
            requests_running: gauge(r, "requests_running", "Requests that share the steps"),
            prompt_tokens: counter(r, "prompt_tokens", "Tokens of prompts taken up"),
            cached_tokens: counter(r, "cached_tokens", "Those that were in the cache already"),
            generated_tokens: counter(r, "generated_tokens", "Tokens generated"),
            blocks: gauge(r, "kv_blocks", "Blocks of the KV cache"),
            blocks_used: gauge(r, "kv_blocks_used", "Blocks that requests hold"),
            blocks_shared: gauge(r, "kv_blocks_shared", "Blocks that several requests hold"),
            blocks_idle: gauge(
                r,
                "kv_blocks_idle",
                "Blocks kept for prompts that begin alike",
            ),
            preemptions: counter(
                r,
                "preemptions",
                "Requests that had to give up their blocks",
            ),
            failed_steps: counter(r, "failed_steps", "Steps that ended in an error"),
            time_to_first_token: seconds(
                r,
                "time_to_first_token",
                "From the request's arrival at the engine to its first token",
            ),
            time_between_tokens: seconds(
                r,
                "time_between_tokens",
                "Between two tokens of a request; tokens guessed rightly come together",
            ),
            step: seconds(r, "step", "One step: schedule, forward, choose"),
            scheduling,
            registry,
        }
    }

    /// All values as text, in the OpenMetrics format that Prometheus reads, but
    /// for its last line, `# EOF`: those of a server come after them.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        match encode_registry(&mut text, &self.registry) {
            Ok(()) => text,
            // Writing to a string doesn't fail.
            Err(std::fmt::Error) => String::new(),
        }
    }

    /// A prompt has left the queue; `cached` of its tokens were there already.
    pub fn prompt_started(&self, tokens: usize, cached: usize) {
        self.prompt_tokens.inc_by(tokens as u64);
        self.cached_tokens.inc_by(cached as u64);
    }

    /// A request's first token, this long after it came.
    pub fn first_token(&self, after: Duration) {
        self.generated_tokens.inc();
        self.time_to_first_token.observe(after.as_secs_f64());
    }

    /// Another token, this long after the one before.
    pub fn next_token(&self, after: Duration) {
        self.generated_tokens.inc();
        self.time_between_tokens.observe(after.as_secs_f64());
    }

    /// A step took this long, of which `scheduling` was spent on deciding and
    /// bookkeeping.
    pub fn step(&self, total: Duration, scheduling: Duration) {
        self.step.observe(total.as_secs_f64());
        self.scheduling.inc_by(scheduling.as_secs_f64());
    }

    /// A step ended in an error.
    pub fn step_failed(&self) {
        self.failed_steps.inc();
    }

    /// Requests had to give up their blocks.
    pub fn preempted(&self, requests: u64) {
        self.preemptions.inc_by(requests);
    }

    /// How things stand.
    pub fn state(&self, state: EngineState) {
        let [all, used, shared, idle] = state.blocks;
        for (gauge, value) in [
            (&self.requests_waiting, state.waiting),
            (&self.requests_running, state.running),
            (&self.blocks, all),
            (&self.blocks_used, used),
            (&self.blocks_shared, shared),
            (&self.blocks_idle, idle),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
