//! What the device computes while nobody waits for it.

use super::Result;
use super::network::Network;
use super::sample::Pick;
use super::scratch::{Outcome, Scratch};
use super::step::Step;
use crate::kernels::pool;

/// A pass that was launched. The host is free until
/// [`finish`](Network::finish); whatever is launched meanwhile comes after it.
#[derive(Debug)]
pub struct Pending {
    pub(super) memory: Memory,
    /// What is wanted of the rows that get logits.
    pub(super) picks: Vec<Pick>,
}

/// Where the device puts what it computes, taken from the network as long as
/// it does. Dropped before that, what is on the device goes back in the order of
/// the stream, and what is on the host when the device is done with it.
#[derive(Debug)]
pub(super) enum Memory {
    Pass(Scratch),
    /// The number of rows and of the cache, and what was recorded for them.
    Step((usize, u64), Step),
}

impl Network {
    /// Waits for a pass, if anything is wanted of it, and brings that.
    ///
    /// # Errors
    /// [`CudaError::Driver`](super::CudaError::Driver).
    pub fn finish(&self, pending: Pending) -> Result<Outcome> {
        let Pending { memory, picks } = pending;
        match memory {
            Memory::Pass(scratch) => {
                let outcome = scratch.outcome(self, &picks)?;
                *pool::lock(&self.scratch) = Some(scratch);
                Ok(outcome)
            }
            Memory::Step(key, step) => {
                let outcome = step.scratch.outcome(self, &picks)?;
                pool::lock(&self.steps).insert(key, step);
                Ok(outcome)
            }
        }
    }
}
