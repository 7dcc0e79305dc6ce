//! A request in the worker's hands: a text to continue or a text to score,
//! where its answer goes, and when to give it up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::EngineError;
use super::event::Event;
use super::inspect::Inspecting;
use super::queue::Place;
use super::scheduler::{Purpose, Runnable};
use super::score::TokenScore;
use super::sequence::Sequence;
use super::speculation::LONGEST;
use crate::metrics::Metrics;
use crate::model::{Row, Wish};

/// Events that may wait for the reader of one request.
pub const EVENTS: usize = 256;

/// Places that a step may fill: the known token's, the guesses', the end; and
/// one is kept for an error.
const EVENTS_OF_A_STEP: usize = LONGEST + 3;

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

/// A text that is being continued.
#[derive(Debug)]
struct Generation {
    sequence: Sequence,
    events: mpsc::Sender<Event>,
    /// When the last token was sent.
    sent: Option<Instant>,
    /// Since when the reader has taken too little.
    stalled: Option<Instant>,
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
        let task = Task::Generate(Box::new(Generation {
            sequence,
            events,
            sent: None,
            stalled: None,
        }));
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

    /// Takes what the rows of its span give and tells its reader what follows.
    pub fn advance(&mut self, rows: &mut [Row<'_>]) {
        match &mut self.task {
            Task::Generate(generation) if !rows.is_empty() => {
                generation.advance(rows, self.submitted, &self.metrics);
            }
            Task::Generate(_) | Task::Inspect(_) => {}
            Task::Score(scoring) => scoring.advance(rows),
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
            Task::Generate(generation) => generation.sequence.is_over(),
            Task::Score(scoring) => scoring.answer.is_none(),
            Task::Inspect(inspecting) => inspecting.answer.is_none(),
        }
    }

    /// Whether to go on with it at `now`; its reader is told if not.
    pub fn goes_on(&mut self, now: Instant, patience: Duration) -> bool {
        let abandoned = match &self.task {
            Task::Generate(generation) => generation.events.is_closed(),
            Task::Score(scoring) => scoring.answer.as_ref().is_none_or(|a| a.is_closed()),
            Task::Inspect(inspecting) => inspecting.answer.as_ref().is_none_or(|a| a.is_closed()),
        };
        if abandoned {
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

    /// Tells its reader that it failed.
    pub fn fail(&mut self, error: EngineError) {
        // A reader that is gone no longer cares.
        match &mut self.task {
            Task::Generate(generation) => {
                let _ = generation.events.try_send(Event::Failed(error));
            }
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

impl Generation {
    fn is_ready(&self) -> bool {
        // One that has stalled must read for a while before it is taken up.
        let room = match self.stalled {
            None => EVENTS_OF_A_STEP,
            Some(_) => EVENTS / 2,
        };
        self.events.capacity() >= room
    }

    /// How long its reader has left no room for another step.
    fn stalled_for(&mut self, now: Instant) -> Duration {
        if self.is_ready() {
            self.stalled = None;
            return Duration::ZERO;
        }
        now - *self.stalled.get_or_insert(now)
    }

    fn advance(&mut self, rows: &mut [Row<'_>], submitted: Instant, metrics: &Metrics) {
        let now = Instant::now();
        let (events, sent) = (&self.events, &mut self.sent);
        self.sequence.advance(rows, |token, finished| {
            match sent.replace(now) {
                None => metrics.first_token(now - submitted),
                Some(before) => metrics.next_token(now - before),
            }
            // There is room for the events of a step, so sending fails only
            // when the receiver is gone.
            events.try_send(Event::Token(token)).is_ok()
                && finished.is_none_or(|finished| events.try_send(finished.into()).is_ok())
        });
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
