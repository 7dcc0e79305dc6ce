//! What the operator of a server may set, with the defaults of production.

use std::time::Duration;

use axum::http::HeaderValue;

use super::auth::ApiKeys;
use super::host::AllowedHosts;
use super::openai::ChatTemplate;
use super::tls::Tls;

/// The settings of one server.
#[derive(Debug, Clone, Default)]
pub struct ServerConfig {
    /// Who may use it; everyone unless keys are given.
    pub api_keys: ApiKeys,
    /// The `Host` headers that are answered.
    pub hosts: AllowedHosts,
    /// Pages of which sites may call it from a browser.
    pub cors: Cors,
    /// Most of everything in one request.
    pub limits: RequestLimits,
    /// Connections and how long they may take.
    pub connections: ConnectionLimits,
    /// Makes a prompt of a chat; chats are refused without it.
    pub chat_template: Option<ChatTemplate>,
    /// Names by which clients may ask for the model, beside its own.
    pub aliases: Vec<String>,
    /// Whether prompts may appear in the log.
    pub log_prompts: bool,
    /// TLS, where there is a certificate.
    pub tls: Option<Tls>,
}

/// Cross-origin requests from browsers.
#[derive(Debug, Clone, Default)]
pub enum Cors {
    /// None is allowed.
    #[default]
    Off,
    /// Pages of every site.
    Any,
    /// Pages of these sites.
    Origins(Vec<HeaderValue>),
}

/// Most of everything in one request; beyond it is a 400 that names the limit.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// Bytes of a body (a 413).
    pub body_bytes: usize,
    /// Prompts or texts.
    pub prompts: usize,
    /// `n`, and `best_of`.
    pub choices: usize,
    /// Choices over all prompts.
    pub total_choices: usize,
    /// Stop strings.
    pub stop_strings: usize,
    /// Bytes of one stop string.
    pub stop_bytes: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            prompts: 128,
            choices: 16,
            total_choices: 256,
            stop_strings: 4,
            stop_bytes: 256,
        }
    }
}

/// Connections and how long they may take.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Connections at a time; one more is told so and closed.
    pub connections: usize,
    /// From the first byte of a request's head to its last.
    pub header_timeout: Duration,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// From the end of the head to the end of the body.
    pub body_timeout: Duration,
    /// From a connection's start, or the end of an answer, to the next request.
    pub idle_timeout: Duration,
    /// How long a client may take nothing of what is written to it.
    pub write_timeout: Duration,
    /// From the order to stop until running answers are cut short.
    pub drain_timeout: Duration,
    /// From the end of a request's body until it is cut short; none unless set.
    pub request_timeout: Option<Duration>,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 512,
            header_timeout: Duration::from_secs(10),
            header_bytes: 16 << 10,
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            request_timeout: None,
        }
    }
}
