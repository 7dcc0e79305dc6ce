//! A request in the worker's hands: a text to continue or a text to score,
//! where its answer goes, and when to give it up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::error::{EngineError, guarded};
use super::event::Event;
use super::generation::Generation;
use super::inspect::Inspecting;
use super::queue::Place;
use super::scheduler::{Purpose, Runnable};
use super::score::TokenScore;
use super::sequence::Sequence;
use crate::metrics::Metrics;
use crate::model::{Row, Wish};

/// A request that waits or runs.
#[derive(Debug)]
pub struct Job {
    task: Task,
    /// Given back when it leaves the queue.
    place: Option<Place>,
    deadline: Option<Instant>,
    submitted: Instant,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
enum Task {
    Generate(Box<Generation>),
    Score(Scoring),
    Inspect(Box<Inspecting>),
}

/// A text that is being scored.
#[derive(Debug)]
struct Scoring {
    ids: Vec<u32>,
    /// Of the tokens so far.
    scores: Vec<TokenScore>,
    alternatives: usize,
    answer: Option<oneshot::Sender<Result<Vec<TokenScore>, EngineError>>>,
}

/// What is common to all requests.
#[derive(Debug)]
pub struct Admission {
    /// Its place in the queue.
    pub place: Place,
    /// When to give up.
    pub deadline: Option<Instant>,
    /// When it came.
    pub submitted: Instant,
}

impl Job {
    /// A text to continue.
    pub fn generate(
        sequence: Sequence,
        events: mpsc::Sender<Event>,
        admission: Admission,
        metrics: Arc<Metrics>,
    ) -> Self {
        let task = Task::Generate(Box::new(Generation::new(sequence, events)));
        Self::new(task, admission, metrics)
    }

    /// A text to score, each token beside the most likely `alternatives`.
    pub fn score(
        ids: Vec<u32>,
        alternatives: usize,
        answer: oneshot::Sender<Result<Vec<TokenScore>, EngineError>>,
        admission: Admission,
        metrics: Arc<Metrics>,
    ) -> Self {
        let task = Task::Score(Scoring {
            scores: vec![TokenScore::first(ids[0])],
            ids,
            alternatives,
            answer: Some(answer),
        });
        Self::new(task, admission, metrics)
    }

    /// A text to look at.
    pub fn inspect(inspecting: Inspecting, admission: Admission, metrics: Arc<Metrics>) -> Self {
        Self::new(Task::Inspect(Box::new(inspecting)), admission, metrics)
    }

    fn new(task: Task, admission: Admission, metrics: Arc<Metrics>) -> Self {
        Self {
            task,
            place: Some(admission.place),
            deadline: admission.deadline,
            submitted: admission.submitted,
            metrics,
        }
    }

    /// The tokens of its next span after the known ones.
    pub fn draft(&self) -> &[u32] {
        match &self.task {
            Task::Generate(generation) => generation.sequence.draft(),
            Task::Score(_) | Task::Inspect(_) => &[],
        }
    }

    /// What it wants of the last `rows` rows of its span.
    pub fn wishes(&mut self, rows: usize) -> Vec<Wish> {
        match &mut self.task {
            Task::Generate(generation) => generation.sequence.wishes(rows),
            Task::Score(_) | Task::Inspect(_) => vec![Wish::Logits; rows],
        }
    }

    /// Takes what the rows of its span give: all that the next step depends
    /// on. A reader of tokens hears of them when it is [told](Self::tell).
    pub fn advance(&mut self, rows: &mut [Row<'_>]) {
        match &mut self.task {
            Task::Generate(generation) if !rows.is_empty() => generation.sequence.advance(rows),
            Task::Generate(_) | Task::Inspect(_) => {}
            Task::Score(scoring) => scoring.advance(rows),
        }
    }

    /// Whether there is something to [tell](Self::tell).
    pub fn has_news(&self) -> bool {
        match &self.task {
            Task::Generate(generation) => generation.sequence.untold() > 0,
            Task::Score(_) | Task::Inspect(_) => false,
        }
    }

    /// Tells its reader what was decided. If that panics it fails, alone.
    pub fn tell(&mut self) {
        if let Task::Generate(generation) = &mut self.task
            && let Err(error) = guarded(|| {
                generation.tell(self.submitted, &self.metrics);
                Ok(())
            })
        {
            tracing::error!("telling a request of its tokens failed: {error}");
            generation.fail(error);
        }
    }

    /// What is recorded of its tokens while they are computed.
    pub fn inspecting(&mut self) -> Option<&mut Inspecting> {
        match &mut self.task {
            Task::Inspect(inspecting) => Some(inspecting),
            Task::Generate(_) | Task::Score(_) => None,
        }
    }

    /// Whether there is nothing more to do, or nobody who cares.
    pub fn is_over(&self) -> bool {
        match &self.task {
            Task::Generate(generation) => generation.is_over(),
            Task::Score(scoring) => scoring.answer.is_none(),
            Task::Inspect(inspecting) => inspecting.answer.is_none(),
        }
    }

    /// Whether to go on with it at `now`; its reader is told if not.
    pub fn goes_on(&mut self, now: Instant, patience: Duration) -> bool {
        let abandoned = match &self.task {
            Task::Generate(generation) => generation.is_abandoned(),
            Task::Score(scoring) => scoring.answer.as_ref().is_none_or(|a| a.is_closed()),
            Task::Inspect(inspecting) => inspecting.answer.as_ref().is_none_or(|a| a.is_closed()),
        };
        if abandoned {
            // Nobody hears it, but it counts.
            self.tell();
            return false;
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.fail(EngineError::DeadlineExceeded);
            return false;
        }
        if let Task::Generate(generation) = &mut self.task
            && generation.stalled_for(now) > patience
        {
            self.fail(EngineError::SlowReader { after: patience });
            return false;
        }
        true
    }

    /// Tells its reader that it failed, after what was decided before.
    pub fn fail(&mut self, error: EngineError) {
        self.tell();
        if self.is_over() {
            // It ended in the very step in which others failed.
            return;
        }
        // A reader that is gone no longer cares.
        match &mut self.task {
            Task::Generate(generation) => generation.fail(error),
            Task::Score(scoring) => {
                if let Some(answer) = scoring.answer.take() {
                    let _ = answer.send(Err(error));
                }
            }
            Task::Inspect(inspecting) => {
                if let Some(answer) = inspecting.answer.take() {
                    let _ = answer.send(Err(error));
                }
            }
        }
    }
}

impl Runnable for Job {
    fn tokens(&self) -> &[u32] {
        match &self.task {
            Task::Generate(generation) => generation.sequence.tokens(),
            Task::Score(scoring) => &scoring.ids,
            Task::Inspect(inspecting) => &inspecting.ids,
        }
    }

    fn purpose(&self) -> Purpose {
        match self.task {
            Task::Generate(_) => Purpose::Continue,
            Task::Score(_) => Purpose::Score,
            Task::Inspect(_) => Purpose::Inspect,
        }
    }

    fn is_ready(&self) -> bool {
        match &self.task {
            Task::Generate(generation) => generation.is_ready(),
            Task::Score(_) | Task::Inspect(_) => true,
        }
    }

    fn guess(&mut self, most: usize) -> usize {
        if let Task::Generate(generation) = &mut self.task {
            generation.sequence.guess(most);
        }
        self.draft().len()
    }

    fn started(&mut self, reused: usize) {
        if self.place.take().is_some() {
            self.metrics.prompt_started(self.tokens().len(), reused);
        }
        match &mut self.task {
            Task::Generate(generation) => generation.sequence.started(reused),
            // Computed again from the first token on.
            Task::Score(scoring) => scoring.scores.truncate(1),
            Task::Inspect(inspecting) => inspecting.inspection.restart(),
        }
    }
}

impl Scoring {
    fn advance(&mut self, rows: &[Row<'_>]) {
        // The logits at a position are about the token after it.
        let next = &self.ids[self.scores.len()..];
        // It wants no tokens, so each row has logits.
        let logits = rows.iter().filter_map(Row::logits);
        let scored = next
            .iter()
            .zip(logits)
            .map(|(&id, logits)| TokenScore::new(logits, id, self.alternatives));
        let scored: Vec<_> = scored.collect();
        self.scores.extend(scored);
        if self.scores.len() == self.ids.len()
            && let Some(answer) = self.answer.take()
        {
            let _ = answer.send(Ok(std::mem::take(&mut self.scores)));
        }
    }
}
