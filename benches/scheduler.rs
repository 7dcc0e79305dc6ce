//! What scheduling costs, what shared prompts save and what a look inside
//! costs, on random weights in the shape of GPT-2 124M:
//! `cargo bench --bench scheduler`.

use std::time::{Duration, Instant};

use gpt2_engine::engine::{
    Engine, Event, Events, InspectRequest, Request, SamplingOptions, SamplingParams, Speculation,
};
use gpt2_engine::model::{Config, Dtype, Gpt2, ModelFiles, TokenizerFiles};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Tokens that prompts have in common.
const PREFIX: u32 = 400;
const PAIRS: u32 = 7;

fn main() -> Result<()> {
    for streams in [1, 8, 64] {
        scheduling(streams)?;
    }
    shared_prefix()?;
    look_inside()
}

fn engine() -> Result<Engine> {
    let config = Config::from_json(br#"{"n_embd": 768, "n_head": 12, "n_layer": 12}"#, "gpt2")?;
    let files = ModelFiles {
        // It speaks in ids.
        tokenizer: TokenizerFiles::Missing,
        ..ModelFiles::demo()
    };
    let model = Gpt2::random(config, Dtype::F32, 1)?;
    // Guesses would make steps with one stream larger than they mostly are.
    let builder = Engine::builder().model(files).speculation(Speculation::Off);
    Ok(builder.start(model)?)
}

fn submit(engine: &Engine, prompt: Vec<u32>, tokens: u64) -> Result<Events> {
    let params = SamplingParams::new(SamplingOptions {
        max_tokens: Some(tokens),
        ignore_eos: true,
        ..Default::default()
    })?;
    Ok(engine.submit(Request::new(prompt, params))?)
}

/// The share of the steps' time that is not spent on the model and on choosing
/// tokens.
fn scheduling(streams: u32) -> Result<()> {
    let engine = engine()?;
    let prompt = |stream: u32| (stream..stream + 32).collect();
    let streams_of = (0..streams).map(|stream| submit(&engine, prompt(stream), 64));
    for mut events in streams_of.collect::<Result<Vec<_>>>()? {
        while let Some(event) = events.blocking_next() {
            if let Event::Failed(error) = event {
                return Err(error.into());
            }
        }
    }
    let text = engine.metrics().encode();
    let value = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.ok_or("no such metric")?.trim().parse()?)
    };
    let steps = value("gpt2_step_seconds_count")?;
    let total = value("gpt2_step_seconds_sum")?;
    let scheduling = value("gpt2_scheduling_seconds_total")?;
    println!(
        "{streams:>2} streams: {steps} steps of {:.2} ms, scheduling {:.1} us of each, {:.3}%",
        1e3 * total / steps,
        1e6 * scheduling / steps,
        100.0 * scheduling / total
    );
    Ok(())
}

/// The time to the first token of prompts whose first 400 tokens are new, and
/// of prompts that begin like one before.
fn shared_prefix() -> Result<()> {
    let engine = engine()?;
    let first_token = |prefix: u32, own: u32| -> Result<Duration> {
        let shared = (0..PREFIX).map(|i| (i * 31 + prefix * 1009) % 50_257);
        let prompt = shared.chain(own..own + 8).collect();
        let started = Instant::now();
        let mut events = submit(&engine, prompt, 1)?;
        match events.blocking_next() {
            Some(Event::Token(_)) => Ok(started.elapsed()),
            other => Err(format!("no token: {other:?}").into()),
        }
    };
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for prefix in 0..PAIRS {
        cold.push(first_token(prefix, 1)?);
        warm.push(first_token(prefix, 100)?);
    }
    let (cold, warm) = (median(&mut cold), median(&mut warm));
    println!(
        "first token after 408 tokens: {:.1} ms; with 400 of them shared: {:.1} ms, {:.1}%",
        1e3 * cold,
        1e3 * warm,
        100.0 * warm / cold
    );
    Ok(())
}

/// The time to look at 200 tokens, everything recorded, beside that to their
/// first new token.
fn look_inside() -> Result<()> {
    let engine = engine()?;
    let text = |seed: u32| {
        (0..200)
            .map(|i| (i * 37 + seed) % 50_257)
            .collect::<Vec<u32>>()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (mut prefill, mut look) = (Vec::new(), Vec::new());
    for seed in 0..PAIRS {
        let started = Instant::now();
        let mut events = submit(&engine, text(seed), 1)?;
        events.blocking_next().ok_or("no token")?;
        prefill.push(started.elapsed());
        let started = Instant::now();
        runtime.block_on(engine.inspect(InspectRequest {
            ids: text(seed + 1000),
            attention: true,
            lens: 5,
            ..Default::default()
        }))?;
        look.push(started.elapsed());
    }
    let (prefill, look) = (median(&mut prefill), median(&mut look));
    println!(
        "first token after 200 tokens: {:.1} ms; a look inside them: {:.1} ms, {:.2} times that",
        1e3 * prefill,
        1e3 * look,
        look / prefill
    );
    Ok(())
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}
