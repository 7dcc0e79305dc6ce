//! One error → status and JSON body.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::engine::{EngineError, ParamError};
use crate::tokenizer::TokenizerError;

/// An error as a client sees it.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<&'static str>,
    code: Option<&'static str>,
}

impl ApiError {
    /// A 400 about one field of the request.
    pub fn field(param: &'static str, message: impl Into<String>) -> Self {
        Self {
            param: Some(param),
            ..Self::status(StatusCode::BAD_REQUEST, message)
        }
    }

    /// An error about the request as a whole.
    pub fn status(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = match status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            s if s.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        Self {
            status,
            kind,
            message: message.into(),
            param: None,
            code: None,
        }
    }

    /// The body: `{"error":{"message","type","param","code"}}`.
    pub fn body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }

    fn with_code(self, code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..self
        }
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
            // What went wrong inside is for the log, not for the client.
            EngineError::Model(_) | EngineError::Tokenizer(_) | EngineError::Internal(_) => {
                tracing::error!("a request failed: {message}");
                Self::status(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
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
