//! The API of OpenAI, with the extensions that vLLM's users know.

pub mod chat;
pub mod completions;
mod logprobs;
pub mod models;
mod outputs;
mod request;
mod sampling;
mod template;
mod usage;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Number;
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

pub use request::CompletionRequest;
pub use template::{ChatTemplate, TemplateError};

use super::AppState;
use super::error::ApiError;

/// Token ids as they are written in JSON keys, and what is added to their
/// logits.
type LogitBias = BTreeMap<String, Number>;

/// How a stream is sent.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// One more event at the end, with the usage.
    include_usage: Option<bool>,
    /// Ignored.
    #[serde(rename = "include_obfuscation")]
    _include_obfuscation: Option<bool>,
}

/// A field that is known but not supported: only null is accepted.
#[derive(Debug, Clone, Copy)]
pub enum Unsupported {}

impl<'de> Deserialize<'de> for Unsupported {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(from)?;
        Err(serde::de::Error::custom("not supported, expected null"))
    }
}

impl PartialSchema for Unsupported {
    fn schema() -> RefOr<Schema> {
        let null = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Null));
        null.into()
    }
}
impl ToSchema for Unsupported {}

/// Refuses requests for another model than the one that is served.
fn check_model(state: &AppState, model: Option<&str>) -> Result<(), ApiError> {
    match model {
        Some(model) if !state.serves(model) => Err(models::unknown(state, model)),
        _ => Ok(()),
    }
}
