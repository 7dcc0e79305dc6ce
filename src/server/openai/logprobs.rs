//! Log probabilities in the forms of the two APIs.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::engine::{Alternative, Engine, TokenScore};
use crate::tokenizer::{IncrementalDecoder, Tokenizer};

/// Log probabilities of the tokens of a choice: lists of equal length.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Logprobs {
    /// Where each token begins in `text`, in characters.
    text_offset: Vec<usize>,
    /// Natural logs; null for the first token of a text.
    token_logprobs: Vec<Option<f64>>,
    /// A token that is no whole character is written `bytes:\xNN`.
    tokens: Vec<String>,
    /// The most likely tokens at each place, and the one that came.
    #[schema(value_type = Vec<Option<Object>>)]
    top_logprobs: Vec<Option<Map<String, Value>>>,
}

/// Makes [`Logprobs`] token by token.
#[derive(Debug)]
pub struct LogprobsBuilder {
    names: Names,
    decoder: Option<IncrementalDecoder>,
    /// Characters before the next token.
    offset: usize,
    done: Logprobs,
}

impl LogprobsBuilder {
    /// Nothing yet.
    pub fn new(engine: &Engine) -> Self {
        let names = Names::of(engine);
        Self {
            decoder: names.0.as_ref().map(Tokenizer::incremental),
            names,
            offset: 0,
            done: Logprobs::default(),
        }
    }

    /// The tokens of a prompt that stands before the output.
    pub fn push_prompt(&mut self, scores: &[TokenScore], alternatives: usize) {
        for score in scores {
            let top = &score.top[..score.top.len().min(alternatives)];
            self.push(score.id, score.logprob, top);
        }
        // The output is decoded for itself.
        if let Some(decoder) = &mut self.decoder {
            self.offset += decoder.flush().chars().count();
        }
    }

    /// The next token; `logprob` is none for the first of a text.
    pub fn push(&mut self, id: u32, logprob: Option<f32>, top: &[Alternative]) {
        self.done.text_offset.push(self.offset);
        let text = self.decoder.as_mut().map(|decoder| decoder.push(id));
        self.offset += text.map_or(0, |text| text.chars().count());
        let name = self.names.name(id);
        self.done.top_logprobs.push(logprob.map(|logprob| {
            let mut map = Map::new();
            for other in top {
                map.entry(self.names.name(other.token_id))
                    .or_insert_with(|| json!(other.logprob));
            }
            map.entry(&*name).or_insert_with(|| json!(logprob));
            map
        }));
        self.done.token_logprobs.push(logprob.map(f64::from));
        self.done.tokens.push(name);
    }

    /// What was pushed since the last time.
    pub fn take(&mut self) -> Logprobs {
        std::mem::take(&mut self.done)
    }
}

/// How tokens are written.
#[derive(Debug, Clone)]
pub struct Names(Option<Tokenizer>);

impl Names {
    /// Those of a model; without a tokenizer, ids.
    pub fn of(engine: &Engine) -> Self {
        Self(engine.tokenizer().ok().cloned())
    }

    /// A token's text; its bytes where they are no text, so that different
    /// tokens have different names.
    pub fn name(&self, id: u32) -> String {
        let Some(tokenizer) = &self.0 else {
            return format!("token_id:{id}");
        };
        match tokenizer.bytes(id).map(str::from_utf8) {
            Some(Ok(text)) => text.to_owned(),
            Some(Err(_)) => {
                let bytes = tokenizer.bytes(id).unwrap_or_default();
                let hex = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
                format!("bytes:{}", hex.collect::<String>())
            }
            None => tokenizer.decode(&[id]).unwrap_or_default(),
        }
    }

    /// A token's bytes; those of its text where it has no others.
    pub fn bytes(&self, id: u32) -> Option<Vec<u8>> {
        let tokenizer = self.0.as_ref()?;
        let own = tokenizer.bytes(id).map(<[u8]>::to_vec);
        own.or_else(|| Some(tokenizer.decode(&[id]).ok()?.into_bytes()))
    }
}

/// A token of a prompt, as vLLM writes it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PromptLogprob {
    logprob: f64,
    /// Its place among all tokens by probability, from 1.
    rank: usize,
    decoded_token: String,
}

/// For each token of a prompt the most likely ones and itself, by id; null for
/// the first.
pub fn prompt_logprobs(
    names: &Names,
    scores: &[TokenScore],
    alternatives: usize,
) -> Vec<Option<Map<String, Value>>> {
    let one = |id: u32, logprob: f32, rank: usize| {
        let entry = PromptLogprob {
            logprob: f64::from(logprob),
            rank,
            decoded_token: names.name(id),
        };
        (id.to_string(), json!(entry))
    };
    let all = scores.iter().map(|score| {
        let (logprob, rank) = (score.logprob?, score.rank?);
        let own = one(score.id, logprob, rank);
        let top = score.top.iter().take(alternatives).enumerate();
        let others = top.map(|(place, other)| one(other.token_id, other.logprob, place + 1));
        Some(std::iter::once(own).chain(others).collect())
    });
    all.collect()
}

/// Log probabilities of a chat's answer.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct ChatLogprobs {
    pub content: Vec<ChatToken>,
}

/// A token of a chat's answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatToken {
    #[serde(flatten)]
    token: ChatAlternative,
    /// The most likely tokens at its place.
    top_logprobs: Vec<ChatAlternative>,
}

/// A token and how likely it is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChatAlternative {
    token: String,
    logprob: f64,
    bytes: Option<Vec<u8>>,
}

impl ChatToken {
    /// The token `id` beside its alternatives.
    pub fn new(names: &Names, id: u32, logprob: f32, top: &[Alternative]) -> Self {
        let one = |id, logprob: f32| ChatAlternative {
            token: names.name(id),
            logprob: f64::from(logprob),
            bytes: names.bytes(id),
        };
        Self {
            token: one(id, logprob),
            top_logprobs: top.iter().map(|t| one(t.token_id, t.logprob)).collect(),
        }
    }
}
