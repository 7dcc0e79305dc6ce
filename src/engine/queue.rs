//! Who may wait: so many requests and so many tokens of prompts, and no more.

use std::sync::{Arc, Mutex, PoisonError};

use super::EngineError;

/// Counts what waits.
#[derive(Debug)]
pub struct Queue {
    /// Most requests.
    requests: usize,
    /// Most tokens of prompts.
    tokens: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: usize,
    tokens: usize,
}

/// A place in the queue, given back on Drop.
#[derive(Debug)]
pub struct Place {
    queue: Arc<Queue>,
    tokens: usize,
}

impl Queue {
    /// A queue for so many requests and tokens of prompts.
    pub fn new(requests: usize, tokens: usize) -> Arc<Self> {
        Arc::new(Self {
            requests,
            tokens,
            waiting: Mutex::default(),
        })
    }

    /// Places for prompts of these lengths: for all or, when one of them finds
    /// the queue full, for none. Prompts that fit no queue are let into an
    /// empty one: they would be refused forever.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`].
    pub fn enter(self: &Arc<Self>, prompts: &[usize]) -> Result<Vec<Place>, EngineError> {
        let tokens: usize = prompts.iter().sum();
        self.with(|waiting| {
            let full = waiting.requests + prompts.len() > self.requests
                || waiting.tokens + tokens > self.tokens;
            let alone = waiting.requests == 0;
            if full && !alone {
                return Err(EngineError::Overloaded {
                    requests: waiting.requests,
                    tokens: waiting.tokens,
                });
            }
            waiting.requests += prompts.len();
            waiting.tokens += tokens;
            Ok(())
        })?;
        let place = |&tokens| Place {
            queue: Arc::clone(self),
            tokens,
        };
        Ok(prompts.iter().map(place).collect())
    }

    fn with<R>(&self, f: impl FnOnce(&mut Waiting) -> R) -> R {
        // Two additions can't stop half-way.
        f(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.with(|waiting| {
            waiting.requests -= 1;
            waiting.tokens -= self.tokens;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_enter_or_none_and_places_come_back() {
        let queue = Queue::new(3, 100);
        let held = queue.enter(&[40, 40]).unwrap();
        let refused = |prompts: &[usize]| {
            matches!(
                queue.enter(prompts),
                Err(EngineError::Overloaded {
                    requests: 2,
                    tokens: 80
                })
            )
        };
        assert!(refused(&[21]));
        assert!(refused(&[1, 1]));
        drop(queue.enter(&[20]).unwrap());
        drop(held);
        assert_eq!(queue.enter(&[1, 1, 98]).unwrap().len(), 3);
        // Larger than the queue: alone or not at all.
        let held = queue.enter(&[200, 1, 1, 1]).unwrap();
        assert!(queue.enter(&[1]).is_err());
        drop(held);
        assert!(queue.enter(&[1]).is_ok());
    }
}
