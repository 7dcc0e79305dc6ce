//! The random numbers of one request.

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A number for each token that is drawn, in their order.
#[derive(Debug)]
pub(super) struct Draws {
    rng: StdRng,
    /// Those that were looked at, and are still to be drawn.
    ahead: VecDeque<f64>,
}

impl Draws {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            ahead: VecDeque::new(),
        }
    }

    /// The next number, in [0, 1).
    pub(super) fn next(&mut self) -> f64 {
        let ahead = self.ahead.pop_front();
        ahead.unwrap_or_else(|| self.rng.random())
    }

    /// The number that comes after `skipped` others, which stay to be drawn.
    pub(super) fn look_ahead(&mut self, skipped: usize) -> f64 {
        while self.ahead.len() <= skipped {
            self.ahead.push_back(self.rng.random());
        }
        self.ahead[skipped]
    }
}
