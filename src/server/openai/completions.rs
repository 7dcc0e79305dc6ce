//! `/v1/completions`: text after a prompt.

mod streaming;

use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::logprobs::{Logprobs, LogprobsBuilder, Names, prompt_logprobs};
use super::outputs::{Output, collect, merged};
use super::request::{CompletionRequest, Plan};
use super::usage::Usage;
use crate::engine::{Engine, Events, FinishReason, Request, TokenScore};
use crate::server::AppState;
use crate::server::body::JsonBody;
use crate::server::error::{ApiError, ErrorBody};
use crate::server::generation::unless_cut;
use crate::server::sse::ServerSentEvent;
use crate::server::state::unix_time;
use crate::server::trace::{RequestId, Timing};

/// The completions of all prompts, or a part of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct Completion {
    id: String,
    #[schema(pattern = "^text_completion$")]
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    model: String,
    choices: Vec<Choice>,
    /// In a stream only in its last event, and only if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    usage: Option<Option<Usage>>,
}

/// One completion, or a part of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Choice {
    /// The first `n` belong to the first prompt, and so on.
    index: usize,
    text: String,
    logprobs: Option<Logprobs>,
    /// `stop` or `length`; null where more is to come.
    #[schema(value_type = Option<String>)]
    finish_reason: Option<FinishReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<Object>>>)]
    prompt_logprobs: Option<Vec<Option<Map<String, Value>>>>,
}

/// What all answers of a request have in common.
#[derive(Debug, Clone)]
struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn completion(&self, choices: Vec<Choice>, usage: Option<Option<Usage>>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
        }
    }
}

/// Completions.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "openai",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The completions; with `stream`, server-sent events of the \
            same form, then `[DONE]`", content(
                (Completion = "application/json"),
                (ServerSentEvent = "text/event-stream"),
        )),
        (status = "default", description = "An error", body = ErrorBody),
    ),
)]
pub async fn complete(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    JsonBody(request): JsonBody<CompletionRequest>,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let deadline = state.deadline();
    let engine = state.engine()?;
    let stream = request.stream == Some(true);
    let plan = request.plan(&state, &engine).await?;
    let mut timing = Timing::default();
    timing.add("prepare", started.elapsed());
    // Before the choices begin: until then nobody reads those.
    let scores = unless_cut(&state, deadline, plan.scores(&engine)).await?;
    let events = submit(&engine, &plan, deadline)?;
    let work = Work {
        head: Head {
            id: format!("cmpl-{}", id.as_str()),
            created: unix_time(),
            model: state.model_name().to_owned(),
        },
        engine,
        plan,
        scores,
    };
    if stream {
        return Ok(streaming::response(work, merged(events, &state)));
    }
    let count = events.len();
    let collected = collect(merged(events, &state), count).await?;
    if let Some(first) = collected.first_token {
        timing.add("first_token", first - started);
    }
    let completion = work.completion(collected.outputs);
    Ok((Extension(timing), Json(completion)).into_response())
}

/// Starts all choices, or none; a request for no tokens has none.
fn submit(
    engine: &Engine,
    plan: &Plan,
    deadline: Option<Instant>,
) -> Result<Vec<Events>, ApiError> {
    if plan.max_tokens == 0 {
        return Ok(Vec::new());
    }
    let mut requests = Vec::with_capacity(plan.prompts.len() * plan.best_of);
    for prompt in &plan.prompts {
        for index in 0..plan.best_of {
            let request = Request::new(prompt.ids.clone(), plan.options.choice(index)?);
            requests.push(request.deadline(deadline));
        }
    }
    Ok(engine.submit_all(requests)?)
}

/// A request under way.
struct Work {
    head: Head,
    engine: Engine,
    plan: Plan,
    /// Of each prompt, where the answer shows them.
    scores: Option<Vec<Vec<TokenScore>>>,
}

impl Work {
    /// The whole answer: of each prompt's outputs the `n` best.
    fn completion(self, outputs: Vec<Output>) -> Completion {
        let mut usage = self.prompt_usage();
        let mut outputs = outputs.into_iter();
        let mut choices = Vec::new();
        for prompt in 0..self.plan.prompts.len() {
            let mut group: Vec<Output> = outputs.by_ref().take(self.plan.best_of).collect();
            if let Some(first) = group.first() {
                usage.add_cached(&first.finished.usage);
            }
            for output in &group {
                usage.add_choice(&output.finished.usage);
            }
            if self.plan.best_of > self.plan.n {
                // A stable sort: of equal ones the earlier is the better.
                group.sort_by(|a, b| b.mean_logprob().total_cmp(&a.mean_logprob()));
            }
            let mut group = group.into_iter();
            for _ in 0..self.plan.n {
                choices.push(self.choice(choices.len(), prompt, group.next()));
            }
        }
        self.head.completion(choices, Some(Some(usage)))
    }

    fn prompt_usage(&self) -> Usage {
        let mut usage = Usage::default();
        for prompt in &self.plan.prompts {
            usage.add_prompt(prompt.ids.len());
        }
        usage
    }

    /// A whole choice; without an output nothing was to be generated.
    fn choice(&self, index: usize, prompt: usize, output: Option<Output>) -> Choice {
        let mut choice = self.beginning(index, prompt);
        let mut logprobs = self.logprobs(prompt);
        if let Some(output) = &output {
            choice.text += &output.text;
            if let Some(logprobs) = &mut logprobs {
                for token in &output.tokens {
                    logprobs.push(token.token_id, Some(token.logprob), &token.top);
                }
            }
        }
        choice.logprobs = logprobs.map(|mut logprobs| logprobs.take());
        choice.finish_reason = Some(match &output {
            Some(output) => output.finished.finish_reason,
            None => FinishReason::Length,
        });
        let ids = || {
            output
                .iter()
                .flat_map(|o| o.tokens.iter().map(|t| t.token_id))
        };
        choice.token_ids = self.plan.return_token_ids.then(|| ids().collect());
        choice.prompt_logprobs = self.plan.prompt_logprobs.map(|alternatives| {
            let names = Names::of(&self.engine);
            prompt_logprobs(&names, self.scores_of(prompt), alternatives)
        });
        choice
    }

    /// What stands before the output: the prompt, if it is wanted.
    fn beginning(&self, index: usize, prompt: usize) -> Choice {
        let Plan {
            echo,
            return_token_ids,
            prompts,
            ..
        } = &self.plan;
        let prompt = &prompts[prompt];
        Choice {
            index,
            text: if *echo {
                prompt.text.clone()
            } else {
                String::new()
            },
            logprobs: None,
            finish_reason: None,
            token_ids: None,
            prompt_token_ids: return_token_ids.then(|| prompt.ids.clone()),
            prompt_logprobs: None,
        }
    }

    /// The log probabilities of the prompt, if it is echoed, to which those of
    /// the output are added.
    fn logprobs(&self, prompt: usize) -> Option<LogprobsBuilder> {
        let alternatives = self.plan.logprobs?;
        let mut builder = LogprobsBuilder::new(&self.engine);
        if self.plan.echo {
            builder.push_prompt(self.scores_of(prompt), alternatives);
        }
        Some(builder)
    }

    fn scores_of(&self, prompt: usize) -> &[TokenScore] {
        self.scores.as_ref().map_or(&[], |scores| &scores[prompt])
    }
}
