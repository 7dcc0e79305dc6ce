//! What turns requests into tokens.
//!
//! [`Engine`] is a handle: it checks a [`Request`], queues it for the one
//! thread that owns the model, and returns the [`Events`] of its answer. That
//! seam stays when the worker learns to answer several requests at once.

mod error;
mod event;
mod params;
mod sampling;
mod scheduler;
mod score;
mod sequence;
mod speculation;
mod stream;
mod worker;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

pub use error::EngineError;
pub use event::{Event, Events, FinishReason, Finished, Token, Usage};
pub use params::{ParamError, SamplingOptions, SamplingParams, Strategy};
pub use sampling::{Chosen, Sampler, processed_scores};
pub use scheduler::PREFILL_CHUNK;
pub use score::{TokenScore, perplexity};
pub use speculation::Speculation;

use crate::kernels::pool;
use crate::model::{Config, Dtype, Gpt2, KvCache, LoadOptions, ModelFiles};
use crate::tokenizer::{Tokenizer, TokenizerError};
use sequence::Limits;
use worker::{Command, Worker};

/// A text to continue.
#[derive(Debug, Clone)]
pub struct Request {
    /// Token ids; an empty prompt starts from end-of-text.
    pub prompt: Vec<u32>,
    /// How to choose the tokens.
    pub params: SamplingParams,
}

/// A running engine. Cloning shares it; the worker ends with the last clone.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    config: Config,
    tokenizer: Option<Tokenizer>,
    commands: mpsc::Sender<Command>,
    queue: usize,
}

/// How to build an [`Engine`].
#[derive(Debug)]
pub struct EngineBuilder {
    model: ModelFiles,
    dtype: Dtype,
    threads: Option<usize>,
    queue: usize,
    speculation: Speculation,
}

impl EngineBuilder {
    /// The checkpoint to load; the demo model unless set.
    pub fn model(mut self, model: ModelFiles) -> Self {
        self.model = model;
        self
    }

    /// The precision; f32 unless set.
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = dtype;
        self
    }

    /// Threads that compute; all that the process may use unless set. They
    /// are shared by every engine of the process: the first to be built sets
    /// their number.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Requests that may wait; 256 unless set.
    pub fn queue(mut self, requests: usize) -> Self {
        self.queue = requests.max(1);
        self
    }

    /// Whether tokens are guessed ahead; they are unless set. Answers are the
    /// same either way.
    pub fn speculation(mut self, speculation: Speculation) -> Self {
        self.speculation = speculation;
        self
    }

    /// Loads the model and starts the worker.
    ///
    /// # Errors
    /// [`EngineError::Model`] or [`EngineError::Tokenizer`], naming the file
    /// at fault.
    pub fn build(self) -> Result<Engine, EngineError> {
        if let Some(threads) = self.threads
            && !pool::set_threads(threads)
        {
            tracing::debug!("the threads were started before; their number stays");
        }
        let options = LoadOptions { dtype: self.dtype };
        let model = Gpt2::load(&self.model, &options)?;
        self.start(model)
    }

    /// Starts the worker on weights that are in memory already, random ones
    /// perhaps; only name and tokenizer come from the checkpoint.
    ///
    /// # Errors
    /// [`EngineError::Tokenizer`], naming the file at fault.
    pub fn start(self, model: Gpt2) -> Result<Engine, EngineError> {
        let tokenizer = match Tokenizer::load(&self.model.tokenizer) {
            Ok(tokenizer) => Some(tokenizer),
            Err(TokenizerError::Missing) => None,
            Err(error) => return Err(error.into()),
        };
        let config = model.config().clone();
        let (commands, receiver) = mpsc::channel(self.queue);
        let worker = Worker {
            cache: KvCache::new(&config, config.n_positions)?,
            limits: limits(&config, tokenizer.as_ref()),
            tokenizer: tokenizer.clone(),
            speculation: self.speculation,
            model,
        };
        std::thread::Builder::new()
            .name("gpt2-worker".to_owned())
            .spawn(move || worker.run(receiver))
            .map_err(|e| EngineError::Internal(format!("no thread for the engine: {e}")))?;
        let shared = Shared {
            name: self.model.name,
            config,
            tokenizer,
            commands,
            queue: self.queue,
        };
        Ok(Engine {
            shared: Arc::new(shared),
        })
    }
}

impl Engine {
    /// Starts from the demo model in f32.
    pub fn builder() -> EngineBuilder {
        EngineBuilder {
            model: ModelFiles::demo(),
            dtype: Dtype::default(),
            threads: None,
            queue: 256,
            speculation: Speculation::default(),
        }
    }

    /// Queues a request. Never blocks.
    ///
    /// # Errors
    /// What is wrong with the request, [`EngineError::Overloaded`] when the
    /// queue is full, or [`EngineError::Stopped`].
    pub fn submit(&self, request: Request) -> Result<Events, EngineError> {
        let Request { mut prompt, params } = request;
        if prompt.is_empty() {
            prompt.push(self.end_of_text().ok_or(EngineError::NoStart)?);
        }
        self.check_ids(&prompt)?;
        let limit = self.config().n_positions;
        if prompt.len() >= limit {
            return Err(EngineError::ContextFull {
                tokens: prompt.len(),
                limit,
            });
        }
        // Room for every event that a context can hold: a slow reader never
        // holds the worker up.
        let (events, receiver) = mpsc::channel(limit - prompt.len() + 2);
        self.send(Command::Generate {
            prompt,
            params,
            events,
        })?;
        Ok(Events {
            receiver,
            over: false,
        })
    }

    /// Scores a text of token ids: the log probability and rank of each after
    /// those before it.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); a text longer than the context is refused.
    pub async fn score(&self, ids: Vec<u32>) -> Result<Vec<TokenScore>, EngineError> {
        self.submit_score(ids)?
            .await
            .unwrap_or(Err(EngineError::Stopped))
    }

    /// [`score`](Self::score) for callers without a runtime.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn score_blocking(&self, ids: Vec<u32>) -> Result<Vec<TokenScore>, EngineError> {
        let answer = self.submit_score(ids)?;
        answer.blocking_recv().unwrap_or(Err(EngineError::Stopped))
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

    /// Whether the thread that owns the model is there.
    pub fn is_alive(&self) -> bool {
        !self.shared.commands.is_closed()
    }

    /// The token from which an empty prompt starts.
    fn end_of_text(&self) -> Option<u32> {
        self.config().eos_token_ids.first().copied()
    }

    fn submit_score(
        &self,
        ids: Vec<u32>,
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
        let (answer, receiver) = oneshot::channel();
        self.send(Command::Score { ids, answer })?;
        Ok(receiver)
    }

    fn check_ids(&self, ids: &[u32]) -> Result<(), EngineError> {
        let vocab_size = self.config().vocab_size;
        match ids.iter().find(|&&id| id as usize >= vocab_size) {
            Some(&id) => Err(EngineError::UnknownToken { id, vocab_size }),
            None => Ok(()),
        }
    }

    fn send(&self, command: Command) -> Result<(), EngineError> {
        self.shared.commands.try_send(command).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => EngineError::Overloaded {
                queue: self.shared.queue,
            },
            mpsc::error::TrySendError::Closed(_) => EngineError::Stopped,
        })
    }
}

/// Compares the model's vocabulary with the tokenizer's: the one may be padded,
/// and the other may hold tokens that were added without a resize.
fn limits(config: &Config, tokenizer: Option<&Tokenizer>) -> Limits {
    let tokens = tokenizer.map_or(config.vocab_size, Tokenizer::vocab_size);
    if tokens > config.vocab_size {
        tracing::warn!(
            "the tokenizer has {tokens} tokens, the model {}: texts with the tokens beyond are \
             refused",
            config.vocab_size
        );
    }
    Limits {
        n_positions: config.n_positions,
        sampled: config.vocab_size.min(tokens),
        eos: config.eos_token_ids.clone(),
    }
}
