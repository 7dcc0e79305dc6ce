//! Fields of a JSON body, each read with an error that names it.

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Number, Value};

use super::error::ApiError;

/// A JSON object whose `null`s count as absent. Unknown fields are ignored.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Parses a request's body.
    ///
    /// # Errors
    /// 415 without a JSON content type, 400 for anything but a JSON object.
    pub fn parse(headers: &HeaderMap, body: &Bytes) -> Result<Self, ApiError> {
        let content_type = headers
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok());
        if !content_type.is_some_and(is_json) {
            let message = "the body must be JSON: send it with `Content-Type: application/json`";
            return Err(ApiError::status(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                message,
            ));
        }
        let bad = |message: String| Err(ApiError::status(StatusCode::BAD_REQUEST, message));
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => bad("the body must be a JSON object".to_owned()),
            Err(e) => bad(format!("the body is not JSON: {e}")),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A string.
    pub fn string(&self, name: &'static str) -> Result<Option<&str>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, other, "a string")),
        }
    }

    /// A number, as it was received.
    pub fn number(&self, name: &'static str) -> Result<Option<&Number>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(Some(number)),
            Some(other) => Err(wrong(name, other, "a number")),
        }
    }

    /// A whole number of 0 or more.
    pub fn whole(&self, name: &'static str) -> Result<Option<u64>, ApiError> {
        let Some(number) = self.number(name)? else {
            return Ok(None);
        };
        number.as_u64().map(Some).ok_or_else(|| {
            ApiError::field(
                name,
                format!("`{name}`: {number} is not a whole number of 0 or more"),
            )
        })
    }

    /// A string or a list of strings.
    pub fn strings(&self, name: &'static str) -> Result<Option<Vec<String>>, ApiError> {
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            other => Err(wrong(name, other, "a string or a list of strings")),
        };
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(list)) => list.iter().map(text).collect::<Result<_, _>>().map(Some),
            Some(single) => Ok(Some(vec![text(single)?])),
        }
    }

    /// The value as it was received, for an answer that repeats it.
    pub fn raw(&self, name: &str) -> Option<Value> {
        self.get(name).cloned()
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn wrong(name: &'static str, found: &Value, expected: &str) -> ApiError {
    let kind = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    ApiError::field(name, format!("`{name}` is {kind}, expected {expected}"))
}
