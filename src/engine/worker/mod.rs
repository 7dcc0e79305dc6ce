//! The one thread that owns the model: schedule → forward → choose, over and
//! over, for all requests at once. What was chosen is told at once or, where a
//! device computes, while the next forward pass is under way.

mod forward;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::error::{EngineError, guarded};
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
use crate::model::{Batch, Inspector, KvCache, Logits, Row};
use crate::tokenizer::Tokenizer;
pub use forward::{Forward, Tell};

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
    /// Jobs that are over, but for what is to be told of them.
    ended: Vec<Job>,
    setup: Setup,
}

/// A forward pass that has begun, or one that is looked at and has not.
struct Begun<P> {
    batch: Batch,
    pass: Option<P>,
}

impl<M: Forward> Worker<M> {
    /// A worker without requests.
    pub fn new(model: M, cache: KvCache, setup: Setup) -> Self {
        Self {
            scheduler: Scheduler::new(cache.blocks().clone(), setup.bounds),
            model,
            cache,
            ended: Vec::new(),
            setup,
        }
    }

    /// Answers commands until every handle is gone and every request answered.
    pub fn run(mut self, commands: Receiver<Command>) {
        self.report();
        let mut asleep = false;
        while self.receive(&commands, asleep) {
            asleep = !self.step();
            self.report();
        }
    }

    /// Takes new commands, waiting for one if there is nothing else to do.
    /// False when there never will be.
    fn receive(&mut self, commands: &Receiver<Command>, asleep: bool) -> bool {
        let idle = self.scheduler.is_empty();
        if idle || asleep {
            // No step begins beside which something could be told.
            self.tell();
        }
        if idle {
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
        let result = self.compute(&spans);
        let computed = Instant::now();
        match result {
            Ok(()) => {
                let ended = self.scheduler.settle(&spans, Job::is_over);
                self.ended.extend(ended);
            }
            Err(error) => self.fail(&spans, &error),
        }
        let scheduling = (scheduled - start) + computed.elapsed();
        self.setup.metrics.step(start.elapsed(), scheduling);
        true
    }

    /// One forward pass, and what the jobs choose of it. While it is under way
    /// they tell what they chose before, if they have not.
    ///
    /// If it fails or panics, what its jobs hold in the cache was not
    /// published, and is rewritten before it is read.
    fn compute(&mut self, spans: &[Span]) -> Result<(), EngineError> {
        let begun = guarded(|| self.begin(spans));
        self.tell();
        let begun = begun?;
        guarded(|| {
            let logits = self.finish(spans, begun)?;
            self.choose(spans, logits);
            Ok(())
        })
    }

    fn begin(&mut self, spans: &[Span]) -> Result<Begun<M::Pass>, EngineError> {
        let mut batch = Batch::new();
        let mut looked_at = false;
        for (span, running) in with_jobs(spans, self.scheduler.running()) {
            let known = &running.job.tokens()[span.tokens.clone()];
            let tokens = [known, &running.job.draft()[..span.guesses]].concat();
            let wishes = running.job.wishes(span.logit_rows());
            batch.push_wishes(&tokens, &running.lease, &wishes)?;
            looked_at |= running.job.inspecting().is_some();
        }
        // Who looks at a pass sees it while it is computed.
        let pass = match looked_at {
            true => None,
            false => Some(self.model.begin(&batch, &mut self.cache)?),
        };
        Ok(Begun { batch, pass })
    }

    fn finish(&mut self, spans: &[Span], begun: Begun<M::Pass>) -> Result<Logits, EngineError> {
        let Begun { batch, pass } = begun;
        match pass {
            Some(pass) => Ok(self.model.finish(pass, &batch, &mut self.cache)?),
            None => self.look(spans, &batch),
        }
    }

    /// A pass some of whose jobs look at it.
    fn look(&mut self, spans: &[Span], batch: &Batch) -> Result<Logits, EngineError> {
        let mut inspector = Inspector::default();
        let mut first = 0;
        for (span, running) in with_jobs(spans, self.scheduler.running()) {
            let rows = first..first + span.len();
            first = rows.end;
            if let Some(inspecting) = running.job.inspecting() {
                inspector.look(rows, &mut inspecting.inspection);
            }
        }
        let logits = self.model.look(batch, &mut self.cache, &mut inspector)?;
        for (_, running) in with_jobs(spans, self.scheduler.running()) {
            if let Some(inspecting) = running.job.inspecting() {
                self.model.answer(inspecting)?;
            }
        }
        Ok(logits)
    }

    /// Lets each job choose its next tokens, and tell them if that is not done
    /// later, all of them in parallel: a row's sampler depends on nothing but
    /// its own request.
    fn choose(&mut self, spans: &[Span], mut logits: Logits) {
        let mut rows = logits.rows_mut();
        let turns = with_jobs(spans, self.scheduler.running()).map(|(span, running)| {
            let rows: Vec<Row<'_>> = rows.by_ref().take(span.logit_rows()).collect();
            (&mut running.job, rows)
        });
        let mut turns: Vec<_> = turns.collect();
        pool::for_each_chunk(&mut turns, 1, |_, turn| {
            for (job, rows) in turn {
                job.advance(rows);
                if M::TELL == Tell::AtOnce {
                    job.tell();
                }
            }
        });
    }

    /// Lets each job tell its reader what it has chosen and not told, in
    /// whatever state it is; those that are over have nothing to do then.
    fn tell(&mut self) {
        let jobs = self.scheduler.jobs().chain(&mut self.ended);
        let mut jobs: Vec<_> = jobs.filter(|job| job.has_news()).collect();
        pool::for_each_chunk(&mut jobs, 1, |_, jobs| {
            jobs.iter_mut().for_each(|job| job.tell());
        });
        self.ended.clear();
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
fn with_jobs<'a>(
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

#[cfg(test)]
mod tests;
