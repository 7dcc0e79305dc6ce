//! Streams a continuation from the library: `cargo run --release --example generate`.
//!
//! An argument, if there is one, is the folder of a checkpoint; without it the
//! demo model speaks.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use gpt2_engine::engine::{Engine, Event, Request, SamplingOptions, SamplingParams, Strategy};
use gpt2_engine::model::ModelFiles;

fn main() -> Result<(), Box<dyn Error>> {
    let model = match std::env::args().nth(1) {
        Some(folder) => ModelFiles::from_dir(Path::new(&folder))?,
        None => ModelFiles::demo(),
    };
    let engine = Engine::builder().model(model).build()?;

    let prompt = "Once upon a time";
    let params = SamplingParams::new(SamplingOptions {
        strategy: Strategy::TopK,
        k: Some(40),
        temperature: Some(0.8),
        seed: Some(7),
        max_tokens: Some(60),
        ..SamplingOptions::default()
    })?;
    let prompt_ids = engine.tokenizer()?.encode(prompt)?;
    let mut events = engine.submit(Request::new(prompt_ids, params))?;

    let mut out = std::io::stdout();
    write!(out, "{prompt}")?;
    while let Some(event) = events.blocking_next() {
        match event {
            Event::Token(token) => {
                write!(out, "{}", token.text)?;
                out.flush()?;
            }
            Event::Finished(end) => {
                let new = end.usage.completion_tokens;
                writeln!(out, "\n[{new} new tokens, {}]", end.finish_reason.as_str())?;
            }
            Event::Failed(error) => return Err(error.into()),
        }
    }
    Ok(())
}
