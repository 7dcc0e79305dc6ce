//! Text ↔ token ids, in the dialects of vLLM, llama.cpp and TGI.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::body::JsonBody;
use super::error::{ApiError, ErrorBody};
use super::generation::{check_ids, encode};
use crate::engine::{Engine, EngineError};
use crate::tokenizer::Tokenizer;

/// A text to encode, in one of three fields, which decides the form of the
/// answer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizeRequest {
    /// As vLLM calls it.
    prompt: Option<String>,
    /// As llama.cpp calls it.
    content: Option<String>,
    /// As TGI calls it.
    inputs: Option<String>,
    /// With `prompt`: return the tokens as the vocabulary spells them, too.
    return_token_strs: Option<bool>,
    /// With `content`: return each token's text, too.
    with_pieces: Option<bool>,
    /// Ignored.
    #[serde(rename = "model")]
    #[schema(value_type = Option<serde_json::Value>)]
    _model: Option<IgnoredAny>,
    /// GPT-2 adds none.
    #[serde(rename = "add_special_tokens")]
    #[schema(value_type = Option<serde_json::Value>)]
    _add_special_tokens: Option<IgnoredAny>,
    /// GPT-2 adds none.
    #[serde(rename = "add_special")]
    #[schema(value_type = Option<serde_json::Value>)]
    _add_special: Option<IgnoredAny>,
    /// They always are: `false` is refused.
    parse_special: Option<bool>,
}

/// Whose field has the text, and whose form the answer.
#[derive(Debug, Clone, Copy)]
enum Dialect {
    Vllm,
    LlamaCpp,
    Tgi,
}

impl Dialect {
    /// The field.
    fn field(self) -> &'static str {
        match self {
            Self::Vllm => "prompt",
            Self::LlamaCpp => "content",
            Self::Tgi => "inputs",
        }
    }
}

impl TokenizeRequest {
    /// The one text.
    fn take_text(&mut self) -> Result<(Dialect, String), ApiError> {
        let (prompt, content) = (self.prompt.take(), self.content.take());
        match (prompt, content, self.inputs.take()) {
            (Some(text), None, None) => Ok((Dialect::Vllm, text)),
            (None, Some(text), None) => Ok((Dialect::LlamaCpp, text)),
            (None, None, Some(text)) => Ok((Dialect::Tgi, text)),
            _ => {
                let message = "give the text as one of `prompt`, `content` and `inputs`";
                Err(ApiError::field("prompt", message))
            }
        }
    }
}

/// The tokens of a text.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TokenizeResponse {
    /// For `prompt`.
    Counted(CountedTokens),
    /// For `content`.
    Listed(ListedTokens),
    /// For `inputs`.
    Spans(Vec<TokenSpan>),
}

/// Tokens as vLLM returns them.
#[derive(Debug, Serialize, ToSchema)]
pub struct CountedTokens {
    count: usize,
    /// The length of the model's context.
    max_model_len: usize,
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

/// Tokens as llama.cpp returns them.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ListedTokens {
    tokens: Vec<ListedToken>,
}

/// An id, with the token's text if that was asked for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum ListedToken {
    Id(u32),
    Piece(TokenPiece),
}

/// A token with its text.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenPiece {
    id: u32,
    piece: Piece,
}

/// A token's text, or its bytes where they are none.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Piece {
    Text(String),
    Bytes(Vec<u8>),
}

/// A token as TGI returns it.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenSpan {
    id: u32,
    text: String,
    /// Its first character in the text.
    start: usize,
    /// The character after its last.
    stop: usize,
}

/// Text → token ids.
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "tokens",
    request_body = TokenizeRequest,
    responses(
        (status = 200, body = TokenizeResponse),
        (status = "default", description = "An error", body = ErrorBody),
    ),
)]
pub async fn tokenize(
    State(state): State<AppState>,
    JsonBody(mut request): JsonBody<TokenizeRequest>,
) -> Result<Json<TokenizeResponse>, ApiError> {
    let engine = state.engine()?;
    let (dialect, text) = request.take_text()?;
    if request.parse_special == Some(false) {
        let message = "`parse_special`: special tokens are always recognised";
        return Err(ApiError::field("parse_special", message));
    }
    let named = |error: ApiError| error.about_input(dialect.field());
    let tokenizer = engine.tokenizer().map_err(|error| named(error.into()))?;
    state.log_prompt(&text);
    let tokens = encode(tokenizer, text).await.map_err(named)?;
    Ok(Json(match dialect {
        Dialect::Vllm => TokenizeResponse::Counted(CountedTokens {
            count: tokens.len(),
            max_model_len: engine.config().n_positions,
            token_strs: (request.return_token_strs == Some(true)).then(|| {
                let spelled = |&id| tokenizer.token(id).unwrap_or_default();
                tokens.iter().map(spelled).collect()
            }),
            tokens,
        }),
        Dialect::LlamaCpp => {
            let with_pieces = request.with_pieces == Some(true);
            let listed = |id| match with_pieces {
                true => ListedToken::Piece(TokenPiece {
                    id,
                    piece: piece(tokenizer, id),
                }),
                false => ListedToken::Id(id),
            };
            TokenizeResponse::Listed(ListedTokens {
                tokens: tokens.into_iter().map(listed).collect(),
            })
        }
        Dialect::Tgi => TokenizeResponse::Spans(token_spans(tokenizer, &tokens)),
    }))
}

fn piece(tokenizer: &Tokenizer, id: u32) -> Piece {
    let text = |text: &str| Piece::Text(text.to_owned());
    match tokenizer.bytes(id) {
        Some(bytes) => str::from_utf8(bytes).map_or_else(|_| Piece::Bytes(bytes.to_vec()), text),
        None => Piece::Text(tokenizer.decode(&[id]).unwrap_or_default()),
    }
}

fn token_spans(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<TokenSpan> {
    let mut decoder = tokenizer.incremental();
    let mut start = 0;
    let span = |&id| {
        let stop = start + decoder.push(id).chars().count();
        let text = tokenizer.decode(&[id]).unwrap_or_default();
        let span = TokenSpan {
            id,
            text,
            start,
            stop,
        };
        start = stop;
        span
    };
    ids.iter().map(span).collect()
}

/// Token ids to decode.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DetokenizeRequest {
    tokens: Vec<u32>,
    /// Ignored.
    #[serde(rename = "model")]
    #[schema(value_type = Option<serde_json::Value>)]
    _model: Option<IgnoredAny>,
}

/// The text of token ids.
#[derive(Debug, Serialize, ToSchema)]
pub struct DetokenizeResponse {
    /// As vLLM calls it.
    prompt: String,
    /// The same, as llama.cpp calls it.
    content: String,
}

/// Token ids → text.
#[utoipa::path(
    post,
    path = "/detokenize",
    tag = "tokens",
    request_body = DetokenizeRequest,
    responses(
        (status = 200, body = DetokenizeResponse),
        (status = "default", description = "An error", body = ErrorBody),
    ),
)]
pub async fn detokenize(
    State(state): State<AppState>,
    JsonBody(request): JsonBody<DetokenizeRequest>,
) -> Result<Json<DetokenizeResponse>, ApiError> {
    let engine = state.engine()?;
    check_ids(&engine, "tokens", &request.tokens)?;
    let named = |error: EngineError| ApiError::from(error).about_input("tokens");
    let text = engine.tokenizer().map_err(named)?.decode(&request.tokens)?;
    Ok(Json(DetokenizeResponse {
        prompt: text.clone(),
        content: text,
    }))
}

/// What a client needs to know of the tokenizer.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenizerInfo {
    #[schema(pattern = "^GPT2Tokenizer$")]
    tokenizer_class: &'static str,
    vocab_size: usize,
    /// The length of the model's context.
    model_max_length: usize,
    add_bos_token: bool,
    bos_token: Option<String>,
    eos_token: Option<String>,
    eos_token_id: Option<u32>,
}

/// What a client needs to know of the tokenizer.
#[utoipa::path(
    get,
    path = "/tokenizer_info",
    tag = "tokens",
    responses(
        (status = 200, body = TokenizerInfo),
        (status = "default", description = "An error", body = ErrorBody),
    ),
)]
pub async fn info(State(state): State<AppState>) -> Result<Response, ApiError> {
    let engine = state.engine()?;
    let info = TokenizerInfo::of(&engine);
    let info = info.map_err(ApiError::without_param)?;
    Ok(Json(info).into_response())
}

impl TokenizerInfo {
    fn of(engine: &Engine) -> Result<Self, ApiError> {
        let tokenizer = engine.tokenizer()?;
        let eos_token_id = engine.config().eos_token_ids.first().copied();
        let eos_token = eos_token_id.and_then(|id| tokenizer.token(id));
        Ok(Self {
            tokenizer_class: "GPT2Tokenizer",
            vocab_size: tokenizer.vocab_size(),
            model_max_length: engine.config().n_positions,
            add_bos_token: false,
            // GPT-2 begins a text with the token that ends one.
            bos_token: eos_token.clone(),
            eos_token,
            eos_token_id,
        })
    }
}
