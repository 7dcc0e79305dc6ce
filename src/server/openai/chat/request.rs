//! The body of a chat request → a checked plan.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Number;
use utoipa::ToSchema;

use crate::engine::Engine;
use crate::server::AppState;
use crate::server::error::ApiError;
use crate::server::generation::encode_prompt;
use crate::server::openai::request::{at_most, check_room, choice_count, include_usage};
use crate::server::openai::sampling::{ChoiceOptions, MaxTokens, Sampling};
use crate::server::openai::{LogitBias, StreamOptions, TemplateError, Unsupported, check_model};
use crate::server::values::{Object, Seed, Strings, Whole};

/// Most alternatives in `top_logprobs`, by the published API.
const MAX_TOP_LOGPROBS: u64 = 20;

/// A chat to answer. A field that is null counts as not given; unknown fields
/// are refused.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChatRequest {
    /// What was said, the latest last.
    #[schema(value_type = Vec<Message>, min_items = 1)]
    messages: Vec<Object<Message>>,
    /// The served model's name, if given.
    model: Option<String>,
    /// Subtracted from a token's logit for each time it was generated.
    #[schema(value_type = Option<f64>, minimum = -2, maximum = 2, default = 0)]
    frequency_penalty: Option<Number>,
    /// Token ids and what is added to their logits, from -100 to 100.
    #[schema(value_type = Option<Object>)]
    logit_bias: Option<LogitBias>,
    /// Return log probabilities.
    logprobs: Option<bool>,
    /// Alternatives for each token.
    #[schema(value_type = Option<u64>, format = "uint64", maximum = 20)]
    top_logprobs: Option<Whole>,
    /// The same as `max_completion_tokens`.
    #[schema(value_type = Option<u64>, format = "uint64", minimum = 1)]
    max_tokens: Option<Whole>,
    /// Most tokens to generate; up to the context's end unless given.
    #[schema(value_type = Option<u64>, format = "uint64", minimum = 1)]
    max_completion_tokens: Option<Whole>,
    /// Answers to return.
    #[schema(value_type = Option<u64>, format = "uint64", minimum = 1, maximum = 16, default = 1)]
    n: Option<Whole>,
    /// Subtracted from the logits of tokens that were generated.
    #[schema(value_type = Option<f64>, minimum = -2, maximum = 2, default = 0)]
    presence_penalty: Option<Number>,
    /// Repeats a draw.
    seed: Option<Seed>,
    /// Where to end: up to 4 strings, which are not returned.
    stop: Option<Strings>,
    /// Answer with server-sent events.
    #[schema(default = false)]
    pub stream: Option<bool>,
    /// How a stream is sent.
    #[schema(value_type = Option<StreamOptions>)]
    stream_options: Option<Object<StreamOptions>>,
    /// Divides the logits; 0 is greedy.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 2, default = 1)]
    temperature: Option<Number>,
    /// Keep the smallest set of tokens with this probability.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 1, default = 1)]
    top_p: Option<Number>,
    /// Keep the most likely tokens; -1 and 0 keep all.
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    /// Keep tokens at least this likely, relative to the likeliest.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 1)]
    min_p: Option<Number>,
    /// Makes tokens that were there before less likely.
    #[schema(value_type = Option<f64>, exclusive_minimum = 0)]
    repetition_penalty: Option<Number>,
    /// Before so many tokens nothing ends the answer.
    #[schema(value_type = Option<u64>, format = "uint64")]
    min_tokens: Option<Whole>,
    /// Generate end-of-text like any other token.
    ignore_eos: Option<bool>,
    /// Tokens that end the answer.
    stop_token_ids: Option<Vec<u32>>,

    /// Only texts are answered.
    #[serde(rename = "response_format")]
    #[schema(value_type = Option<TextFormat>)]
    _response_format: Option<Object<TextFormat>>,
    /// Only texts are answered.
    #[serde(rename = "modalities")]
    #[schema(inline)]
    _modalities: Option<Vec<Text>>,
    /// GPT-2 calls no tools.
    #[schema(value_type = Option<Vec<serde_json::Value>>, max_items = 0)]
    tools: Option<Vec<IgnoredAny>>,
    /// GPT-2 calls no tools.
    #[serde(rename = "tool_choice")]
    #[schema(inline)]
    _tool_choice: Option<ToolChoice>,
    /// Ignored.
    #[serde(rename = "parallel_tool_calls")]
    _parallel_tool_calls: Option<bool>,
    /// Ignored.
    #[serde(rename = "user")]
    #[schema(value_type = Option<serde_json::Value>)]
    _user: Option<IgnoredAny>,
    /// Ignored.
    #[serde(rename = "metadata")]
    #[schema(value_type = Option<serde_json::Value>)]
    _metadata: Option<IgnoredAny>,
    /// Ignored.
    #[serde(rename = "store")]
    #[schema(value_type = Option<serde_json::Value>)]
    _store: Option<IgnoredAny>,
    /// Ignored.
    #[serde(rename = "service_tier")]
    #[schema(value_type = Option<serde_json::Value>)]
    _service_tier: Option<IgnoredAny>,
}

/// Something that was said.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Message {
    role: Role,
    content: Content,
    /// Ignored.
    #[serde(rename = "name")]
    #[schema(value_type = Option<serde_json::Value>)]
    _name: Option<IgnoredAny>,
    /// Part of an answer that is sent back.
    #[serde(rename = "refusal")]
    _refusal: Option<Unsupported>,
    /// Part of an answer that is sent back.
    #[serde(rename = "audio")]
    _audio: Option<Unsupported>,
    /// Part of an answer that is sent back.
    #[serde(rename = "function_call")]
    _function_call: Option<Unsupported>,
    /// Part of an answer that is sent back.
    #[serde(rename = "tool_calls")]
    _tool_calls: Option<Unsupported>,
    /// Ignored.
    #[serde(rename = "annotations")]
    #[schema(value_type = Option<serde_json::Value>)]
    _annotations: Option<IgnoredAny>,
}

/// Who said it.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    Developer,
    User,
    Assistant,
}

/// A text, whole or in parts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a string or a list of {\"type\": \"text\", \"text\": …}"
)]
enum Content {
    Whole(String),
    Parts(Vec<TextPart>),
}

/// A part of a text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TextPart {
    #[serde(rename = "type")]
    #[schema(inline)]
    _kind: Text,
    text: String,
}

/// The form of an answer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TextFormat {
    #[serde(rename = "type")]
    #[schema(inline)]
    _kind: Text,
}

/// What a model of texts reads and writes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Text {
    Text,
}

/// Which tools are called, where there are none.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ToolChoice {
    None,
    Auto,
}

/// A checked request.
#[derive(Debug)]
pub struct Plan {
    pub ids: Vec<u32>,
    pub n: usize,
    pub options: ChoiceOptions,
    pub logprobs: bool,
    pub include_usage: bool,
}

impl ChatRequest {
    /// Checks everything before anything is computed.
    ///
    /// # Errors
    /// 400 for the first field at fault, 404 for an unknown model.
    pub async fn plan(mut self, state: &AppState, engine: &Engine) -> Result<Plan, ApiError> {
        check_model(state, self.model.as_deref())?;
        let limits = &state.config().limits;
        if self.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
            return Err(ApiError::field("tools", "`tools`: GPT-2 calls none"));
        }
        let n = choice_count("n", self.n, 1, limits)?;
        let include_usage = include_usage(self.stream, self.stream_options.as_ref())?;
        let max_tokens = self.max_tokens()?;
        let logprobs = self.logprobs.unwrap_or(false);
        let top = at_most("top_logprobs", self.top_logprobs, MAX_TOP_LOGPROBS)?;
        if top.is_some() && !logprobs {
            let message = "`top_logprobs` is for requests with `logprobs`: true";
            return Err(ApiError::field("top_logprobs", message));
        }
        let messages = std::mem::take(&mut self.messages);
        let options = self.sampling().resolve(engine, limits, max_tokens, top)?;
        let prompt = render(state, messages)?;
        state.log_prompt(&prompt);
        let about = |error: ApiError| error.about_input("messages");
        let ids = encode_prompt(engine, prompt).await.map_err(about)?;
        check_room(engine, ids.len(), max_tokens).map_err(about)?;
        Ok(Plan {
            ids,
            n,
            options,
            logprobs,
            include_usage,
        })
    }

    fn max_tokens(&self) -> Result<MaxTokens, ApiError> {
        let (param, value) = match (self.max_completion_tokens, self.max_tokens) {
            (Some(value), _) => ("max_completion_tokens", Some(value.0)),
            (None, value) => ("max_tokens", value.map(|value| value.0)),
        };
        if value == Some(0) {
            let message = format!("`{param}`: 0 is not a whole number of 1 or more");
            return Err(ApiError::field(param, message));
        }
        Ok(MaxTokens { param, value })
    }

    fn sampling(self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias,
            seed: self.seed,
            stop: self.stop,
            stop_token_ids: self.stop_token_ids,
            min_tokens: self.min_tokens,
            ignore_eos: self.ignore_eos,
        }
    }
}

/// The chat as a prompt.
fn render(state: &AppState, messages: Vec<Object<Message>>) -> Result<String, ApiError> {
    let wrong = |message: String| ApiError::field("messages", message);
    let Some(template) = &state.config().chat_template else {
        let message = "this model has no chat template, so it can't answer chats; use \
                       /v1/completions, or start the server with --chat-template";
        return Err(wrong(message.to_owned()).with_code("no_chat_template"));
    };
    if messages.is_empty() {
        return Err(wrong("`messages` is empty".to_owned()));
    }
    let messages: Vec<_> = messages.into_iter().map(|Object(m)| m.parts()).collect();
    template.render(&messages).map_err(|error| match error {
        TemplateError::Raised(message) => wrong(format!("`messages`: {message}")),
        error => {
            tracing::warn!("{error}");
            wrong("`messages`: the model's chat template can't make a prompt of them".to_owned())
        }
    })
}

impl Message {
    fn parts(self) -> (String, String) {
        let role = match self.role {
            Role::System => "system",
            Role::Developer => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        let content = match self.content {
            Content::Whole(text) => text,
            Content::Parts(parts) => parts.into_iter().map(|part| part.text).collect(),
        };
        (role.to_owned(), content)
    }
}
