//! `/v1/completions`: the body of a request → a checked plan.

use futures_util::TryStreamExt;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Number;
use utoipa::ToSchema;

use super::sampling::{ChoiceOptions, MaxTokens, Sampling};
use super::{LogitBias, StreamOptions, check_model};
use crate::engine::{Engine, EngineError, TokenScore};
use crate::scoring::{score_all, score_tokens};
use crate::server::AppState;
use crate::server::config::RequestLimits;
use crate::server::error::ApiError;
use crate::server::generation::{check_ids, encode, encode_prompt};
use crate::server::values::{Object, Seed, Strings, Text, Texts, Whole};

const DEFAULT_MAX_TOKENS: u64 = 16;
/// Most alternatives in `logprobs`, by the published API.
const MAX_LOGPROBS: u64 = 5;
/// Most alternatives in `prompt_logprobs`.
const MAX_PROMPT_LOGPROBS: u64 = crate::engine::MAX_LOGPROBS;

/// What to complete. A field that is null counts as not given; unknown fields
/// are refused.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompletionRequest {
    /// The served model's name, if given.
    pub model: Option<String>,
    /// One prompt or several; end-of-text unless given.
    pub prompt: Option<Texts>,
    /// Choices to generate for each prompt, of which the `n` with the highest
    /// mean log probability are returned.
    #[schema(value_type = Option<u64>, format = "uint64", minimum = 1, maximum = 16)]
    best_of: Option<Whole>,
    /// Return the prompt before the completion.
    #[schema(default = false)]
    echo: Option<bool>,
    /// Subtracted from a token's logit for each time it was generated.
    #[schema(value_type = Option<f64>, minimum = -2, maximum = 2, default = 0)]
    frequency_penalty: Option<Number>,
    /// Token ids and what is added to their logits, from -100 to 100.
    #[schema(value_type = Option<Object>)]
    logit_bias: Option<LogitBias>,
    /// Return log probabilities, with so many alternatives a token.
    #[schema(value_type = Option<u64>, format = "uint64", maximum = 5)]
    logprobs: Option<Whole>,
    /// Most tokens to generate; with 0 and `echo` the prompt is only scored.
    #[schema(value_type = Option<u64>, format = "uint64", default = 16)]
    max_tokens: Option<Whole>,
    /// Choices to return for each prompt.
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
    /// Only the empty one: GPT-2 completes to the right.
    #[schema(max_length = 0)]
    suffix: Option<String>,
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
    /// Before so many tokens nothing ends the completion.
    #[schema(value_type = Option<u64>, format = "uint64")]
    min_tokens: Option<Whole>,
    /// Generate end-of-text like any other token.
    ignore_eos: Option<bool>,
    /// Tokens that end the completion.
    stop_token_ids: Option<Vec<u32>>,
    /// Keep the last so many tokens of a prompt; -1 keeps what fits.
    #[schema(minimum = -1)]
    truncate_prompt_tokens: Option<i64>,
    /// Return the ids of tokens.
    return_token_ids: Option<bool>,
    /// Return log probabilities of the prompt, with so many alternatives.
    #[schema(value_type = Option<u64>, format = "uint64", maximum = 20)]
    prompt_logprobs: Option<Whole>,

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

/// A checked request.
#[derive(Debug)]
pub struct Plan {
    pub prompts: Vec<Prompt>,
    /// Choices to return, and to generate, for each prompt.
    pub n: usize,
    pub best_of: usize,
    pub max_tokens: u64,
    pub options: ChoiceOptions,
    pub echo: bool,
    pub logprobs: Option<usize>,
    pub prompt_logprobs: Option<usize>,
    pub return_token_ids: bool,
    pub include_usage: bool,
}

/// A prompt with ids, at least one, that the model has.
#[derive(Debug)]
pub struct Prompt {
    pub ids: Vec<u32>,
    /// What `echo` returns.
    pub text: String,
}

impl CompletionRequest {
    /// Checks everything before anything is computed.
    ///
    /// # Errors
    /// 400 for the first field at fault, 404 for an unknown model.
    pub async fn plan(mut self, state: &AppState, engine: &Engine) -> Result<Plan, ApiError> {
        check_model(state, self.model.as_deref())?;
        let limits = &state.config().limits;
        if self
            .suffix
            .as_ref()
            .is_some_and(|suffix| !suffix.is_empty())
        {
            let message = "`suffix`: GPT-2 completes to the right only";
            return Err(ApiError::field("suffix", message));
        }
        let default = || Texts(vec![Text::Plain(String::new())]);
        let texts = self.prompt.take().unwrap_or_else(default).0;
        let (n, best_of) = self.choices(texts.len(), limits)?;
        let most = self.max_tokens.map_or(DEFAULT_MAX_TOKENS, |most| most.0);
        let max_tokens = MaxTokens {
            param: "max_tokens",
            value: Some(most),
        };
        let logprobs = at_most("logprobs", self.logprobs, MAX_LOGPROBS)?;
        let prompt_logprobs =
            at_most("prompt_logprobs", self.prompt_logprobs, MAX_PROMPT_LOGPROBS)?;
        let include_usage = include_usage(self.stream, self.stream_options.as_ref())?;
        if self.stream == Some(true) && prompt_logprobs.is_some() {
            let message = "`prompt_logprobs` can't be streamed";
            return Err(ApiError::field("prompt_logprobs", message));
        }
        let keep = self.truncation(engine, most)?;
        let (echo, return_token_ids) = (self.echo, self.return_token_ids);
        let options = self
            .sampling()
            .resolve(engine, limits, max_tokens, logprobs)?;
        let mut prompts = Vec::with_capacity(texts.len());
        for text in texts {
            prompts.push(Prompt::new(state, engine, text, keep, max_tokens).await?);
        }
        let count = |count: Option<u64>| count.map(|count| count as usize);
        Ok(Plan {
            prompts,
            n,
            best_of,
            max_tokens: most,
            options,
            echo: echo.unwrap_or(false),
            logprobs: count(logprobs),
            prompt_logprobs: count(prompt_logprobs),
            return_token_ids: return_token_ids.unwrap_or(false),
            include_usage,
        })
    }

    /// `n` and `best_of`, within the limits.
    fn choices(&self, prompts: usize, limits: &RequestLimits) -> Result<(usize, usize), ApiError> {
        if prompts > limits.prompts {
            let message = format!("`prompt`: {prompts} prompts, at most {}", limits.prompts);
            return Err(ApiError::field("prompt", message));
        }
        let n = choice_count("n", self.n, 1, limits)?;
        let best_of = choice_count("best_of", self.best_of, n, limits)?;
        if best_of < n {
            let message = format!("`best_of`: {best_of} is less than n, {n}");
            return Err(ApiError::field("best_of", message));
        }
        if best_of > n && self.stream == Some(true) {
            let message = "`best_of`: the best of several can't be streamed";
            return Err(ApiError::field("best_of", message));
        }
        let all = best_of * prompts;
        if all > limits.total_choices {
            let most = limits.total_choices;
            let message = format!("`n`: {all} choices for all prompts together, at most {most}");
            return Err(ApiError::field("n", message));
        }
        Ok((n, best_of))
    }

    /// How many tokens of a prompt are kept, if not all.
    fn truncation(&self, engine: &Engine, max_tokens: u64) -> Result<Option<usize>, ApiError> {
        let wrong = |keep| {
            let message = format!(
                "`truncate_prompt_tokens`: {keep} is neither -1 nor a whole number above 0"
            );
            ApiError::field("truncate_prompt_tokens", message)
        };
        match self.truncate_prompt_tokens {
            None => Ok(None),
            Some(-1) => {
                let room = (engine.config().n_positions as u64).saturating_sub(max_tokens);
                Ok(Some(room.max(1) as usize))
            }
            Some(keep @ 1..) => Ok(Some(usize::try_from(keep).unwrap_or(usize::MAX))),
            Some(keep) => Err(wrong(keep)),
        }
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

impl Prompt {
    async fn new(
        state: &AppState,
        engine: &Engine,
        text: Text,
        keep: Option<usize>,
        max_tokens: MaxTokens,
    ) -> Result<Self, ApiError> {
        let (mut ids, mut echo) = match text {
            Text::Ids(ids) => (ids, None),
            Text::Plain(text) => {
                state.log_prompt(&text);
                let ids = match keep {
                    // What is cut off may be of any length.
                    Some(_) => encode(engine.tokenizer()?, text.clone()).await?,
                    None => encode_prompt(engine, text.clone()).await?,
                };
                (ids, Some(text))
            }
        };
        if ids.is_empty() {
            engine.start(&mut ids)?;
            echo = None;
        }
        if let Some(keep) = keep.filter(|&keep| keep < ids.len()) {
            ids.drain(..ids.len() - keep);
            echo = None;
        }
        check_ids(engine, "prompt", &ids)?;
        check_room(engine, ids.len(), max_tokens)?;
        let decoded = || engine.tokenizer().ok()?.decode(&ids).ok();
        let text = echo.or_else(decoded).unwrap_or_default();
        Ok(Self { ids, text })
    }
}

/// Refuses a prompt that doesn't fit into the context with what is to follow,
/// one token unless it is said.
pub fn check_room(engine: &Engine, prompt: usize, max_tokens: MaxTokens) -> Result<(), ApiError> {
    let limit = engine.config().n_positions;
    let most = max_tokens.value.unwrap_or(1);
    if (prompt as u64).saturating_add(most) <= limit as u64 {
        return Ok(());
    }
    let param = if prompt >= limit {
        "prompt"
    } else {
        max_tokens.param
    };
    let message = format!(
        "the model's context has {limit} tokens, but the prompt has {prompt} and {} is {most}",
        max_tokens.param
    );
    Err(ApiError::field(param, message).with_code("context_length_exceeded"))
}

/// A count of choices, from 1 to the limit.
pub fn choice_count(
    param: &'static str,
    value: Option<Whole>,
    default: usize,
    limits: &RequestLimits,
) -> Result<usize, ApiError> {
    let Some(Whole(value)) = value else {
        return Ok(default);
    };
    let most = limits.choices;
    let count = usize::try_from(value)
        .ok()
        .filter(|n| (1..=most).contains(n));
    count.ok_or_else(|| {
        let message = format!("`{param}`: {value} is not a whole number from 1 to {most}");
        ApiError::field(param, message)
    })
}

/// A whole number up to a limit of the API.
pub fn at_most(
    param: &'static str,
    value: Option<Whole>,
    most: u64,
) -> Result<Option<u64>, ApiError> {
    match value {
        Some(Whole(value)) if value > most => {
            let message = format!("`{param}`: {value} is not a whole number from 0 to {most}");
            Err(ApiError::field(param, message))
        }
        value => Ok(value.map(|value| value.0)),
    }
}

/// Whether a stream ends with its usage.
pub fn include_usage(
    stream: Option<bool>,
    options: Option<&Object<StreamOptions>>,
) -> Result<bool, ApiError> {
    match options {
        Some(_) if stream != Some(true) => {
            let message = "`stream_options` is for requests with `stream`: true";
            Err(ApiError::field("stream_options", message))
        }
        Some(Object(options)) => Ok(options.include_usage.unwrap_or(false)),
        None => Ok(false),
    }
}

impl Plan {
    /// The prompts' scores where the answer shows them, otherwise nothing.
    ///
    /// # Errors
    /// The engine's.
    pub async fn scores(
        &self,
        engine: &Engine,
    ) -> Result<Option<Vec<Vec<TokenScore>>>, EngineError> {
        let echoed = self.logprobs.filter(|_| self.echo);
        let Some(alternatives) = echoed.max(self.prompt_logprobs) else {
            return Ok(None);
        };
        let prompts = self.prompts.iter().map(|prompt| prompt.ids.clone());
        let score = |engine, ids: Vec<u32>, when_full| async move {
            score_tokens(&engine, &ids, alternatives, when_full).await
        };
        let all = score_all(engine, prompts.collect(), score);
        all.try_collect().await.map(Some)
    }
}
