//! `/api/inspect`: what the model does with a text, layer by layer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use half::f16;
use http_body::{Frame, SizeHint};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use super::AppState;
use super::body::JsonBody;
use super::error::{ApiError, ErrorBody};
use super::generation::{aside, check_ids, encode_prompt, unless_cut};
use super::guarded::{Guard, guarded};
use super::values::Whole;
use crate::engine::{Engine, InspectRequest as Look, Inspected};

/// Answers at a time: each may hold millions of numbers, and their text.
pub const AT_A_TIME: usize = 4;

/// A text and what is to be seen of it. All layers, heads and positions
/// unless they are named; each from 0.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InspectRequest {
    /// The text; or `ids`.
    prompt: Option<String>,
    /// Its token ids, at most 512.
    ids: Option<Vec<u32>>,
    /// Whether the weights of attention are wanted.
    #[serde(default = "yes")]
    #[schema(default = true)]
    attention: bool,
    /// How they are written: as numbers or packed.
    #[serde(default)]
    attention_format: Format,
    /// Blocks whose attention is wanted.
    #[schema(value_type = Option<Vec<u64>>)]
    layers: Option<Vec<Whole>>,
    /// Heads whose attention is wanted.
    #[schema(value_type = Option<Vec<u64>>)]
    heads: Option<Vec<Whole>>,
    /// Positions whose attention to those before them is wanted.
    #[schema(value_type = Option<Vec<u64>>)]
    positions: Option<Vec<Whole>>,
    /// The most likely tokens at each layer, so many: the logit lens.
    #[schema(value_type = Option<u64>, format = "uint64", maximum = 10, default = 0)]
    lens: Option<Whole>,
    /// Positions through the lens, at most 16; the last one unless given.
    #[schema(value_type = Option<Vec<u64>>)]
    lens_positions: Option<Vec<Whole>>,
    /// Whether norms are wanted.
    #[serde(default = "yes")]
    #[schema(default = true)]
    norms: bool,
    /// Whether the residual stream itself is wanted.
    #[serde(default)]
    hidden: bool,
}

/// How weights of attention are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// Nested lists of numbers.
    #[default]
    Json,
    /// Half-precision numbers, in base64.
    F16,
}

/// What was seen.
#[derive(Debug, Serialize, ToSchema)]
pub struct InspectResponse {
    model: String,
    tokens: Vec<SeenToken>,
    /// The layers of `attention`.
    layers: Vec<usize>,
    /// The heads of `attention`.
    heads: Vec<usize>,
    /// The positions of `attention`.
    positions: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attention: Option<Attention>,
    /// The positions of `lens`.
    lens_positions: Vec<usize>,
    /// `[n_layer + 1][lens_positions]`: the most likely next tokens if the
    /// model ended after the embedding, or after each block.
    #[serde(skip_serializing_if = "Option::is_none")]
    lens: Option<Vec<Vec<Vec<LensToken>>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    norms: Option<SeenNorms>,
    /// The residual stream, `[n_layer + 1][tokens][n_embd]`, before the final
    /// LayerNorm.
    #[serde(skip_serializing_if = "Option::is_none")]
    hidden: Option<Vec<Vec<Vec<f32>>>>,
}

/// A token of the text.
#[derive(Debug, Serialize, ToSchema)]
struct SeenToken {
    id: u32,
    text: String,
}

/// The weights with which positions attend to those up to their own.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Attention {
    /// `[layers][heads][positions]`, each `[position + 1]`.
    Numbers(Vec<Vec<Vec<Vec<f32>>>>),
    /// Packed.
    Packed(Packed),
}

/// Numbers of half precision.
#[derive(Debug, Serialize, ToSchema)]
struct Packed {
    /// `f16`.
    dtype: &'static str,
    /// Layers, heads, positions, tokens.
    shape: [usize; 4],
    /// Little-endian numbers in base64; zero beyond a position's own.
    data: String,
}

/// A token that a layer would say.
#[derive(Debug, Serialize, ToSchema)]
struct LensToken {
    token_id: u32,
    text: String,
    /// Natural log of its probability.
    logprob: f32,
}

/// Euclidean norms, per token.
#[derive(Debug, Serialize, ToSchema)]
struct SeenNorms {
    /// Of the residual stream, `[n_layer + 1][tokens]`.
    residual: Vec<Vec<f32>>,
    /// Of what each block's attention adds to it, `[n_layer][tokens]`.
    attention: Vec<Vec<f32>>,
    /// Of what each block's MLP adds to it, `[n_layer][tokens]`.
    mlp: Vec<Vec<f32>>,
}

fn yes() -> bool {
    true
}

/// Attention, logit lens and norms of a text.
#[utoipa::path(
    post,
    path = "/api/inspect",
    tag = "native",
    request_body = InspectRequest,
    responses(
        (status = 200, body = InspectResponse),
        (status = "default", description = "An error", body = ErrorBody),
    ),
)]
pub async fn inspect(
    State(state): State<AppState>,
    JsonBody(request): JsonBody<InspectRequest>,
) -> Result<Response, ApiError> {
    let place = Arc::clone(state.inspections()).try_acquire_owned();
    let place = place.map_err(|_| {
        let message =
            format!("{AT_A_TIME} texts are being looked at, the most at a time; try again later");
        ApiError::status(StatusCode::TOO_MANY_REQUESTS, message).with_code("overloaded")
    })?;
    let deadline = state.deadline();
    let engine = state.engine()?;
    let (field, ids) = ids(&state, &engine, request.prompt, request.ids).await?;
    let look = Look {
        ids: ids.clone(),
        attention: request.attention,
        layers: indices(request.layers),
        heads: indices(request.heads),
        positions: indices(request.positions),
        hidden: request.hidden,
        lens: request.lens.map_or(0, |lens| index(&lens)),
        lens_positions: indices(request.lens_positions),
    };
    let seen = unless_cut(&state, deadline, engine.inspect(look)).await;
    let seen = seen.map_err(|error| error.renamed("ids", field))?;
    let wanted = Wanted {
        attention: request.attention.then_some(request.attention_format),
        lens: request.lens.is_some_and(|lens| lens.0 > 0),
        norms: request.norms,
        hidden: request.hidden,
    };
    // Millions of numbers take their time to write. The place goes along: who
    // leaves meanwhile doesn't end that.
    let written = aside(move || {
        let response = respond(&engine, &ids, seen, &wanted)?;
        let json = serde_json::to_vec(&response).map_err(|_| ApiError::internal())?;
        Ok::<_, ApiError>((json, place))
    });
    let (json, place) = written.await??;
    let json_type = [(header::CONTENT_TYPE, "application/json")];
    let response = (json_type, Body::new(Pieces(json.into()))).into_response();
    // The place is free when the answer is sent.
    Ok(guarded(response, place))
}

impl Guard for OwnedSemaphorePermit {}

/// A body that is handed over as the client takes it.
struct Pieces(Bytes);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        const PIECE: usize = 64 << 10;
        let size = PIECE.min(self.0.len());
        Poll::Ready((size > 0).then(|| Ok(Frame::data(self.0.split_to(size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

/// The parts of the answer that were asked for.
struct Wanted {
    attention: Option<Format>,
    lens: bool,
    norms: bool,
    hidden: bool,
}

/// The field by which the text was given, and its ids.
async fn ids(
    state: &AppState,
    engine: &Engine,
    prompt: Option<String>,
    ids: Option<Vec<u32>>,
) -> Result<(&'static str, Vec<u32>), ApiError> {
    match (prompt, ids) {
        (Some(prompt), None) => {
            state.log_prompt(&prompt);
            let mut ids = encode_prompt(engine, prompt).await?;
            engine.start(&mut ids)?;
            Ok(("prompt", ids))
        }
        (None, Some(ids)) => {
            check_ids(engine, "ids", &ids)?;
            Ok(("ids", ids))
        }
        (None, None) => Err(ApiError::field("prompt", "give `prompt` or `ids`")),
        (Some(_), Some(_)) => Err(ApiError::field("ids", "give `prompt` or `ids`, not both")),
    }
}

/// A number that indexes; those that are too large for that are for nothing.
fn index(whole: &Whole) -> usize {
    usize::try_from(whole.0).unwrap_or(usize::MAX)
}

fn indices(wholes: Option<Vec<Whole>>) -> Option<Vec<usize>> {
    wholes.map(|wholes| wholes.iter().map(index).collect())
}

fn respond(
    engine: &Engine,
    ids: &[u32],
    seen: Inspected,
    wanted: &Wanted,
) -> Result<InspectResponse, ApiError> {
    let text = |id: u32| match engine.tokenizer() {
        Ok(tokenizer) => tokenizer.decode(&[id]).map_err(ApiError::from),
        // A model without a tokenizer speaks in ids.
        Err(_) => Ok(String::new()),
    };
    let tokens = ids.iter().map(|&id| {
        Ok(SeenToken {
            id,
            text: text(id)?,
        })
    });
    let tokens = tokens.collect::<Result<_, ApiError>>()?;
    let inspection = &seen.inspection;
    let view = inspection.view();
    let lens_token = |token: &crate::engine::Alternative| {
        Ok(LensToken {
            token_id: token.token_id,
            text: text(token.token_id)?,
            logprob: token.logprob,
        })
    };
    let lens = seen.lens.iter().map(|positions| {
        let tokens = positions
            .iter()
            .map(|top| top.iter().map(lens_token).collect());
        tokens.collect::<Result<Vec<Vec<_>>, ApiError>>()
    });
    let lens = match wanted.lens {
        true => Some(lens.collect::<Result<_, _>>()?),
        false => None,
    };
    let norms = wanted.norms.then(|| SeenNorms {
        residual: inspection.norms().residual.clone(),
        attention: inspection.norms().attention.clone(),
        mlp: inspection.norms().mlp.clone(),
    });
    let n_embd = engine.config().n_embd;
    let rows = |stream: &Vec<f32>| stream.chunks(n_embd).map(<[f32]>::to_vec).collect();
    Ok(InspectResponse {
        model: engine.model_name().to_owned(),
        tokens,
        layers: view.layers.clone(),
        heads: view.heads.clone(),
        positions: view.positions.clone(),
        attention: wanted.attention.map(|format| match format {
            Format::Json => Attention::Numbers(inspection.attention().to_vec()),
            Format::F16 => Attention::Packed(packed(inspection.attention(), ids.len())),
        }),
        lens,
        lens_positions: seen.lens_positions,
        norms,
        hidden: wanted
            .hidden
            .then(|| inspection.streams().iter().map(rows).collect()),
    })
}

fn packed(attention: &[Vec<Vec<Vec<f32>>>], tokens: usize) -> Packed {
    let heads = attention.first().map_or(0, Vec::len);
    let positions = attention
        .first()
        .and_then(|h| h.first())
        .map_or(0, Vec::len);
    let mut bytes = Vec::with_capacity(attention.len() * heads * positions * tokens * 2);
    for weights in attention.iter().flatten().flatten() {
        let zeros = std::iter::repeat_n(&0.0, tokens - weights.len());
        for &weight in weights.iter().chain(zeros) {
            bytes.extend_from_slice(&f16::from_f32(weight).to_le_bytes());
        }
    }
    Packed {
        dtype: "f16",
        shape: [attention.len(), heads, positions, tokens],
        data: BASE64.encode(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_weights_are_zero_beyond_their_own_position() {
        let attention = vec![vec![vec![vec![1.0], vec![0.5, 0.25]]]];
        let packed = packed(&attention, 3);
        assert_eq!(packed.shape, [1, 1, 2, 3]);
        let bytes = BASE64.decode(packed.data).expect("base64");
        let numbers = bytes.as_chunks::<2>().0.iter();
        let numbers: Vec<f32> = numbers.map(|&b| f16::from_le_bytes(b).to_f32()).collect();
        assert_eq!(numbers, [1.0, 0.0, 0.0, 0.5, 0.25, 0.0]);
    }
}
