//! One error → status and JSON body.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::{EngineError, ParamError};
use crate::tokenizer::TokenizerError;

/// An error as a client sees it.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    detail: Detail,
}

/// The body of every error.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ErrorBody {
    error: Detail,
}

/// What went wrong.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct Detail {
    /// For people.
    message: String,
    /// The class of the error.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The field at fault.
    param: Option<Cow<'static, str>>,
    /// For programs.
    code: Option<&'static str>,
}

impl ApiError {
    /// A 400 about one field of the request.
    pub fn field(param: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let mut error = Self::status(StatusCode::BAD_REQUEST, message);
        error.detail.param = Some(param.into());
        error
    }

    /// An error about the request as a whole.
    pub fn status(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            s if s.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let detail = Detail {
            message: message.into(),
            kind,
            param: None,
            code: None,
        };
        Self { status, detail }
    }

    /// A 500. What went wrong inside is for the log, not for the client.
    pub fn internal() -> Self {
        Self::status(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
    }

    /// A 503: this server takes no new work, and ends what it has not finished.
    pub fn stopping() -> Self {
        let message = "the server is shutting down";
        Self::status(StatusCode::SERVICE_UNAVAILABLE, message).with_code("shutting_down")
    }

    /// The body: `{"error":{"message","type","param","code"}}`.
    pub fn body(&self) -> ErrorBody {
        let error = self.detail.clone();
        ErrorBody { error }
    }

    /// About the field `param`.
    pub fn with_param(mut self, param: &'static str) -> Self {
        self.detail.param = Some(param.into());
        self
    }

    /// About the request as a whole.
    pub fn without_param(mut self) -> Self {
        self.detail.param = None;
        self
    }

    /// With a code for programs.
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.detail.code = Some(code);
        self
    }

    /// The same about the field `param`, if it is about the field `prompt`:
    /// the engine knows no other name for its input.
    pub fn about_input(self, param: impl Into<Cow<'static, str>>) -> Self {
        self.renamed("prompt", param)
    }

    /// The same about the field `to`, if it is about the field `from`.
    pub fn renamed(mut self, from: &str, to: impl Into<Cow<'static, str>>) -> Self {
        if self.detail.param.as_deref() == Some(from) {
            let to = to.into();
            let named = (format!("`{from}`"), format!("`{to}`"));
            self.detail.message = self.detail.message.replacen(&named.0, &named.1, 1);
            self.detail.param = Some(to);
        }
        self
    }
}

impl From<ParamError> for ApiError {
    fn from(error: ParamError) -> Self {
        Self::field(error.param, error.to_string())
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        match error {
            EngineError::Param(error) => error.into(),
            EngineError::ContextFull { .. } | EngineError::TooLongToScore { .. } => {
                Self::field("prompt", message).with_code("context_length_exceeded")
            }
            EngineError::UnknownToken { .. }
            | EngineError::NoStart
            | EngineError::NothingToScore
            | EngineError::Tokenizer(TokenizerError::TooManyRepeats { .. })
            | EngineError::Tokenizer(TokenizerError::Missing) => Self::field("prompt", message),
            EngineError::Overloaded { .. } => {
                Self::status(StatusCode::TOO_MANY_REQUESTS, message).with_code("overloaded")
            }
            EngineError::DeadlineExceeded | EngineError::SlowReader { .. } => {
                Self::status(StatusCode::REQUEST_TIMEOUT, message)
            }
            EngineError::Stopped => Self::status(StatusCode::SERVICE_UNAVAILABLE, message),
            EngineError::Model(_) | EngineError::Tokenizer(_) | EngineError::Internal(_) => {
                tracing::error!("a request failed: {message}");
                Self::internal()
            }
        }
    }
}

impl From<TokenizerError> for ApiError {
    fn from(error: TokenizerError) -> Self {
        EngineError::from(error).into()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            let seconds = HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
