//! Prefill and decode rates of a model, without engine or server.

use std::time::Instant;

use anyhow::Result;

use crate::model::{Batch, Gpt2, KvCache, LogitRows};

/// Runs of a measurement, of which the median counts.
const RUNS: usize = 5;
/// Tokens that a decode run generates per sequence.
const DECODED: usize = 16;

/// A model to measure.
pub struct Bench {
    model: Gpt2,
}

impl Bench {
    pub fn new(model: Gpt2) -> Self {
        Self { model }
    }

    pub fn n_positions(&self) -> usize {
        self.model.config().n_positions
    }

    pub fn packed_bytes(&self) -> usize {
        self.model.packed_bytes()
    }

    /// Operations of the linear layers for one prompt token, without the head.
    pub fn flops_per_token(&self) -> f64 {
        let c = self.model.config();
        let block = 4 * c.n_embd * c.n_embd + 2 * c.n_embd * c.n_inner;
        2.0 * (c.n_layer * block) as f64
    }

    /// Tokens per second of one prompt, its last row's logits included.
    pub fn prefill(&self, tokens: usize) -> Result<f64> {
        let ids = self.ids(tokens);
        let mut cache = KvCache::new(self.model.config(), tokens)?;
        let mut runs = Vec::new();
        for _ in 0..=RUNS {
            let mut lease = cache.lease();
            lease.grow(tokens)?;
            let mut batch = Batch::new();
            batch.push(&ids, &lease, LogitRows::Last)?;
            let started = Instant::now();
            self.model.forward(&batch, &mut cache)?;
            runs.push(tokens as f64 / started.elapsed().as_secs_f64());
        }
        Ok(median(runs))
    }

    /// Tokens per second of `sequences` together, each after `past` tokens.
    pub fn decode(&self, sequences: usize, past: usize) -> Result<f64> {
        let config = self.model.config();
        let room = (past + DECODED).div_ceil(KvCache::BLOCK) * KvCache::BLOCK;
        let mut cache = KvCache::new(config, sequences * room)?;
        let mut leases: Vec<_> = (0..sequences).map(|_| cache.lease()).collect();
        for lease in &mut leases {
            lease.grow(past)?;
            let mut batch = Batch::new();
            batch.push(&self.ids(past), lease, LogitRows::None)?;
            self.model.forward(&batch, &mut cache)?;
            lease.commit(past);
        }
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            let started = Instant::now();
            for step in 0..DECODED {
                let mut batch = Batch::new();
                for lease in &mut leases {
                    lease.grow(1)?;
                    batch.push(&self.ids(step + 1)[step..], lease, LogitRows::Last)?;
                }
                self.model.forward(&batch, &mut cache)?;
                leases.iter_mut().for_each(|lease| lease.commit(1));
            }
            runs.push((sequences * DECODED) as f64 / started.elapsed().as_secs_f64());
            leases.iter_mut().for_each(|lease| lease.truncate(past));
        }
        Ok(median(runs))
    }

    /// Some token ids; which doesn't matter for speed.
    fn ids(&self, count: usize) -> Vec<u32> {
        let vocab = self.model.config().vocab_size;
        (0..count).map(|i| (i * 7919 % vocab) as u32).collect()
    }
}

fn median(mut runs: Vec<f64>) -> f64 {
    runs.sort_unstable_by(f64::total_cmp);
    runs[runs.len() / 2]
}
