//! What guessing ahead gains where a text repeats itself, and costs where it
//! doesn't, on random weights in the shape of GPT-2 124M:
//! `cargo bench --bench speculation [f32|bf16|q8|q4]...`.
//!
//! Two engines answer the same request in turn, one with and one without.

use std::time::Instant;

use gpt2_engine::engine::{
    Engine, Event, Request, SamplingOptions, SamplingParams, Speculation, Strategy,
};
use gpt2_engine::model::{Config, Dtype, Gpt2, ModelFiles, TokenizerFiles};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const TOKENS: u64 = 64;
/// Tokens of the texts that repeat themselves: they don't from the start.
const LONG: u64 = 256;
const PAIRS: u64 = 8;

fn main() -> Result<()> {
    let asked: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    for dtype in Dtype::ALL {
        if asked.is_empty() || asked.iter().any(|a| a == dtype.as_str()) {
            let pair = Pair::new(dtype)?;
            pair.report("repeats itself", LONG, greedy)?;
            pair.report("nothing to copy", TOKENS, any_token)?;
            pair.report("misleading", TOKENS, one_of_few)?;
        }
    }
    Ok(())
}

/// Greedy text of GPT-2 falls into a loop. That of a random model does so too
/// where it has few tokens to choose from; each text has its own.
fn greedy(seed: u64) -> SamplingOptions {
    let first = 100 + 10 * seed as u32;
    SamplingOptions {
        logit_bias: (first..first + 8).map(|id| (id, 100.0)).collect(),
        ..Default::default()
    }
}

/// Samples of a random model hardly ever repeat anything.
fn any_token(seed: u64) -> SamplingOptions {
    SamplingOptions {
        strategy: Strategy::TopP,
        seed: Some(seed),
        ..Default::default()
    }
}

/// Samples from six tokens: every n-gram was there before, and what comes
/// after it is chance.
fn one_of_few(seed: u64) -> SamplingOptions {
    SamplingOptions {
        logit_bias: (100..106).map(|id| (id, 100.0)).collect(),
        temperature: Some(20.0),
        ..any_token(seed)
    }
}

struct Pair {
    dtype: Dtype,
    with: Engine,
    without: Engine,
}

impl Pair {
    fn new(dtype: Dtype) -> Result<Self> {
        let engine = |speculation| -> Result<Engine> {
            let shape = br#"{"n_layer": 12, "n_embd": 768, "n_head": 12, "eos_token_id": 0}"#;
            let config = Config::from_json(shape, "gpt2")?;
            let files = ModelFiles {
                tokenizer: TokenizerFiles::Missing,
                ..ModelFiles::demo()
            };
            let builder = Engine::builder().model(files).speculation(speculation);
            Ok(builder.start(Gpt2::random(config, dtype, 0)?)?)
        };
        Ok(Self {
            dtype,
            with: engine(Speculation::PromptLookup)?,
            without: engine(Speculation::Off)?,
        })
    }

    /// Medians over paired tokens and over paired texts.
    fn report(&self, name: &str, tokens: u64, options: fn(u64) -> SamplingOptions) -> Result<()> {
        let (mut steps, mut texts) = (Vec::new(), Vec::new());
        for seed in 0..PAIRS {
            let mut options = options(seed);
            options.max_tokens = Some(tokens);
            options.ignore_eos = true;
            let params = SamplingParams::new(options)?;
            let (with, ids) = times(&self.with, &params)?;
            let (without, same) = times(&self.without, &params)?;
            assert_eq!(ids, same, "the answer does not depend on guesses");
            steps.extend(std::iter::zip(&without, &with).map(|(a, b)| a / b));
            texts.push(without.iter().sum::<f64>() / with.iter().sum::<f64>());
        }
        println!(
            "{:>4}, {name:>15}: {:.3} × the speed by {} paired steps, {:.3} × by {PAIRS} paired texts",
            self.dtype.as_str(),
            median(&mut steps.clone()),
            steps.len(),
            median(&mut texts),
        );
        Ok(())
    }
}

/// Seconds before each token but the first, and the ids.
fn times(engine: &Engine, params: &SamplingParams) -> Result<(Vec<f64>, Vec<u32>)> {
    let mut events = engine.submit(Request::new((100..132).collect(), params.clone()))?;
    let (mut seconds, mut ids) = (Vec::new(), Vec::new());
    let mut last: Option<Instant> = None;
    while let Some(event) = events.blocking_next() {
        match event {
            Event::Token(token) => {
                let now = Instant::now();
                seconds.extend(last.map(|last| (now - last).as_secs_f64()));
                last = Some(now);
                ids.push(token.token_id);
            }
            Event::Failed(error) => return Err(error.into()),
            Event::Finished(_) => {}
        }
    }
    Ok((seconds, ids))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
