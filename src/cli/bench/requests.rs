//! Many requests at once through the engine, as those have it who use the
//! library: queue, scheduler, sampling and text are part of it.

use std::time::Instant;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use super::machine::Machine;
use super::measure;
use super::source::Source;
use crate::engine::{
    CacheSize, Engine, Event, Request, SamplingOptions, SamplingParams, Speculation,
};
use crate::model::{Config, Dtype, KvCache};

/// Tokens of a prompt, and of an answer; half of the context if that is less.
const TOKENS: usize = 128;

/// What is asked for at once.
#[derive(Debug, Clone, Copy)]
pub struct Burst {
    /// Requests.
    count: usize,
    /// Tokens of each prompt, and of each answer.
    tokens: usize,
}

impl Burst {
    /// So many requests of a model of this shape.
    pub fn new(count: usize, config: &Config) -> Self {
        let tokens = TOKENS.min(config.n_positions / 2);
        Self { count, tokens }
    }
}

/// Requests of random tokens, submitted at once; greedy, without guesses
/// ahead, and no end-of-text ends them.
#[derive(Debug, Serialize)]
pub struct Requests {
    pub requests: usize,
    /// Tokens of each prompt.
    pub prompt_tokens: usize,
    /// Tokens of each answer.
    pub output_tokens: usize,
    /// Tokens of all prompts and answers, from the first request to the last
    /// answer.
    pub tokens_per_second: f64,
    /// Those of the answers, in the same time.
    pub output_tokens_per_second: f64,
}

impl Requests {
    /// Starts an engine with room for all of them to run together, and takes
    /// the median of some runs.
    pub fn new(source: &Source, dtype: Dtype, machine: &Machine, burst: Burst) -> Result<Self> {
        let Burst { count, tokens } = burst;
        // The scheduler keeps a block for each to grow into.
        let room = (2 * tokens).next_multiple_of(KvCache::BLOCK) + KvCache::BLOCK;
        let builder = Engine::builder()
            .running(count)
            .queue(count, count * tokens)
            .kv_cache(CacheSize::Tokens(count * room))
            .speculation(Speculation::Off);
        let engine = source.start(builder, dtype, machine)?;
        // Other prompts in each run, so that none is in the cache already.
        let mut rng = StdRng::seed_from_u64(0);
        let seconds = measure::median(|| once(&engine, &mut rng, burst))?;
        let answers = (count * tokens) as f64;
        Ok(Self {
            requests: count,
            prompt_tokens: tokens,
            output_tokens: tokens,
            tokens_per_second: 2.0 * answers / seconds,
            output_tokens_per_second: answers / seconds,
        })
    }
}

/// Seconds until all are answered.
fn once(engine: &Engine, rng: &mut StdRng, burst: Burst) -> Result<f64> {
    let Burst { count, tokens } = burst;
    let params = SamplingParams::new(SamplingOptions {
        max_tokens: Some(tokens as u64),
        ignore_eos: true,
        ..SamplingOptions::default()
    })?;
    let vocab = engine.config().vocab_size as u32;
    let mut prompt = || (0..tokens).map(|_| rng.random_range(0..vocab)).collect();
    let requests = (0..count).map(|_| Request::new(prompt(), params.clone()));
    let requests = requests.collect();
    let started = Instant::now();
    for mut events in engine.submit_all(requests)? {
        while let Some(event) = events.blocking_next() {
            if let Event::Failed(error) = event {
                return Err(error.into());
            }
        }
    }
    Ok(started.elapsed().as_secs_f64())
}
