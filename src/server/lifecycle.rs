//! From running to stopped: new work is refused first, and running answers
//! are cut short later.

use tokio::sync::watch;

/// How far a server is on its way to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It takes requests.
    Running,
    /// It finishes what it has begun.
    Draining,
    /// It ends what it has not finished.
    Aborting,
}

/// The phase of one server, which only ever advances.
#[derive(Debug, Clone)]
pub struct Lifecycle(watch::Sender<Phase>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }
}

impl Lifecycle {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Goes on to `phase`.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let later = phase > *now;
            *now = phase.max(*now);
            later
        });
    }

    /// Ready once the server is in `phase` or beyond.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives in `self`, so the channel can't be closed.
        let _ = self.0.subscribe().wait_for(|now| *now >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_phase_is_never_left_for_an_earlier_one() {
        let lifecycle = Lifecycle::default();
        lifecycle.advance(Phase::Aborting);
        lifecycle.advance(Phase::Draining);
        assert_eq!(lifecycle.phase(), Phase::Aborting);
        lifecycle.reached(Phase::Draining).await;
    }
}
