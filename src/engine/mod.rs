//! What turns requests into tokens.
//!
//! [`Engine`] is a handle: it checks a [`Request`], queues it for the one
//! thread that owns the model, and returns the [`Events`] of its answer. That
//! thread, the worker, computes all requests together, step by step: the
//! scheduler says what a step computes, the model computes it, and each
//! request chooses its next tokens from its own rows of the logits.

mod alternatives;
mod builder;
mod capacity;
mod error;
mod event;
mod generation;
mod inspect;
mod job;
mod params;
mod queue;
mod sampling;
mod scheduler;
mod score;
mod sequence;
mod speculation;
mod stream;
mod worker;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

pub use alternatives::Alternative;
pub use builder::EngineBuilder;
pub use capacity::CacheSize;
pub use error::EngineError;
pub use event::{Event, Events, FinishReason, Finished, Token, Usage};
pub use inspect::{InspectRequest, Inspected};
pub use params::{DEFAULT_K, MAX_LOGPROBS, ParamError, SamplingOptions, SamplingParams, Strategy};
pub use sampling::{Chosen, Sampler, processed_scores};
pub use scheduler::Chunks;
pub use score::{TokenScore, logprob_sum, perplexity};
pub use speculation::Speculation;

use crate::metrics::Metrics;
use crate::model::Config;
use crate::tokenizer::{Tokenizer, TokenizerError};
use generation::EVENTS;
use inspect::Inspecting;
use job::Admission;
use queue::Queue;
use worker::Command;

/// A text to continue.
#[derive(Debug, Clone)]
pub struct Request {
    /// Token ids; an empty prompt starts from end-of-text.
    pub prompt: Vec<u32>,
    /// How to choose the tokens.
    pub params: SamplingParams,
    /// When to give up, if not before.
    pub deadline: Option<Instant>,
}

impl Request {
    /// A request without a deadline.
    pub fn new(prompt: Vec<u32>, params: SamplingParams) -> Self {
        Self {
            prompt,
            params,
            deadline: None,
        }
    }

    /// Given up at `deadline`, with [`EngineError::DeadlineExceeded`].
    pub fn deadline(mut self, deadline: impl Into<Option<Instant>>) -> Self {
        self.deadline = deadline.into();
        self
    }
}

/// A running engine. Cloning shares it; the worker ends with the last clone,
/// once all requests are answered. On a GPU, the last clone waits up to two
/// seconds for that.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    config: Config,
    tokenizer: Option<Tokenizer>,
    /// Without a bound of its own: each command holds a place in the queue.
    commands: mpsc::Sender<Command>,
    /// After `commands`, without which the thread ends.
    _worker: Option<AwaitedThread>,
    queue: Arc<Queue>,
    alive: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

/// How long a worker is awaited at its end.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// A thread that owns the model and has to be gone when the engine is: a GPU's
/// driver must not be called while the process ends.
#[derive(Debug)]
struct AwaitedThread(JoinHandle<()>);

impl Drop for AwaitedThread {
    fn drop(&mut self) {
        // Not for ever: who is to read an answer may wait for this thread.
        let until = Instant::now() + LAST_WAIT;
        while !self.0.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Engine {
    /// Starts from the demo model in f32.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::new()
    }

    /// Queues a request. Never blocks.
    ///
    /// # Errors
    /// What is wrong with the request, [`EngineError::Overloaded`] when the
    /// queue is full, or [`EngineError::Stopped`].
    pub fn submit(&self, request: Request) -> Result<Events, EngineError> {
        let mut events = self.submit_all(vec![request])?;
        // One request, one answer.
        events.pop().ok_or(EngineError::Stopped)
    }

    /// Queues several requests, all or none of them. What their prompts have
    /// in common at the beginning is computed once.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), for the first request at fault.
    pub fn submit_all(&self, mut requests: Vec<Request>) -> Result<Vec<Events>, EngineError> {
        for request in &mut requests {
            self.check(request)?;
        }
        let lengths: Vec<usize> = requests.iter().map(|r| r.prompt.len()).collect();
        let places = self.shared.queue.enter(&lengths)?;
        let submitted = Instant::now();
        let queued = requests.into_iter().zip(places).map(|(request, place)| {
            let (events, receiver) = tokio::sync::mpsc::channel(EVENTS);
            self.send(Command::Generate {
                prompt: request.prompt,
                params: request.params,
                events,
                admission: Admission {
                    place,
                    deadline: request.deadline,
                    submitted,
                },
            })?;
            Ok(Events::new(receiver))
        });
        queued.collect()
    }

    /// Scores a text of token ids: the log probability and rank of each after
    /// those before it.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); a text longer than the context is refused.
    pub async fn score(&self, ids: Vec<u32>) -> Result<Vec<TokenScore>, EngineError> {
        self.score_top(ids, 0).await
    }

    /// [`score`](Self::score), telling the most likely `alternatives` at each
    /// place too, at most [`MAX_LOGPROBS`].
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub async fn score_top(
        &self,
        ids: Vec<u32>,
        alternatives: usize,
    ) -> Result<Vec<TokenScore>, EngineError> {
        self.submit_score(ids, alternatives)?
            .await
            .unwrap_or(Err(EngineError::Stopped))
    }

    /// [`score`](Self::score) for callers without a runtime.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn score_blocking(&self, ids: Vec<u32>) -> Result<Vec<TokenScore>, EngineError> {
        let answer = self.submit_score(ids, 0)?;
        answer.blocking_recv().unwrap_or(Err(EngineError::Stopped))
    }

    /// Looks at what the model does with a text.
    ///
    /// # Errors
    /// [`EngineError::Param`] for what is too much or not there, and as
    /// [`submit`](Self::submit).
    pub async fn inspect(&self, request: InspectRequest) -> Result<Inspected, EngineError> {
        self.check_ids(&request.ids)?;
        // Before there is memory for what is seen.
        let admission = self.admit(request.ids.len())?;
        let (answer, receiver) = oneshot::channel();
        let inspecting = Inspecting::new(request, self.config(), answer)?;
        self.send(Command::Inspect {
            inspecting,
            admission,
        })?;
        receiver.await.unwrap_or(Err(EngineError::Stopped))
    }

    /// The model's name.
    pub fn model_name(&self) -> &str {
        &self.shared.name
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// [`TokenizerError::Missing`] where the checkpoint has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer, EngineError> {
        let missing = EngineError::Tokenizer(TokenizerError::Missing);
        self.shared.tokenizer.as_ref().ok_or(missing)
    }

    /// What the engine counts.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Whether the thread that owns the model is there.
    pub fn is_alive(&self) -> bool {
        self.shared.alive.load(Ordering::Acquire)
    }

    /// Lets an empty text start from end-of-text.
    ///
    /// # Errors
    /// [`EngineError::NoStart`] where the model has no such token.
    pub fn start(&self, ids: &mut Vec<u32>) -> Result<(), EngineError> {
        if ids.is_empty() {
            let end_of_text = self.config().eos_token_ids.first();
            ids.push(*end_of_text.ok_or(EngineError::NoStart)?);
        }
        Ok(())
    }

    /// Makes a request whole, or says what is wrong with it.
    fn check(&self, request: &mut Request) -> Result<(), EngineError> {
        let prompt = &mut request.prompt;
        self.start(prompt)?;
        self.check_ids(prompt)?;
        let limit = self.config().n_positions;
        if prompt.len() >= limit {
            return Err(EngineError::ContextFull {
                tokens: prompt.len(),
                limit,
            });
        }
        Ok(())
    }

    fn submit_score(
        &self,
        ids: Vec<u32>,
        alternatives: usize,
    ) -> Result<oneshot::Receiver<Result<Vec<TokenScore>, EngineError>>, EngineError> {
        let limit = self.config().n_positions;
        if ids.is_empty() {
            return Err(EngineError::NothingToScore);
        }
        if ids.len() > limit {
            return Err(EngineError::TooLongToScore {
                tokens: ids.len(),
                limit,
            });
        }
        self.check_ids(&ids)?;
        let admission = self.admit(ids.len())?;
        let (answer, receiver) = oneshot::channel();
        self.send(Command::Score {
            ids,
            alternatives: alternatives.min(MAX_LOGPROBS as usize),
            answer,
            admission,
        })?;
        Ok(receiver)
    }

    /// A place in the queue for one text without a deadline.
    fn admit(&self, tokens: usize) -> Result<Admission, EngineError> {
        let place = self.shared.queue.enter(&[tokens])?.pop();
        Ok(Admission {
            // One text, one place.
            place: place.ok_or(EngineError::Stopped)?,
            deadline: None,
            submitted: Instant::now(),
        })
    }

    /// Whether the model has these tokens.
    ///
    /// # Errors
    /// [`EngineError::UnknownToken`] for the first that it has not.
    pub fn check_ids(&self, ids: &[u32]) -> Result<(), EngineError> {
        let vocab_size = self.config().vocab_size;
        match ids.iter().find(|&&id| id as usize >= vocab_size) {
            Some(&id) => Err(EngineError::UnknownToken { id, vocab_size }),
            None => Ok(()),
        }
    }

    fn send(&self, command: Command) -> Result<(), EngineError> {
        let sent = self.shared.commands.send(command);
        sent.map_err(|_| EngineError::Stopped)
    }
}
