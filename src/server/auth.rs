//! API keys: who may use the server.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::{Choice, ConstantTimeEq};

use super::AppState;
use super::error::ApiError;
use super::page;

/// Routes that need no key, beside those of the page.
const PUBLIC: &[&str] = &["/health", "/health/ready", "/health/live"];

/// The keys that are accepted; without any, everyone is.
#[derive(Clone, Default)]
pub struct ApiKeys(Vec<String>);

impl std::fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiKeys({})", self.0.len())
    }
}

impl ApiKeys {
    /// Keys, each of visible ASCII characters, which is what a header can carry.
    ///
    /// # Errors
    /// Which key, counted from 1, is empty or has other characters.
    pub fn new(keys: Vec<String>) -> Result<Self, String> {
        let fits = |key: &String| !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic());
        match keys.iter().position(|key| !fits(key)) {
            Some(at) => Err(format!(
                "API key {} is not made of visible ASCII characters",
                at + 1
            )),
            None => Ok(Self(keys)),
        }
    }

    /// Whether keys are asked for at all.
    fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares with every key, in a time that tells at most their lengths.
    fn accept(&self, given: &str) -> bool {
        let equal = |key: &String| key.as_bytes().ct_eq(given.as_bytes());
        let any = self.0.iter().map(equal).fold(Choice::from(0), |a, b| a | b);
        any.into()
    }
}

/// Refuses requests without a key, but on the public routes. What counts is
/// the route that matched, not how the path was spelled.
pub async fn require_key(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let keys = &state.config().api_keys;
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(MatchedPath::as_str);
    let public =
        route.is_some_and(|route| PUBLIC.contains(&route) || page::ROUTES.contains(&route));
    if keys.is_open() || public {
        return next.run(request).await;
    }
    match bearer(&request) {
        Some(key) if keys.accept(key) => next.run(request).await,
        Some(_) => unauthorized("the API key is not one of this server's"),
        None => unauthorized("an API key is needed: send `Authorization: Bearer KEY`"),
    }
}

fn bearer(request: &Request) -> Option<&str> {
    let mut values = request.headers().get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?.to_str().ok()?, values.next()) else {
        return None;
    };
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

fn unauthorized(message: &str) -> Response {
    let error = ApiError::status(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key");
    let mut response = error.into_response();
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_keys_are_accepted() {
        let keys = ApiKeys::new(vec!["first".into(), "second-key".into()]).unwrap();
        assert!(keys.accept("first") && keys.accept("second-key"));
        for wrong in ["", "firs", "first ", "second-kez", "FIRST"] {
            assert!(!keys.accept(wrong), "{wrong:?}");
        }
        assert_eq!(format!("{keys:?}"), "ApiKeys(2)");
        assert!(ApiKeys::new(vec!["a b".into()]).is_err());
        assert!(ApiKeys::new(vec![String::new()]).is_err());
    }
}
