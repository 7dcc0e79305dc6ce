//! How an engine is set up and started.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::queue::Queue;
use super::scheduler::{Bounds, Chunks};
use super::sequence::Limits;
use super::worker::{Forward, Setup, Worker};
use super::{AwaitedThread, CacheSize, Engine, EngineError, Shared, Speculation, capacity};
use crate::kernels::pool;
use crate::metrics::Metrics;
use crate::model::{Config, Device, Dtype, Gpt2, KvDtype, LoadOptions, ModelFiles, Transformer};
#[cfg(feature = "cuda")]
use crate::model::{CudaGpt2, ModelError};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// How to build an [`Engine`].
#[derive(Debug)]
pub struct EngineBuilder {
    model: ModelFiles,
    dtype: Dtype,
    device: Device,
    threads: Option<usize>,
    queue_requests: usize,
    queue_tokens: usize,
    cache: Option<CacheSize>,
    kv_dtype: Option<KvDtype>,
    running: usize,
    chunk: Option<usize>,
    prefix_reuse: bool,
    patience: Duration,
    speculation: Speculation,
}

impl EngineBuilder {
    /// Requests that run at a time, unless set.
    pub const RUNNING: usize = 64;
    /// Requests that may wait, unless set.
    pub const QUEUE_REQUESTS: usize = 256;
    /// Tokens of the prompts that may wait, unless set.
    pub const QUEUE_TOKENS: usize = 128 * 1024;
    /// How long a reader may leave its tokens untaken, unless set.
    pub const PATIENCE: Duration = Duration::from_secs(30);

    /// Starts from the demo model in f32.
    pub(super) fn new() -> Self {
        Self {
            model: ModelFiles::demo(),
            dtype: Dtype::default(),
            device: Device::default(),
            threads: None,
            queue_requests: Self::QUEUE_REQUESTS,
            queue_tokens: Self::QUEUE_TOKENS,
            cache: None,
            kv_dtype: None,
            running: Self::RUNNING,
            chunk: None,
            prefix_reuse: true,
            patience: Self::PATIENCE,
            speculation: Speculation::default(),
        }
    }

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

    /// Where to compute; on the processor unless set.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Threads that compute; all that the process may use unless set. They
    /// are shared by every engine of the process: the first to be built sets
    /// their number.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// What may wait: [`QUEUE_REQUESTS`](Self::QUEUE_REQUESTS) and
    /// [`QUEUE_TOKENS`](Self::QUEUE_TOKENS) of their prompts unless set.
    pub fn queue(mut self, requests: usize, tokens: usize) -> Self {
        self.queue_requests = requests.max(1);
        self.queue_tokens = tokens;
        self
    }

    /// Requests that run at a time; [`RUNNING`](Self::RUNNING) unless set.
    pub fn running(mut self, requests: usize) -> Self {
        self.running = requests.max(1);
        self
    }

    /// Room in the KV cache; one context at least. Unless set, it takes up to a
    /// quarter of the memory that is free, as it is needed, and not more than
    /// 64 contexts.
    pub fn kv_cache(mut self, size: CacheSize) -> Self {
        self.cache = Some(size);
        self
    }

    /// The precision of keys and values; f32 beside weights in f32 and bf16
    /// beside others unless set. For processors only.
    pub fn kv_dtype(mut self, dtype: KvDtype) -> Self {
        self.kv_dtype = Some(dtype);
        self
    }

    /// Most tokens of prompts in one step; as in [`Chunks`] unless set. Fewer
    /// make running requests wait less for new prompts, at the cost of all of
    /// them together. Answers are the same whatever it is.
    pub fn prefill_chunk(mut self, tokens: usize) -> Self {
        self.chunk = Some(tokens.max(1));
        self
    }

    /// Whether prompts that begin alike are computed once; they are unless
    /// set. Answers are the same either way.
    pub fn prefix_reuse(mut self, reuse: bool) -> Self {
        self.prefix_reuse = reuse;
        self
    }

    /// How long a reader may leave its tokens untaken before its request is
    /// cancelled; [`PATIENCE`](Self::PATIENCE) unless set.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
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
            && threads.max(1) != pool::threads()
        {
            let there = pool::threads();
            tracing::warn!("all engines of a process share its {there} threads, not {threads}");
        }
        match self.device {
            Device::Cpu => {
                let options = LoadOptions { dtype: self.dtype };
                let model = Gpt2::load(&self.model, &options)?;
                self.start(model)
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => {
                self.check_for_gpu()?;
                let model = CudaGpt2::load(&self.model, self.dtype, ordinal)?;
                self.start_on_gpu(model)
            }
        }
    }

    /// Starts the worker on weights that are in memory already, random ones
    /// perhaps; only name and tokenizer come from the checkpoint.
    ///
    /// # Errors
    /// [`EngineError::Tokenizer`], naming the file at fault.
    pub fn start(mut self, model: Gpt2) -> Result<Engine, EngineError> {
        self.device = Device::Cpu;
        let model = match self.kv_dtype {
            Some(dtype) => model.with_kv_dtype(dtype),
            None => model,
        };
        self.start_with(model, capacity::free_memory())
    }

    /// [`start`](Self::start), on weights that are in a GPU's memory.
    ///
    /// # Errors
    /// As [`start`](Self::start), and [`EngineError::Model`].
    #[cfg(feature = "cuda")]
    pub fn start_on_gpu(mut self, model: CudaGpt2) -> Result<Engine, EngineError> {
        self.check_for_gpu()?;
        self.device = model.device();
        tracing::info!("computing on {}: {}", self.device, model.device_name()?);
        let free = model.free_memory()?;
        self.start_with(model, free)
    }

    /// That nothing is wanted that only the CPU does.
    #[cfg(feature = "cuda")]
    fn check_for_gpu(&self) -> Result<(), ModelError> {
        match self.kv_dtype {
            Some(_) => {
                let reason = "on a GPU, keys and values have the dtype of the weights";
                Err(ModelError::Unsupported(reason.to_owned()))
            }
            None => Ok(()),
        }
    }

    /// Starts the worker on a model on the builder's device, of whose memory
    /// `free` bytes are free.
    fn start_with<M: Transformer + Forward + Send + 'static>(
        self,
        model: M,
        free: usize,
    ) -> Result<Engine, EngineError> {
        let config = model.config().clone();
        let format = model.cache_format();
        let tokens = match self.cache {
            Some(size) => size.tokens(&config, format),
            None => capacity::default_tokens(&config, format, free),
        };
        // A whole context at least.
        let context = config.n_positions;
        if tokens < context {
            tracing::warn!(
                "the cache has room for a whole context, {context} tokens, not {tokens}"
            );
        }
        let cache = model.cache(tokens.max(context))?;
        let tokenizer = match Tokenizer::load(&self.model.tokenizer) {
            Ok(tokenizer) => Some(tokenizer),
            Err(TokenizerError::Missing) => None,
            Err(error) => return Err(error.into()),
        };
        let metrics = Arc::new(Metrics::new());
        let chunks = match self.device {
            Device::Cpu => Chunks::CPU,
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => Chunks::GPU,
        };
        let setup = Setup {
            limits: limits(&config, tokenizer.as_ref()),
            tokenizer: tokenizer.clone(),
            speculation: self.speculation,
            bounds: Bounds {
                running: self.running,
                chunks: self.chunk.map_or(chunks, |most| chunks.at_most(most)),
                reuse: self.prefix_reuse,
            },
            patience: self.patience,
            metrics: Arc::clone(&metrics),
        };
        let worker = Worker::new(model, cache, setup);
        let (commands, receiver) = mpsc::channel();
        let alive = Arc::new(AtomicBool::new(true));
        let life = Life(Arc::clone(&alive));
        let is_awaited = self.device != Device::Cpu;
        let thread = std::thread::Builder::new()
            .name("gpt2-worker".to_owned())
            .spawn(move || {
                let _life = life;
                worker.run(receiver);
            })
            .map_err(|e| EngineError::Internal(format!("no thread for the engine: {e}")))?;
        let shared = Shared {
            name: self.model.name,
            config,
            tokenizer,
            commands,
            _worker: is_awaited.then(|| AwaitedThread(thread)),
            queue: Queue::new(self.queue_requests, self.queue_tokens),
            alive,
            metrics,
        };
        Ok(Engine {
            shared: Arc::new(shared),
        })
    }
}

/// Says that the worker is gone when it is, by whatever way.
struct Life(Arc<AtomicBool>);

impl Drop for Life {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
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
