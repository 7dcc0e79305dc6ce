//! A text that is being continued, and who reads it.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::EngineError;
use super::event::Event;
use super::sequence::Sequence;
use super::speculation::LONGEST;
use crate::metrics::Metrics;

/// Events that may wait for the reader of one request.
pub const EVENTS: usize = 256;

/// Places that a step may fill: the known token's, the guesses', the end; and
/// one is kept for an error.
const EVENTS_OF_A_STEP: usize = LONGEST + 3;

/// A sequence with its reader.
#[derive(Debug)]
pub struct Generation {
    pub sequence: Sequence,
    /// None after an error, which is the last event.
    events: Option<mpsc::Sender<Event>>,
    /// When the last token was sent.
    sent: Option<Instant>,
    /// Since when the reader has taken too little.
    stalled: Option<Instant>,
}

impl Generation {
    /// One of which nothing was sent.
    pub fn new(sequence: Sequence, events: mpsc::Sender<Event>) -> Self {
        Self {
            sequence,
            events: Some(events),
            sent: None,
            stalled: None,
        }
    }

    /// Whether it has ended, well or not.
    pub fn is_over(&self) -> bool {
        self.sequence.is_over() || self.events.is_none()
    }

    /// Whether nobody reads it.
    pub fn is_abandoned(&self) -> bool {
        self.events.as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    /// Whether there is room for the events of another step.
    pub fn is_ready(&self) -> bool {
        // One that has stalled must read for a while before it is taken up.
        let room = match self.stalled {
            None => EVENTS_OF_A_STEP,
            Some(_) => EVENTS / 2,
        };
        // What is not told yet takes its places first.
        let room = room + self.sequence.untold();
        let has_room = |events: &mpsc::Sender<Event>| events.capacity() >= room;
        self.events.as_ref().is_none_or(has_room)
    }

    /// How long its reader has left no room for another step.
    pub fn stalled_for(&mut self, now: Instant) -> Duration {
        if self.is_ready() {
            self.stalled = None;
            return Duration::ZERO;
        }
        now - *self.stalled.get_or_insert(now)
    }

    /// Sends what was chosen and not told yet, of a request that was submitted
    /// then.
    pub fn tell(&mut self, submitted: Instant, metrics: &Metrics) {
        let now = Instant::now();
        let (events, sent) = (&self.events, &mut self.sent);
        self.sequence.tell(|token, finished| {
            match sent.replace(now) {
                None => metrics.first_token(now - submitted),
                Some(before) => metrics.next_token(now - before),
            }
            let Some(events) = events else { return };
            // There is room for the events of a step, so sending fails only
            // when the receiver is gone; before the next step is decided on,
            // that ends the request.
            let _ = events.try_send(Event::Token(token));
            if let Some(finished) = finished {
                let _ = events.try_send(finished.into());
            }
        });
    }

    /// Sends an error, after which nothing is sent.
    pub fn fail(&mut self, error: EngineError) {
        if let Some(events) = self.events.take() {
            // A reader that is gone no longer cares.
            let _ = events.try_send(Event::Failed(error));
        }
    }
}
