//! Seconds that a model takes, without engine or server.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde::Deserialize;

use crate::engine::{Sampler, SamplingOptions, SamplingParams, Strategy};
use crate::kernels::pool;
use crate::model::{Batch, KvCache, Lease, LogitRows, Logits, Pick, Transformer, Wish};

/// Runs of a measurement at most, of which the median counts.
const RUNS: usize = 5;
/// Seconds after which no further run starts.
const ENOUGH_SECONDS: f64 = 6.0;
/// More sequences than anyone serves from a processor; their cache must fit.
const MOST_SEQUENCES: usize = 256;
/// What is kept when sampling: a usual value.
const TOP_P: f64 = 0.9;

/// Sequences that grow together, each from a prompt of its own.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Decode {
    /// Sequences.
    pub batch: usize,
    /// Tokens of each that are in the cache before.
    pub prompt: usize,
    /// Steps: tokens that each gains.
    pub tokens: usize,
}

/// Where the next tokens come from.
#[derive(Debug, Clone, Copy)]
pub enum Next {
    /// They are given: the model alone is measured, on a GPU with the choice of
    /// the likeliest token there.
    Given,
    /// Each sequence samples its own with top-p: on a GPU there, else all
    /// threads share the rows.
    TopP,
}

/// What is wanted of a row that is only timed: on a GPU its likeliest token,
/// so that the logits stay there; a processor gives the logits whatever it is.
const TIMED: Wish = Wish::Pick(Pick {
    columns: usize::MAX,
    draw: None,
});

/// Computes prompts as the engine does: in chunks, into a cache whose memory
/// is there already.
pub struct Prompts<'a> {
    model: &'a dyn Transformer,
    chunk: usize,
    cache: KvCache,
}

impl<'a> Prompts<'a> {
    /// With room for one prompt, computed `chunk` tokens at a time.
    pub fn new(model: &'a dyn Transformer, chunk: usize) -> Result<Self> {
        let cache = model.cache(model.config().n_positions)?;
        Ok(Self {
            model,
            chunk,
            cache,
        })
    }

    /// Seconds of one prompt of `tokens` tokens to the logits of its last.
    pub fn once(&mut self, tokens: usize) -> Result<f64> {
        let context = self.model.config().n_positions;
        ensure!(
            (1..=context).contains(&tokens),
            "tokens: {tokens} is not from 1 to the context's {context}"
        );
        let ids = some_ids(self.model, tokens);
        let mut lease = self.cache.lease();
        let started = Instant::now();
        for chunk in ids.chunks(self.chunk) {
            lease.grow(chunk.len())?;
            let last = lease.len() + chunk.len() == tokens;
            let mut batch = Batch::new();
            batch.push_wishes(chunk, &lease, if last { &[TIMED] } else { &[] })?;
            self.model.forward(&batch, &mut self.cache)?;
            lease.commit(chunk.len());
        }
        Ok(started.elapsed().as_secs_f64())
    }

    /// Median seconds of such a prompt.
    pub fn median(&mut self, tokens: usize) -> Result<f64> {
        // The first one finds memory and caches cold.
        self.once(tokens)?;
        median(|| self.once(tokens))
    }
}

/// Median seconds of `count` prompts of `tokens` tokens each, to the logits of
/// their last, as many of them in a step as `chunk` tokens are.
pub fn prompts_together(
    model: &dyn Transformer,
    (count, tokens): (usize, usize),
    chunk: usize,
) -> Result<f64> {
    let ids = some_ids(model, tokens);
    let mut cache = model.cache(count * tokens.next_multiple_of(KvCache::BLOCK))?;
    median(|| {
        let mut leases: Vec<_> = (0..count).map(|_| cache.lease()).collect();
        let started = Instant::now();
        for leases in leases.chunks_mut((chunk / tokens).max(1)) {
            let mut batch = Batch::new();
            for lease in &mut *leases {
                lease.grow(tokens)?;
                batch.push_wishes(&ids, lease, &[TIMED])?;
            }
            model.forward(&batch, &mut cache)?;
        }
        Ok(started.elapsed().as_secs_f64())
    })
}

/// Seconds of all steps, the prompts left out.
pub fn decode_once(model: &dyn Transformer, decode: Decode) -> Result<f64> {
    Sequences::new(model, decode)?.run(Next::Given)
}

/// Median seconds of all steps, the prompts left out.
pub fn decode(model: &dyn Transformer, decode: Decode, next: Next) -> Result<f64> {
    let mut sequences = Sequences::new(model, decode)?;
    median(|| sequences.run(next))
}

/// Sequences whose prompts are in the cache.
struct Sequences<'a> {
    model: &'a dyn Transformer,
    decode: Decode,
    cache: KvCache,
    leases: Vec<Lease>,
}

impl<'a> Sequences<'a> {
    fn new(model: &'a dyn Transformer, decode: Decode) -> Result<Self> {
        check(model, decode)?;
        let Decode { batch, prompt, .. } = decode;
        let room = (prompt + decode.tokens).next_multiple_of(KvCache::BLOCK);
        let mut cache = model.cache(batch * room)?;
        let mut leases: Vec<_> = (0..batch).map(|_| cache.lease()).collect();
        let ids = some_ids(model, prompt);
        for lease in &mut leases {
            lease.grow(prompt)?;
            let mut batch = Batch::new();
            batch.push(&ids, lease, LogitRows::None)?;
            model.forward(&batch, &mut cache)?;
            lease.commit(prompt);
        }
        let mut sequences = Self {
            model,
            decode,
            cache,
            leases,
        };
        // The first step finds caches cold, or is recorded.
        sequences.step(&vec![1; batch], &vec![TIMED; batch])?;
        sequences.take_back();
        Ok(sequences)
    }

    /// As the sequences were after their prompts.
    fn take_back(&mut self) {
        let prompt = self.decode.prompt;
        self.leases
            .iter_mut()
            .for_each(|lease| lease.truncate(prompt));
    }

    /// Seconds of all steps; the sequences are then as they were.
    fn run(&mut self, next: Next) -> Result<f64> {
        let mut ids = vec![1; self.decode.batch];
        let mut samplers = match next {
            Next::Given => Vec::new(),
            Next::TopP => samplers(self.decode.batch)?,
        };
        let started = Instant::now();
        for _ in 0..self.decode.tokens {
            let wishes: Vec<Wish> = match next {
                Next::Given => vec![TIMED; ids.len()],
                Next::TopP => samplers.iter_mut().flat_map(|s| s.wishes(1)).collect(),
            };
            let mut logits = self.step(&ids, &wishes)?;
            if let Next::TopP = next {
                ids = choose(&mut samplers, &mut logits);
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        self.take_back();
        Ok(seconds)
    }

    fn step(&mut self, ids: &[u32], wishes: &[Wish]) -> Result<Logits> {
        let mut batch = Batch::new();
        for ((lease, &id), &wish) in self.leases.iter_mut().zip(ids).zip(wishes) {
            lease.grow(1)?;
            batch.push_wishes(&[id], lease, &[wish])?;
        }
        let logits = self.model.forward(&batch, &mut self.cache)?;
        self.leases.iter_mut().for_each(|lease| lease.commit(1));
        Ok(logits)
    }
}

fn check(model: &dyn Transformer, decode: Decode) -> Result<()> {
    let context = model.config().n_positions;
    let Decode {
        batch,
        prompt,
        tokens,
    } = decode;
    ensure!(
        (1..=MOST_SEQUENCES).contains(&batch),
        "batch: {batch} is not from 1 to {MOST_SEQUENCES}"
    );
    ensure!(prompt > 0 && tokens > 0, "prompt and tokens: at least 1");
    ensure!(
        prompt.saturating_add(tokens) <= context,
        "prompt and tokens: {prompt} and {tokens} are more than the context's {context}"
    );
    Ok(())
}

fn samplers(count: usize) -> Result<Vec<Sampler>> {
    let sampler = |seed| {
        let params = SamplingParams::new(SamplingOptions {
            strategy: Strategy::TopP,
            top_p: Some(TOP_P),
            seed: Some(seed),
            ..SamplingOptions::default()
        })?;
        Ok(Sampler::new(params, &[]))
    };
    (0..count as u64).map(sampler).collect()
}

/// The next token of each row, by its own sampler.
fn choose(samplers: &mut [Sampler], logits: &mut Logits) -> Vec<u32> {
    let rows = samplers.iter_mut().zip(logits.rows_mut());
    let mut rows: Vec<_> = rows.map(|(sampler, row)| (sampler, row, 0)).collect();
    pool::for_each_chunk(&mut rows, 1, |_, rows| {
        for (sampler, row, id) in rows {
            *id = sampler.take(row, &[]).id;
        }
    });
    rows.into_iter().map(|(_, _, id)| id).collect()
}

/// Some token ids; which doesn't matter for speed.
fn some_ids(model: &dyn Transformer, count: usize) -> Vec<u32> {
    let vocab = model.config().vocab_size;
    (0..count).map(|i| (i * 7919 % vocab) as u32).collect()
}

/// Median seconds of some runs: of one if it takes long.
pub fn median(mut work: impl FnMut() -> Result<f64>) -> Result<f64> {
    let started = Instant::now();
    let mut runs = vec![work()?];
    while runs.len() < RUNS && started.elapsed().as_secs_f64() < ENOUGH_SECONDS {
        runs.push(work()?);
    }
    runs.sort_unstable_by(f64::total_cmp);
    Ok(runs[runs.len() / 2])
}
