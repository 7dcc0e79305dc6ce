//! The one thread that owns the model: schedule → forward → emit, over and
//! over, for all requests at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::EngineError;
use super::event::Event;
use super::inspect::Inspecting;
use super::job::{Admission, Job};
use super::params::SamplingParams;
use super::scheduler::{Bounds, Runnable, Running, Scheduler, Span};
use super::score::TokenScore;
use super::sequence::{Context, Limits, Sequence};
use super::speculation::Speculation;
use crate::kernels::pool;
use crate::metrics::{EngineState, Metrics};
#[cfg(feature = "cuda")]
use crate::model::CudaGpt2;
use crate::model::{Batch, Gpt2, Inspector, KvCache, Logits, ModelError, Row};
use crate::tokenizer::Tokenizer;

/// What the engine's handle asks of the worker.
#[derive(Debug)]
pub enum Command {
    /// Continue a checked prompt.
    Generate {
        prompt: Vec<u32>,
        params: SamplingParams,
        events: mpsc::Sender<Event>,
        admission: Admission,
    },
    /// Score a checked text.
    Score {
        ids: Vec<u32>,
        alternatives: usize,
        answer: oneshot::Sender<Result<Vec<TokenScore>, EngineError>>,
        admission: Admission,
    },
    /// Look at a checked text.
    Inspect {
        inspecting: Inspecting,
        admission: Admission,
    },
}

/// What computes logits: [`Gpt2`] or, on a GPU, `CudaGpt2`; tests have others.
pub trait Forward {
    /// See [`Gpt2::forward_recorded`].
    fn forward(
        &self,
        batch: &Batch,
        cache: &mut KvCache,
        inspector: &mut Inspector<'_>,
    ) -> Result<Logits, ModelError>;

    /// See [`Inspecting::answer_if_done`].
    fn answer(&self, inspecting: &mut Inspecting) -> Result<(), EngineError>;
}

impl Forward for Gpt2 {
    fn forward(
        &self,
        batch: &Batch,
        cache: &mut KvCache,
        inspector: &mut Inspector<'_>,
    ) -> Result<Logits, ModelError> {
        if inspector.is_empty() {
            Gpt2::forward(self, batch, cache)
        } else {
            self.forward_recorded(batch, cache, inspector)
        }
    }

    fn answer(&self, inspecting: &mut Inspecting) -> Result<(), EngineError> {
        inspecting.answer_if_done(self)
    }
}

#[cfg(feature = "cuda")]
impl Forward for CudaGpt2 {
    fn forward(
        &self,
        batch: &Batch,
        cache: &mut KvCache,
        _inspector: &mut Inspector<'_>,
    ) -> Result<Logits, ModelError> {
        CudaGpt2::forward(self, batch, cache)
    }

    fn answer(&self, _inspecting: &mut Inspecting) -> Result<(), EngineError> {
        Err(EngineError::NoInspection)
    }
}

/// How long a worker sleeps whose readers have all stalled.
const NAP: Duration = Duration::from_millis(2);

/// What a worker needs besides the model and its cache.
#[derive(Debug)]
pub struct Setup {
    pub tokenizer: Option<Tokenizer>,
    pub limits: Limits,
    pub speculation: Speculation,
    pub bounds: Bounds,
    /// How long a reader may leave its events untaken.
    pub patience: Duration,
    pub metrics: Arc<Metrics>,
}

/// The model and its state.
pub struct Worker<M> {
    model: M,
    cache: KvCache,
    scheduler: Scheduler<Job>,
    setup: Setup,
}

impl<M: Forward> Worker<M> {
    /// A worker without requests.
    pub fn new(model: M, cache: KvCache, setup: Setup) -> Self {
        Self {
            scheduler: Scheduler::new(cache.blocks().clone(), setup.bounds),
            model,
            cache,
            setup,
        }
    }

    /// Answers commands until every handle is gone and every request answered.
    pub fn run(mut self, commands: Receiver<Command>) {
        let mut asleep = false;
        while self.receive(&commands, asleep) {
            asleep = !self.step();
            self.report();
        }
    }

    /// Takes new commands, waiting for one if there is nothing else to do.
    /// False when there never will be.
    fn receive(&mut self, commands: &Receiver<Command>, asleep: bool) -> bool {
        if self.scheduler.is_empty() {
            match commands.recv() {
                Ok(command) => self.accept(command),
                Err(_) => return false,
            }
        } else if asleep {
            match commands.recv_timeout(NAP) {
                Ok(command) => self.accept(command),
                Err(RecvTimeoutError::Timeout) => {}
                // The handles are gone, the readers aren't.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(NAP),
            }
        }
        loop {
            match commands.try_recv() {
                Ok(command) => self.accept(command),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn accept(&mut self, command: Command) {
        let metrics = Arc::clone(&self.setup.metrics);
        self.scheduler.submit(match command {
            Command::Generate {
                prompt,
                params,
                events,
                admission,
            } => {
                let context = Context {
                    tokenizer: self.setup.tokenizer.as_ref(),
                    limits: &self.setup.limits,
                    speculation: self.setup.speculation,
                };
                let sequence = Sequence::new(prompt, params, &context);
                Job::generate(sequence, events, admission, metrics)
            }
            Command::Score {
                ids,
                alternatives,
                answer,
                admission,
            } => Job::score(ids, alternatives, answer, admission, metrics),
            Command::Inspect {
                inspecting,
                admission,
            } => Job::inspect(inspecting, admission, metrics),
        });
    }

    /// One step for all requests that can go on; false if none can.
    fn step(&mut self) -> bool {
        let start = Instant::now();
        let patience = self.setup.patience;
        self.scheduler.retain(|job| job.goes_on(start, patience));
        let preempted = self.scheduler.preemptions();
        let spans = self.scheduler.schedule();
        let metrics = &self.setup.metrics;
        metrics.preempted(self.scheduler.preemptions() - preempted);
        if spans.is_empty() {
            return false;
        }
        let scheduled = Instant::now();
        let result = guarded(|| {
            let logits = self.forward(&spans)?;
            self.emit(&spans, logits);
            Ok(())
        });
        let emitted = Instant::now();
        match result {
            Ok(()) => self.scheduler.settle(&spans, Job::is_over),
            Err(error) => self.fail(&spans, &error),
        }
        let scheduling = (scheduled - start) + emitted.elapsed();
        self.setup.metrics.step(start.elapsed(), scheduling);
        true
    }

    fn forward(&mut self, spans: &[Span]) -> Result<Logits, EngineError> {
        let mut batch = Batch::new();
        let mut inspector = Inspector::default();
        for (span, running) in chosen(spans, self.scheduler.running()) {
            let first = batch.len();
            let known = &running.job.tokens()[span.tokens.clone()];
            let tokens = [known, &running.job.draft()[..span.guesses]].concat();
            let wishes = running.job.wishes(span.logit_rows());
            batch.push_wishes(&tokens, &running.lease, &wishes)?;
            if let Some(inspecting) = running.job.inspecting() {
                inspector.look(first..batch.len(), &mut inspecting.inspection);
            }
        }
        let cache = &mut self.cache;
        let logits = self.model.forward(&batch, cache, &mut inspector)?;
        for (_, running) in chosen(spans, self.scheduler.running()) {
            if let Some(inspecting) = running.job.inspecting() {
                self.model.answer(inspecting)?;
            }
        }
        Ok(logits)
    }

    /// Lets each job choose its next tokens and send their events, all of them
    /// in parallel: a row's sampler depends on nothing but its own request.
    fn emit(&mut self, spans: &[Span], mut logits: Logits) {
        let mut rows = logits.rows_mut();
        let turns = chosen(spans, self.scheduler.running()).map(|(span, running)| {
            let rows: Vec<Row<'_>> = rows.by_ref().take(span.logit_rows()).collect();
            (&mut running.job, rows)
        });
        let mut turns: Vec<_> = turns.collect();
        pool::for_each_chunk(&mut turns, 1, |_, turn| {
            for (job, rows) in turn {
                job.advance(rows);
            }
        });
    }

    /// Ends the requests of a step that failed, and none besides.
    fn fail(&mut self, spans: &[Span], error: &EngineError) {
        tracing::error!("a step of {} requests failed: {error}", spans.len());
        self.setup.metrics.step_failed();
        for mut job in self.scheduler.fail(spans) {
            job.fail(error.clone());
        }
    }

    fn report(&mut self) {
        let blocks = self.scheduler.blocks().counts();
        self.setup.metrics.state(EngineState {
            waiting: self.scheduler.waiting(),
            running: self.scheduler.running().len(),
            blocks: [blocks.total, blocks.used, blocks.shared, blocks.idle],
        });
    }
}

/// The spans of a step with their jobs.
fn chosen<'a>(
    spans: &'a [Span],
    running: &'a mut [Running<Job>],
) -> impl Iterator<Item = (&'a Span, &'a mut Running<Job>)> {
    let mut spans = spans.iter().peekable();
    let all = running.iter_mut().enumerate();
    all.filter_map(move |(index, running)| {
        let span = spans.next_if(|span| span.index == index)?;
        Some((span, running))
    })
}

/// Turns a panic into an error, so that one step's bug is not the end of the
/// engine. The failed jobs' leases return their blocks; what these hold was
/// not published, and is rewritten before it is read.
fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let reason = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "unknown panic".to_owned());
        Err(EngineError::Internal(reason))
    })
}

#[cfg(test)]
mod tests;
