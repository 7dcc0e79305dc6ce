//! A request's JSON body, read in bounded time and size, with errors that
//! name the field.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_path_to_error::Segment;
use tokio::time::timeout;

use super::AppState;
use super::error::ApiError;
use super::lifecycle::Phase;
use super::values::Object;

/// Longest message of a parser that is passed on: it may quote what was sent.
const MAX_QUOTED: usize = 300;

/// The body of a request, parsed.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<AppState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        // Told before the body is read: loading, failed, or stopping.
        state.engine()?;
        refuse_other_types(request.headers())?;
        let bytes = read(request, state).await?;
        parse(&bytes).map(Self)
    }
}

fn refuse_other_types(headers: &HeaderMap) -> Result<(), ApiError> {
    let unsupported = |message| {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Err(ApiError::status(status, message))
    };
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if !text(header::CONTENT_TYPE).is_some_and(is_json) {
        return unsupported("the body must be JSON: send it with `Content-Type: application/json`");
    }
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        return unsupported("the body must not be compressed");
    }
    Ok(())
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// The whole body. A server that is to stop doesn't wait for it.
async fn read(request: Request, state: &AppState) -> Result<Bytes, ApiError> {
    let limit = state.config().limits.body_bytes;
    let body = Limited::new(request.into_body(), limit).collect();
    let read = timeout(state.config().connections.body_timeout, body);
    let collected = tokio::select! {
        biased;
        () = state.lifecycle().reached(Phase::Draining) => return Err(ApiError::stopping()),
        collected = read => collected,
    };
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the body is larger than {limit} bytes");
            Err(ApiError::status(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Ok(Err(_)) => {
            let message = "the body ends early or is malformed";
            Err(ApiError::status(StatusCode::BAD_REQUEST, message))
        }
        Err(_) => {
            let message = "the body takes too long to arrive";
            Err(ApiError::status(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

/// Parses a body.
///
/// # Errors
/// 400, with the field's path where it is a field that is wrong.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let Object(parsed) = serde_path_to_error::deserialize(&mut parser).map_err(explained)?;
    let not_json = |e: serde_json::Error| bad(&format!("the body is not JSON: {e}"));
    parser.end().map_err(not_json)?;
    Ok(parsed)
}

fn bad(message: &str) -> ApiError {
    ApiError::status(StatusCode::BAD_REQUEST, shortened(message))
}

fn explained(error: serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let mut path = error.path().to_string();
    // Where a name was expected, there is none to say.
    let is_unknown = matches!(error.path().iter().next_back(), Some(Segment::Unknown));
    if is_unknown {
        path.pop();
    }
    if is_unknown && path.ends_with('.') || path == "." {
        path.pop();
    }
    let error = error.into_inner();
    let said = error.to_string();
    if let Some((problem, name)) = key_problem(&said) {
        let param = match (path.is_empty(), path.ends_with(name)) {
            (true, _) => name.to_owned(),
            (false, true) => path,
            (false, false) => format!("{path}.{name}"),
        };
        let message = shortened(&format!("`{param}` {problem}"));
        return ApiError::field(shortened(&param), message);
    }
    match (error.classify(), path.is_empty()) {
        (Category::Data, true) => bad(&format!("the body: {said}")),
        (Category::Data, false) => {
            ApiError::field(path.clone(), shortened(&format!("`{path}`: {said}")))
        }
        // Where a text holds half a character, say, its field is known.
        (Category::Syntax, false) => {
            let message = shortened(&format!("the body is not JSON at `{path}`: {said}"));
            ApiError::field(path, message)
        }
        _ => bad(&format!("the body is not JSON: {said}")),
    }
}

/// What is wrong with a key, by serde's own words, and the key.
fn key_problem(said: &str) -> Option<(&'static str, &str)> {
    let problems = [
        ("unknown field `", "is not a field of this request"),
        ("missing field `", "is missing"),
        ("duplicate field `", "is given twice"),
    ];
    problems.into_iter().find_map(|(words, problem)| {
        let name = said.strip_prefix(words)?;
        // A name may have backticks itself; serde goes on with one of these.
        let end = [
            name.rfind("`, expected"),
            name.rfind("`, there are"),
            name.rfind("` at line"),
        ];
        let end = end.into_iter().flatten().min().unwrap_or(name.len());
        Some((problem, &name[..end]))
    })
}

fn shortened(message: &str) -> String {
    match message.char_indices().nth(MAX_QUOTED) {
        Some((at, _)) => format!("{}…", &message[..at]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        #[serde(rename = "needed")]
        _needed: String,
        #[serde(rename = "list")]
        _list: Option<Vec<u32>>,
        #[serde(rename = "inner")]
        _inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(rename = "flag")]
        _flag: Option<bool>,
    }

    fn refused(body: &str) -> (Option<String>, String) {
        let error = parse::<Example>(body.as_bytes()).unwrap_err();
        let body = serde_json::to_value(error.body()).unwrap();
        let error = &body["error"];
        let param = error["param"].as_str().map(str::to_owned);
        (param, error["message"].as_str().unwrap().to_owned())
    }

    #[test]
    fn every_problem_names_its_field() {
        let param = |body| refused(body).0.unwrap_or_default();
        assert_eq!(param(r#"{"needed": "a", "other": 1}"#), "other");
        assert_eq!(param(r#"{"needed": "a", "a`b": 1}"#), "a`b");
        assert_eq!(param(r#"{"needed": "a", "a?": 1}"#), "a?");
        assert_eq!(
            param(r#"{"needed": "a", "inner": {"flag": true,}}"#),
            "inner"
        );
        assert_eq!(param(r#"{"list": []}"#), "needed");
        assert_eq!(param(r#"{"needed": "a", "needed": "b"}"#), "needed");
        assert_eq!(param(r#"{"needed": "a", "list": [1, "x"]}"#), "list[1]");
        assert_eq!(param(r#"{"needed": "a", "list": [4294967296]}"#), "list[0]");
        assert_eq!(param(r#"{"needed": "a", "inner": {"x": 1}}"#), "inner.x");
        assert_eq!(param(r#"{"needed": "\ud800"}"#), "needed");
        assert!(parse::<Example>(br#"{"needed": "a", "list": null}"#).is_ok());
    }

    #[test]
    fn what_is_no_object_says_so() {
        for body in [
            "",
            "[1]",
            "{",
            "{\"needed\": \"a\"} x",
            "null",
            "\u{feff}{}",
            "{\"needed\": \"a\",}",
        ] {
            let (param, message) = refused(body);
            assert_eq!(param, None, "{body}");
            assert!(message.starts_with("the body"), "{message}");
        }
    }

    #[test]
    fn long_quotations_are_cut() {
        let body = format!(r#"{{"needed": "a", "{}": 1}}"#, "é".repeat(10_000));
        let (param, message) = refused(&body);
        assert!(message.chars().count() <= MAX_QUOTED + 1);
        assert!(param.unwrap().chars().count() <= MAX_QUOTED + 1);
    }
}
