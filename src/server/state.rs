//! What the handlers share.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use tokio::sync::Semaphore;

use super::config::ServerConfig;
use super::error::ApiError;
use super::inspect;
use super::lifecycle::{Lifecycle, Phase};
use crate::engine::Engine;
use crate::metrics::HttpMetrics;

/// What the handlers share. The server listens before the model is loaded.
#[derive(Debug, Clone)]
pub struct AppState {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    model_name: String,
    config: ServerConfig,
    lifecycle: Lifecycle,
    metrics: HttpMetrics,
    /// Places for `/api/inspect`.
    inspections: Arc<Semaphore>,
    /// Seconds since 1970 at which the server started.
    started: u64,
    /// Written once, when loading ends; read for the time of a clone.
    readiness: RwLock<Readiness>,
}

/// Whether requests can be answered.
#[derive(Debug, Clone)]
pub enum Readiness {
    /// Not yet.
    Loading,
    /// They can.
    Ready(Engine),
    /// The model could not be loaded.
    Failed,
}

impl AppState {
    /// A state with the default settings that answers 503 until
    /// [`set_engine`](Self::set_engine).
    pub fn loading(model_name: impl Into<String>) -> Self {
        Self::with_config(model_name, ServerConfig::default())
    }

    /// [`loading`](Self::loading) with settings.
    pub fn with_config(model_name: impl Into<String>, config: ServerConfig) -> Self {
        let shared = Shared {
            model_name: model_name.into(),
            config,
            lifecycle: Lifecycle::default(),
            metrics: HttpMetrics::new(),
            inspections: Arc::new(Semaphore::new(inspect::AT_A_TIME)),
            started: unix_time(),
            readiness: RwLock::new(Readiness::Loading),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// From now on requests go to `engine`.
    pub fn set_engine(&self, engine: Engine) {
        self.set(Readiness::Ready(engine));
    }

    /// The model could not be loaded.
    pub fn set_failed(&self) {
        self.set(Readiness::Failed);
    }

    fn set(&self, readiness: Readiness) {
        // A reader or writer does nothing that could leave it half-written.
        *self
            .shared
            .readiness
            .write()
            .unwrap_or_else(PoisonError::into_inner) = readiness;
    }

    pub(super) fn readiness(&self) -> Readiness {
        self.shared
            .readiness
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn model_name(&self) -> &str {
        &self.shared.model_name
    }

    pub(super) fn config(&self) -> &ServerConfig {
        &self.shared.config
    }

    pub(super) fn lifecycle(&self) -> &Lifecycle {
        &self.shared.lifecycle
    }

    pub(super) fn metrics(&self) -> &HttpMetrics {
        &self.shared.metrics
    }

    pub(super) fn inspections(&self) -> &Arc<Semaphore> {
        &self.shared.inspections
    }

    /// Whether clients mean the served model by this name.
    pub(super) fn serves(&self, model: &str) -> bool {
        model == self.model_name() || self.config().aliases.iter().any(|alias| alias == model)
    }

    /// Seconds since 1970 at which the server started.
    pub(super) fn started(&self) -> u64 {
        self.shared.started
    }

    /// Writes a prompt into the log, where that was asked for.
    pub(super) fn log_prompt(&self, prompt: &str) {
        if self.config().log_prompts {
            tracing::info!(prompt, "prompt");
        }
    }

    /// When a request that begins now is given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let timeout = self.config().connections.request_timeout;
        timeout.map(|timeout| Instant::now() + timeout)
    }

    /// The engine, if it may be given new work.
    pub(super) fn engine(&self) -> Result<Engine, ApiError> {
        let unavailable = |message| Err(ApiError::status(StatusCode::SERVICE_UNAVAILABLE, message));
        if self.lifecycle().phase() > Phase::Running {
            return Err(ApiError::stopping());
        }
        match self.readiness() {
            Readiness::Ready(engine) => Ok(engine),
            Readiness::Loading => unavailable("the model is still loading"),
            Readiness::Failed => unavailable("the model could not be loaded"),
        }
    }
}

/// Seconds since 1970.
pub fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
