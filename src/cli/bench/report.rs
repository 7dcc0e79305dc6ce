//! What `gpt2 bench --json` prints: the fields are the keys.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use super::machine::{self, Machine};
use super::measure::{self, Decode, Next, Prompts};
use super::requests::{Burst, Requests};
use super::source::Source;
use crate::model::{Config, Dtype, Transformer};

/// Prompts that are timed, as far as the context goes.
const PREFILLS: [usize; 3] = [128, 512, 1000];
/// Tokens before the first one that decodes.
const PAST: usize = 32;
/// Tokens that each sequence decodes.
const STEPS: usize = 16;
/// Places in the text at which the cost of one token is shown.
const DEPTHS: [usize; 4] = [32, 256, 512, 960];

/// The whole of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The model, or the shape whose weights are random.
    pub model: String,
    /// The version of this program.
    pub version: &'static str,
    /// Threads that compute, and their instruction set; or the GPU.
    pub machine: String,
    /// Threads that compute on the processor.
    pub threads: usize,
    /// `scalar`, `avx2` or `avx512`.
    pub instruction_set: &'static str,
    /// One for each precision measured.
    pub precisions: Vec<Measured>,
}

/// One precision, and the machine while it was measured.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// `f32`, `bf16`, `f16`, `q8` or `q4`.
    pub dtype: &'static str,
    /// Bytes of all weights as they are held.
    pub packed_bytes: usize,
    /// Seconds from the files to packed weights; null for random weights.
    pub load_seconds: Option<f64>,
    /// Resident bytes of the process with the model in it, before it computes.
    pub resident_bytes: Option<u64>,
    /// The most resident bytes while this precision was loaded and measured;
    /// null where the system can't start that afresh for each precision.
    pub peak_memory_bytes: Option<u64>,
    /// Bytes that all threads read per second just before the model was
    /// loaded, and just after it was measured.
    pub read_bandwidth_bytes_per_second: Around,
    /// Operations per second of this precision's products on values in
    /// registers, a multiply-add being two, before and after.
    pub multiply_add_peak_operations_per_second: Around,
    /// Seconds from a prompt of `time_to_first_token_prompt` tokens to the
    /// logits of the next.
    pub time_to_first_token_seconds: f64,
    /// Tokens of that prompt.
    pub time_to_first_token_prompt: usize,
    /// Prompts, by length; on a GPU also many of them together.
    pub prefill: Vec<Prefill>,
    /// Sequences together, by their number.
    pub decode: Vec<Decoded>,
    /// The largest number of them, each step sampling all with top-p 0.9.
    pub decode_top_p: Decoded,
    /// One sequence alone, by the tokens before.
    pub decode_by_depth: Vec<Depth>,
    /// Many at once through the engine; null unless asked for.
    pub requests: Option<Requests>,
}

/// A reading before and one after.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Around {
    pub before: f64,
    pub after: f64,
}

/// Prompts to the logits of their last tokens.
#[derive(Debug, Serialize)]
pub struct Prefill {
    /// Prompts computed together.
    pub prompts: usize,
    /// Tokens of each.
    pub tokens: usize,
    pub tokens_per_second: f64,
    /// Operations of the blocks' linear layers, of the multiply-add peak.
    pub share_of_peak: f64,
}

/// Sequences decoding together, 32 tokens or a quarter of the context in.
#[derive(Debug, Serialize)]
pub struct Decoded {
    pub batch: usize,
    /// Of all sequences.
    pub tokens_per_second: f64,
    /// All weights once a step, of the read bandwidth; above 1 where they come
    /// from a cache.
    pub share_of_bandwidth: f64,
    /// Operations of the linear layers and the head, of the multiply-add peak.
    pub share_of_peak: f64,
}

/// The cost of a token by its place.
#[derive(Debug, Serialize)]
pub struct Depth {
    pub past_tokens: usize,
    pub milliseconds_per_token: f64,
}

impl Around {
    /// What the measurements in between are compared with.
    pub fn mean(self) -> f64 {
        (self.before + self.after) / 2.0
    }
}

impl Measured {
    /// Loads and measures, if asked also so many requests at once.
    pub fn new(
        source: &Source,
        dtype: Dtype,
        machine: &Machine,
        requests: Option<usize>,
    ) -> Result<Self> {
        let bandwidth = machine.read_bandwidth()?;
        let peak = machine.multiply_add_peak(dtype)?;
        let afresh = machine::reset_peak_memory();
        let started = Instant::now();
        let model = source.load(dtype, machine)?;
        let seconds = started.elapsed().as_secs_f64();
        let resident_bytes = machine::resident_memory();
        let mut timed = Timed::new(&*model, machine)?;
        // Before the machine is measured again: that needs memory of its own.
        let peak_memory = machine::peak_memory().filter(|_| afresh);
        let bandwidth = Around {
            before: bandwidth,
            after: machine.read_bandwidth()?,
        };
        let peak = Around {
            before: peak,
            after: machine.multiply_add_peak(dtype)?,
        };
        timed.compare(&*model, bandwidth.mean(), peak.mean());
        let packed_bytes = model.packed_bytes();
        let burst = requests.map(|count| Burst::new(count, model.config()));
        // The engine loads its own.
        drop(model);
        let requests = burst.map(|burst| Requests::new(source, dtype, machine, burst));
        Ok(Self {
            dtype: dtype.as_str(),
            packed_bytes,
            load_seconds: matches!(source, Source::Files(_)).then_some(seconds),
            resident_bytes,
            peak_memory_bytes: peak_memory,
            read_bandwidth_bytes_per_second: bandwidth,
            multiply_add_peak_operations_per_second: peak,
            time_to_first_token_seconds: timed.first_token_seconds,
            time_to_first_token_prompt: timed.past,
            prefill: timed.prefill,
            decode: timed.decode,
            decode_top_p: timed.decode_top_p,
            decode_by_depth: timed.by_depth,
            requests: requests.transpose()?,
        })
    }
}

/// What the clock says.
struct Timed {
    past: usize,
    first_token_seconds: f64,
    prefill: Vec<Prefill>,
    decode: Vec<Decoded>,
    decode_top_p: Decoded,
    by_depth: Vec<Depth>,
}

impl Timed {
    fn new(model: &dyn Transformer, machine: &Machine) -> Result<Self> {
        let context = model.config().n_positions;
        let past = PAST.min(context / 4).max(1);
        let fitting = |tokens: &usize| *tokens <= context;
        let prefills = PREFILLS.into_iter().filter(fitting);
        let depths = DEPTHS.into_iter().filter(|past| past + STEPS <= context);
        let batches = machine.batches();
        let largest = batches.last().copied().unwrap_or(1);
        let mut prompts = Prompts::new(model, machine.chunk())?;
        let together = machine.prompts().filter(|(_, tokens)| *tokens <= context);
        Ok(Self {
            past,
            first_token_seconds: prompts.median(past)?,
            prefill: prefills
                .map(|tokens| Prefill::new(&mut prompts, tokens))
                .chain(together.map(|many| Prefill::together(model, many, machine.chunk())))
                .collect::<Result<_>>()?,
            decode: batches
                .iter()
                .map(|&batch| Decoded::new(model, steps(batch, past), Next::Given))
                .collect::<Result<_>>()?,
            decode_top_p: Decoded::new(model, steps(largest, past), Next::TopP)?,
            by_depth: depths
                .map(|past| Depth::new(model, past))
                .collect::<Result<_>>()?,
        })
    }

    /// Fills in the shares of what the machine gives.
    fn compare(&mut self, model: &dyn Transformer, bandwidth: f64, peak: f64) {
        let blocks = block_operations(model.config());
        let with_head = blocks + head_operations(model.config());
        for row in &mut self.prefill {
            row.share_of_peak = row.tokens_per_second * blocks / peak;
        }
        let bytes = model.packed_bytes() as f64;
        for row in self.decode.iter_mut().chain([&mut self.decode_top_p]) {
            let steps_per_second = row.tokens_per_second / row.batch as f64;
            row.share_of_bandwidth = steps_per_second * bytes / bandwidth;
            row.share_of_peak = row.tokens_per_second * with_head / peak;
        }
    }
}

impl Prefill {
    fn new(prompts: &mut Prompts<'_>, tokens: usize) -> Result<Self> {
        Ok(Self {
            prompts: 1,
            tokens,
            tokens_per_second: tokens as f64 / prompts.median(tokens)?,
            share_of_peak: f64::NAN,
        })
    }

    fn together(model: &dyn Transformer, many: (usize, usize), chunk: usize) -> Result<Self> {
        let (prompts, tokens) = many;
        let seconds = measure::prompts_together(model, many, chunk)?;
        Ok(Self {
            prompts,
            tokens,
            tokens_per_second: (prompts * tokens) as f64 / seconds,
            share_of_peak: f64::NAN,
        })
    }
}

impl Decoded {
    fn new(model: &dyn Transformer, decode: Decode, next: Next) -> Result<Self> {
        let tokens = (decode.batch * decode.tokens) as f64;
        Ok(Self {
            batch: decode.batch,
            tokens_per_second: tokens / measure::decode(model, decode, next)?,
            share_of_bandwidth: f64::NAN,
            share_of_peak: f64::NAN,
        })
    }
}

impl Depth {
    fn new(model: &dyn Transformer, past: usize) -> Result<Self> {
        let seconds = measure::decode(model, steps(1, past), Next::Given)?;
        Ok(Self {
            past_tokens: past,
            milliseconds_per_token: seconds * 1e3 / STEPS as f64,
        })
    }
}

fn steps(batch: usize, past: usize) -> Decode {
    Decode {
        batch,
        prompt: past,
        tokens: STEPS,
    }
}

/// Operations of the blocks' linear layers for one token; a multiply-add is
/// two.
fn block_operations(c: &Config) -> f64 {
    let block = 4 * c.n_embd * c.n_embd + 2 * c.n_embd * c.n_inner;
    2.0 * (c.n_layer * block) as f64
}

/// Operations of the output head for one row of logits.
fn head_operations(c: &Config) -> f64 {
    2.0 * (c.n_embd * c.vocab_size) as f64
}
